import { ConflictException, Injectable } from '@nestjs/common';
import { RedisLockService } from 'nestjs-redis-lock';

import { Store } from '../store/store.js';
import { Payment } from '../tickets/payment.js';

export interface Balance {
  readonly account: string;
  readonly balance: number;
  /** Under which lock it was written; 0: never yet. */
  readonly fence: number;
}

/**
 * Books money, where a wrong balance is worse than a refused booking.
 *
 * A lock alone can't rule out the wrong balance: a replica may be paused between its last look at the lock and the
 * write, for longer than the ttl, and write when another has long gone on. So the lock's fencing token goes with the
 * write, and the store refuses a smaller one than it has seen.
 */
@Injectable()
export class Ledger {
  constructor(
    private readonly locks: RedisLockService,
    private readonly store: Store,
    private readonly payment: Payment,
  ) {}

  async balance(account: string): Promise<Balance> {
    const record = await this.store.readFenced(`ledger:${account}`);
    return { account, balance: Number(record?.value ?? 0), fence: record?.fence ?? 0 };
  }

  async book(account: string, amount: number): Promise<Balance> {
    return this.locks.using(`ledger:${account}`, async ({ fencingToken: fence }) => {
      const { balance: before } = await this.balance(account);
      await this.payment.take(`${amount} on ${account}`);
      // Whoever is paused just here learns of it only from the store.
      const balance = before + amount;
      const written = await this.store.writeFenced(`ledger:${account}`, {
        value: String(balance),
        fence,
      });
      if (!written) throw await this.#tooLate(account, fence);
      return { account, balance, fence };
    });
  }

  async #tooLate(account: string, fence: number): Promise<ConflictException> {
    const { fence: seen } = await this.balance(account);
    return new ConflictException(
      `The booking on ${account} came too late: its fencing token is ${fence}, and ${seen} has written already.`,
    );
  }
}
