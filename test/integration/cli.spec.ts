/**
 * The command line as a process of its own, against a real redis-server with locks of two applications.
 */
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { PassThrough } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import type { CommandLine } from '../../lib/cli/command-line.js';
import { LockConsole, type Terminal } from '../../lib/cli/lock-console.js';
import type { LockState } from '../../lib/core/backend/lock-backend.js';
import { Locker } from '../../lib/core/locker.js';
import type { Lock } from '../../lib/core/lock.js';
import type { Diagnosis } from '../../lib/core/safety.js';
import { eventually } from '../support/eventually.js';
import { RedisServer } from '../support/redis-server.js';

const main = fileURLToPath(new URL('../../lib/cli/main.ts', import.meta.url));
const register = new URL('../support/register-ts.mjs', import.meta.url).href;
const { version } = JSON.parse(
  readFileSync(new URL('../../package.json', import.meta.url), 'utf8'),
) as { version: string };
const holder = `orders ${process.pid}@${hostname()}`;

let server: RedisServer;
let orders: Locker;
let imports: Locker;

beforeAll(async () => {
  server = await RedisServer.start();
});

afterAll(async () => {
  await server.stop();
});

beforeEach(() => {
  const options = { connection: server.url, drainTimeout: 1, ttl: '60s' } as const;
  orders = new Locker({ ...options, application: 'orders' });
  imports = new Locker({ ...options, application: 'imports' });
});

afterEach(async () => {
  await Promise.all([orders.close(), imports.close()]);
  await server.command('FLUSHALL');
});

interface Ended {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** A run of the program; without a terminal, as in a script. */
class Run {
  stdout = '';
  stderr = '';
  readonly ended: Promise<Ended>;
  readonly #child;

  constructor(args: readonly string[], env: Record<string, string> = {}) {
    this.#child = spawn(process.execPath, ['--import', register, main, ...args], {
      env: { ...process.env, NODE_OPTIONS: '', COLUMNS: '', REDIS_URL: server.url, ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.#child.stdout.on('data', (chunk) => (this.stdout += String(chunk)));
    this.#child.stderr.on('data', (chunk) => (this.stderr += String(chunk)));
    this.ended = new Promise((resolve) => {
      this.#child.once('close', (code, signal) => {
        resolve({ code, signal, stdout: this.stdout, stderr: this.stderr });
      });
    });
  }

  /** Ctrl-C. */
  interrupt(): void {
    this.#child.kill('SIGINT');
  }
}

const run = (...args: string[]): Promise<Ended> => new Run(args).ended;

/** Locks of both applications, one of them waited for. */
async function someLocks(): Promise<{ held: Lock[]; waiter: Promise<Lock> }> {
  const held = [
    await orders.acquire('order:42', { label: 'payment' }),
    await orders.acquire('order:7'),
    await imports.acquire('import'),
  ];
  const waiter = imports.acquire('order:42', { waitTimeout: '20s' });
  waiter.catch(() => {});
  await eventually(async () => (await orders.inspect('order:42')).pending.length === 1);
  return { held, waiter };
}

describe('list', () => {
  it('shows the locks in use as a table, sorted by key', async () => {
    await someLocks();
    const { code, stdout, stderr } = await run('list');
    const lines = stdout.trimEnd().split('\n');
    expect(lines.map((line) => line.trim().split(/ {2,}/))).toEqual([
      ['KEY', 'HELD BY', 'LABEL', 'HELD FOR', 'ENDS IN', 'WAITING'],
      ['import', `imports ${process.pid}@${hostname()}`, '-', anyTime, anyTime, '0'],
      ['order:42', holder, 'payment', anyTime, anyTime, '1'],
      ['order:7', holder, '-', anyTime, anyTime, '0'],
    ]);
    expect([code, stderr]).toEqual([0, '']);
  });

  it('shows those that match, and says where there are none', async () => {
    await someLocks();
    const some = await run('list', 'order:?');
    expect([some.code, some.stdout.match(/order:\d+/g)]).toEqual([0, ['order:7']]);
    expect(await run('list', 'nothing*')).toEqual({
      code: 1,
      signal: null,
      stdout: '',
      stderr: "No lock like 'nothing*' is held or waited for.\n",
    });
    expect(await run('list', '--prefix', 'other')).toMatchObject({
      code: 1,
      stderr: "No lock is held or waited for under the prefix 'other'.\n",
    });
  });

  it('fits the width that COLUMNS says', async () => {
    await orders.acquire('a key that is much longer than the terminal is wide');
    const { stdout } = await new Run(['list'], { COLUMNS: '50' }).ended;
    const lines = stdout.trimEnd().split('\n');
    expect(lines).toHaveLength(2);
    for (const line of lines) expect(line.length).toBeLessThanOrEqual(50);
    expect(lines[1]).toContain('…');
  });

  it('prints JSON with everything that is known', async () => {
    const { held } = await someLocks();
    const { code, stdout } = await run('list', 'order:*', '--json');
    expect(code).toBe(0);
    expect(JSON.parse(stdout)).toEqual([
      {
        key: 'order:42',
        held: [
          {
            application: 'orders',
            host: hostname(),
            pid: process.pid,
            label: 'payment',
            access: 'exclusive',
            since: expect.stringMatching(/^\d{4}-.*Z$/),
            remaining: expect.any(Number),
            fencingToken: held[0]?.fencingToken,
            kept: false,
          },
        ],
        pending: [{ access: 'exclusive', sequence: expect.any(Number) }],
      },
      expect.objectContaining({ key: 'order:7' }),
    ]);
    expect(await run('list', 'nothing', '--json')).toMatchObject({ code: 1, stdout: '[]\n' });
  });
});

