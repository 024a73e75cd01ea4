/** What a caller can match on, read, and do about each error; and that every copy of the package knows it. */
import { describe, expect, it } from '@jest/globals';
import {
  LockBusyError,
  LockConfigError,
  LockDeadlockError,
  LockError,
  type LockErrorCode,
  LockKeyError,
  LockLostError,
  LockSafetyError,
  LockTimeoutError,
  LockUnavailableError,
  type LostReason,
  type UnavailableReason,
} from '../../lib/core/errors.js';
import type { Diagnosis } from '../../lib/core/safety.js';

const cause = new Error('cause');

/** Complete, or it doesn't compile. */
const diagnosis: Diagnosis = {
  level: 'weakened',
  layout: 'server',
  servers: [],
  options: { guard: false, replicas: false, wakeUp: 'publish', ttl: 1, commandTimeout: 1 },
  verdicts: [],
  findings: [
    {
      severity: 'weakened',
      code: 'eviction',
      promises: ['P1', 'P2'],
      faults: ['eviction'],
      message: 'Keys are evicted.',
      remedy: "Don't.",
      servers: ['h:1'],
    },
    {
      severity: 'advice',
      code: 'clock-step',
      promises: [],
      faults: [],
      message: 'Not to be told here.',
      remedy: '',
      servers: [],
    },
  ],
};

const BY_CODE: Record<
  LockErrorCode,
  {
    readonly error: LockError;
    readonly name: string;
    readonly fields: object;
    readonly remedy: RegExp;
  }
> = {
  LOCK_BUSY: {
    error: new LockBusyError('k', 1_200),
    name: 'LockBusyError',
    fields: { key: 'k', remaining: 1_200 },
    remedy: /"k" is held by another.*onBusy: 'wait'/,
  },
  LOCK_TIMEOUT: {
    error: new LockTimeoutError('k', 99.6, ['a', 'b']),
    name: 'LockTimeoutError',
    fields: { key: 'k', waited: 99.6, heldKeys: ['a', 'b'] },
    remedy: /"k" was not free within 100 ms.*Raise waitTimeout.*"a", "b".*one order everywhere/,
  },
  LOCK_UNAVAILABLE: {
    error: new LockUnavailableError('k', 'unreachable', cause),
    name: 'LockUnavailableError',
    fields: { key: 'k', reason: 'unreachable', cause },
    remedy: /"k" is unavailable.*check that it runs/,
  },
  LOCK_LOST: {
    error: new LockLostError('k', 'expired', 42),
    name: 'LockLostError',
    fields: { key: 'k', reason: 'expired', fencingToken: 42 },
    remedy: /"k" is no longer held.*Raise ttl/,
  },
  LOCK_DEADLOCK: {
    error: LockDeadlockError.ofCircle('b', ['a', 'b', 'a']),
    name: 'LockDeadlockError',
    fields: { key: 'b', circle: ['a', 'b', 'a'] },
    remedy: /"b" would never end: "a" → "b" → "a".*one order everywhere, or all at once/,
  },
  LOCK_KEY: {
    error: new LockKeyError('Do it so.', 'k', cause),
    name: 'LockKeyError',
    fields: { key: 'k', cause },
    remedy: /^Do it so\.$/,
  },
  LOCK_CONFIG: {
    error: new LockConfigError('Do it so.', 'ttl', 7, cause),
    name: 'LockConfigError',
    fields: { key: undefined, option: 'ttl', value: 7, cause },
    remedy: /^Do it so\.$/,
  },
  LOCK_SAFETY: {
    error: new LockSafetyError(diagnosis),
    name: 'LockSafetyError',
    fields: { key: undefined, diagnosis },
    remedy: /safety: 'strict'.*\n- P1, P2 under eviction: Keys are evicted. Don't. \[h:1\]$/,
  },
};

describe.each(Object.entries(BY_CODE))('%s', (code, { error, name, fields, remedy }) => {
  it('has its code, name and facts, and says what to do', () => {
    expect(error.code).toBe(code);
    expect(error.name).toBe(name);
    expect(error.constructor.name).toBe(name);
    expect(error).toMatchObject(fields);
    expect(error.message).toMatch(remedy);
    expect(String(error)).toBe(`${name}: ${error.message}`);
    expect(error.stack).toContain('errors.spec');
  });

  it('is an Error and a LockError', () => {
    expect(error).toBeInstanceOf(Error);
    expect(error).toBeInstanceOf(LockError);
    expect(LockError.is(error)).toBe(true);
    // The mark is nobody's business: not in logs, not in JSON.
    expect(Object.keys(error)).not.toContain('BRAND');
    expect(JSON.stringify(error)).not.toContain('nestjs-redis-lock');
  });
});

