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
import { randomBytes } from 'node:crypto';
import { existsSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

import { killHolder, sellOut, watchReport } from '../sample-app/show/acts.mjs';
import { AnswerError } from '../sample-app/show/http.mjs';
import { Child, ChildError } from '../sample-app/show/child.mjs';
import { startRedis } from '../sample-app/show/redis.mjs';
import { startReplica, startReplicas, startThreeInOne } from '../sample-app/show/replicas.mjs';
import { table, verdict } from '../sample-app/show/results.mjs';
import { ensureDependencies, ensureRedisServer, SetupError } from './setup.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));

const LOCK_TTL = 2_000;
const CLOCK_BEHIND = 200;

let ending;

async function main() {
  const unknown = process.argv.slice(2).find((arg) => arg !== '--once');
  if (unknown !== undefined)
    throw new SetupError(`Unknown argument "${unknown}". Usage: npm start [-- --once]`);
  const once = process.argv.includes('--once');
  const basePort = portOf(process.env.PORT);

  ensureDependencies();
  for (const [signal, code] of [
    ['SIGINT', 130],
    ['SIGTERM', 143],
    ['SIGHUP', 129],
  ]) {
    process.on(signal, () => void end(code));
  }
  await buildWhatIsStale();

  const redisUrl = await provideRedis();
  const shop = { basePort, env: environment(redisUrl), inOneProcess: redisUrl === undefined };
  const replicas = shop.inOneProcess ? await startOneProcess(shop) : await startProcesses(shop);

  const results = await show(replicas, shop);
  const { good, text } = verdict(results);
  console.log(`\n${table(results)}\n${text}\n`);
  if (once) return end(good ? 0 : 1);
  stayUp(replicas, shop);
}

async function show(replicas, { env, inOneProcess }) {
  const [, b, c] = replicas;
  say('60 buyers want 20 tickets, without the lock, and then with it ...');
  const unguarded = await sellOut(replicas, 'unguarded-show', { guarded: false });
  const guarded = await sellOut(replicas, 'guarded-show', { guarded: true });
  let takeover;
  if (!inOneProcess) {
    say(`kill -9 of replica B (pid ${b.child.pid}), which holds a lock that C waits for ...`);
    takeover = { time: await killHolder(b, c, 'till'), ttl: LOCK_TTL, heir: c.name };
    replicas[1] = await startReplica(b.name, portIn(b.url), env);
  }
  say('The report is due on every replica, once a second: watching it for 6 s ...');
  const ticks = await watchReport(replicas);
  const clocks = inOneProcess ? '' : `(C's clock is ${CLOCK_BEHIND} ms behind)`;
  return { unguarded, guarded, takeover, ticks, clocks };
}

function portOf(given) {
  if (given === undefined || given === '') return 0;
  const port = Number(given);
  if (Number.isInteger(port) && port > 0 && port <= 65_533) return port;
  throw new SetupError(
    `PORT is "${given}". Set it to the first of three ports, such as 4000, or unset it.`,
  );
}

const portIn = (url) => Number(new URL(url).port);

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
    say(
      'NOTE: without Redis, all three replicas run in ONE process, on the memory backend. Such locks hold in their',
    );
    say('own process only, so killing a replica cannot be shown. Not for production.\n');
    return undefined;
  }
  const { url, child } = await startRedis(program);
  say(`Started ${program}, for this show only, at ${url}`);
  endWith(child);
  return url;
}

function environment(redisUrl) {
  const { PAYMENT_URL: _real, ...env } = process.env;
  // A name of its own, so that another show on the same Redis sells other tickets.
  const SHOP = `ticket-shop-${randomBytes(4).toString('hex')}`;
  return { ...env, NO_COLOR: '1', SHOP, REDIS_URL: redisUrl ?? '', LOCK_TTL: `${LOCK_TTL}ms` };
}

async function startProcesses(shop) {
  const replicas = await startReplicas({ ...shop, clocksBehind: { C: CLOCK_BEHIND } });
  say(`Three replicas: ${namesAndUrls(replicas)}`);
  return replicas;
}

