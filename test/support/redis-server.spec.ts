import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { describe, expect, it } from '@jest/globals';
import { eventually } from './eventually.js';
import { RedisServer } from './redis-server.js';

const isAlive = (pid: number): boolean => {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
};

describe('RedisServer', () => {
  it('starts, answers, and is gone after its scope', async () => {
    let pid: number;
    {
      await using server = await RedisServer.start();
      pid = server.pid;
      expect(await server.command('SET', 'a', '1')).toBe('+OK\r\n');
      expect(server.url).toBe(`redis://127.0.0.1:${server.port}`);
    }
    expect(isAlive(pid)).toBe(false);
  });

  it('starts several at once, each on its own port', async () => {
    const servers = await RedisServer.startMany(5);
    expect(new Set(servers.map(({ port }) => port)).size).toBe(5);
    await Promise.all(servers.map((server) => server.stop()));
  });

  it('says nothing while it is paused, and stops from there', async () => {
    await using server = await RedisServer.start();
    server.pause();
    await expect(server.command('PING')).rejects.toThrow('no reply');
    server.resume();
    expect(await server.command('PING')).toBe('+PONG\r\n');
    server.pause();
    await server.stop();
  });

  it('comes back on its port: empty by default, with its data where it persists', async () => {
    await using forgetful = await RedisServer.start();
    await using durable = await RedisServer.start({ persistence: 'aof' });
    const both = [forgetful, durable];
    for (const server of both) {
      const { port } = server;
      await server.command('SET', 'a', '1');
      await server.kill();
      await server.restart();
      expect(server.port).toBe(port);
    }
    expect(await forgetful.command('EXISTS', 'a')).toBe(':0\r\n');
    expect(await durable.command('EXISTS', 'a')).toBe(':1\r\n');
    await durable.restart({ keepData: false });
    expect(await durable.command('EXISTS', 'a')).toBe(':0\r\n');
    await durable.stop();
    await durable.restart();
    expect(await durable.command('PING')).toBe('+PONG\r\n');
  });

  it('refuses a port that another server has, though that one answers', async () => {
    await using server = await RedisServer.start();
    await expect(RedisServer.start({ port: server.port })).rejects.toThrow('is taken');
  });

  it('says why a server did not start', async () => {
    await expect(RedisServer.start({ args: ['--no-such-option', 'x'] })).rejects.toThrow(
      /did not start[\s\S]*no-such-option/i,
    );
  });

  it('dies with the process that started it, even if that is killed and the server frozen', async () => {
    const parent = spawn(
      process.execPath,
      [
        ...['--import', './test/support/register-ts.mjs', '--input-type=module', '--eval'],
        `const { RedisServer } = await import('./test/support/redis-server.js');
         const server = await RedisServer.start();
         server.pause();
         console.log(server.pid);
         setInterval(() => {}, 1000);`,
      ],
      { stdio: ['ignore', 'pipe', 'inherit'], env: { ...process.env, NODE_OPTIONS: '' } },
    );
    const [line] = (await once(parent.stdout, 'data')) as [Buffer];
    const pid = Number(line.toString());
    expect(isAlive(pid)).toBe(true);
    parent.kill('SIGKILL');
    await eventually(() => !isAlive(pid), { message: 'the orphan is gone' });
  });
});
