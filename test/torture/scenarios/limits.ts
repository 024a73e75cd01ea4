/**
 * Keys that several may hold at a time. What they're told of a loss, in which order they come and what they write is judged
 * where a key is for one: of those who share it, each writes to a place of its own here.
 */
import { setTimeout as pause } from 'node:timers/promises';
import { judgedOf, type Scenario } from '../scenario.js';
import { SingleSite } from '../sites/single.js';
import { killClient, stopClient } from './clients.js';
import { restart } from './server.js';

const LIMIT = 3;
const JUDGED = judgedOf(LIMIT);

const common = {
  topology: 'single',
  limit: LIMIT,
  // Fewer, so that more than the limit want each.
  keys: 4,
  open: (processes: number) => SingleSite.open(processes),
} as const;

export const limitClients: Scenario<SingleSite> = {
  ...common,
  name: 'limit-clients-fail',
  about: `Up to ${LIMIT} hold a key at a time. A process is killed and replaced, or stopped for up to 2.5 ttl.`,
  promised: JUDGED,
  guarded: JUDGED,
  shows: [],
  pauses: [100, 600],
  async fault(stage) {
    await stage.pick([killClient, stopClient])(stage);
  },
};

export const limitRestartEmpty: Scenario<SingleSite> = {
  ...common,
  name: 'limit-restart-empty',
  about: `Up to ${LIMIT} hold a key at a time. The server has no persistence, is killed and started again.`,
  promised: JUDGED.filter((invariant) => invariant !== 'I4' && invariant !== 'I8'),
  guarded: JUDGED.filter((invariant) => invariant !== 'I4'),
  because:
    'The server forgets who is inside, and lets in as many again (I8), unless the guard is on; who lost his record is told that it was taken (I4).',
  shows: [{ subject: 'ours', invariant: 'I8' }],
  pauses: [1_500, 2_500],
  async fault(stage) {
    await restart(stage);
    await pause(stage.ttl);
  },
};
