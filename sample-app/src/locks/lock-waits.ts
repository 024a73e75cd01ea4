import { Injectable, type OnModuleDestroy, type OnModuleInit } from '@nestjs/common';
import { RedisLockService } from 'nestjs-redis-lock';

export interface Waits {
  /** How many callers of this replica had to wait for the key. */
  readonly waited: number;
  /** The longest wait of those who got it, in ms. */
  readonly longest: number;
  /** How many found it taken, and did without. */
  readonly skipped: number;
}

/** Counts, by the library's events, what callers of this replica have met at a key. */
@Injectable()
export class LockWaits implements OnModuleInit, OnModuleDestroy {
  readonly #waits = new Map<string, Waits>();
  #stop: Array<() => void> = [];

  constructor(private readonly locks: RedisLockService) {}

  onModuleInit(): void {
    this.#stop = [
      this.locks.on('waiting', ({ key }) => {
        this.#set(key, ({ waited }) => ({ waited: waited + 1 }));
      }),
      this.locks.on('acquired', ({ key, waited }) => {
        this.#set(key, ({ longest }) => ({ longest: Math.max(longest, waited) }));
      }),
      this.locks.on('busy', ({ key }) => {
        this.#set(key, ({ skipped }) => ({ skipped: skipped + 1 }));
      }),
    ];
  }

  onModuleDestroy(): void {
    for (const stop of this.#stop) stop();
  }

  of(key: string): Waits {
    return this.#waits.get(key) ?? { waited: 0, longest: 0, skipped: 0 };
  }

  #set(key: string, change: (waits: Waits) => Partial<Waits>): void {
    const waits = this.of(key);
    this.#waits.set(key, { ...waits, ...change(waits) });
  }
}
