import type { Adapter, OpenOptions } from './adapter.js';
import { type RawLock, RawLocks } from './raw.js';

const EXTEND_ALL = `
for i, key in ipairs(KEYS) do
  if redis.call('get', key) == ARGV[i] then redis.call('pexpire', key, ARGV[#ARGV]) end
end`;

/** How many locks one command renews: more would hold the server up for the others. */
const BATCH = 1_000;

type ExtendingRedis = { extendAll(count: number, ...keysAndArgs: string[]): Promise<unknown> };

/** Renewal written by hand for many locks: one timer, one script over all keys. */
class BatchRenewedLocks extends RawLocks {
  readonly #held = new Set<RawLock>();
  readonly #timer: NodeJS.Timeout;

  constructor({ url, ttl }: OpenOptions) {
    super(url, ttl);
    this.redis.defineCommand('extendAll', { lua: EXTEND_ALL });
    this.#timer = setInterval(() => void this.#extend(), ttl / 3);
  }

  override async acquire(key: string): Promise<RawLock> {
    const held = await super.acquire(key);
    this.#held.add(held);
    return held;
  }

  override release(held: RawLock): Promise<unknown> {
    this.#held.delete(held);
    return super.release(held);
  }

  override close(): Promise<void> {
    clearInterval(this.#timer);
    return super.close();
  }

  async #extend(): Promise<void> {
    const held = [...this.#held];
    for (let from = 0; from < held.length; from += BATCH) {
      const batch = held.slice(from, from + BATCH);
      await (this.redis as unknown as ExtendingRedis).extendAll(
        batch.length,
        ...batch.map(({ key }) => key),
        ...batch.map(({ token }) => token),
        String(this.ttl),
      );
    }
  }
}

/** The limit of renewal: nothing is checked, nobody is told. */
export const rawBatch: Adapter = {
  id: 'batch',
  title: 'raw, renewed in batch',
  settings:
    'as raw; one timer at a third of the ttl and one EVALSHA for up to 1,000 keys; replies are not looked at',
  lacks: { waiting: 'it tries once' },
  only: ['W6', 'W10'],
  async open(options) {
    return new BatchRenewedLocks(options);
  },
};
