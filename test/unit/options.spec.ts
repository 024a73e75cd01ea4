/**
 * Every option with what it may be and with everything that it may not be: a wrong one is an error at once that names
 * the option, its value and the remedy, and never a lock that behaves otherwise than was meant.
 */
import { afterAll, describe, expect, it } from '@jest/globals';
import { Cluster, Redis } from 'ioredis';
import { LONGEST_DURATION } from '../../lib/core/duration.js';
import { LockConfigError } from '../../lib/core/errors.js';
import { Locker } from '../../lib/core/locker.js';
import {
  type LockerOptions,
  type LockOptions,
  resolveLockerOptions,
  resolveLockOptions,
  SHORTEST_TTL,
} from '../../lib/core/options.js';

/** A value, and how the message shows it. */
type Wrong = readonly [value: unknown, shown: string];

interface Option {
  /** Values it may have, with what they become. */
  readonly right: readonly (readonly [given: unknown, resolved: unknown])[];
  readonly wrong: readonly Wrong[];
  /** What the message advises. */
  readonly remedy: RegExp;
}

const NO_TEXT: readonly Wrong[] = [
  [null, 'null'],
  [7, '7'],
  [true, 'true'],
  [{}, 'an object'],
  [['x'], 'an array'],
  [() => 'x', 'a function'],
  [Symbol('x'), 'Symbol(x)'],
];

const NO_DURATION: readonly Wrong[] = [
  [Number.NaN, 'NaN'],
  [Number.POSITIVE_INFINITY, 'Infinity'],
  [Number.NEGATIVE_INFINITY, '-Infinity'],
  [-1, '-1'],
  [-0.001, '-0.001'],
  ['-5s', "'-5s'"],
  [0, '0'],
  ['0s', "'0s'"],
  [LONGEST_DURATION + 1, String(LONGEST_DURATION + 1)],
  ['25d', "'25d'"],
  ['soon', "'soon'"],
  ['', "''"],
  ['10', "'10'"],
  ['10 parsecs', "'10 parsecs'"],
  [null, 'null'],
  [true, 'true'],
  [10n, '10'],
  [{}, 'an object'],
  [[1_000], 'an array'],
  [new Date(), 'an object'],
  [() => 1_000, 'a function'],
  [Symbol('x'), 'Symbol(x)'],
  ['x'.repeat(1_000), `'${'x'.repeat(60)}'`],
];

function durationOf(least: number, hint = /./): Option {
  return {
    right: [
      [least, least],
      [1_000, 1_000],
      ['30s', 30_000],
      ['1.5s', 1_500],
      // Redis takes whole milliseconds only.
      [1_500.4, 1_500],
      [LONGEST_DURATION, LONGEST_DURATION],
    ],
    wrong: [...NO_DURATION, ...(least > 1 ? [[least - 1, String(least - 1)] as const] : [])],
    remedy: new RegExp(
      `a duration from ${least} ms to ${LONGEST_DURATION} ms, as a number of milliseconds or a text like '30s'.*${hint.source}`,
    ),
  };
}

const trueOrFalse: Option = {
  right: [
    [true, true],
    [false, false],
  ],
  wrong: [
    [null, 'null'],
    [0, '0'],
    [1, '1'],
    ['true', "'true'"],
    ['no', "'no'"],
    [{}, 'an object'],
  ],
  remedy: /true or false/,
};

const controller = new AbortController();
const foreignSignal = { aborted: false, addEventListener() {}, removeEventListener() {} };
const instance = new Redis({ lazyConnect: true });

const shortText: Option = {
  right: ['shop', 'x'.repeat(100)].map((each) => [each, each]),
  wrong: [...NO_TEXT, ['', "''"], ['x'.repeat(101), `'${'x'.repeat(60)}'`]],
  remedy: /a text of 1 to 100 characters/,
};

