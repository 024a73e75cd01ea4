/**
 * A simulation that has never found anything may be blind. Each of these takes one line of safety away while it runs; the
 * checks must then fail for some seed, and soon.
 */
import type { LockBackend } from '../../lib/core/backend/lock-backend.js';
import type { LockName } from '../../lib/core/lock-name.js';
import type { ServerHolder } from './server-command.js';

export interface Sabotage {
  readonly name: string;
  /** The kind of faults among which it shows soon. */
  readonly profile: string;
  /** The violation by which it must be found. */
  readonly breaks: RegExp;
  /** What the server does instead; `holders`: who has a key. */
  readonly server?: (
    backend: LockBackend,
    holders: (name: LockName) => readonly ServerHolder[],
  ) => LockBackend;
  /** What a process makes of it instead. */
  readonly client?: (backend: LockBackend, now: () => number) => LockBackend;
  /** How fast the processes' clocks run, instead of nearly one rate. */
  readonly rate?: number;
  /** What the server takes for its wall clock. */
  readonly wallClock?: () => number;
}

export const SABOTAGES: readonly Sabotage[] = [
  {
    name: 'release gives back whoever holds the key',
    profile: 'calm',
    breaks: /I4|I1/,
    server: (backend, holders) =>
      altered(backend, {
        release: (request) =>
          backend.release({ ...request, token: holders(request.name)[0]?.token ?? request.token }),
      }),
  },
  {
    name: 'cancel undoes whoever holds the key',
    profile: 'processes',
    breaks: /I4|I1/,
    server: (backend, holders) =>
      altered(backend, {
        cancel: (request) =>
          backend.cancel({ ...request, token: holders(request.name)[0]?.token ?? request.token }),
      }),
  },
  {
    name: 'a renewal goes on with what is no longer held',
    profile: 'network',
    breaks: /I9/,
    client: (backend, now) =>
      altered(backend, {
        extend: async (leases) =>
          (await backend.extend(leases)).map((outcome) =>
            outcome.kind === 'taken' ? { kind: 'extended', sentAt: now() } : outcome,
          ),
      }),
  },
  {
    name: 'a grant is valid from its reply on',
    profile: 'network',
    breaks: /I1|I9/,
    client: (backend, now) =>
      altered(backend, {
        tryAcquire: async (request) => {
          const outcome = await backend.tryAcquire(request);
          return outcome.kind === 'granted' ? { ...outcome, sentAt: now() } : outcome;
        },
      }),
  },
  {
    name: 'a renewal is valid from its reply on',
    profile: 'network',
    breaks: /I1|I9/,
    client: (backend, now) =>
      altered(backend, {
        extend: async (leases) =>
          (await backend.extend(leases)).map((outcome) =>
            outcome.kind === 'extended' ? { ...outcome, sentAt: now() } : outcome,
          ),
      }),
  },
  {
    name: 'the deadline leaves nothing for drift',
    profile: 'processes',
    breaks: /I1|I9/,
    client: (backend) =>
      altered(backend, {
        tryAcquire: async (request) => {
          const outcome = await backend.tryAcquire(request);
          if (outcome.kind !== 'granted') return outcome;
          return { ...outcome, sentAt: outcome.sentAt + request.ttl * 0.01 + 2 };
        },
      }),
  },
  {
    name: 'a clock runs slower than is promised',
    profile: 'calm',
    breaks: /I1|I9/,
    rate: 0.9,
  },
  {
    name: 'notAfter is ignored',
    profile: 'network',
    breaks: /notAfter/,
    server: (backend) =>
      altered(backend, {
        tryAcquire: (request) =>
          backend.tryAcquire({ ...request, notAfter: Number.POSITIVE_INFINITY }),
        tryAcquireAll: (request) =>
          backend.tryAcquireAll({ ...request, notAfter: Number.POSITIVE_INFINITY }),
      }),
  },
  {
    name: 'nothing in doubt is rolled back',
    profile: 'network',
    breaks: /I5/,
    client: (backend) => altered(backend, { cancel: async () => ({ kind: 'cancelled' }) }),
  },
  {
    name: 'fencing tokens have no clock for a floor',
    profile: 'lost data',
    breaks: /I2/,
    wallClock: () => 0,
  },
];

/** The same backend, but for some methods. */
function altered(backend: LockBackend, methods: Partial<LockBackend>): LockBackend {
  return new Proxy(backend, {
    get(target, property) {
      const method = methods[property as keyof LockBackend];
      if (method !== undefined) return method;
      const value: unknown = Reflect.get(target, property, target);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
}