describe('inspect', () => {
  it('shows all that is known of a lock', async () => {
    const { held } = await someLocks();
    const { code, stdout } = await run('inspect', 'order:42');
    expect(code).toBe(0);
    expect(stdout).toMatch(/^order:42\n/);
    expect(stdout).toContain(`held by        ${holder}\n`);
    expect(stdout).toContain('label          payment\n');
    expect(stdout).toContain(`fencing token  ${held[0]?.fencingToken}\n`);
    expect(stdout).toContain('waiting        1 process\n');
  });

  it('says that a lock is free', async () => {
    const { code, stdout } = await run('inspect', 'free');
    expect([code, stdout]).toEqual([1, 'free\n  held by        nobody\n  waiting        nobody\n']);
    const json = await run('inspect', 'free', '--json');
    expect([json.code, JSON.parse(json.stdout)]).toEqual([
      1,
      { key: 'free', held: [], pending: [] },
    ]);
  });

  it('shows what a key or a label could do to a terminal, and does not do it', async () => {
    const evil = 'k\u001b[2J\u202e';
    await orders.acquire(evil, { label: 'l\r\u0007' });
    const { stdout } = await run('inspect', evil);
    // oxlint-disable-next-line eslint/no-control-regex
    expect(stdout.replaceAll('\n', '')).not.toMatch(/[\u0000-\u001f\u202e]/);
    expect(stdout).toContain('k\\u001b[2J\\u202e');
  });
});

describe('release', () => {
  it('takes the lock from its holder, which learns why, and hands it on', async () => {
    const { held, waiter } = await someLocks();
    const { code, stdout } = await run('release', 'order:42', '--yes', '--reason', 'stuck: OPS-17');
    expect(code).toBe(0);
    expect(stdout).toContain("Released 'order:42':\n");
    expect(stdout).toContain(holder);
    expect(stdout).toContain(`fencing token ${held[0]?.fencingToken}`);
    const { signal } = held[0] as Lock;
    await eventually(() => signal.aborted);
    expect(signal.reason).toMatchObject({
      reason: 'forced',
      by: { application: 'nestjs-redis-lock', host: hostname(), reason: 'stuck: OPS-17' },
    });
    await (await waiter).release();
  });

  it('says that nobody holds it', async () => {
    const { code, stdout, stderr } = await run('release', 'free', '-y');
    expect([code, stdout, stderr]).toEqual([1, '', "Nobody holds 'free'.\n"]);
  });

  it('prints JSON of what it took', async () => {
    const { held } = await someLocks();
    const { code, stdout } = await run('release', 'order:7', '--yes', '--json');
    expect([code, JSON.parse(stdout)]).toMatchObject([
      0,
      { kind: 'released', held: [{ fencingToken: held[1]?.fencingToken }] },
    ]);
    const again = await run('release', 'order:7', '--yes', '--json');
    expect([again.code, JSON.parse(again.stdout)]).toEqual([1, { kind: 'not-held' }]);
  });

  it('does nothing unless somebody agrees: where no terminal can answer, it needs --yes', async () => {
    const { held } = await someLocks();
    const { code, stderr } = await run('release', 'order:42');
    expect(code).toBe(2);
    expect(stderr).toContain('--yes');
    expect(held[0]?.isHeld).toBe(true);
  });

  it.each([
    ['y\n', 0],
    ['YES\n', 0],
    ['n\n', 1],
    ['\n', 1],
    ['yikes\n', 1],
    [undefined, 1],
  ])('asks at a terminal; the answer %j ends with %d', async (answer, exit) => {
    const { held } = await someLocks();
    const terminal = new FakeTerminal();
    const console = new LockConsole(releaseLine('order:42'), terminal.asTerminal);
    const ended = console.run();
    await eventually(() => terminal.said.includes('[y/N]'));
    // Who it is taken from stands above the question.
    expect(terminal.said).toContain(holder);
    if (answer === undefined) terminal.stdin.end();
    else terminal.stdin.write(answer);
    expect(await ended).toBe(exit);
    expect((await orders.inspect('order:42')).held).toMatchObject(
      exit === 0 ? [] : [{ fencingToken: held[0]?.fencingToken }],
    );
  });

  it('asks nothing where nobody holds it', async () => {
    const terminal = new FakeTerminal();
    expect(await new LockConsole(releaseLine('free'), terminal.asTerminal).run()).toBe(1);
    expect(terminal.said).toBe("Nobody holds 'free'.\n");
  });
});

