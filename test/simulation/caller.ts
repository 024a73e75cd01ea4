/**
 * One caller in a simulated process: takes locks of every kind, one after the other, and does what callers do with them. What
 * it does depends on the seed alone; how it ends, on the others and on the faults.
 */
import type { AcquireOptions } from '../../lib/core/locker.js';
import type { Lock } from '../../lib/core/lock.js';
import type { Random } from './random.js';
import type { Scenario } from './scenario.js';
import { GivenUp, type SimulatedProcess } from './simulated-process.js';

/** What the work under a lock gives, or throws, and must come through untouched. */
const RESULT = { the: 'result' };
class WorkFailed extends Error {
  override readonly name = 'WorkFailed';
}

type Options = AcquireOptions & { waitTimeout: number };

export class SimulatedCaller {
  constructor(
    private readonly process: SimulatedProcess,
    private readonly scenario: Scenario,
    private readonly random: Random,
  ) {}

  async run(): Promise<void> {
    const { random, process, scenario } = this;
    for (let step = 0; step < scenario.steps; step += 1) {
      await this.#step();
      if (random.chance(0.5)) await process.loop.sleep(random.between(0, 40));
    }
  }

  async #step(): Promise<void> {
    const draw = this.random.next();
    // Each ends by an error where it can't have the lock, which is written down where it's met.
    try {
      if (draw < 0.4) await this.#using();
      else if (draw < 0.7) await this.#acquire();
      else if (draw < 0.88) await this.#tryAcquire();
      else if (draw < 0.93) await this.#forceRelease();
      else await this.#inspect();
    } catch (error) {
      this.process.codeOf(error);
    }
  }

  #bound(waitTimeout: number): number {
    return waitTimeout + this.process.commandTimeout;
  }

  #wanted(): { readonly key: string | readonly string[]; readonly options: Options } {
    const { random, scenario } = this;
    const { keys, limit, ttl } = scenario;
    const limited = limit !== undefined && random.chance(0.3);
    const several = !limited && keys.length > 1 && random.chance(0.2);
    const options: Options = {
      waitTimeout: random.pick([5, 60, 400, 1_500, 4_000]),
      renew: random.chance(0.7),
      ...(random.chance(0.15) && { ttl: 2 * ttl }),
      ...(random.chance(0.1) && { holdAtLeast: Math.ceil(random.between(5, ttl)) }),
      ...(random.chance(0.1) && { maxHold: Math.ceil(random.between(100, 200)) }),
      ...(limited ? { limit } : random.chance(0.3) && { mode: 'shared' as const }),
    };
    if (limited) return { key: 'limited', options };
    if (!several) return { key: random.pick(keys), options };
    return { key: [random.pick(keys), random.pick(keys), random.pick(keys)], options };
  }

  /** A signal that aborts after a while, for some. */
  #signal(options: Options): Options {
    const { random, process } = this;
    if (!random.chance(0.15)) return options;
    const controller = new AbortController();
    process.loop.later(random.between(0, 150), () => controller.abort(new GivenUp('enough')));
    return { ...options, signal: controller.signal };
  }

  async #using(): Promise<void> {
    const { process, random } = this;
    const { key, options: wanted } = this.#wanted();
    const options = this.#signal(wanted);
    const fails = random.chance(0.1) ? new WorkFailed('on purpose') : undefined;
    const nested = random.chance(0.3);
    const call = process.begin(`using ${String(key)}`, this.#bound(options.waitTimeout));
    let ran = false;
    try {
      const result = await process.locker.using(key, options, async (lock) => {
        ran = true;
        process.end(call, 'done');
        if (!lock.isHeld) process.history.violate(`P8: work began on ${lock.key} without the lock`);
        await this.#hold(lock);
        if (nested) await this.#enterAgain(lock);
        if (fails !== undefined) throw fails;
        return RESULT;
      });
      if (fails !== undefined || result !== RESULT) {
        process.history.violate(`P9: using gave what the work didn't`);
      }
    } catch (error) {
      if (error === fails) return;
      const code = process.codeOf(error);
      process.end(call, code);
      if (ran && code !== 'LOCK_LOST') {
        process.history.violate(`P9: the work ended well, and using with ${String(error)}`);
      }
    }
  }

  async #acquire(): Promise<void> {
    const { process } = this;
    const { key, options: wanted } = this.#wanted();
    const options = this.#signal(wanted);
    const lock = await process.call(
      `acquire ${String(key)}`,
      this.#bound(options.waitTimeout),
      () => process.locker.acquire(key, options),
    );
    await this.#hold(lock);
    await this.#release(lock);
  }

  async #tryAcquire(): Promise<void> {
    const { process } = this;
    const { key, options: wanted } = this.#wanted();
    const { waitTimeout: _none, ...options } = wanted;
    const lock = await process.call(`tryAcquire ${String(key)}`, process.commandTimeout, () =>
      process.locker.tryAcquire(key, options),
    );
    if (lock === null) return;
    await this.#hold(lock);
    await this.#release(lock);
  }

  async #release(lock: Lock): Promise<void> {
    const { process } = this;
    const call = process.begin(`release ${lock.key}`, process.commandTimeout);
    process.end(call, await lock.release());
  }

  async #forceRelease(): Promise<void> {
    const { process, scenario, random } = this;
    if (random.chance(0.5)) return;
    await process.call('forceRelease', process.commandTimeout, () =>
      process.locker.forceRelease(random.pick(scenario.keys), { reason: 'simulated' }),
    );
  }

  async #inspect(): Promise<void> {
    const { process, scenario, random } = this;
    await process.call('inspect', process.commandTimeout, () =>
      process.locker.inspect(random.pick(scenario.keys)),
    );
  }

  /** The work under a lock. */
  async #hold(lock: Lock): Promise<void> {
    const { process, random, scenario } = this;
    process.witness.watch(lock, random.chance(0.8));
    const length = random.next() ** 2 * scenario.longestWork;
    await process.loop.sleep(length / 2);
    const draw = random.next();
    if (draw < 0.1) {
      await process.call('extend', process.commandTimeout, () => lock.extend()).catch(() => {});
    } else if (draw < 0.2 && lock.access === 'exclusive') {
      await process
        .call('downgrade', process.commandTimeout, () => lock.downgrade())
        .catch(() => {});
    }
    await process.loop.sleep(length / 2);
  }

  /** Below a holder: the same key again, by two at once who take turns, or another key. */
  async #enterAgain(lock: Lock): Promise<void> {
    const { process, random, scenario } = this;
    const [key] = lock.keys;
    const waitTimeout = random.pick([60, 400, 1_500]);
    if (random.chance(0.3)) {
      const other = random.pick(scenario.keys);
      await this.#below(other, { waitTimeout }, () => process.loop.sleep(random.between(0, 20)));
      return;
    }
    const { access } = lock;
    const options: Options = {
      waitTimeout,
      ...(access === 'shared' && { mode: access }),
      ...(access.startsWith('limit:') && { limit: scenario.limit as number }),
    };
    const inside = new Set<Lock>();
    const enter = () =>
      this.#below(key as string, options, async (inner) => {
        inside.add(inner);
        const held = [...inside].filter(({ isHeld }) => isHeld);
        // One that was taken by force knows it a message later.
        const wasForced = held.some(({ fencingToken }) =>
          process.history.wasForcedUnder(key as string, fencingToken),
        );
        if (held.length > 1 && access === 'exclusive' && !wasForced) {
          process.history.violate(`I1: two are inside of ${key} at once below one holder`);
        }
        process.history.count('entered again');
        await process.loop.sleep(random.between(0, 10));
        inside.delete(inner);
      });
    await Promise.all(random.chance(0.5) ? [enter(), enter()] : [enter()]);
  }

  async #below(key: string, options: Options, work: (lock: Lock) => Promise<void>): Promise<void> {
    const { process } = this;
    const call = process.begin(`below ${key}`, this.#bound(options.waitTimeout));
    try {
      await process.locker.using(key, options, async (lock) => {
        process.end(call, 'done');
        // A key of its own, or one that the outer holder has lost meanwhile; those that are entered again are left out.
        process.witness.watch(lock, false);
        await work(lock);
      });
    } catch (error) {
      process.end(call, process.codeOf(error));
    }
  }
}
