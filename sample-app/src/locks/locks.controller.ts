import { setTimeout as sleep } from 'node:timers/promises';

import {
  type BeforeApplicationShutdown,
  Controller,
  Get,
  Param,
  ParseFloatPipe,
  Post,
  Query,
} from '@nestjs/common';
import { type LockState, RedisLockService } from 'nestjs-redis-lock';

import { Settings } from '../settings.js';
import { LockWaits, type Waits } from './lock-waits.js';

const LONGEST_HOLD_SECONDS = 60;

/** A look at the locks, and one to hold by hand. */
@Controller('locks/:key')
export class LocksController implements BeforeApplicationShutdown {
  readonly #closing = new AbortController();

  constructor(
    private readonly locks: RedisLockService,
    private readonly waits: LockWaits,
    private readonly settings: Settings,
  ) {}

  /** Who holds a key and who waits for it, anywhere; and who had to wait for it on this replica. */
  @Get()
  async inspect(@Param('key') key: string): Promise<LockState & { here: Waits }> {
    return { ...(await this.locks.inspect(key)), here: this.waits.of(key) };
  }

  /** Holds a key for some seconds, to see what others do meanwhile, or when this replica is killed. */
  @Post('hold')
  async hold(
    @Param('key') key: string,
    @Query('seconds', new ParseFloatPipe({ optional: true })) seconds = 10,
  ): Promise<{ key: string; heldBy: string; fencingToken: number }> {
    const time = 1_000 * Math.min(seconds, LONGEST_HOLD_SECONDS);
    return this.locks.using(key, { waitTimeout: '30s' }, async (lock) => {
      const signal = AbortSignal.any([lock.signal, this.#closing.signal]);
      // Cut short: fails if the lock is lost, and ends here and now if the replica is to end.
      await sleep(time, undefined, { signal }).catch(() => lock.assertHeld());
      return { key, heldBy: this.settings.replica, fencingToken: lock.fencingToken };
    });
  }

  /** Nest waits for requests to end before it closes anything, and nobody needs these any more. */
  beforeApplicationShutdown(): void {
    this.#closing.abort();
  }
}
