import { CriticalSection } from '../critical-section.js';
import { median } from '../statistics.js';
import { type Bench, DEFAULT_TTL, type Measured, type Workload } from './workload.js';

const WARM_UP = 1_000;
const CALLS = { quick: 3_000, full: 15_000 } as const;

interface Way {
  readonly call: () => Promise<unknown>;
  readonly times: number[];
  cpu: number;
}

/** Calls the service and the decorated method in turn, in one process: only the difference counts. */
async function beside(url: string, { scale }: Bench): Promise<Measured> {
  const { NestApplication } = await import('../nest-application.js');
  const application = await NestApplication.open({ url, ttl: DEFAULT_TTL, renew: true });
  const { locks, guarded } = application;
  const section = new CriticalSection();
  const work = section.pass;
  const service: Way = { call: () => locks.using('key', work), times: [], cpu: 0 };
  const method: Way = { call: () => guarded.run('key', work), times: [], cpu: 0 };
  const callOnce = async (way: Way): Promise<void> => {
    const before = process.cpuUsage();
    const start = performance.now();
    await way.call();
    way.times.push((performance.now() - start) * 1_000);
    const { user, system } = process.cpuUsage(before);
    way.cpu += user + system;
  };
  // A B B A, so that neither is always the one after the other.
  const run = async (calls: number): Promise<void> => {
    for (let i = 0; i < calls; i += 1) {
      for (const way of i % 2 === 0 ? [service, method] : [method, service]) await callOnce(way);
    }
  };
  await run(WARM_UP);
  for (const way of [service, method]) {
    way.times.length = 0;
    way.cpu = 0;
  }
  const calls = CALLS[scale];
  await run(calls);
  await application.close();
  const [servicePlain, decorated] = [median(service.times), median(method.times)];
  return {
    values: {
      service: servicePlain,
      decorator: decorated,
      difference: decorated - servicePlain,
      cpuDifference: (method.cpu - service.cpu) / calls,
    },
    violations: section.violations,
    errors: 0,
  };
}

const measures = [
  { id: 'service', title: 'service.using() p50', unit: 'µs', digits: 1 },
  { id: 'decorator', title: 'decorated method p50', unit: 'µs', digits: 1 },
  { id: 'difference', title: 'difference', unit: 'µs', digits: 2 },
  { id: 'cpuDifference', title: 'difference in client CPU', unit: 'µs', digits: 2 },
] as const;

/** What the decorator adds. */
export const decorator: Workload = {
  id: 'decorator',
  title: 'the decorator over calling the service',
  about:
    'As W1: the same work by RedisLockService.using() and by a method with @DistributedLock, in turn in one process.',
  cases: [
    {
      id: '',
      needs: [],
      libraries: ['ours-decorator'],
      measures,
      run: (bench) => beside(bench.url, bench),
    },
    {
      id: 'in memory',
      about: 'On the memory backend, where no network hides the difference.',
      needs: [],
      libraries: ['ours-decorator'],
      measures,
      run: (bench) => beside('memory', bench),
    },
  ],
};
