import { type DynamicModule, Module } from '@nestjs/common';
import { ScheduleModule } from '@nestjs/schedule';
import { RedisLockModule } from 'nestjs-redis-lock';

import { IdleConnections } from './idle-connections.js';
import { LedgerController } from './ledger/ledger.controller.js';
import { Ledger } from './ledger/ledger.js';
import { HealthController } from './locks/health.controller.js';
import { LocksController } from './locks/locks.controller.js';
import { LockWaits } from './locks/lock-waits.js';
import { ReportController } from './report/report.controller.js';
import { Report } from './report/report.js';
import { Settings } from './settings.js';
import { MemoryStore } from './store/memory-store.js';
import { RedisStore } from './store/redis-store.js';
import { Store } from './store/store.js';
import { BoxOffice } from './tickets/box-office.js';
import { Payment } from './tickets/payment.js';
import { TicketsController } from './tickets/tickets.controller.js';

/** One replica of the ticket shop. */
@Module({})
export class AppModule {
  static for(settings: Settings): DynamicModule {
    const { redisUrl, shop, lockTtl, replica } = settings;
    return {
      module: AppModule,
      imports: [
        ScheduleModule.forRoot(),
        RedisLockModule.forRoot({
          connection: redisUrl ?? 'memory',
          prefix: `${shop}:lock`,
          ttl: lockTtl,
          waitTimeout: '30s',
          drainTimeout: '5s',
          application: replica,
        }),
      ],
      controllers: [
        TicketsController,
        ReportController,
        LedgerController,
        LocksController,
        HealthController,
      ],
      providers: [
        { provide: Settings, useValue: settings },
        {
          provide: Store,
          useFactory: () => (redisUrl ? new RedisStore(redisUrl, shop) : new MemoryStore()),
        },
        BoxOffice,
        Payment,
        Report,
        Ledger,
        LockWaits,
        IdleConnections,
      ],
    };
  }
}
