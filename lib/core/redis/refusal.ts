/**
 * What an error reply of Redis says, by its first word. A script's error on Redis 6 has it further back: `ERR Error
 * running script (call to f_…): @user_script:12: -READONLY You can't …`.
 */
const CODE = /(?:^(?!ERR )|: -)([A-Z]{3,})\b/;

/**
 * Said before a command has written anything. Of a script's commands Redis refuses the first that writes, and none after
 * it: for lack of memory (OOM), a disk that fails (MISCONF), replicas that are gone (NOREPLICAS).
 */
const NOT_RUN: ReadonlySet<string> = new Set([
  'READONLY',
  'LOADING',
  'MASTERDOWN',
  'BUSY',
  'OOM',
  'MISCONF',
  'NOREPLICAS',
  'NOAUTH',
  'NOSCRIPT',
  'CLUSTERDOWN',
  'MOVED',
  'ASK',
  'TRYAGAIN',
  'CROSSSLOT',
]);

/**
 * Only a replica says so to a connection that was ready: it was the master before. A new connection finds the new one, by
 * Sentinels or by a name that leads there.
 */
const DEMOTED: ReadonlySet<string> = new Set(['READONLY', 'LOADING', 'MASTERDOWN']);

/** Whether a command to which a server replied so has surely changed nothing. */
export function hasNotRun(error: unknown): boolean {
  return NOT_RUN.has(codeOf(error));
}

/** Whether a server that replied so is no master any more. */
export function isDemoted(error: unknown): boolean {
  return DEMOTED.has(codeOf(error));
}

function codeOf(error: unknown): string {
  return CODE.exec((error as Partial<Error> | undefined)?.message ?? '')?.[1] ?? '';
}
