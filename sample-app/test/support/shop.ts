/** The ticket shop as it would run: a real redis-server, a bank, and each replica a process of its own. */
import { type EventuallyOptions, eventually } from '../../../test/support/eventually.js';
import { RedisServer } from '../../../test/support/redis-server.js';
import { type TestWorker, spawnWorker } from '../../../test/support/worker.js';
import type { LockState } from 'nestjs-redis-lock';
import type { Waits } from '../../src/locks/lock-waits.js';
import type { Sales } from '../../src/tickets/box-office.js';
import { Bank } from './bank.js';

const main = new URL('../../src/main.ts', import.meta.url);
const clockBehind = new URL('../../clock-behind.mjs', import.meta.url).href;

interface Listening {
  readonly type: 'listening';
  readonly url: string;
}

export interface Answer<Body = unknown> {
  readonly status: number;
  readonly body: Body;
}

export class Replica {
  constructor(
    readonly name: string,
    readonly url: string,
    readonly process: TestWorker<Listening>,
  ) {}

  async request<Body>(method: string, path: string, body?: unknown): Promise<Answer<Body>> {
    const response = await fetch(`${this.url}/${path}`, {
      method,
      headers: { 'content-type': 'application/json' },
      ...(body !== undefined && { body: JSON.stringify(body) }),
    });
    return { status: response.status, body: (await response.json()) as Body };
  }

  async get<Body>(path: string): Promise<Body> {
    const { status, body } = await this.request<Body>('GET', path);
    if (status !== 200) throw new Error(`GET ${path} answered ${status} ${JSON.stringify(body)}`);
    return body;
  }

  post<Body>(path: string, body?: unknown): Promise<Answer<Body>> {
    return this.request('POST', path, body);
  }

  sales(event: string): Promise<Sales> {
    return this.get(`tickets/${event}`);
  }

  lock(key: string): Promise<LockState & { here: Waits }> {
    return this.get(`locks/${key}`);
  }

  /** Waits until so many callers of this replica have begun to wait for the key. */
  async waits(key: string, count: number, options?: EventuallyOptions): Promise<void> {
    await eventually(async () => (await this.lock(key)).here.waited >= count, {
      message: `${count} callers wait for ${key} on replica ${this.name}`,
      ...options,
    });
  }
}

export interface ShopOptions {
  /** How long a lock outlives its holder. @default '2s' */
  lockTtl?: string;
  /** How many ms the clock of which replica is behind. */
  clocksBehind?: Record<string, number>;
}

export class Shop implements AsyncDisposable {
  readonly replicas: Replica[] = [];
  readonly #processes: TestWorker[] = [];

  private constructor(
    readonly bank: Bank,
    readonly redis: RedisServer,
  ) {}

  /** Opens it with one replica for each name. */
  static async open(names: readonly string[], options: ShopOptions = {}): Promise<Shop> {
    const shop = new Shop(await Bank.open(), await RedisServer.start());
    try {
      shop.replicas.push(...(await Promise.all(names.map((name) => shop.#start(name, options)))));
      return shop;
    } catch (error) {
      await shop[Symbol.asyncDispose]();
      throw error;
    }
  }

  async #start(name: string, { lockTtl = '2s', clocksBehind = {} }: ShopOptions): Promise<Replica> {
    const behind = clocksBehind[name];
    const process = spawnWorker<Listening>(main, {
      env: {
        REPLICA: name,
        PORT: '0',
        REDIS_URL: this.redis.url,
        PAYMENT_URL: this.bank.url,
        LOCK_TTL: lockTtl,
        ...(behind !== undefined && {
          CLOCK_BEHIND_MS: String(behind),
          NODE_OPTIONS: `--import ${clockBehind}`,
        }),
      },
    });
    this.#processes.push(process);
    const { url } = await process.next(({ type }) => type === 'listening', 30_000);
    return new Replica(name, url, process);
  }

  replica(name: string): Replica {
    const replica = this.replicas.find((each) => each.name === name);
    if (replica === undefined) throw new Error(`There is no replica ${name}.`);
    return replica;
  }

  /** The first, where it doesn't matter which. */
  get any(): Replica {
    const [replica] = this.replicas;
    if (replica === undefined) throw new Error('The shop has no replica.');
    return replica;
  }

  async putOnSale(event: string, stock: number): Promise<void> {
    await this.any.request('PUT', `tickets/${event}`, { stock });
  }

  /** So many buyers at once, spread over the replicas. */
  buy(event: string, buyers: number, route: 'buy' | 'buy-unguarded'): Promise<Answer[]> {
    return Promise.all(
      Array.from({ length: buyers }, (_, at) => {
        const replica = this.replicas[at % this.replicas.length] ?? this.any;
        return replica.post(`tickets/${event}/${route}`, { buyer: `buyer ${at}` });
      }),
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#processes.map((process) => process.kill()));
    await this.bank[Symbol.asyncDispose]();
    await this.redis.stop();
  }
}
