import { Injectable, Logger, type OnApplicationShutdown } from '@nestjs/common';
import { Redis } from 'ioredis';

import { type FencedRecord, LONGEST_LIST, Store } from './store.js';

/** The shop is for show: what nobody writes to for an hour goes. */
const LIFE_SECONDS = 3_600;

/** KEYS[1] record, a hash of value and fence; ARGV: value, fence, life in seconds. Returns 1, or 0 if it's refused. */
const WRITE_FENCED = `
local last = redis.call('HGET', KEYS[1], 'fence')
if last and tonumber(last) > tonumber(ARGV[2]) then return 0 end
redis.call('HSET', KEYS[1], 'value', ARGV[1], 'fence', ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[3])
return 1
`;

/** Records in Redis, on the application's own connection. */
@Injectable()
export class RedisStore extends Store implements OnApplicationShutdown {
  readonly #redis: Redis;

  constructor(url: string, shop: string) {
    super();
    this.#redis = new Redis(url, { keyPrefix: `${shop}:` });
    this.#warnOnceAnOutage();
  }

  async read(name: string): Promise<string | undefined> {
    return (await this.#redis.get(name)) ?? undefined;
  }

  async write(name: string, value: string): Promise<void> {
    await this.#redis.set(name, value, 'EX', LIFE_SECONDS);
  }

  async remove(name: string): Promise<void> {
    await this.#redis.del(name);
  }

  async append(name: string, entry: string): Promise<void> {
    await this.#redis
      .multi()
      .rpush(name, entry)
      .ltrim(name, -LONGEST_LIST, -1)
      .expire(name, LIFE_SECONDS)
      .exec();
  }

  async entries(name: string): Promise<string[]> {
    return this.#redis.lrange(name, 0, -1);
  }

  async readFenced(name: string): Promise<FencedRecord | undefined> {
    const { value, fence } = await this.#redis.hgetall(name);
    return value === undefined ? undefined : { value, fence: Number(fence) };
  }

  async writeFenced(name: string, { value, fence }: FencedRecord): Promise<boolean> {
    return (await this.#redis.eval(WRITE_FENCED, 1, name, value, fence, LIFE_SECONDS)) === 1;
  }

  /** Comes after the HTTP server has answered everybody. */
  async onApplicationShutdown(): Promise<void> {
    await this.#redis.quit();
  }

  /** ioredis tells of every try to connect, and goes on trying. */
  #warnOnceAnOutage(): void {
    const logger = new Logger(RedisStore.name);
    let told = false;
    this.#redis.on('error', ({ message }) => {
      if (!told) logger.warn(`No connection to Redis: ${message}`);
      told = true;
    });
    this.#redis.on('ready', () => (told = false));
  }
}
