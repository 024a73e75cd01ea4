import { describe, expect, it } from '@jest/globals';
import { Controller, Get, Inject, Injectable, SetMetadata } from '@nestjs/common';
import { Cron, ScheduleModule, SchedulerRegistry } from '@nestjs/schedule';
import { Test } from '@nestjs/testing';

import {
  CurrentLock,
  type Lock,
  LockConfigError,
  LockKeyError,
  RedisLockModule,
  RedisLockService,
  RunOnce,
} from '../../lib/index.js';
import { eventually } from '../support/eventually.js';
import { Gate, inMemory, NestApp } from '../support/nest-app.js';

const Tagged = SetMetadata('tag', 'value');

@Injectable()
class Jobs {
  readonly gate = new Gate();
  entered = 0;

  @RunOnce('report', { per: '1h' })
  async report(rows: number, _more?: unknown): Promise<string> {
    return `${rows} rows`;
  }

  @RunOnce('slow', { per: '1h' })
  async slow(): Promise<void> {
    this.entered += 1;
    await this.gate.opened;
  }

  @RunOnce('failing', { per: '1h' })
  failing(error: unknown): never {
    throw error;
  }

  @RunOnce('current', { per: '1h' })
  async current(_before?: string, @CurrentLock() lock?: Lock): Promise<unknown[]> {
    const current = this.locks.current();
    return [lock?.key, lock?.isHeld, lock === current, current === this.locks.current('current')];
  }

  @RunOnce('above', { per: '1h' })
  @Tagged
  above(_a: unknown, _b: unknown): void {}

  @Tagged
  @RunOnce('below', { per: '1h' })
  below(_a: unknown, _b: unknown): void {}

  constructor(@Inject(RedisLockService) private readonly locks: RedisLockService) {}
}

@Injectable()
class OtherJobs extends Jobs {}

let applications = 0;
/** Applications with one prefix are replicas of each other; each test has its own. */
function newPrefix(): string {
  applications += 1;
  return `app${applications}`;
}

function jobsApp(prefix = newPrefix()): Promise<NestApp> {
  return NestApp.start({ locks: inMemory({ prefix }), providers: [Jobs] });
}

describe('A method with @RunOnce', () => {
  it('runs once a tick, on one of the replicas; elsewhere it gives undefined', async () => {
    const prefix = newPrefix();
    await using first = await jobsApp(prefix);
    await using second = await jobsApp(prefix);
    expect(await first.get(Jobs).report(3)).toBe('3 rows');
    expect(await second.get(Jobs).report(4)).toBeUndefined();
    expect(await first.get(Jobs).report(5)).toBeUndefined();
    expect(await second.locks.runs('report')).toMatchObject([
      { job: 'report', state: 'done', attempt: 1, result: '3 rows' },
    ]);
  });

  it('gives undefined at once while another replica runs it', async () => {
    const prefix = newPrefix();
    await using first = await jobsApp(prefix);
    await using second = await jobsApp(prefix);
    const { gate } = first.get(Jobs);
    const call = first.get(Jobs).slow();
    await eventually(() => first.get(Jobs).entered === 1);
    expect(await second.get(Jobs).slow()).toBeUndefined();
    expect(second.get(Jobs).entered).toBe(0);
    gate.open();
    await call;
  });

  it.each([new TypeError('broken'), 'a text', undefined])(
    'passes its own exception through untouched, and records it: %p',
    async (error) => {
      await using app = await jobsApp();
      const call = app.get(Jobs).failing(error) as unknown as Promise<unknown>;
      await expect(call).rejects.toBe(error);
      expect(await app.locks.runs('failing')).toMatchObject([{ state: 'failed' }]);
    },
  );

  it('gets its lock through @CurrentLock and current()', async () => {
    await using app = await jobsApp();
    expect(await app.get(Jobs).current()).toEqual(['current', true, true, true]);
  });

  it.each(['above', 'below'] as const)(
    'stands %s one that sets metadata: name, length and metadata are intact',
    (name) => {
      const method = Jobs.prototype[name];
      expect(method.name).toBe(name);
      expect(method.length).toBe(2);
      expect(Reflect.getMetadata('tag', method)).toBe('value');
    },
  );

  it('is inherited', async () => {
    await using app = await NestApp.start({
      locks: inMemory({ prefix: newPrefix() }),
      providers: [OtherJobs],
    });
    expect(await app.get(OtherJobs).report(1)).toBe('1 rows');
    expect(await app.get(OtherJobs).report(1)).toBeUndefined();
  });

  it('uses a named instance', async () => {
    @Injectable()
    class Named {
      @RunOnce('named', { per: '1h', instance: 'jobs' })
      async run(): Promise<string> {
        return 'ran';
      }
    }
    await using app = await NestApp.start({
      locks: false,
      imports: [RedisLockModule.forRoot(inMemory({ name: 'jobs', prefix: newPrefix() }))],
      providers: [Named],
    });
    expect(await app.get(Named).run()).toBe('ran');
  });

  it('rejects with LockConfigError where Nest did not make the instance, and fails the boot without the module', async () => {
    const made = new Jobs(undefined as never);
    await expect(made.report(1)).rejects.toMatchObject({
      name: 'LockConfigError',
      message: expect.stringMatching(/'report' is guarded by @RunOnce.*RedisLockService\.runOnce/),
    });
    @Injectable()
    class Alone {
      @RunOnce('alone', { per: '1h' })
      run(): void {}
    }
    const boot = Test.createTestingModule({ providers: [Alone] }).compile();
    await expect(boot).rejects.toThrow(/import RedisLockModule\.forRoot\(\)/);
  });
});