/** Complete, or it doesn't compile. */
const PER_LOCK: Record<keyof LockOptions, Option> = {
  ttl: durationOf(SHORTEST_TTL),
  waitTimeout: durationOf(1, /use tryAcquire, or onBusy/),
  holdAtLeast: durationOf(1, /leave it out/),
  maxHold: durationOf(SHORTEST_TTL, /leave it out/),
  onBusy: {
    right: ['wait', 'skip', 'throw'].map((each) => [each, each]),
    wrong: [...NO_TEXT, ['', "''"], ['Wait', "'Wait'"], ['fail', "'fail'"]],
    remedy: /one of 'wait', 'skip', 'throw'/,
  },
  renew: trueOrFalse,
  label: shortText,
  mode: {
    right: ['exclusive', 'shared'].map((each) => [each, each]),
    wrong: [...NO_TEXT, ['', "''"], ['Shared', "'Shared'"], ['read', "'read'"]],
    remedy: /one of 'exclusive', 'shared'/,
  },
  limit: {
    right: [
      [1, 'limit:1'],
      [100_000, 'limit:100000'],
    ],
    wrong: [
      [0, '0'],
      [-1, '-1'],
      [1.5, '1.5'],
      [100_001, '100001'],
      [Number.NaN, 'NaN'],
      [Number.POSITIVE_INFINITY, 'Infinity'],
      [null, 'null'],
      ['3', "'3'"],
      [{}, 'an object'],
    ],
    remedy: /a whole number from 1 to 100000/,
  },
  signal: {
    right: [
      [controller.signal, controller.signal],
      [foreignSignal, foreignSignal],
    ],
    wrong: [
      [controller, 'an object'],
      [{}, 'an object'],
      [{ aborted: false }, 'an object'],
      [null, 'null'],
      ['x', "'x'"],
      [1, '1'],
      [() => {}, 'a function'],
    ],
    remedy: /an AbortSignal.*controller\.signal/,
  },
  prefix: {
    right: ['lock', 'a:b', 'shop/eu', 'ключ', '🔒', '%', 'x'.repeat(128)].map((each) => [
      each,
      each,
    ]),
    wrong: [
      ...NO_TEXT,
      ['', "''"],
      ['a b', "'a b'"],
      ['a\n', "'a\n'"],
      ['{a}', "'{a}'"],
      ['a{', "'a{'"],
      ['a}', "'a}'"],
      ['x'.repeat(129), `'${'x'.repeat(60)}'`],
      ['\uD800', "'\uD800'"],
    ],
    remedy: /a text of 1 to 128 characters without braces or white space/,
  },
};

const PER_LOCKER: Record<Exclude<keyof LockerOptions, keyof LockOptions>, Option> = {
  connection: {
    right: ['memory', 'redis://h', 'rediss://u:p@h:1/2', { host: 'h' }, instance].map((each) => [
      each,
      each,
    ]),
    wrong: [
      [undefined, 'undefined'],
      [null, 'null'],
      ['', "''"],
      ['localhost:6379', "'localhost:6379'"],
      ['http://h', "'http://h'"],
      ['redis://', "'redis://'"],
      ['Memory', "'Memory'"],
      [6379, '6379'],
      [true, 'true'],
      [() => instance, 'a function'],
    ],
    remedy: /URL.*ioredis options, an ioredis instance.*'memory'/,
  },
  commandTimeout: durationOf(10),
  nodeTimeout: durationOf(10),
  drainTimeout: durationOf(1),
  requireConnection: trueOrFalse,
  localHandover: trueOrFalse,
  detectDeadlocks: trueOrFalse,
  wakeUp: {
    right: ['publish', 'poll'].map((each) => [each, each]),
    wrong: [...NO_TEXT, ['', "''"], ['Poll', "'Poll'"], ['subscribe', "'subscribe'"]],
    remedy: /one of 'publish', 'poll'/,
  },
  backoff: {
    right: [
      [{}, { first: 20, longest: 500 }],
      [
        { first: undefined, longest: undefined },
        { first: 20, longest: 500 },
      ],
      [{ first: 1 }, { first: 1, longest: 500 }],
      [{ longest: '100ms' }, { first: 20, longest: 100 }],
      [
        { first: '0.5s', longest: 500 },
        { first: 500, longest: 500 },
      ],
      [
        { first: 30.4, longest: 30.4 },
        { first: 30, longest: 30 },
      ],
    ],
    // What is wrong of its parts is below, by the name of the part.
    wrong: [],
    remedy: /./,
  },
  application: shortText,
  // On Redis only: see below.
  replicas: { right: [], wrong: [], remedy: /./ },
  safety: {
    right: ['report', 'strict', 'off'].map((each) => [each, each]),
    wrong: [...NO_TEXT, ['', "''"], ['Strict', "'Strict'"], [true, 'true']],
    remedy: /one of 'report', 'strict', 'off'/,
  },
  guard: { right: [[false, undefined]], wrong: [], remedy: /./ },
};

