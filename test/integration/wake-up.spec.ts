/**
 * The subscriber connection, when its link dies without either side knowing: messages and replies vanish, and the server
 * goes on counting a listener. Whoever waits must not stay deaf.
 */
import { describe, expect, it } from '@jest/globals';

import { systemClock } from '../../lib/core/clock.js';
import { ConnectionSource } from '../../lib/core/redis/connection.js';
import { RedisWakeUp } from '../../lib/core/redis/redis-wake-up.js';
import { eventually } from '../support/eventually.js';
import { RedisServer } from '../support/redis-server.js';
import { TcpProxy } from '../support/tcp-proxy.js';

const TIMEOUT = 200;

async function listening(
  url: string,
): Promise<{ wakeUp: RedisWakeUp; told: unknown[] } & Disposable> {
  const wakeUp = new RedisWakeUp(
    new ConnectionSource(url, TIMEOUT),
    'wake:me',
    systemClock,
    TIMEOUT,
    async () => true,
  );
  const told: unknown[] = [];
  wakeUp.onWake((message) => told.push(message));
  await wakeUp.subscribe();
  expect(wakeUp.listening).toBe(true);
  // Also where the test fails: it would connect again for ever.
  return { wakeUp, told, [Symbol.dispose]: () => wakeUp.close() };
}

describe('The subscriber connection', () => {
  it('is replaced when a check gets no answer, and everybody looks then', async () => {
    await using server = await RedisServer.start();
    await using proxy = await TcpProxy.start(server.port);
    using subscriber = await listening(proxy.url);
    const { wakeUp, told } = subscriber;
    told.length = 0;
    proxy.hold('down');
    wakeUp.check();
    await eventually(() => !wakeUp.listening, { message: 'it no longer claims to listen' });
    proxy.cutAll();
    proxy.resume('down');
    await eventually(() => wakeUp.listening, { message: 'it listens again' });
    expect(told).toEqual([{ kind: 'listening' }]);
    await server.command('PUBLISH', 'wake:me', 'token');
    await server.command('PUBLISH', 'wake:me', 'other 300');
    await eventually(() => told.length === 3, { message: 'both messages arrive' });
    expect(told.slice(1)).toEqual([
      { kind: 'woken', token: 'token', within: 0 },
      { kind: 'woken', token: 'other', within: 300 },
    ]);
  });

  it('is not counted on from when it is cut until there is a new one', async () => {
    await using server = await RedisServer.start();
    await using proxy = await TcpProxy.start(server.port);
    using subscriber = await listening(proxy.url);
    const { wakeUp, told } = subscriber;
    told.length = 0;
    proxy.refuse();
    proxy.cutAll();
    // Who waits meanwhile polls.
    await eventually(() => !wakeUp.listening, { message: 'it no longer claims to listen' });
    proxy.accept();
    await eventually(() => wakeUp.listening, { message: 'it listens again' });
    expect(told).toEqual([{ kind: 'listening' }]);
  });

  it('stays as it is while checks are answered', async () => {
    await using server = await RedisServer.start();
    await using proxy = await TcpProxy.start(server.port);
    using subscriber = await listening(proxy.url);
    const { wakeUp, told } = subscriber;
    told.length = 0;
    for (let i = 0; i < 3; i += 1) {
      wakeUp.check();
      await server.command('PUBLISH', 'wake:me', `token-${i}`);
      await eventually(() => told.length === i + 1);
    }
    expect(wakeUp.listening).toBe(true);
    expect(proxy.connections).toBe(1);
    expect(told).toEqual([
      { kind: 'woken', token: 'token-0', within: 0 },
      { kind: 'woken', token: 'token-1', within: 0 },
      { kind: 'woken', token: 'token-2', within: 0 },
    ]);
  });
});