@Controller()
class Scheduled {
  readonly ran: string[] = [];

  constructor(@Inject(RedisLockService) private readonly locks: RedisLockService) {}

  @RunOnce('cron-above', { per: '1s', keep: 100 })
  @Cron('* * * * * *', { name: 'above' })
  cronAbove(): void {
    this.ran.push(this.locks.current()?.key ?? 'no lock');
  }

  @Cron('* * * * * *', { name: 'below' })
  @RunOnce('cron-below', { per: '1s', keep: 100 })
  cronBelow(): void {
    this.ran.push(this.locks.current()?.key ?? 'no lock');
  }

  @Get('now')
  @RunOnce('route', { per: '1h' })
  now(): string {
    return 'ran';
  }
}

describe('@RunOnce and @Cron', () => {
  it('stand in either order: on three replicas, each tick is run once', async () => {
    const prefix = newPrefix();
    const start = () =>
      NestApp.start({
        locks: inMemory({ prefix }),
        imports: [ScheduleModule.forRoot()],
        controllers: [Scheduled],
      });
    await using first = await start();
    await using second = await start();
    await using third = await start();
    const apps = [first, second, third];
    for (const app of apps) {
      const jobs = app.app.get(SchedulerRegistry).getCronJobs();
      expect([...jobs.keys()].toSorted()).toEqual(['above', 'below']);
    }
    const ran = (key: string) =>
      apps.flatMap((app) => app.get(Scheduled).ran).filter((each) => each === key).length;
    await eventually(() => ran('cron-above') >= 3 && ran('cron-below') >= 3, { timeout: 15_000 });
    // So that no tick is being run while it's counted.
    for (const app of apps) {
      for (const job of app.app.get(SchedulerRegistry).getCronJobs().values()) await job.stop();
    }
    for (const key of ['cron-above', 'cron-below']) {
      await eventually(async () =>
        (await first.locks.runs(key)).every(({ state }) => state === 'done'),
      );
      const records = await first.locks.runs(key);
      expect(records).toHaveLength(ran(key));
      const ticks = records.map(({ tick }) => tick.getTime());
      expect(new Set(ticks).size).toBe(ticks.length);
      for (const tick of ticks) expect(tick % 1_000).toBe(0);
    }
    expect(ran('no lock')).toBe(0);
  });

  it('also guards a route', async () => {
    await using app = await NestApp.start({
      locks: inMemory({ prefix: newPrefix() }),
      controllers: [Scheduled],
    });
    expect(await (await app.fetch('/now')).text()).toBe('ran');
    expect(await (await app.fetch('/now')).text()).toBe('');
  });
});

describe('Misuse of @RunOnce', () => {
  it.each<[string, unknown, RegExp]>([
    ['no options', undefined, /an object/],
    ['null', null, /an object/],
    ['no period', {}, /`per`/],
    ['a cron expression', { per: '0 * * * *' }, /`per`/],
    ['an unknown option', { per: '1m', onBusy: 'skip' }, /Unknown option `onBusy`/],
    ['an instant', { per: '1m', at: new Date() }, /leave option `at` out/],
  ])('with %s is a LockConfigError when the class is defined', (_, options, message) => {
    expect(() => RunOnce('job', options as never)).toThrow(LockConfigError);
    expect(() => RunOnce('job', options as never)).toThrow(message);
  });

  it.each(['', 'x'.repeat(513), undefined])('with the name %p is a LockKeyError', (name) => {
    expect(() => RunOnce(name as string, { per: '1m' })).toThrow(LockKeyError);
  });

  it('on a class or a static method is a LockConfigError', () => {
    const decorate = RunOnce('job', { per: '1m' }) as (...args: unknown[]) => void;
    class Some {
      static forAll(): void {}
    }
    expect(() => decorate(Some)).toThrow(/@RunOnce can't stand on a class/);
    const descriptor = Object.getOwnPropertyDescriptor(Some, 'forAll');
    expect(() => decorate(Some, 'forAll', descriptor)).toThrow(/static member 'forAll'/);
  });
});