describe('watch', () => {
  it('shows the locks again and again, until Ctrl-C', async () => {
    await someLocks();
    const watch = new Run(['watch', 'order:*', '--interval', '100ms']);
    await eventually(() => watch.stdout.includes('order:7'), { timeout: 15_000 });
    const late = await orders.acquire('order:99');
    await eventually(() => watch.stdout.includes('order:99'));
    await late.release();
    watch.interrupt();
    expect(await watch.ended).toMatchObject({ code: 0, signal: null, stderr: '' });
  });

  it('prints a line of JSON each time', async () => {
    await someLocks();
    const watch = new Run(['watch', '--json', '--interval', '100ms']);
    await eventually(() => watch.stdout.split('\n').length > 3, { timeout: 15_000 });
    watch.interrupt();
    const { stdout } = await watch.ended;
    for (const line of stdout.trimEnd().split('\n')) {
      const { at, locks } = JSON.parse(line) as { at: string; locks: LockState[] };
      expect(Date.parse(at)).toBeGreaterThan(0);
      expect(locks.map(({ key }) => key)).toEqual(['import', 'order:42', 'order:7']);
    }
  });

  it('waits out an outage that comes while it watches', async () => {
    await using own = await RedisServer.start();
    const watch = new Run(['watch', '--interval', '100ms'], { REDIS_URL: own.url });
    await eventually(() => watch.stdout.includes('No lock is held'), { timeout: 15_000 });
    await own.kill();
    await eventually(() => watch.stdout.includes("can't be reached"));
    await own.restart();
    const from = watch.stdout.length;
    await eventually(() => watch.stdout.slice(from).includes('No lock is held'));
    watch.interrupt();
    expect(await watch.ended).toMatchObject({ code: 0 });
  });

  it('draws over what it drew, and no more than a terminal has room for', async () => {
    await Promise.all(Array.from({ length: 30 }, (_, index) => orders.acquire(`k${index}`)));
    const terminal = new FakeTerminal({ columns: 40, rows: 10 });
    const command = { kind: 'watch', pattern: undefined, interval: 100 } as const;
    const ended = new LockConsole({ ...releaseLine(''), command }, terminal.asTerminal).run();
    await eventually(() => terminal.shown.split('\u001b[J').length > 2);
    process.emit('SIGINT');
    expect(await ended).toBe(0);
    const [first = ''] = terminal.shown.split('\u001b[J');
    expect(first).toContain('… and 24 more');
    for (const line of first.split('\n')) {
      // oxlint-disable-next-line eslint/no-control-regex
      expect(line.replace(/\u001b\[\d*[A-Z]/g, '').length).toBeLessThanOrEqual(40);
    }
  });
});

describe('doctor', () => {
  it('shows the server, the promises under each fault, and what to change', async () => {
    const { code, stdout, stderr } = await run('doctor');
    expect([code, stderr]).toEqual([4, '']);
    expect(stdout).toMatch(/^Safety: weakened\. /);
    expect(stdout).toContain('With the options guard off,');
    const line = (start: string) =>
      stdout
        .split('\n')
        .find((each) => each.startsWith(start))
        ?.split(/ {2,}/);
    expect(line(`127.0.0.1:${server.port}`)?.slice(2)).toEqual([
      'master',
      anyTime,
      'no limit',
      'off',
      'off',
      '0',
      expect.stringMatching(/ms ± /),
    ]);
    expect(line('P1 ')).toEqual([
      ...['P1 exclusion', 'holds', 'holds', 'WEAK', '-', '-', '-', 'WEAK', 'WEAK', 'holds'],
    ]);
    expect(stdout).toMatch(/^WEAKENED \(no-aof\): P1, P2 under server-restart\n/m);
    expect(stdout).toMatch(/→ Set the option `guard: true`;/);
  });

  it('ends with 0 where all is well', async () => {
    await using own = await RedisServer.start({ persistence: 'aof' });
    const { code, stdout } = await run('doctor', '--url', own.url);
    expect([code, stdout.split('\n')[0]]).toEqual([0, expect.stringMatching(/^Safety: strict\./)]);
  });

  it('judges with the options of the application that it is told', async () => {
    const { code, stdout } = await run('doctor', '--guard');
    expect(code).toBe(0);
    expect(stdout).toMatch(/^P1 exclusion +holds +holds +holds +- +- +- +holds +WEAK +holds$/m);
    expect(stdout).toContain('With the options guard (lag 0 ms),');
  });

  it('ends with 5 where it cannot be found out, and says which permission is missing', async () => {
    await using own = await RedisServer.start({ persistence: 'aof' });
    await own.command('ACL', 'SETUSER', 'app', 'on', '>pw', '~*', '&*', '+@all', '-config');
    const url = `redis://app:pw@127.0.0.1:${own.port}`;
    const { code, stdout } = await run('doctor', '--url', url);
    expect(code).toBe(5);
    expect(stdout).toContain('UNKNOWN (persistence-unknown)');
    expect(stdout).toContain('CONFIG GET was refused (NOPERM');
    expect(stdout).toContain('`+config|get`');
    expect(stdout).not.toContain('pw@');
  });

  it('prints JSON of all facts, verdicts and findings, by the options that it is told', async () => {
    const { code, stdout } = await run(...['doctor', '--json', '--ttl', '2s', '--replicas', '1']);
    const diagnosis = JSON.parse(stdout) as Diagnosis;
    expect(code).toBe(4);
    expect(diagnosis).toMatchObject({
      level: 'weakened',
      layout: 'server',
      servers: [{ kind: 'surveyed', role: 'master', appendfsync: 'off' }],
      options: { ttl: 2_000, replicas: { atLeast: 1 } },
    });
    expect(diagnosis.verdicts).toContainEqual({
      promise: 'P1',
      fault: 'server-restart',
      verdict: 'weakened',
      reason: expect.stringContaining('neither AOF nor RDB'),
    });
    expect(diagnosis.findings.map(({ code: each }) => each)).toEqual([
      ...['no-aof', 'flush', 'clock-step', 'command-timeout-long'],
    ]);
  });

  it('fits the width that COLUMNS says', async () => {
    const { stdout } = await new Run(['doctor'], { COLUMNS: '70' }).ended;
    const widest = Math.max(...stdout.split('\n').map((line) => line.length));
    expect(widest).toBeGreaterThan(50);
    expect(widest).toBeLessThanOrEqual(70);
  });
});

describe('several independent nodes', () => {
  it('are diagnosed and initialized together, and what each answered is told', async () => {
    const nodes = await RedisServer.startMany(3);
    const urls = nodes.flatMap(({ url }) => ['--url', url]);
    try {
      expect(await run('init-guard', '--yes', ...urls)).toMatchObject({ code: 0 });
      for (const node of nodes) expect(await node.command('GET', 'lock:guard')).toContain(' 0 -');
      await (nodes[0] as RedisServer).kill();
      const told = await run('doctor', '--json', '--guard', ...urls);
      const { servers } = JSON.parse(told.stdout) as Diagnosis;
      expect(servers).toHaveLength(3);
      expect(servers.filter(({ kind }) => kind === 'unreachable')).toHaveLength(1);
      expect(await run('list', ...urls)).toMatchObject({ code: 1 });
      await (nodes[1] as RedisServer).kill();
      const { code, stderr } = await run('list', ...urls);
      expect(code).toBe(3);
      expect(stderr).toMatch(new RegExp(`${nodes[1]?.port}: unreachable, .*ECONNREFUSED`));
    } finally {
      await Promise.all(nodes.map((node) => node.stop()));
    }
  });
});

describe('several nodes of which none can be asked', () => {
  it.each([['doctor'], ['list'], ['init-guard', '--yes']])(
    '%s %s ends with 3, and says what each answered',
    async (...args) => {
      const urls = [1, 2, 3].flatMap((port) => ['--url', `redis://u:secret@127.0.0.1:${port}`]);
      const { code, stdout, stderr } = await run(...args.filter(Boolean), ...urls);
      expect([code, stdout]).toEqual([3, '']);
      expect(stderr.match(/localhost:\d: unreachable, .*?ECONNREFUSED/g)).toHaveLength(3);
      expect(stderr).not.toContain('secret');
    },
  );
});

describe('init-guard', () => {
  it('opens a new server once, and needs somebody to say so', async () => {
    const unsaid = await run('init-guard');
    expect([unsaid.code, unsaid.stderr]).toEqual([2, expect.stringContaining('--yes')]);
    expect(await run('init-guard', '--yes')).toMatchObject({
      code: 0,
      stdout: 'The guard is initialized: locks are granted from now on.\n',
    });
    expect(await run('init-guard', '--yes')).toMatchObject({
      code: 0,
      stdout: 'There was a guard already; nothing was done.\n',
    });
    const guarded = new Locker({ connection: server.url, guard: { longestTtl: '1m' } });
    try {
      expect(await guarded.tryAcquire('k')).not.toBeNull();
    } finally {
      await guarded.close();
    }
  });

  it('does nothing where there are locks', async () => {
    await orders.acquire('order:1');
    const { code, stderr } = await run('init-guard', '--yes');
    expect([code, stderr]).toEqual([1, expect.stringContaining('no new installation')]);
    expect(await server.command('EXISTS', 'lock:guard')).toBe(':0\r\n');
  });
});

describe('any command', () => {
  it.each([
    [['--help'], /^Usage: nestjs-redis-lock/],
    [['list', '-h'], /Exit codes:/],
    [['--version'], new RegExp(`^${version}\n$`)],
  ])('%j prints and ends with 0, also without Redis', async (args, printed) => {
    const { code, stdout } = await new Run(args, { REDIS_URL: 'redis://127.0.0.1:1' }).ended;
    expect(code).toBe(0);
    expect(stdout).toMatch(printed);
  });

  it.each([
    [['show'], "no command 'show'"],
    [['list', '--prefix', 'a b'], 'Expected option `prefix`'],
    [['list', '\\'], 'backslash'],
    [['inspect', 'x'.repeat(513)], 'at most 512 bytes'],
    [['release', 'k', '--yes', '--reason', ''], 'Expected option `reason`'],
    [['list', '--url', 'localhost'], 'redis://host:port'],
  ])('%j ends with 2 and says what to do', async (args, remedy) => {
    const { code, stdout, stderr } = await run(...args);
    expect([code, stdout]).toEqual([2, '']);
    expect(stderr).toContain(remedy);
    expect(stderr).not.toMatch(/^\s+at /m);
  });

  it('ends with 3 where Redis cannot be reached, and says where it looked', async () => {
    for (const args of [
      ...[
        ['list'],
        ['inspect', 'k'],
        ['release', 'k', '--yes'],
        ['watch'],
        ['doctor'],
        ['init-guard', '--yes'],
      ],
    ]) {
      const { code, stdout, stderr } = await run(...args, '--url', 'redis://u:secret@127.0.0.1:1');
      expect([code, stdout]).toEqual([3, '']);
      expect(stderr).toContain('127.0.0.1:1');
      expect(stderr).toContain('ECONNREFUSED');
      expect(stderr).not.toContain('secret');
    }
  });

  it('ends with 3 where Redis refuses', async () => {
    await server.command('RPUSH', 'lock:{list}', 'x');
    const { code, stderr } = await run('inspect', 'list');
    expect(code).toBe(3);
    expect(stderr).toContain('WRONGTYPE');
    // What is no lock isn't listed, and is no trouble either.
    expect(await run('list')).toMatchObject({ code: 1 });
  });
});

/** A time as it's shown. */
const anyTime = expect.stringMatching(/^\d+(\.\d)? (ms|s|min)( \d+ s)?$/);

function releaseLine(key: string): CommandLine {
  return {
    command: { kind: 'release', key, reason: undefined, confirmed: false },
    urls: [server.url],
    cluster: false,
    prefix: undefined,
    json: false,
  };
}

/** A terminal in which somebody types. */
class FakeTerminal {
  readonly stdin = Object.assign(new PassThrough(), { isTTY: true });
  readonly stdout: PassThrough;
  readonly stderr = new PassThrough();
  shown = '';
  said = '';

  constructor(size: { columns: number; rows: number } = { columns: 200, rows: 50 }) {
    this.stdout = Object.assign(new PassThrough(), { isTTY: true, ...size });
    this.stdout.on('data', (chunk) => (this.shown += String(chunk)));
    this.stderr.on('data', (chunk) => (this.said += String(chunk)));
  }

  get asTerminal(): Terminal {
    return { ...this, env: {} } as unknown as Terminal;
  }
}
