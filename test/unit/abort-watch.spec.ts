/** One signal for many callers: each is told once, and the signal carries one listener, or none. */
import { getEventListeners } from 'node:events';
import { beforeEach, describe, expect, it } from '@jest/globals';
import { watchAbort } from '../../lib/core/abort-watch.js';

describe('watchAbort', () => {
  let controller: AbortController;
  let told: string[];

  beforeEach(() => {
    controller = new AbortController();
    told = [];
  });

  const watch = (who: string) => watchAbort(controller.signal, () => told.push(who));
  const listeners = () => getEventListeners(controller.signal, 'abort').length;

  it('tells all that watch, in their order, once', () => {
    for (const who of ['a', 'b', 'c']) watch(who);
    expect([listeners(), told]).toEqual([1, []]);
    controller.abort();
    controller.signal.dispatchEvent(new Event('abort'));
    expect([listeners(), told]).toEqual([0, ['a', 'b', 'c']]);
  });

  it('needs one listener for a thousand', () => {
    const stops = Array.from({ length: 1_000 }, (_, n) => watch(`${n}`));
    expect(listeners()).toBe(1);
    for (const stop of stops.slice(1)) stop();
    expect(listeners()).toBe(1);
    controller.abort();
    expect(told).toEqual(['0']);
  });

  it('leaves no listener when the last has called it off, and takes one again for the next', () => {
    const stops = [watch('a'), watch('b')];
    for (const stop of [...stops, ...stops]) stop();
    expect(listeners()).toBe(0);
    watch('c');
    expect(listeners()).toBe(1);
    controller.abort();
    expect(told).toEqual(['c']);
  });

  it("doesn't tell one that another calls off on being told", () => {
    watchAbort(controller.signal, () => {
      told.push('a');
      stopB();
    });
    const stopB = watch('b');
    watch('c');
    controller.abort();
    expect([listeners(), told]).toEqual([0, ['a', 'c']]);
  });

  it('tells one function twice that was given twice', () => {
    const callback = () => told.push('a');
    const stop = watchAbort(controller.signal, callback);
    watchAbort(controller.signal, callback);
    watchAbort(controller.signal, callback);
    stop();
    controller.abort();
    expect(told).toEqual(['a', 'a']);
  });

  it('keeps signals apart', () => {
    const other = new AbortController();
    watch('a');
    watchAbort(other.signal, () => told.push('other'));
    other.abort();
    expect([listeners(), told]).toEqual([1, ['other']]);
  });
});
