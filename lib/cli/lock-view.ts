import type { HolderState, LockState } from '../core/backend/lock-backend.js';
import { readableDuration } from './readable-duration.js';
import { table } from './table.js';
import { visible } from './terminal-text.js';

/** Locks as a person reads them. Times are told from `now`, by this machine's clock. */

/** A line for each holder, and one for each key that is only waited for. */
export function listing(states: readonly LockState[], now: number, room: number): string[] {
  const holders = states.flatMap(({ held }) => held);
  // What is the same for nearly all locks isn't worth its room.
  const showsAccess = holders.some(({ access, kept }) => access !== 'exclusive' || kept);
  const showsLabel = holders.some(({ label }) => label !== undefined);
  const rows = states.flatMap(({ key, held, pending }) => {
    const entries: (HolderState | undefined)[] = held.length > 0 ? [...held] : [undefined];
    return entries.map((holder) => [
      key,
      ...(showsAccess ? [holder === undefined ? '-' : accessOf(holder)] : []),
      holder === undefined ? 'nobody' : processOf(holder),
      ...(showsLabel ? [holder?.label ?? '-'] : []),
      holder === undefined ? '-' : readableDuration(now - holder.since.getTime()),
      holder === undefined ? '-' : readableDuration(holder.remaining),
      String(pending.length),
    ]);
  });
  const header = [
    'KEY',
    ...(showsAccess ? ['ACCESS'] : []),
    'HELD BY',
    ...(showsLabel ? ['LABEL'] : []),
    'HELD FOR',
    'ENDS IN',
    'WAITING',
  ];
  return table(header, rows, room);
}

/** All that is known of one lock. */
export function details({ key, held, pending }: LockState, now: number): string[] {
  return [
    visible(key),
    ...(held.length === 0
      ? ['  held by        nobody']
      : held.flatMap((each) => factsOf(each, now))),
    `  waiting        ${pending.length === 0 ? 'nobody' : processes(pending.length)}`,
    ...pending.map(({ access, sequence }, index) => {
      const place = sequence === undefined ? 'behind the holder, in its process' : `at ${sequence}`;
      return `    ${index + 1}. ${visible(access)}, ${place}`;
    }),
  ];
}

/** Who it is, in one line. */
export function holderLine(holder: HolderState, now: number): string {
  const label = holder.label === undefined ? '' : `, "${visible(holder.label)}"`;
  const since = readableDuration(now - holder.since.getTime());
  const state = holder.kept ? 'kept by nobody, for' : 'held for';
  return `${visible(processOf(holder))}${label}, ${state} ${since}, fencing token ${holder.fencingToken}`;
}

function factsOf(holder: HolderState, now: number): string[] {
  const facts: [name: string, fact: string][] = [
    [holder.kept ? 'kept after' : 'held by', processOf(holder)],
    ...(holder.label === undefined ? [] : [['label', holder.label] as [string, string]]),
    ['access', holder.access],
    [
      'since',
      `${holder.since.toISOString()} (${readableDuration(now - holder.since.getTime())} ago)`,
    ],
    [
      'ends in',
      `${readableDuration(holder.remaining)}${holder.kept ? '' : ', unless it is renewed'}`,
    ],
    ['fencing token', String(holder.fencingToken)],
  ];
  return facts.map(([name, fact]) => `  ${name.padEnd(14)} ${visible(fact)}`);
}

function accessOf({ access, kept }: HolderState): string {
  return kept ? `${access}, kept` : access;
}

function processOf({ application, pid, host }: HolderState): string {
  const process = `${pid}@${host}`;
  return application === undefined ? process : `${application} ${process}`;
}

function processes(count: number): string {
  return count === 1 ? '1 process' : `${count} processes`;
}
