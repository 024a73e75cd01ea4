import type { Duration } from 'nestjs-redis-lock';

/** What makes one replica differ from another: who it is, where it listens, and what it shares with the others. */
export class Settings {
  /** How this replica is called in sales, reports and `GET /locks/:key`. */
  readonly replica: string;
  /** 0: any free one. */
  readonly port: number;
  /** `undefined`: everything is kept in this process's memory, the locks too. */
  readonly redisUrl: string | undefined;
  /** What all Redis keys of the shop begin with: two shops on one Redis don't meet. */
  readonly shop: string;
  /** How long a lock outlives a replica that was killed. */
  readonly lockTtl: Duration;
  /** Who takes the money: a POST to this address is answered once it has been paid. */
  readonly paymentUrl: string | undefined;
  /** Without an address, how long paying takes, in ms. */
  readonly paymentTime: number;

  constructor(env: Readonly<Record<string, string | undefined>>) {
    this.replica = env['REPLICA'] ?? 'A';
    this.port = Number(env['PORT'] ?? 3000);
    this.redisUrl = env['REDIS_URL'] || undefined;
    this.shop = env['SHOP'] ?? 'ticket-shop';
    this.lockTtl = (env['LOCK_TTL'] ?? '2s') as Duration;
    this.paymentUrl = env['PAYMENT_URL'] || undefined;
    this.paymentTime = Number(env['PAYMENT_MS'] ?? 5);
  }
}
