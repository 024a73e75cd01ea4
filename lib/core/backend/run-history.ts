import type { ClaimReply, ClaimRequest, FinishRequest, RunState, StoredRun } from './run-store.js';

/** The recorded runs of a job, newest first. */
export type RunHistory = readonly StoredRun[];

/**
 * What a step of a `RunStore` makes of a job's history, and what it's answered. The same rules as those of the scripts of the
 * same names, for stores whose servers don't run these.
 */
export interface HistoryStep<R> {
  readonly reply: R;
  /** The very same where nothing is changed. */
  readonly runs: RunHistory;
  /** For how long to keep it from now, in ms, where something was recorded. */
  readonly retain?: number;
}

/**
 * A history that was stored as JSON; `undefined` where it's none: somebody else wrote it. That may hide a run that is under
 * way, so it must not be taken for a history without it.
 */
export function readHistory(json: string): RunHistory | undefined {
  try {
    const runs: unknown = JSON.parse(json);
    return Array.isArray(runs) && runs.every(isRun) ? runs : undefined;
  } catch {
    return undefined;
  }
}

function isRun(value: unknown): value is StoredRun {
  const run = (value ?? {}) as Partial<Record<keyof StoredRun, unknown>>;
  const { token, state, tick, instant, attempt, start, lock } = run;
  const isKnown =
    typeof token === 'string' &&
    STATES.has(state as RunState) &&
    [tick, instant, attempt, start].every((one) => typeof one === 'number');
  const heldLock = state === 'running' || state === 'crashed';
  return isKnown && (!heldLock || typeof lock === 'string');
}

const STATES: ReadonlySet<RunState> = new Set(['running', 'done', 'failed', 'crashed', 'skipped']);

/** `now`: the store's time, in ms. */
export function claimed(
  before: RunHistory,
  request: ClaimRequest,
  now: number,
): HistoryStep<ClaimReply> {
  const { run: mine, instant, per, alive } = request;
  const runs = buried(forgotten(before, request.abandoned), request.dead);
  const same = nearestOf(runs, instant, per);
  const last = runs.find(({ state }) => state !== 'skipped');
  const running = runs.filter(({ state }) => state === 'running');
  const told = (reply: ClaimReply) => ({ reply, runs });

  if (same?.state === 'running') {
    const kind = same.token === mine.token ? 'begun' : 'running';
    return told({ kind, run: same, running });
  }
  if (same !== undefined) {
    const mayBegin = same.state === 'crashed' && same.attempt < request.attempts;
    const overtaken = last !== undefined && last.instant > same.instant;
    if (!mayBegin || overtaken) return told({ kind: 'decided', run: same, running });
  } else if (last !== undefined && last.instant > instant) {
    return told({ kind: 'late', run: last, running });
  } else {
    // What was known of a tick before the last that is kept of so many, may be forgotten.
    const oldest = ticksOf(runs)[request.keep - 1];
    const [newest] = runs;
    if (newest !== undefined && oldest !== undefined && oldest > instant) {
      return told({ kind: 'late', run: newest, running });
    }
  }

  const [behind] = running;
  if (request.overlap === 'skip' && behind !== undefined) {
    if (running.some(({ token }) => !alive.includes(token))) {
      return told({ kind: 'unsure', run: undefined, running });
    }
    if (same !== undefined) return told({ kind: 'decided', run: same, running });
    const { lock: _lock, fence: _fence, ...who } = mine;
    const skipped: StoredRun = {
      ...who,
      state: 'skipped',
      instant,
      attempt: 1,
      start: now,
      behind: behind.tick,
    };
    return recorded(runs, request, skipped, { kind: 'decided', run: skipped, running });
  }

  if (mine.lock === undefined) return told({ kind: 'open', run: same, running });
  if (now > Number(mine.fence) / 1_000 + request.within) {
    return told({ kind: 'expired', run: undefined, running });
  }
  const begun: StoredRun = {
    ...mine,
    state: 'running',
    instant: same?.instant ?? instant,
    tick: same?.tick ?? mine.tick,
    attempt: same === undefined ? 1 : same.attempt + 1,
    start: now,
  };
  return recorded(runs, request, begun, { kind: 'begun', run: begun, running });
}

/** Their locks were found to be held no more. What has been recorded meanwhile, stays. */
export function buried(runs: RunHistory, dead: readonly string[]): RunHistory {
  if (!runs.some(({ state, token }) => state === 'running' && dead.includes(token))) return runs;
  return runs.map((run): StoredRun =>
    run.state === 'running' && dead.includes(run.token) ? { ...run, state: 'crashed' } : run,
  );
}

/** Their work was never begun: their ticks are as if nobody had claimed them. What has been recorded of an end, stays. */
export function forgotten(runs: RunHistory, tokens: readonly string[]): RunHistory {
  const left = runs.filter(
    ({ state, token }) => !tokens.includes(token) || (state !== 'running' && state !== 'crashed'),
  );
  return left.length < runs.length ? left : runs;
}

export function finished(
  runs: RunHistory,
  { retain, ...end }: FinishRequest,
  now: number,
): HistoryStep<{ readonly kind: 'finished' | 'gone' }> {
  const run = runs.find(({ token }) => token === end.token);
  if (run === undefined) return { reply: { kind: 'gone' }, runs };
  const ended = { ...run, ...end, duration: Math.max(0, now - run.start) };
  return {
    reply: { kind: 'finished' },
    runs: runs.map((each) => (each === run ? ended : each)),
    retain,
  };
}

function recorded(
  before: RunHistory,
  { keep, retain }: ClaimRequest,
  record: StoredRun,
  reply: ClaimReply,
): HistoryStep<ClaimReply> {
  const others = before.filter(({ token }) => token !== record.token);
  const runs = [record, ...others].toSorted(newestFirst);
  const ticks = ticksOf(runs).slice(0, keep);
  // One that runs is never forgotten: the next tick has to know.
  const kept = runs.filter(
    (run) =>
      run === record ||
      run.state === 'running' ||
      (ticks.includes(run.instant) && run.start + retain >= record.start),
  );
  return { reply, runs: kept, retain };
}

/** Their instants, newest first. */
function ticksOf(runs: RunHistory): readonly number[] {
  return [...new Set(runs.map(({ instant }) => instant))];
}

/** The last attempt at the tick that an instant belongs to. */
function nearestOf(runs: RunHistory, instant: number, per: number): StoredRun | undefined {
  let nearest: StoredRun | undefined;
  let least = per / 2;
  for (const run of runs) {
    const distance = Math.abs(run.instant - instant);
    if (distance < least) [nearest, least] = [run, distance];
  }
  return nearest;
}

function newestFirst(a: StoredRun, b: StoredRun): number {
  return b.instant - a.instant || b.attempt - a.attempt;
}
