import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { availableParallelism, cpus, loadavg, release, totalmem, type } from 'node:os';

/** What figures depend on, beyond the code. */
export interface Machine {
  readonly cpu: string;
  readonly cores: number;
  readonly memoryGiB: number;
  readonly system: string;
  readonly node: string;
  readonly redis: string;
  readonly ioredis: string;
  /** How busy the machine was when the run began: processes that could run, over the last minute. */
  readonly load: number;
}

export function describeMachine(redisServer: string): Machine {
  const version = spawnSync(redisServer, ['--version'], { encoding: 'utf8' }).stdout;
  const ioredis = JSON.parse(
    readFileSync(new URL(import.meta.resolve('ioredis/package.json')), 'utf8'),
  ) as { version: string };
  return {
    cpu: cpus()[0]?.model.trim() ?? 'unknown',
    cores: availableParallelism(),
    memoryGiB: Math.round(totalmem() / 2 ** 30),
    system: `${type()} ${release().split('.', 2).join('.')}`,
    node: process.version,
    redis: /v=(\S+)/.exec(version)?.[1] ?? 'unknown',
    ioredis: ioredis.version,
    load: Math.round((loadavg()[0] ?? 0) * 100) / 100,
  };
}

export function machineText(machine: Machine): string {
  return (
    `${machine.cpu}, ${machine.cores} cores, ${machine.memoryGiB} GiB, ${machine.system}; ` +
    `Node ${machine.node}, Redis ${machine.redis}, ioredis ${machine.ioredis}; load ${machine.load} at the start. ` +
    'Clients and server share the cores; nothing is pinned.'
  );
}