type Resolve = (options: Record<string, unknown>) => unknown;
const perCall: Resolve = (options) => resolveLockOptions(options as LockOptions);
const perModule: Resolve = (options) =>
  resolveLockerOptions({ ...only(perModule, options), ...options } as unknown as LockerOptions);

function errorOf(work: () => unknown): LockConfigError {
  let thrown: unknown = 'nothing was thrown';
  try {
    work();
  } catch (error) {
    thrown = error;
  }
  expect(thrown).toBeInstanceOf(LockConfigError);
  return thrown as LockConfigError;
}

const perLock = Object.entries(PER_LOCK);
const defaultable = perLock.filter(([option]) => option !== 'signal' && option !== 'label');
const perLocker = Object.entries(PER_LOCKER);

describe.each([
  ['per call', perLock, perCall],
  ['as a default of the module', defaultable, perModule],
  ['of the module', perLocker, perModule],
] as const)('options %s', (_where, options, resolve) => {
  it.each(options)('%s: may be what it says', (option, { right }) => {
    for (const [given, expected] of right) {
      const resolved = resolve({ [option]: given }) as Record<string, unknown>;
      const { defaults = {} } = resolved as { defaults?: object };
      const becomes = ['mode', 'limit'].includes(option) ? 'access' : option;
      expect({ ...defaults, ...resolved }).toHaveProperty([becomes], expected);
    }
  });

  it.each(options)('%s: is refused otherwise, by name, value and remedy', (option, row) => {
    const { wrong, remedy } = row;
    for (const [value, shown] of wrong) {
      const error = errorOf(() => resolve({ [option]: value }));
      expect(error).toMatchObject({ code: 'LOCK_CONFIG', name: 'LockConfigError', option });
      expect(error.value).toBe(value);
      expect(error.message).toContain(`option \`${option}\``);
      expect(error.message).toContain(`got ${shown}.`);
      expect(error.message).toMatch(remedy);
    }
  });
});

describe.each([
  ['per call', perCall, ['ttl', 'signal']],
  ['of the module', perModule, ['connection', 'ttl', 'drainTimeout']],
] as const)('options %s', (_where, resolve, known) => {
  it('with an unknown name are refused, with those that are known', () => {
    for (const option of ['timeout', 'TTL', 'wait', 'toString', 'constructor', '__proto__', '']) {
      const error = errorOf(() => resolve(JSON.parse(`{"${option}": 1}`) as never));
      expect(error).toMatchObject({ option, value: 1 });
      expect(error.message).toContain(`Unknown option \`${option}\``);
      for (const name of known) expect(error.message).toContain(name);
    }
  });

  it('with `undefined` for a value count as left out', () => {
    const given = Object.fromEntries(known.map((option) => [option, undefined]));
    const resolved = resolve({ ...given, ...only(resolve) });
    expect(resolved).toEqual(resolve(only(resolve)));
  });
});

/** What a resolve can't do without. */
function only(resolve: Resolve, given: object = {}): Record<string, unknown> {
  if (resolve !== perModule) return {};
  return 'nodeTimeout' in given
    ? { connection: ['redis://a', 'redis://b', 'redis://c'], commandTimeout: LONGEST_DURATION }
    : { connection: 'memory' };
}