async function startOneProcess(shop) {
  const replicas = await startThreeInOne(shop);
  say(`Three replicas in one process: ${namesAndUrls(replicas)}`);
  return replicas;
}

/** Builds the library and the sample app, each only if a source is newer than what was built last. */
async function buildWhatIsStale() {
  const config = ['package.json', 'package-lock.json', 'nest-cli.json', 'tsconfig.json'];
  const library = ['lib', 'tsconfig.esm.json', 'tsconfig.cjs.json', ...config];
  // The build's last file.
  const builtLibrary = 'dist/cjs/package.json';
  await buildIfStale('the library', library, builtLibrary, ['tools/build.mjs']);
  const sample = ['sample-app/src', 'sample-app/tsconfig.build.json', builtLibrary];
  const nest = ['node_modules/@nestjs/cli/bin/nest.js', 'build', 'sample-app'];
  await buildIfStale('the sample app', sample, 'sample-app/dist/main.js', nest);
}

async function buildIfStale(what, sources, built, command) {
  const since = existsSync(join(root, built)) ? lastChange(built) : 0;
  if (sources.every((source) => lastChange(source) <= since)) return;
  say(`Building ${what} ...`);
  const args = [join(root, command[0]), ...command.slice(1)];
  await Child.program(`The build of ${what}`, process.execPath, args).succeed();
}

function lastChange(path) {
  const stats = statSync(join(root, path));
  if (!stats.isDirectory()) return stats.mtimeMs;
  return Math.max(...readdirSync(join(root, path)).map((name) => lastChange(join(path, name))));
}

function stayUp(replicas, shop) {
  const [a, b, c] = replicas.map(({ url }) => url);
  for (const replica of replicas) keepUp(replica, shop);
  const json = `-H 'content-type: application/json'`;
  console.log(`The shop stays open. Replicas: ${namesAndUrls(replicas)}

Put tickets on sale, and buy them here and there:
  curl -X PUT ${json} -d '{"stock": 5}' ${a}/tickets/concert
  curl -X POST ${json} -d '{"buyer": "Ada"}' ${b}/tickets/concert/buy
  for n in $(seq 9); do curl -s -X POST ${c}/tickets/concert/buy-unguarded & done; wait
  curl ${a}/tickets/concert

Hold a lock, and look at it from elsewhere; kill -9 its holder by the pid, and look again:
  curl -X POST '${b}/locks/till/hold?seconds=30' &
  curl ${c}/locks/till

Who wrote the report in the last minute; book money, checked by the fencing token; health:
  curl ${a}/report
  curl -X POST ${json} -d '{"amount": 10}' ${b}/ledger/till
  curl ${c}/health

Ctrl-C ends everything.`);
}

const namesAndUrls = (replicas) => replicas.map(({ name, url }) => `${name} ${url}`).join('  ');

/** A replica that somebody kills to see what happens is started again. */
function keepUp({ name, url, child }, shop) {
  if (shop.inOneProcess) return endWith(child);
  child.onOutput((text) => process.stdout.write(`[${name}] ${text}`));
  void child.ended.then(async () => {
    if (ending) return;
    say(`Replica ${name} (pid ${child.pid}) has ended: starting it again.`);
    try {
      keepUp(await startReplica(name, portIn(url), shop.env), shop);
    } catch (error) {
      await fail(error);
    }
  });
}

/** What can't be done without, and has ended unasked, ends everything. */
function endWith(child) {
  void child.ended.then(() => fail(child.error('has ended')));
}

async function fail(error) {
  // Asked to end, we have taken something from under our own feet.
  if (ending) return;
  const isTold = [SetupError, ChildError, AnswerError].some((kind) => error instanceof kind);
  console.error(isTold ? `\n${error.message}` : error);
  await end(1);
}

function end(code) {
  ending ??= Child.stopAll().finally(() => process.exit(code));
  return ending;
}

function say(text) {
  console.log(`[start] ${text}`);
}

try {
  await main();
} catch (error) {
  await fail(error);
}
