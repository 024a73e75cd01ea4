import { LockConfigError, LockDeadlockError } from './errors.js';

/**
 * How a lock is held: by one alone, by any number of readers together, or by so many at once. Those of one access may be
 * inside together, within its limit; those of different ones exclude each other.
 */
export type Access = 'exclusive' | 'shared' | `limit:${number}`;

export function accessOf(mode: 'exclusive' | 'shared', limit: number | undefined): Access {
  return limit === undefined ? mode : `limit:${limit}`;
}

/** How many may be inside together. */
export function capacityOf(access: Access): number {
  if (access === 'exclusive') return 1;
  return access === 'shared' ? Number.POSITIVE_INFINITY : Number(access.slice('limit:'.length));
}

/** Whether both are limits, and different ones: then one of the two callers is set wrong. */
export function limitsDiffer(a: Access, b: Access): boolean {
  return a !== b && a.startsWith('limit:') && b.startsWith('limit:');
}

/** The error for one who gives another limit than those who hold the key. */
export function limitError(key: string, asked: Access, held: Access): LockConfigError {
  const [given, theirs] = [capacityOf(asked), capacityOf(held)];
  return new LockConfigError(
    `Expected option \`limit\` for the lock '${key}' to be ${theirs}, as others hold it with, got ${given}. Give it one limit everywhere.`,
    'limit',
    given,
  );
}

/** Who holds a key alone may enter it again in any way; who shares it, in the same way only. */
export function checkReentry(key: string, held: Access, asked: Access): void {
  if (held === 'exclusive' || asked === held) return;
  if (limitsDiffer(held, asked)) throw limitError(key, asked, held);
  throw LockDeadlockError.ofUpgrade(key);
}
