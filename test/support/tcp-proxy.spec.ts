import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { Redis } from 'ioredis';
import { eventually } from './eventually.js';
import { RedisServer } from './redis-server.js';
import { TcpProxy } from './tcp-proxy.js';

describe('TcpProxy', () => {
  let server: RedisServer;
  let proxy: TcpProxy;
  let direct: Redis;
  let client: Redis;

  beforeEach(async () => {
    server = await RedisServer.start();
    proxy = await TcpProxy.start(server.port);
    // Where its socket has closed already, ioredis' disconnect() starts this timer (2 s) and never clears it.
    const disconnectTimeout = 10;
    direct = new Redis(server.url, { disconnectTimeout });
    client = new Redis(proxy.url, {
      disconnectTimeout,
      retryStrategy: () => null,
      maxRetriesPerRequest: 0,
    });
    client.on('error', () => {});
    await client.ping();
  });

  afterEach(async () => {
    client.disconnect();
    direct.disconnect();
    await proxy.close();
    await server.stop();
  });

  const settled = async (promise: Promise<unknown>, ms: number): Promise<boolean> => {
    const pending = Symbol('pending');
    const first = await Promise.race([
      promise.catch(() => {}),
      new Promise((resolve) => setTimeout(resolve, ms, pending)),
    ]);
    return first !== pending;
  };

  it('forwards, and passes on an orderly end', async () => {
    expect(await client.set('a', 'x'.repeat(1_000_000))).toBe('OK');
    expect(await client.strlen('a')).toBe(1_000_000);
    expect(proxy.connections).toBe(1);
    expect(await client.quit()).toBe('OK');
    await eventually(() => proxy.connections === 0);
  });

  it('drops the reply of a command that ran', async () => {
    proxy.dropReplies();
    await expect(client.incr('n')).rejects.toThrow('Connection is closed');
    expect(await direct.get('n')).toBe('1');
    await eventually(() => proxy.connections === 0);
    await client.connect();
    expect(await client.incr('n')).toBe(2);
  });

  it('picks a command by its bytes: loses its reply, or cuts before it runs', async () => {
    proxy.onRequest = (bytes) => {
      if (bytes.includes('lose-me')) return 'cut-after-reply';
      return bytes.includes('stop-me') ? 'cut' : 'pass';
    };
    expect(await client.incr('other')).toBe(1);
    await expect(client.incr('lose-me')).rejects.toThrow('Connection is closed');
    expect(await direct.get('lose-me')).toBe('1');
    await client.connect();
    await expect(client.incr('stop-me')).rejects.toThrow('Connection is closed');
    expect(await direct.get('stop-me')).toBeNull();
  });

  it('holds requests: the command runs only after resume', async () => {
    proxy.hold('up');
    const reply = client.incr('n');
    expect(await settled(reply, 50)).toBe(false);
    expect(await direct.get('n')).toBeNull();
    proxy.resume();
    expect(await reply).toBe(1);
  });

  it('holds replies: the command runs, its reply waits', async () => {
    proxy.hold('down');
    const reply = client.incr('n');
    await eventually(async () => (await direct.get('n')) === '1');
    expect(await settled(reply, 50)).toBe(false);
    proxy.resume('down');
    expect(await reply).toBe(1);
  });

  it('holds from one chosen command on', async () => {
    proxy.onRequest = (bytes) => (bytes.includes('n') ? 'hold' : 'pass');
    const first = client.incr('n');
    const second = client.incr('m');
    expect(await settled(second, 50)).toBe(false);
    proxy.onRequest = () => 'pass';
    proxy.resume();
    expect(await Promise.all([first, second])).toEqual([1, 1]);
  });

  it('picks a reply by its bytes: swallows it, holds from it on, or cuts', async () => {
    const told: string[] = [];
    client.on('message', (_channel, message: string) => told.push(message));
    await client.subscribe('c');
    let judged = 0;
    proxy.onReply = (bytes) => {
      judged += 1;
      if (bytes.includes('lost')) return 'swallow';
      return bytes.includes('late') ? 'hold' : 'pass';
    };
    // One by one, so that no two come in one piece.
    const publish = async (message: string) => {
      const before = judged;
      expect(await direct.publish('c', message)).toBe(1);
      await eventually(() => judged === before + 1);
    };
    await publish('lost');
    await publish('one');
    await eventually(() => told.length === 1);
    await publish('late');
    await publish('two');
    expect(await settled(client.ping(), 50)).toBe(false);
    expect(told).toEqual(['one']);
    proxy.onReply = () => 'pass';
    proxy.resume('down');
    await eventually(() => told.length === 3);
    expect(told).toEqual(['one', 'late', 'two']);
    proxy.onReply = () => 'cut';
    await direct.publish('c', 'last');
    await eventually(() => client.status === 'end');
  });

  it('delays a direction and keeps the order', async () => {
    proxy.delay(60, 'down');
    const begin = performance.now();
    expect(await Promise.all([client.incr('n'), client.incr('n')])).toEqual([1, 2]);
    expect(performance.now() - begin).toBeGreaterThanOrEqual(59);
  });

  it('repeats a request later, and answers it once', async () => {
    proxy.repeatAfter = 60;
    proxy.onRequest = (bytes) => (bytes.includes('twice') ? 'repeat' : 'pass');
    expect(await client.incr('twice')).toBe(1);
    expect(await client.incr('once')).toBe(1);
    await eventually(async () => (await direct.get('twice')) === '2');
    expect(await direct.get('once')).toBe('1');
    expect(await client.echo('still in step')).toBe('still in step');
  });

  it('cuts all connections and refuses new ones until it accepts again', async () => {
    proxy.refuse();
    proxy.cutAll();
    await eventually(() => client.status === 'end');
    await expect(client.connect()).rejects.toThrow('Connection is closed');
    proxy.accept();
    await eventually(() => client.status === 'end');
    await client.connect();
    expect(await client.ping()).toBe('PONG');
  });

  it('shows the client that the server crashed', async () => {
    await server.kill();
    await eventually(() => client.status === 'end');
    await eventually(() => proxy.connections === 0, { message: 'the proxy has dropped its side' });
  });
});
