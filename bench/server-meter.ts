import type { Redis } from 'ioredis';

/** What the redis-server spends, as it tells itself. */
export interface ServerSpending {
  /** User and system time, in µs. */
  readonly cpu: number;
  readonly publishes: number;
  /** Time in EVALSHA, in µs, and how many there were. */
  readonly scripts: { readonly calls: number; readonly micros: number };
}

export async function serverSpending(redis: Redis): Promise<ServerSpending> {
  const info = await redis.info('cpu', 'commandstats');
  const seconds = (name: string): number =>
    Number(new RegExp(`^${name}:([\\d.]+)`, 'm').exec(info)?.[1] ?? 0);
  const command = (name: string): { calls: number; micros: number } => {
    const found = new RegExp(`^cmdstat_${name}:calls=(\\d+),usec=(\\d+)`, 'm').exec(info);
    return { calls: Number(found?.[1] ?? 0), micros: Number(found?.[2] ?? 0) };
  };
  return {
    cpu: (seconds('used_cpu_user') + seconds('used_cpu_sys')) * 1e6,
    publishes: command('publish').calls + command('spublish').calls,
    scripts: command('evalsha'),
  };
}
