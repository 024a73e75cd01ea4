/**
 * One seed, from its beginning to its end:
 *
 *     processes start ▶ callers and faults ▶ all callers done ▶ the sky clears ▶ all processes close ▶ nothing may be left
 *
 * It depends on the seed alone: there's no real timer, clock or random number in what decides.
 */
import { SimulatedCaller } from './caller.js';
import { History } from './history.js';
import { judge } from './judge.js';
import { Random } from './random.js';
import type { Sabotage } from './sabotage.js';
import { type Fault, type Scenario, scenarioOf } from './scenario.js';
import { ServerGroup } from './server-group.js';
import type { SimulatedLink } from './simulated-link.js';
import { SimulatedProcess } from './simulated-process.js';
import { type Remains, SimulatedServer } from './simulated-server.js';
import { VirtualTime } from './virtual-time.js';
import { CLEAR, FaultCount, Route } from './weather.js';

/** Beyond this, in ms, a caller hangs: each waits a few seconds at most, some steps long. */
const LONGEST = 600_000;

export interface SimulationOptions {
  readonly sabotage?: Sabotage | undefined;
  readonly write?: ((line: string) => void) | undefined;
}

export interface SimulationReport {
  readonly seed: number;
  readonly profile: string;
  readonly violations: readonly string[];
  readonly faults: Readonly<Record<string, number>>;
  readonly counts: Readonly<Record<string, number>>;
  /** How long it took, in virtual ms, and how many events. */
  readonly lasted: number;
  readonly events: number;
  /** Of all that happened: the same for the same seed. */
  readonly digest: number;
}

export async function simulate(
  seed: number,
  options: SimulationOptions = {},
): Promise<SimulationReport> {
  const simulation = new Simulation(scenarioOf(seed), options);
  return simulation.run();
}

class Simulation {
  readonly #time: VirtualTime;
  readonly #history: History;
  readonly #servers: readonly SimulatedServer[];
  readonly #group: ServerGroup;
  readonly #random: Random;
  readonly #faults = new FaultCount();
  readonly #processes: SimulatedProcess[] = [];
  /** Those of which something has happened since somebody looked. */
  readonly #changed = new Set<SimulatedProcess>();
  /** How many callers of each process aren't done. */
  readonly #callers = new Map<SimulatedProcess, number>();
  #clears = false;

