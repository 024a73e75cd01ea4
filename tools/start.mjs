/**
 * `npm start`: shows the ticket shop of sample-app/ in three replicas, from a fresh clone on.
 *
 *   1. what is missing is installed, and what is stale is built
 *   2. a Redis: REDIS_URL, else a server of our own; else all replicas in one process, with the memory backend
 *   3. three replicas: buyers all at once, without the lock and with it; kill -9 of a replica that holds a lock; a
 *      report that is due on all of them every second
 *   4. a table; and then the replicas stay up, to be tried by hand
 *
 * Whatever was started ends with it, on Ctrl-C and on SIGTERM as well.
 *
 * Usage: npm start [-- --once]     --once ends after the table; the exit code is 0 only if the lock kept its promises
 *        PORT=4000 npm start       replicas on 4000, 4001 and 4002 rather than on free ports
 */
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

import { killHolder, sellOut, watchReport } from '../sample-app/show/acts.mjs';
import { AnswerError } from '../sample-app/show/http.mjs';
import { ChildError } from '../sample-app/show/child.mjs';
import { OwnRedis } from '../sample-app/show/redis.mjs';
import { startReplica, startReplicas, startThreeInOne } from '../sample-app/show/replicas.mjs';
import { table, verdict } from '../sample-app/show/results.mjs';
import { ensureDependencies, ensureRedisServer, SetupError } from './setup.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));

const LOCK_TTL = 2_000;
const CLOCK_BEHIND = 200;

/** What has been started and must be stopped, the last first. */
const started = [];
let ending;

async function main() {
  const unknown = process.argv.slice(2).find((arg) => arg !== '--once');
  if (unknown !== undefined) throw new SetupError(`Unknown argument "${unknown}". Usage: npm start [-- --once]`);
  const once = process.argv.includes('--once');
  const basePort = portOf(process.env.PORT);

  ensureDependencies();
  for (const [signal, code] of [['SIGINT', 130], ['SIGTERM', 143], ['SIGHUP', 129]]) {
    process.on(signal, () => void end(code));
  }
  await buildWhatIsStale();

  const redisUrl = await provideRedis();
  const shop = { basePort, env: environment(redisUrl) };
  const replicas = redisUrl ? await startProcesses(shop) : await startOneProcess(shop);

  const results = await show(replicas, shop);
  const { good, text } = verdict(results);
  console.log(`\n${table(results)}\n${text}\n`);
  if (once) return end(good ? 0 : 1);
  stayUp(replicas);
}

async function show(replicas, { env }) {
  const [, b, c] = replicas;
  const inProcesses = b.child !== c.child;
  say('60 buyers want 20 tickets, without the lock, and then with it ...');
  const unguarded = await sellOut(replicas, 'unguarded-show', { guarded: false });
  const guarded = await sellOut(replicas, 'guarded-show', { guarded: true });
  let takeover;
  if (inProcesses) {
    say(`kill -9 of replica B (pid ${b.child.pid}), which holds a lock that C waits for ...`);
    takeover = { time: await killHolder(b, c, 'till'), ttl: LOCK_TTL, heir: c.name };
    replicas[1] = await startChild(() => startReplica(b.name, Number(new URL(b.url).port), env));
  }
  say('The report is due on every replica, once a second: watching it for 6 s ...');
  const ticks = await watchReport(replicas);
  const clocks = inProcesses ? `(C's clock is ${CLOCK_BEHIND} ms behind)` : '';
  return { unguarded, guarded, takeover, ticks, clocks };
}

function portOf(given) {
  if (given === undefined || given === '') return 0;
  const port = Number(given);
  if (Number.isInteger(port) && port > 0 && port <= 65_533) return port;
  throw new SetupError(`PORT is "${given}". Set it to the first of three ports, such as 4000, or unset it.`);
}

async function provideRedis() {
  const { REDIS_URL } = process.env;
  if (REDIS_URL) {
    say('Using the Redis of REDIS_URL.');
    return REDIS_URL;
  }
  let program;
  try {
    program = await ensureRedisServer();
  } catch (error) {
    // It has been told how to get one; the show goes on without.
    if (!(error instanceof SetupError)) throw error;
    say(`${error.message}\n`);
    say('NOTE: without Redis, all three replicas run in ONE process, on the memory backend. Such locks hold in their');
    say('own process only, so killing a replica can\'t be shown. Not for production.\n');
    return undefined;
  }
  const redis = await startChild(() => OwnRedis.start(program));
  say(`Started ${program}, for this show only, at ${redis.url}`);
  return redis.url;
}
