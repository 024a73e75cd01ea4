/**
 * What this process spends on Redis: its CPU time, and the commands that it sends.
 *
 * Commands are counted where they leave, at the socket, whatever library writes them: the server's own statistics also
 * count what scripts call. A command of the Redis protocol begins with `*`, at the start of a chunk or of a line; no
 * argument in this bench has such a line. Costs some 50 ns a command, for every library alike.
 */
import { Socket } from 'node:net';

import { machineNow } from './machine-clock.js';

export interface ClientSpending {
  readonly commands: number;
  /** User and system time of all threads, in µs. */
  readonly cpu: number;
}

type Write = (this: Socket, chunk: string | Uint8Array, ...rest: never[]) => boolean;

let commands = 0;
/** When each command left, while somebody wants to know. */
let trace: number[] | undefined;

/** Begins to count; to be called before the first connection is opened. */
export function countCommands(): void {
  const write = Socket.prototype.write as unknown as Write;
  (Socket.prototype as unknown as { write: Write }).write = function countedWrite(chunk, ...rest) {
    const before = commands;
    commands += commandsIn(chunk);
    if (trace !== undefined && commands > before) trace.push(machineNow());
    return write.call(this, chunk, ...rest);
  };
}

function commandsIn(chunk: string | Uint8Array): number {
  if (typeof chunk === 'string') {
    let count = chunk.startsWith('*') ? 1 : 0;
    for (let at = chunk.indexOf('\r\n*'); at !== -1; at = chunk.indexOf('\r\n*', at + 3))
      count += 1;
    return count;
  }
  const bytes = Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength);
  let count = bytes[0] === 0x2a ? 1 : 0;
  for (let at = bytes.indexOf('\r\n*'); at !== -1; at = bytes.indexOf('\r\n*', at + 3)) count += 1;
  return count;
}

/** What was spent since the process began; the difference of two is what a phase cost. */
export function clientSpending(): ClientSpending {
  const { user, system } = process.cpuUsage();
  return { commands, cpu: user + system };
}

export function spentSince(before: ClientSpending): ClientSpending {
  const now = clientSpending();
  return { commands: now.commands - before.commands, cpu: now.cpu - before.cpu };
}

/** Runs something and tells when commands left meanwhile, by the machine's clock. */
export async function tracingCommands<T>(work: () => Promise<T>): Promise<[T, number[]]> {
  const times: number[] = [];
  trace = times;
  try {
    return [await work(), times];
  } finally {
    trace = undefined;
  }
}
