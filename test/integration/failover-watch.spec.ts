/**
 * What a connection does when a Sentinel tells of another master. A plain server stands for the Sentinel: it lets us
 * publish what we want to have told, which a Sentinel doesn't.
 */
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { Redis } from 'ioredis';
import { FailoverWatch } from '../../lib/core/redis/failover-watch.js';
import { eventually } from '../support/eventually.js';
import { RedisServer } from '../support/redis-server.js';

let sentinel: RedisServer;
let master: RedisServer;
let watch: FailoverWatch;
let client: Redis;
let closed: number;

beforeEach(async () => {
  [sentinel, master] = (await RedisServer.startMany(2)) as [RedisServer, RedisServer];
  watch = new FailoverWatch(
    { name: 'mine', sentinels: [{ host: '127.0.0.1', port: sentinel.port }] },
    1_000,
  );
  client = new Redis({
    port: master.port,
    host: '127.0.0.1',
    retryStrategy: () => 20,
    disconnectTimeout: 200,
  });
  client.on('error', () => {});
  watch.follow(client);
  closed = 0;
  client.on('close', () => (closed += 1));
  await eventually(() => client.status === 'ready');
});

afterEach(async () => {
  client.disconnect();
  watch.close();
  await Promise.all([sentinel.stop(), master.stop()]);
});

const elsewhere = () => `127.0.0.1 ${master.port} 127.0.0.1 ${sentinel.port}`;
const here = () => `127.0.0.1 ${sentinel.port} 127.0.0.1 ${master.port}`;

/** Waits until it was heard. */
async function tell(message: string): Promise<void> {
  await eventually(
    async () => (await sentinel.order('PUBLISH', '+switch-master', message)) === ':1\r\n',
  );
}

describe('A connection behind Sentinel', () => {
  it('leaves a server that is no master any more, with the reason', async () => {
    const said: unknown[] = [];
    client.on('error', (error: Error) => said.push(error.message));
    await tell(`mine ${elsewhere()}`);
    await eventually(() => closed === 1);
    expect(said).toEqual(['The Sentinels have elected another master.']);
    await eventually(() => client.status === 'ready');
  });

  it('stays where the master is, whoever tells it again, and whatever other masters do', async () => {
    await tell(`mine ${here()}`);
    await tell(`another ${elsewhere()}`);
    await tell(`mine ${here()}`);
    // The last one has been heard when a later one was acted upon.
    await tell(`mine ${elsewhere()}`);
    await eventually(() => closed > 0 && client.status === 'ready');
    expect(closed).toBe(1);
  });

  it('goes at once where it sits out a pause', async () => {
    client.options.retryStrategy = () => 60_000;
    await master.kill();
    await eventually(() => client.status === 'reconnecting');
    await master.restart();
    await tell(`mine ${here()}`);
    await eventually(() => client.status === 'ready');
  });

  it('that was on its way to the old one leaves it once it is there', async () => {
    client.options.retryStrategy = () => 60_000;
    await master.kill();
    await eventually(() => client.status === 'reconnecting');
    await master.restart();
    client.options.retryStrategy = () => 20;
    closed = 0;
    // Reconnects, to where it was.
    await tell(`mine ${elsewhere()}`);
    await eventually(() => closed === 1);
    await eventually(() => client.status === 'ready');
    expect(closed).toBe(1);
  });

  it('hears a Sentinel that was away', async () => {
    await sentinel.restart();
    await tell(`mine ${elsewhere()}`);
    await eventually(() => closed === 1);
  });
});
