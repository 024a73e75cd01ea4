import { Injectable } from '@nestjs/common';
import { Cron, CronExpression } from '@nestjs/schedule';
import { DistributedLock } from 'nestjs-redis-lock';

import { Settings } from '../settings.js';
import { Store } from '../store/store.js';

export interface ReportRun {
  /** Which second it was written for, by the clock of the replica that wrote it. */
  readonly tick: number;
  readonly replica: string;
}

/**
 * A report that is due every second: each replica has the job, one of them does it.
 *
 * The first replica whose clock strikes takes the lock, and the others skip. Their clocks don't strike at the same
 * moment, and the work may be done before the last one does; hence `holdAtLeast`. It has to be longer than the clocks
 * and timers differ, and shorter than the time from tick to tick by as much: 600 ms leaves room for 400 ms.
 */
@Injectable()
export class Report {
  constructor(
    private readonly store: Store,
    private readonly settings: Settings,
  ) {}

  @Cron(CronExpression.EVERY_SECOND, { name: 'report' })
  @DistributedLock('report', { onBusy: 'skip', holdAtLeast: '600ms' })
  async write(): Promise<void> {
    const { replica } = this.settings;
    const run: ReportRun = { tick: Math.floor(Date.now() / 1_000), replica };
    await this.store.append('report', JSON.stringify(run));
  }

  async runs(): Promise<ReportRun[]> {
    const entries = await this.store.entries('report');
    return entries.map((entry) => JSON.parse(entry) as ReportRun);
  }
}
