import { describe, expect, it } from '@jest/globals';
import { spawnWorker } from './worker.js';

interface Ready {
  type: 'ready';
  injects: string[];
  args: string[];
}
interface Echo {
  type: 'echo';
  message: unknown;
}
type FromWorker = Ready | Echo;

const file = new URL('./fixtures/echo-worker.ts', import.meta.url);
const isReady = (message: FromWorker): message is Ready => message.type === 'ready';
const isEcho = (message: FromWorker): message is Echo => message.type === 'echo';

describe('TestWorker', () => {
  it('runs a TypeScript file with decorators and metadata, and exchanges messages', async () => {
    await using worker = spawnWorker<FromWorker>(file, { args: ['a'] });
    expect(await worker.next(isReady)).toEqual({ type: 'ready', injects: ['Clock'], args: ['a'] });
    worker.send('x');
    worker.send('y');
    expect((await worker.next((m) => isEcho(m) && m.message === 'y')).type).toBe('echo');
    expect(await worker.next(isEcho)).toEqual({ type: 'echo', message: 'x' });
    expect(await worker.stop()).toEqual({ code: null, signal: 'SIGTERM' });
  });

  it('fails a wait with what the worker printed when it ends, and with what came instead in time', async () => {
    await using worker = spawnWorker<FromWorker>(file);
    await worker.next(isReady);
    await expect(worker.next(isEcho, 50)).rejects.toThrow('within 50 ms');
    worker.send('fail');
    await expect(worker.next(isEcho)).rejects.toThrow(/ended \(code 1\)[\s\S]*asked to fail/);
    await expect(worker.next(isEcho)).rejects.toThrow('asked to fail');
  });

  it('freezes, goes on, and can be killed while frozen', async () => {
    await using worker = spawnWorker<FromWorker>(file);
    await worker.next(isReady);
    worker.pause();
    worker.send('late');
    await expect(worker.next(isEcho, 100)).rejects.toThrow('within 100 ms');
    worker.resume();
    await worker.next(isEcho);
    worker.pause();
    expect(await worker.kill()).toEqual({ code: null, signal: 'SIGKILL' });
  });
});
