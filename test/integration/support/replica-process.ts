/** The process behind `replica.ts`: runs what it's told, one call or many at a time, and answers with times. */
import type { LockLostError } from '../../../lib/core/errors.js';
import type { LockEventName } from '../../../lib/core/events.js';
import type { AcquireOptions, TryAcquireOptions } from '../../../lib/core/locker.js';
import { Locker } from '../../../lib/core/locker.js';
import type { Lock } from '../../../lib/core/lock.js';
import type { LockerOptions } from '../../../lib/core/options.js';
import { Beliefs } from './beliefs.js';
import type {
  Call,
  FromReplica,
  Loss,
  Outcome,
  RecordedEvent,
  RemoteErrorFacts,
  Spin,
} from './replica-protocol.js';

const EVENTS: readonly LockEventName[] = [
  'acquired',
  'waiting',
  'renewed',
  'jeopardy',
  'lost',
  'forced',
  'released',
  'releaseFailed',
  'busy',
  'timedOut',
  'unavailable',
  'available',
];

const now = (): number => Number(process.hrtime.bigint()) / 1e6;

const lockers: Locker[] = [];
const recorded: RecordedEvent[][] = [];
const locks: Lock[] = [];
const losses: Promise<Loss>[] = [];
const aborts = new Map<string, AbortController>();
const warnings: string[] = [];
const beliefs = new Beliefs();

process.on('warning', ({ name, message }) => {
  if (name !== 'ExperimentalWarning') warnings.push(`${name}: ${message}`);
});

function keep(lock: Lock): { id: number; fencingToken: number } {
  locks.push(lock);
  beliefs.watch(lock);
  losses.push(
    new Promise((resolve) => {
      const { signal } = lock;
      const tell = (): void => {
        const at = now();
        const { name, reason, by } = signal.reason as Partial<LockLostError> & { name: string };
        resolve({ at, error: name, reason, by });
      };
      if (signal.aborted) tell();
      else signal.addEventListener('abort', tell, { once: true });
    }),
  );
  return { id: locks.length - 1, fencingToken: lock.fencingToken };
}

function spin(ms: number): void {
  const end = now() + ms;
  while (now() < end);
}

const methods: Record<string, (...args: never[]) => unknown> = {
  open(options: LockerOptions) {
    const locker = new Locker(options);
    lockers.push(locker);
    const events: RecordedEvent[] = [];
    recorded.push(events);
    for (const name of EVENTS) {
      locker.on(name, (event) => {
        const { key, reason } = event as { key?: string; reason?: string };
        events.push({ name, at: now(), key, reason });
      });
    }
    return lockers.length - 1;
  },
  connect: (locker: number) => lockers[locker]?.connect(),
  async acquire(locker: number, key: string, options?: AcquireOptions, abortRef?: string) {
    const controller = abortRef === undefined ? undefined : new AbortController();
    if (abortRef !== undefined && controller !== undefined) aborts.set(abortRef, controller);
    const signal = controller && { signal: controller.signal };
    return keep(await (lockers[locker] as Locker).acquire(key, { ...options, ...signal }));
  },
  async tryAcquire(locker: number, key: string, options?: TryAcquireOptions) {
    const lock = await (lockers[locker] as Locker).tryAcquire(key, options);
    return lock === null ? null : keep(lock);
  },
  abort: (ref: string) => aborts.get(ref)?.abort(),
  forceRelease: (locker: number, key: string, reason?: string) =>
    lockers[locker]?.forceRelease(key, reason === undefined ? {} : { reason }),
  inspect: (locker: number, key: string) => lockers[locker]?.inspect(key),
  async usingBlocked(
    locker: number,
    key: string,
    options: AcquireOptions,
    ms: number,
  ): Promise<Spin> {
    let seen = { assertHeld: 'not run', abortedAtOnce: false };
    const using = (lockers[locker] as Locker).using(key, options, (lock) => {
      const { signal } = lock;
      spin(ms);
      let assertHeld = 'passed';
      try {
        lock.assertHeld();
      } catch (error) {
        assertHeld = (error as Error).name;
      }
      seen = { assertHeld, abortedAtOnce: signal.aborted };
    });
    return using.then(
      () => ({ ...seen, outcome: 'resolved' }),
      (error: Error) => ({ ...seen, outcome: error.name }),
    );
  },
  events: (locker: number) => recorded[locker],
  close: (locker: number) => lockers[locker]?.close(),
  release: (lock: number) => locks[lock]?.release(),
  extend: (lock: number) => locks[lock]?.extend(),
  assertHeld: (lock: number) => locks[lock]?.assertHeld(),
  state: (lock: number) => locks[lock]?.state,
  remaining: (lock: number) => locks[lock]?.remaining,
  loss: (lock: number) => losses[lock],
  block: (ms: number) => spin(ms),
  skewWallClock(ms: number) {
    const wallClock = Date.now;
    Date.now = () => wallClock() + ms;
  },
  beliefs: () => beliefs.all,
  warnings: () => warnings,
  quit: () => Promise.all(lockers.map((locker) => locker.close())).then(() => undefined),
};

function send(message: FromReplica): void {
  process.send?.(message);
}

function factsOf(error: unknown): RemoteErrorFacts {
  const { name, message, code, reason, heldKeys } = error as RemoteErrorFacts;
  const text = (value: unknown) => (typeof value === 'string' ? value : undefined);
  return { name, message, code: text(code), reason: text(reason), heldKeys };
}

async function run(method: string, args: readonly unknown[]): Promise<Outcome> {
  const from = now();
  try {
    const value = await methods[method]?.(...(args as never[]));
    return { value, from, to: now() };
  } catch (error) {
    return { error: factsOf(error), from, to: now() };
  }
}

process.on('message', ({ id, method, args }: Call) => {
  void run(method, args).then((outcome) => {
    send({ type: 'result', id, outcome });
    // The channel to the test is the last thing that may keep the process alive.
    if (method === 'quit') process.disconnect();
  });
});
send({ type: 'ready' });