  constructor(
    readonly scenario: Scenario,
    readonly options: SimulationOptions,
  ) {
    const { seed, drift } = scenario;
    this.#random = Random.of(seed, 'world');
    this.#time = new VirtualTime(() => {
      if (this.#changed.size === 0) return;
      for (const process of this.#changed) process.witness.look();
      this.#changed.clear();
    });
    this.#history = new History(() => this.#time.now, options.write);
    this.#servers = scenario.servers.map((ahead, index) => {
      const rate = 1 + this.#random.between(-drift, drift);
      const { sabotage } = options;
      return new SimulatedServer(index, this.#time, rate, ahead, this.#history, sabotage);
    });
    this.#group = new ServerGroup(this.#servers);
    this.#history.servers = this.#group;
  }

  async run(): Promise<SimulationReport> {
    const { scenario } = this;
    this.#history.trace(() => JSON.stringify(scenario));
    await this.#time.drive(() => this.#story());
    const violations = [...judge(this.#history)];
    return {
      seed: scenario.seed,
      profile: scenario.profile,
      violations,
      faults: this.#faults.byKind,
      counts: this.#history.counts,
      lasted: this.#time.now,
      events: this.#time.count,
      digest: this.#digest(),
    };
  }

  async #story(): Promise<void> {
    const { scenario } = this;
    for (let index = 0; index < scenario.processes; index += 1) this.#start();
    if (scenario.faults.length > 0) void this.#storm();
    await this.#allCallersDone();
    await this.#clear();
    await this.#closeAll();
  }

  #start(): SimulatedProcess {
    const { scenario } = this;
    const index = this.#processes.length;
    const { drift, seed } = scenario;
    const luck = Random.of(seed, 'process', index);
    const routeTo = (server: SimulatedServer): Route => {
      const random = Random.of(seed, 'network', index, server.index);
      const route = new Route(this.#time, random, this.#faults);
      route.weather = this.#clears ? CLEAR : scenario.weather;
      return route;
    };
    const process = new SimulatedProcess(
      {
        name: `p${index + 1}`,
        rate: this.options.sabotage?.rate ?? 1 + luck.between(-drift, drift),
        commandTimeout: scenario.commandTimeout,
        nodeTimeout: scenario.nodeTimeout,
        drainTimeout: scenario.drainTimeout,
        ttl: scenario.ttl,
        localHandover: scenario.localHandover,
        detectDeadlocks: scenario.detectDeadlocks,
        polls: scenario.polls,
        joinsKeys: !scenario.apart,
      },
      this.#time,
      this.#group,
      routeTo,
      this.#history,
      luck,
      this.options.sabotage,
      (changed) => this.#changed.add(changed),
    );
    this.#processes.push(process);
    this.#callers.set(process, scenario.callers);
    for (let caller = 0; caller < scenario.callers; caller += 1) {
      const random = Random.of(seed, 'caller', index, caller);
      void new SimulatedCaller(process, scenario, random).run().then(() => {
        this.#callers.set(process, (this.#callers.get(process) as number) - 1);
      });
    }
    return process;
  }

  /** Those of a process that was killed never end. */
  async #allCallersDone(): Promise<void> {
    const isBusy = (one: SimulatedProcess) => one.isAlive && this.#callers.get(one) !== 0;
    while (this.#processes.some(isBusy) && this.#time.now < LONGEST) await this.#time.sleep(20);
  }

  async #storm(): Promise<void> {
    const random = Random.of(this.scenario.seed, 'faults');
    for (;;) {
      await this.#time.sleep(-Math.log(1 - random.next()) * this.scenario.every);
      if (this.#clears) return;
      this.#strike(random.pick(this.scenario.faults), random);
    }
  }

  #strike(fault: Fault, random: Random): void {
    const { ttl, commandTimeout } = this.scenario;
    const running = this.#processes.filter(({ state }) => state === 'running');
    const victim = random.pick(running);
    const server = random.pick(this.#servers) as SimulatedServer;
    if (victim === undefined) return;
    // Of one server, the only way.
    const links = random.chance(0.3) ? victim.links : [victim.links[server.index] as SimulatedLink];
    const length = random.pick([10, commandTimeout / 2, 1.5 * commandTimeout, ttl / 2, 1.5 * ttl]);
    this.#history.trace(() => `FAULT ${fault} ${victim.name} ${server.index + 1} ${length}`);
    switch (fault) {
      // These count themselves, since there may be nothing to cut.
      case 'connection cut':
        for (const link of links) link.cutCommands();
        return;
      case 'subscription cut':
        for (const link of links) link.cutSubscription();
        return;
      case 'partition':
        for (const { route } of links) route.partition(length);
        break;
      case 'process frozen':
        victim.loop.freeze(length);
        break;
      case 'process killed':
        victim.kill(random.chance(0.7) ? 1 : random.between(1, 5_000));
        this.#replace(random);
        break;
      case 'process closed':
        victim.loop.arrive(() => void victim.close());
        this.#replace(random);
        break;
      case 'server frozen':
        server.freeze(length);
        break;
      case 'server restarted':
        server.restart(random.between(10, 200), true);
        break;
      case 'server restarted without data':
        server.restart(random.between(15, 200), false);
        break;
      case 'server away':
        server.restart(random.between(100, 3_000), true);
        break;
      case 'server away, back without data':
        server.restart(this.options.sabotage?.emptyFor ?? this.#longestLease, false);
        break;
    }
    this.#faults.add(fault);
  }

  /** By the slowest clock. */
  get #longestLease(): number {
    return 2 * this.scenario.ttl * (1 + 2 * this.scenario.drift) + 10;
  }

  /** Another replica takes its place, a few times. */
  #replace(random: Random): void {
    if (this.#processes.length >= 2 * this.scenario.processes || !random.chance(0.7)) return;
    this.#time.at(this.#time.now + random.between(0, 300), () => this.#start());
  }

  /** No more faults, and time enough for what was under way to be undone. */
  async #clear(): Promise<void> {
    const { commandTimeout, weather } = this.scenario;
    this.#clears = true;
    this.#history.trace(() => 'the sky clears');
    for (const { route } of this.#processes.flatMap(({ links }) => links)) {
      route.weather = CLEAR;
      route.heal();
    }
    const standsStill = () =>
      this.#servers.some((server) => !server.isUp || server.isFrozen) ||
      this.#processes.some(({ loop }) => loop.isFrozen);
    while (standsStill()) await this.#time.sleep(10);
    await this.#time.sleep(2 * commandTimeout + weather.longestSpike + 1_700);
  }

  async #closeAll(): Promise<void> {
    const { scenario } = this;
    const last = this.#processes.filter(({ state }) => state === 'running');
    await Promise.all(last.map((one) => one.close()));
    // What is on its way.
    await this.#time.sleep(50);
    for (const { isAlive, loop, name } of this.#processes) {
      if (isAlive && loop.pending > 0) {
        this.#history.violate(`I10: ${loop.pending} timers of ${name} are left`);
      }
    }
    // What was run twice goes by its ttl, and so does what those have left who ended in bad weather. Otherwise nothing is
    // there any more, unless a key is kept (`holdAtLeast`), or reserved for one who was woken and is gone.
    if (scenario.weather.duplicate === 0) {
      const names = new Set(last.map(({ name }) => name));
      this.#expectNothingLeft(
        ({ kind, token }) =>
          (kind === 'held' || kind === 'waiting') &&
          names.has(this.#history.processOf.get(token) ?? ''),
      );
    }
    await this.#time.sleep(2 * scenario.ttl + 1_100);
    this.#expectNothingLeft(() => true);
  }

  #expectNothingLeft(which: (remains: Remains) => boolean): void {
    for (const remains of this.#servers.flatMap((server) => server.remains)) {
      if (!which(remains)) continue;
      const { key, kind, token, lasts } = remains;
      const whose = `${this.#history.nameOf(token)} of ${this.#history.processOf.get(token)}`;
      this.#history.violate(`I5: ${key} is still ${kind} by ${whose}, for ${lasts} ms`);
    }
  }

  /** FNV-1a over what happened, in order. Tokens are random, and matter to nobody. */
  #digest(): number {
    const { events, calls, beliefs } = this.#history;
    let digest = 0x811c9dc5;
    const add = (text: string) => {
      for (let index = 0; index < text.length; index += 1) {
        digest = Math.imul(digest ^ text.charCodeAt(index), 0x01000193) >>> 0;
      }
    };
    for (const event of events) add(`${event.kind} ${event.at} ${'fence' in event && event.fence}`);
    for (const { process, what, from, to, outcome } of calls) {
      add(`${process} ${what} ${from} ${to} ${outcome}`);
    }
    for (const { from, to, end } of beliefs) add(`${from} ${to} ${end}`);
    return digest;
  }
}