describe('option replicas', () => {
  const resolve = (replicas: unknown, more: object = {}) =>
    resolveLockerOptions({ connection: 'redis://h', replicas, ...more } as LockerOptions);

  it('waits for a quarter of the command timeout, unless it says how long', () => {
    expect(resolve({ atLeast: 1 }).replicas).toEqual({ atLeast: 1, timeout: 250, aof: false });
    expect(resolve({ atLeast: 1 }, { commandTimeout: 101 }).replicas?.timeout).toBe(25);
    const given = { atLeast: 2, timeout: '50ms', aof: true };
    expect(resolve(given).replicas).toEqual({ atLeast: 2, timeout: 50, aof: true });
    expect(resolve(undefined).replicas).toBeUndefined();
  });

  it.each([
    [1, 'replicas', /an object such as/],
    [null, 'replicas', /an object such as/],
    [[1], 'replicas', /an object such as/],
    [{}, 'replicas.atLeast', /whole number from 1/],
    [{ atLeast: 0 }, 'replicas.atLeast', /whole number from 1/],
    [{ atLeast: 1.5 }, 'replicas.atLeast', /whole number from 1/],
    [{ atLeast: '1' }, 'replicas.atLeast', /whole number from 1/],
    [{ atLeast: 1, timeout: 0 }, 'replicas.timeout', /a duration from 1 ms/],
    [{ atLeast: 1, timeout: '1s' }, 'replicas.timeout', /less than `commandTimeout`, 1000 ms/],
    [{ atLeast: 1, aof: 'yes' }, 'replicas.aof', /true or false/],
    [{ atLeast: 1, wait: 1 }, 'replicas.wait', /Unknown option `wait`/],
  ])('%j is refused, by name and remedy', (given, option, remedy) => {
    const error = errorOf(() => resolve(given));
    expect(error.option).toBe(option);
    expect(error.message).toMatch(remedy);
  });

  it('demands a ttl of four times the waiting, of the default and of each call', () => {
    const replicas = { atLeast: 1, timeout: 100 };
    const remedy = /`ttl` to be at least 400 ms.*`replicas.timeout`/;
    expect(errorOf(() => resolve(replicas, { ttl: 399 })).message).toMatch(remedy);
    const { defaults } = resolve(replicas, { ttl: 400 });
    expect(errorOf(() => resolveLockOptions({ ttl: 399 }, defaults)).message).toMatch(remedy);
    expect(resolveLockOptions({ ttl: 500 }, defaults).ttl).toBe(500);
  });

  it('is refused in memory', () => {
    const error = errorOf(() => perModule({ replicas: { atLeast: 1 } }));
    expect(error).toMatchObject({ option: 'replicas' });
    expect(error.message).toMatch(/left out with connection 'memory'/);
  });
});

describe('option guard', () => {
  const resolve = (guard: unknown, more: object = {}) =>
    resolveLockerOptions({ connection: 'redis://h', guard, ...more } as LockerOptions);

  it("reckons with the longest of the module's ttl, its holdAtLeast and 30 s, unless it says more", () => {
    const byDefault = { longestTtl: 30_000, lag: undefined, proxied: false };
    expect(resolve(true).guard).toEqual(byDefault);
    expect(resolve({}).guard).toEqual(byDefault);
    expect(resolve(true, { ttl: '40s' }).guard?.longestTtl).toBe(40_000);
    expect(resolve(true, { holdAtLeast: '50s' }).guard?.longestTtl).toBe(50_000);
    const given = { longestTtl: '1m', lag: 0, proxied: true };
    expect(resolve(given).guard).toEqual({ longestTtl: 60_000, lag: 0, proxied: true });
    expect([resolve(false).guard, resolve(undefined).guard]).toEqual([undefined, undefined]);
  });

  it.each([
    [1, 'guard', /true, false, or an object such as/],
    [null, 'guard', /true, false, or an object such as/],
    [[true], 'guard', /true, false, or an object such as/],
    [{ longestTtl: 99 }, 'guard.longestTtl', /a duration from 100 ms/],
    [{ lag: -1 }, 'guard.lag', /a duration from 0 ms/],
    [{ proxied: 1 }, 'guard.proxied', /true or false/],
    [{ ttl: 1 }, 'guard.ttl', /Unknown option `ttl`/],
  ])('%j is refused, by name and remedy', (given, option, remedy) => {
    const error = errorOf(() => resolve(given));
    expect(error.option).toBe(option);
    expect(error.message).toMatch(remedy);
  });

  it.each(['ttl', 'holdAtLeast'])(
    'lets no %s be longer, of the default and of each call',
    (option) => {
      const guard = { longestTtl: '20s' };
      const remedy = /to be at most 20000 ms, the option `guard.longestTtl`.*in all processes/;
      const error = errorOf(() => resolve(guard, { [option]: 20_001 }));
      expect(error).toMatchObject({ option, value: 20_001 });
      expect(error.message).toMatch(remedy);
      const { defaults } = resolve(guard);
      expect(errorOf(() => resolveLockOptions({ [option]: 20_001 }, defaults)).message).toMatch(
        remedy,
      );
      expect(resolveLockOptions({ [option]: 20_000 }, defaults)).toHaveProperty(option, 20_000);
    },
  );

  it('is refused in memory', () => {
    const error = errorOf(() => perModule({ guard: true }));
    expect(error).toMatchObject({ option: 'guard' });
    expect(error.message).toMatch(/left out with connection 'memory'/);
  });
});

