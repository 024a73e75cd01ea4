/**
 * A simulation that has never found anything may be blind. Each of these takes one line of safety away while it runs; the
 * checks must then fail for some seed, and soon.
 */
import type { LockBackend } from '../../lib/core/backend/lock-backend.js';
import type { NodeBackend } from '../../lib/core/backend/quorum-node.js';
import type { LockName } from '../../lib/core/lock-name.js';
import type { ServedBackend } from './served-backend.js';
import type { ServerHolder } from './server-command.js';

export interface Sabotage {
  readonly name: string;
  /** The kind of faults among which it shows soon. */
  readonly profile: string;
  /** The violation by which it must be found. */
  readonly breaks: RegExp;
  /** What the server does instead; `holders`: who has a key. */
  readonly server?: (
    backend: ServedBackend,
    holders: (name: LockName) => readonly ServerHolder[],
  ) => ServedBackend;
  /** What a quorum makes of one of its nodes instead. */
  readonly node?: (backend: NodeBackend, now: () => number) => NodeBackend;
  /** How long a node of a quorum that has lost its data stays away, in ms, instead of long enough. */
  readonly emptyFor?: number;
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
    profile: 'lost data',
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
  {
    name: 'in a quorum, a node that does not answer counts as one that has granted',
    profile: 'quorum, network',
    breaks: /P8|I1/,
    node: (backend, now) =>
      altered(backend, {
        tryAcquire: async (request) => {
          const outcome = await backend.tryAcquire(request);
          if (outcome.kind !== 'unavailable') return outcome;
          return { kind: 'granted', fencingToken: 1, sentAt: now(), othersWait: false };
        },
      }),
  },
  {
    name: 'in a quorum, a node that is busy counts as one that has granted',
    profile: 'quorum, calm',
    breaks: /I1/,
    node: (backend, now) =>
      altered(backend, {
        tryAcquire: async (request) => {
          const outcome = await backend.tryAcquire(request);
          if (outcome.kind !== 'busy') return outcome;
          return { kind: 'granted', fencingToken: 1, sentAt: now(), othersWait: false };
        },
      }),
  },
  {
    name: 'in a quorum, a renewal counts where a node does not answer',
    profile: 'quorum, nodes',
    breaks: /I1|I9/,
    node: (backend, now) =>
      altered(backend, {
        extend: async (leases) =>
          (await backend.extend(leases)).map((outcome) =>
            outcome.kind === 'unavailable' ? { kind: 'extended', sentAt: now() } : outcome,
          ),
      }),
  },
  {
    name: 'in a quorum, a grant is valid from the reply of each node on',
    profile: 'quorum, network',
    breaks: /I1|I9/,
    node: (backend, now) =>
      altered(backend, {
        tryAcquire: async (request) => {
          const outcome = await backend.tryAcquire(request);
          return outcome.kind === 'granted' ? { ...outcome, sentAt: now() } : outcome;
        },
      }),
  },
  {
    name: 'in a quorum, too few grants are not rolled back',
    profile: 'quorum, network',
    breaks: /I5/,
    node: (backend) =>
      altered(backend, {
        cancel: async () => ({ kind: 'cancelled' }),
        standBack: async () => ({ kind: 'cancelled' }),
      }),
  },
  {
    name: 'in a quorum, fencing has no second phase',
    profile: 'quorum, nodes',
    breaks: /I2/,
    node: (backend, now) =>
      altered(backend, {
        tryAcquireAll: async (request) => {
          const { fencingToken } = request;
          if (fencingToken === undefined) return backend.tryAcquireAll(request);
          return { kind: 'granted', fencingToken, sentAt: now(), othersWait: false };
        },
      }),
  },
  {
    name: 'in a quorum, a node that has lost its data is back at once',
    profile: 'quorum, lost data',
    breaks: /I1|I9/,
    emptyFor: 20,
  },
];

/** The same backend, but for some methods. */
export function altered<T extends LockBackend>(backend: T, methods: Partial<T>): T {
  return new Proxy(backend, {
    get(target, property) {
      const method = methods[property as keyof T];
      if (method !== undefined) return method;
      const value: unknown = Reflect.get(target, property, target);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
}