describe('LockError', () => {
  it('is known across copies of the package, as ESM and CommonJS are', async () => {
    const path = '../../lib/core/errors.js?copy';
    const copy = (await import(path)) as typeof import('../../lib/core/errors.js');
    expect(copy.LockBusyError).not.toBe(LockBusyError);
    const foreign = new copy.LockBusyError('k');
    expect(foreign).not.toBeInstanceOf(LockError);
    expect(LockError.is(foreign)).toBe(true);
    expect(copy.LockError.is(BY_CODE.LOCK_LOST.error)).toBe(true);
  });

  it.each([
    ['another error', new Error('x')],
    ['an error with our code', Object.assign(new Error('x'), { code: 'LOCK_BUSY' })],
    ['a copy as JSON', JSON.parse(JSON.stringify(BY_CODE.LOCK_BUSY.error))],
    ['undefined', undefined],
    ['null', null],
    ['a text', 'LOCK_BUSY'],
  ])('is not %s', (_what, value) => {
    expect(LockError.is(value)).toBe(false);
  });

  it('has a `cause` only where another error is behind it', () => {
    expect('cause' in new LockBusyError('k')).toBe(false);
    expect('cause' in new LockUnavailableError('k', 'shutting-down')).toBe(false);
    expect(new LockUnavailableError('k', 'refused', cause).cause).toBe(cause);
  });

  it('quotes a key so that it harms no log: escaped, and short', () => {
    const { message } = new LockBusyError('a"b\n\u001B[31m');
    expect(message).toContain('"a\\"b\\n\\u001b[31m"');
    const long = new LockBusyError('x'.repeat(500));
    expect(long.message).toContain(`"${'x'.repeat(100)}…"`);
    expect(long.message.length).toBeLessThan(300);
    expect(long.key).toHaveLength(500);
  });
});

describe('LockUnavailableError', () => {
  const REMEDIES: Record<UnavailableReason, RegExp> = {
    unreachable: /no connection.*`connection` is right/,
    'no-answer': /did not answer in time.*commandTimeout/,
    refused: /refused.*`cause`/,
    replicas: /Too few replicas.*undone.*option `replicas`/,
    guard: /could not be found out.*`cause`.*INFO/,
    quorum: /Too few.*did not answer.*nodeTimeout/,
    'shutting-down': /shutting down.*another replica/,
  };

  it.each(Object.entries(REMEDIES))('%s: says what to do', (reason, remedy) => {
    const error = new LockUnavailableError('k', reason as UnavailableReason);
    expect(error.reason).toBe(reason);
    expect(error.message).toMatch(remedy);
  });

  it('tells what is known: how many replicas confirmed, or when to try again', () => {
    const tooFew = new LockUnavailableError('k', 'replicas', undefined, {
      confirmed: 1,
      wanted: 2,
    });
    expect(tooFew).toMatchObject({ confirmed: 1, wanted: 2, retryAfter: undefined });
    expect(tooFew.message).toContain('(1 of 2 replicas)');
    const guarded = new LockUnavailableError('k', 'guard', undefined, { retryAfter: 1234.5 });
    expect(guarded).toMatchObject({ retryAfter: 1234.5, confirmed: undefined });
    expect(guarded.message).toMatch(
      /\(for another 1235 ms\).*restarted, was promoted, or lost its data.*`retryAfter`.*initializeGuard/,
    );
  });

  it('needs no key', () => {
    const error = new LockUnavailableError(undefined, 'unreachable');
    expect(error.key).toBeUndefined();
    expect(error.message).toMatch(/^Locks are unavailable\. /);
  });
});

describe('LockLostError', () => {
  const REMEDIES: Record<LostReason, RegExp> = {
    expired: /Raise ttl, or split the blocking work/,
    taken: /Check persistence and maxmemory-policy/,
    'max-hold': /Raise maxHold, or find what got stuck/,
    shutdown: /Raise drainTimeout/,
    released: /Do the work before release\(\)/,
    forced: /by force.*`by` says whom to ask/,
  };

  it('says who released it by force, and why', () => {
    const by = { host: 'web-1', pid: 7, application: 'admin', reason: 'stuck\n' };
    const error = new LockLostError('k', 'forced', 1, by);
    expect(error.by).toBe(by);
    expect(error.message).toMatch(/It was "admin", process 7 on "web-1": "stuck\\n"\.$/);
    const unnamed = { ...by, application: undefined, reason: undefined };
    const { message } = new LockLostError('k', 'forced', 1, unnamed);
    expect(message).toMatch(/It was process 7 on "web-1"\.$/);
  });

  it.each(Object.entries(REMEDIES))('%s: says what to do', (reason, remedy) => {
    const error = new LockLostError('k', reason as LostReason, 1);
    expect(error.reason).toBe(reason);
    expect(error.message).toMatch(remedy);
  });
});

describe('LockTimeoutError', () => {
  it('speaks of a deadlock only where the caller held something', () => {
    expect(new LockTimeoutError('k', 1).heldKeys).toEqual([]);
    expect(new LockTimeoutError('k', 1).message).not.toContain('order');
    expect(new LockTimeoutError('k', 1, ['other']).message).toContain('"other"');
  });
});