describe('several nodes as the connection', () => {
  const cluster = new Cluster([{ host: 'd' }], { lazyConnect: true });
  afterAll(() => cluster.disconnect());
  const THREE = ['redis://a', 'redis://b:7000/2', { host: 'c', db: 1 }];
  const resolve = (options: object) => resolveLockerOptions(options as LockerOptions);

  it('are three or more URLs, options and instances; each has 200 ms, or what a command has', () => {
    const connection = [...THREE, instance];
    expect(resolve({ connection })).toMatchObject({ connection, nodeTimeout: 200 });
    expect(resolve({ connection: THREE, commandTimeout: 150 })).toMatchObject({ nodeTimeout: 150 });
    expect(resolve({ connection: THREE, nodeTimeout: '0.5s' })).toMatchObject({ nodeTimeout: 500 });
  });

  it.each<[string, unknown[], string, RegExp]>([
    ['none', [], 'connection', /at least 3 .* It has 0/],
    ['two', THREE.slice(1), 'connection', /at least 3 .* It has 2/],
    ['memory', [...THREE, 'memory'], 'connection[3]', /one server, got 'memory'/],
    ['a Cluster', [...THREE, cluster], 'connection[3]', /one server, got an object/],
    ['an array', [...THREE, THREE], 'connection[3]', /one server, got an array/],
    ['nothing', [null, ...THREE], 'connection[0]', /a URL .* got null/],
    ['another URL', [...THREE, 'http://h'], 'connection[3]', /got 'http:..h'/],
    [
      'one twice',
      [...THREE, { host: 'B', port: 7000 }],
      'connection[3]',
      /b:7000 twice \(connection\[1\]/,
    ],
    [
      'one twice, by user and password',
      [...THREE, 'redis://me:secret@a:6379/3'],
      'connection[3]',
      /got a:6379 twice/,
    ],
    [
      'one twice, by two names',
      [...THREE, 'redis://127.0.0.1:1', 'redis://localhost:1'],
      'connection[4]',
      /localhost:1 twice/,
    ],
  ])('are refused where there is %s', (_what, connection, option, message) => {
    const error = errorOf(() => resolve({ connection }));
    expect(error).toMatchObject({ option });
    expect(error.message).toMatch(message);
    expect(error.message).not.toContain('secret');
  });

  it('each have less time than a command, and only several have', () => {
    const longer = errorOf(() => resolve({ connection: THREE, nodeTimeout: 1_001 }));
    expect(longer.message).toMatch(/`nodeTimeout` to be at most `commandTimeout`, 1000 ms/);
    const alone = errorOf(() => resolve({ connection: 'redis://a', nodeTimeout: 100 }));
    expect(alone.message).toMatch(/`nodeTimeout` to be left out where `connection` is one Redis/);
  });

  it("can't keep to a limit", () => {
    const error = errorOf(() => resolve({ connection: THREE, limit: 3 }));
    expect(error).toMatchObject({ option: 'limit', value: 3 });
    expect(error.message).toMatch(/each node counts for itself.*Use one Redis/);
  });
});

describe('option backoff', () => {
  const wrongPauses: readonly Wrong[] = [
    ...NO_DURATION.filter(([value]) => value !== LONGEST_DURATION + 1),
    [501, '501'],
    ['0.6s', "'0.6s'"],
  ];

  it.each(['first', 'longest'] as const)(
    '%s: is refused where it is no pause of 1 to 500 ms, by name, value and remedy',
    (part) => {
      for (const [value, shown] of wrongPauses) {
        const error = errorOf(() => perModule({ backoff: { [part]: value } }));
        expect(error).toMatchObject({ code: 'LOCK_CONFIG', option: `backoff.${part}` });
        expect(error.value).toBe(value);
        expect(error.message).toContain(`option \`backoff.${part}\` to be a duration`);
        expect(error.message).toContain(`from 1 ms to 500 ms`);
        expect(error.message).toContain(`got ${shown}.`);
      }
    },
  );

  it.each([
    ['given both', { first: 100, longest: 99 }, 100, 99],
    ['of the default', { longest: 10 }, 20, 10],
  ])('first: is refused where it is more than longest: %s', (_what, value, first, longest) => {
    const error = errorOf(() => perModule({ backoff: value }));
    expect(error).toMatchObject({ option: 'backoff.first', value: first });
    expect(error.message).toContain(
      `option \`backoff.first\` to be at most \`backoff.longest\`, ${longest} ms, got ${first}.`,
    );
  });

  it.each([
    [null, 'null'],
    [20, '20'],
    ['20ms', "'20ms'"],
    [[20, 500], 'an array'],
    [() => 20, 'a function'],
  ])('is refused where it is no object: %p', (value, shown) => {
    const error = errorOf(() => perModule({ backoff: value }));
    expect(error).toMatchObject({ option: 'backoff', value });
    expect(error.message).toContain('to be an object with `first`, `longest`, or both');
    expect(error.message).toContain(`got ${shown}.`);
  });

  it('is refused with an unknown part, with those that are known', () => {
    for (const part of ['min', 'First', 'toString', 'constructor', '__proto__', '']) {
      const backoff: unknown = JSON.parse(`{"${part}": 1}`);
      const error = errorOf(() => perModule({ backoff }));
      expect(error.value).toBe(1);
      expect(error.message).toContain(
        `Unknown option \`${part}\` in the option \`backoff\`. Known are: first, longest.`,
      );
    }
  });
});

describe('options', () => {
  it('have the defaults that their documentation says', () => {
    expect(resolveLockerOptions({ connection: 'memory' })).toEqual({
      connection: 'memory',
      defaults: {
        access: 'exclusive',
        ttl: 10_000,
        waitTimeout: 10_000,
        onBusy: 'wait',
        renew: true,
        holdAtLeast: 0,
        maxHold: Number.POSITIVE_INFINITY,
        signal: undefined,
        prefix: 'lock',
      },
      commandTimeout: 1_000,
      nodeTimeout: 200,
      requireConnection: false,
      drainTimeout: 10_000,
      localHandover: true,
      detectDeadlocks: true,
      wakeUp: 'publish',
      backoff: { first: 20, longest: 500 },
      application: undefined,
      safety: 'report',
    });
  });

  it("of a call win over the module's, one by one", () => {
    const { defaults } = resolveLockerOptions({
      connection: 'memory',
      ttl: '3s',
      renew: false,
      prefix: 'p',
    });
    const options = { ttl: '4s', waitTimeout: 5, renew: undefined as never } as const;
    expect(resolveLockOptions(options, defaults)).toEqual({
      ...defaults,
      ttl: 4_000,
      waitTimeout: 5,
      renew: false,
      prefix: 'p',
    });
    expect(resolveLockOptions(undefined, defaults)).toBe(defaults);
  });

  it('that are no object are refused', () => {
    for (const [value, shown] of [
      [null, 'null'],
      ['fast', "'fast'"],
      [7, '7'],
      [[], 'an array'],
      [() => {}, 'a function'],
    ] as const) {
      for (const resolve of [resolveLockOptions, resolveLockerOptions, (o: never) => new Locker(o)])
        expect(errorOf(() => resolve(value as never)).message).toContain(`object, got ${shown}`);
    }
    expect(errorOf(() => new Locker(undefined as never))).toMatchObject({ code: 'LOCK_CONFIG' });
  });

  it('take no signal as a default: it belongs to one call', () => {
    const options = { connection: 'memory', signal: controller.signal } as LockerOptions;
    expect(errorOf(() => new Locker(options))).toMatchObject({ option: 'signal' });
  });

  it('are checked where a locker is made, before anything is opened', () => {
    const error = errorOf(() => new Locker({ connection: 'redis://localhost:1', ttl: 99 }));
    expect(error).toMatchObject({ option: 'ttl', value: 99 });
  });
});
