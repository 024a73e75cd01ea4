import { Injectable, type OnModuleDestroy, type OnModuleInit } from '@nestjs/common';
import { RedisLockService } from 'nestjs-redis-lock';

export interface Waits {
  /** How many callers of this replica had to wait for the key. */
  readonly waited: number;
  /** In ms, of those who got it. */
  readonly longest: number;
}

/** Counts, by the library's events, who had to wait for a key on this replica, and for how long. */
@Injectable()
export class LockWaits implements OnModuleInit, OnModuleDestroy {
  readonly #waits = new Map<string, Waits>();
  #stop: Array<() => void> = [];

  constructor(private readonly locks: RedisLockService) {}

  onModuleInit(): void {
    this.#stop = [
      this.locks.on('waiting', ({ key }) => {
        const { waited, longest } = this.of(key);
        this.#waits.set(key, { waited: waited + 1, longest });
      }),
      this.locks.on('acquired', ({ key, waited: time }) => {
        const { waited, longest } = this.of(key);
        if (waited > 0) this.#waits.set(key, { waited, longest: Math.max(longest, time) });
      }),
    ];
  }

  onModuleDestroy(): void {
    for (const stop of this.#stop) stop();
  }

  of(key: string): Waits {
    return this.#waits.get(key) ?? { waited: 0, longest: 0 };
  }
}
