/**
 * A process of `leaks.spec.ts`: does what it's told with one locker, and counts what is there afterwards.
 *
 * Objects are counted by their class over the whole heap, after a garbage collection: what nothing refers to any more
 * isn't there. The clients are those that the locker opened: it duplicates the one that it's given.
 */
import { getEventListeners } from 'node:events';
import { getHeapStatistics, queryObjects, setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { Redis } from 'ioredis';
import { CleanUp } from '../../../lib/core/clean-up.js';
import { Lease } from '../../../lib/core/lease.js';
import { HeldLock } from '../../../lib/core/lock.js';
import { LockName } from '../../../lib/core/lock-name.js';
import { Locker } from '../../../lib/core/locker.js';
import { Reentry } from '../../../lib/core/reentry.js';
import { WaitQueue } from '../../../lib/core/wait-queue.js';
import { Caller } from '../../../lib/core/waiting-line.js';

/** What there is of everything that could grow. */
export interface Census {
  /** Objects of the engine by class: one each of what serves all, none of what serves one call. */
  readonly objects: Record<string, number>;
  /** Timers, sockets and the like, by kind. */
  readonly resources: Record<string, number>;
  /** Listeners by client and event, and commands that wait for their reply. */
  readonly clients: readonly Record<string, number>[];
  readonly heap: number;
}

export interface ProbeDone {
  readonly census: Census;
  /** What the task itself has counted. */
  readonly outcomes: Record<string, number>;
  readonly warnings: readonly string[];
}

/** `uncontended`: on so many keys, one after the other in batches. `contended`: waits that end in each possible way. */
export type ProbeTask =
  | { readonly task: 'uncontended'; readonly keys: number; readonly from: number }
  | { readonly task: 'contended'; readonly waits: number }
  | { readonly task: 'shared signal'; readonly waits: number }
  | { readonly task: 'close' };

setFlagsFromString('--expose-gc');
const collectGarbage = runInNewContext('gc') as () => void;

const url = process.argv[2] as string;
const user = new Redis(url);
const clients: Redis[] = [];
const duplicate = user.duplicate.bind(user);
user.duplicate = (override) => {
  const client = duplicate(override);
  clients.push(client);
  return client;
};
const locker = new Locker({ connection: user, ttl: '5s' });
const rival = new Locker({ connection: user, ttl: '5s' });
const shutdown = new AbortController();
const warnings: string[] = [];
process.on('warning', ({ name, message }) => {
  if (name !== 'ExperimentalWarning') warnings.push(`${name}: ${message}`);
});

const classes: readonly { readonly name: string; readonly prototype: object }[] = [
  Locker,
  CleanUp,
  Lease,
  HeldLock,
  LockName,
  Reentry,
  WaitQueue,
  Caller,
];

async function census(): Promise<Census> {
  // What has just been released takes a turn of the loop to be let go of.
  for (let turn = 0; turn < 5; turn += 1) {
    await new Promise((resolve) => {
      setTimeout(resolve, 20);
    });
    collectGarbage();
  }
  const resources: Record<string, number> = {};
  for (const kind of process.getActiveResourcesInfo()) {
    resources[kind] = (resources[kind] ?? 0) + 1;
  }
  return {
    objects: Object.fromEntries(
      classes.map((type) => [
        type.name,
        // Without the prototype, which is an object of its class to this function.
        queryObjects(type as unknown as () => void, { format: 'count' }) as unknown as number,
      ]),
    ),
    resources,
    clients: clients.map((client) => ({
      commands: (client as unknown as { commandQueue: { length: number } }).commandQueue.length,
      ...Object.fromEntries(
        client.eventNames().map((event) => [String(event), client.listenerCount(event)]),
      ),
    })),
    heap: getHeapStatistics().used_heap_size,
  };
}

async function uncontended(keys: number, from: number): Promise<void> {
  const batch = 50;
  for (let start = from; start < from + keys; start += batch) {
    await Promise.all(
      Array.from({ length: batch }, async (_, index) => {
        const lock = await locker.acquire(`k${start + index}`);
        // The signal, re-entry and renewal are made on demand: demand them.
        if (index % 5 === 0) lock.signal.addEventListener('abort', () => {});
        if (index % 5 === 1) await lock.extend();
        await lock.release();
      }),
    );
    await locker.using(`u${start}`, () =>
      Promise.all([locker.using(`u${start}`, () => {}), locker.using(`u${start}`, () => {})]),
    );
  }
}

async function contended(waits: number): Promise<Record<string, number>> {
  const outcomes: Record<string, number> = {};
  const held = await Promise.all([0, 1, 2, 3].map((n) => rival.acquire(`busy${n}`)));
  const controls: AbortController[] = [];
  const calls = Array.from({ length: waits }, async (_, n) => {
    const control = new AbortController();
    controls.push(control);
    const aborted = n % 2 === 0;
    try {
      await using lock = await locker.acquire(`busy${n % 4}`, {
        waitTimeout: aborted || n % 8 === 1 ? 30_000 : 100 + (n % 300),
        signal: control.signal,
      });
      lock.assertHeld();
      outcomes['served'] = (outcomes['served'] ?? 0) + 1;
    } catch (error) {
      const { name } = error as Error;
      outcomes[name] = (outcomes[name] ?? 0) + 1;
    }
  });
  await new Promise((resolve) => {
    setTimeout(resolve, 500);
  });
  controls.forEach((control, n) => n % 2 === 0 && control.abort());
  await Promise.all(held.map((lock) => lock.release()));
  await Promise.all(calls);
  return outcomes;
}

/** Of a process's one signal, such as that of its shutdown: half of the waits end by it, half before. */
async function sharedSignal(waits: number): Promise<Record<string, number>> {
  const { signal } = shutdown;
  const acquire = async () => {
    const lock = await locker.acquire('shared', { signal, waitTimeout: 30_000 });
    await lock.release();
  };
  const served = Array.from({ length: waits / 2 }, acquire);
  await Promise.all(served);
  const listenersAfterServed = getEventListeners(signal, 'abort').length;
  const held = await rival.acquire('shared');
  const aborted = Array.from({ length: waits / 2 }, acquire);
  await new Promise((resolve) => {
    setTimeout(resolve, 50);
  });
  shutdown.abort();
  await Promise.allSettled(aborted);
  await held.release();
  return { listenersAfterServed, listeners: getEventListeners(signal, 'abort').length };
}

async function run(task: ProbeTask): Promise<void> {
  let outcomes: Record<string, number> = {};
  switch (task.task) {
    case 'uncontended':
      await uncontended(task.keys, task.from);
      break;
    case 'contended':
      outcomes = await contended(task.waits);
      break;
    case 'shared signal':
      outcomes = await sharedSignal(task.waits);
      break;
    case 'close':
      await Promise.all([locker.close(), rival.close()]);
      // The application's own client is the application's to close.
      user.disconnect();
      break;
  }
  process.send?.({ census: await census(), outcomes, warnings } satisfies ProbeDone);
  // From here on nothing but a leak keeps the process.
  if (task.task === 'close') process.disconnect();
}

await Promise.all([locker.connect(), rival.connect()]);
process.on('message', (task: ProbeTask) => void run(task));
process.send?.('ready');
