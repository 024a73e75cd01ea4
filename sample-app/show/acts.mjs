/**
 * What the show does with the replicas. Each act gives back what came of it; what that means is for `results.mjs`
 * to say.
 */
import { expectJson, getJson, request, until } from './http.mjs';

export const STOCK = 20;
export const BUYERS = 60;
export const TICKS = 6;

/** All buyers at once, spread over the replicas. */
export async function sellOut(replicas, event, { guarded }) {
  await expectJson('PUT', `${replicas[0].url}/tickets/${event}`, { stock: STOCK });
  const route = guarded ? 'buy' : 'buy-unguarded';
  const answers = await Promise.all(
    Array.from({ length: BUYERS }, (_, at) => {
      const { url } = replicas[at % replicas.length];
      return request('POST', `${url}/tickets/${event}/${route}`, { buyer: `buyer ${at + 1}` });
    }),
  );
  const { sold, oversold } = await getJson(`${replicas[0].url}/tickets/${event}`);
  const soldOut = answers.filter(({ status }) => status === 410).length;
  const [failure] = answers.filter(({ status }) => status !== 201 && status !== 410);
  const inspect = ({ url }) => getJson(`${url}/locks/tickets:${event}`);
  const waits = (await Promise.all(replicas.map(inspect))).map(({ here }) => here);
  return {
    sold,
    oversold,
    soldOut,
    failed: BUYERS - soldOut - answers.filter(({ status }) => status === 201).length,
    failure: failure && `${failure.status} ${failure.body.message}`,
    waited: waits.reduce((sum, { waited }) => sum + waited, 0),
    longestWait: Math.max(...waits.map(({ longest }) => longest)),
  };
}

/** Kills a replica that holds a lock, while another waits for it. How long that one waits from then on, in ms. */
export async function killHolder(victim, heir, key) {
  // It will never be answered.
  void request('POST', `${victim.url}/locks/${key}/hold?seconds=60`).catch(() => {});
  const state = () => getJson(`${heir.url}/locks/${key}`);
  await until(`${victim.name} holds ${key}`, 5_000, async () => {
    const { held } = await state();
    return held.some(({ application }) => application === victim.name);
  });
  const inherited = expectJson('POST', `${heir.url}/locks/${key}/hold?seconds=0`);
  await until(
    `${heir.name} waits for ${key}`,
    5_000,
    async () => (await state()).pending.length > 0,
  );
  const killedAt = performance.now();
  await victim.child.kill();
  await inherited;
  return performance.now() - killedAt;
}

/** Waits for some ticks of the report that begin from now on, and tells who wrote it at each. */
export async function watchReport(replicas) {
  const [{ url }] = replicas;
  const first = Math.floor(Date.now() / 1_000) + 1;
  const last = first + TICKS - 1;
  // A later tick is the sign that nobody will write for an earlier one any more.
  const runs = await until(`${TICKS} reports`, 1_000 * TICKS + 10_000, async () => {
    const seen = await getJson(`${url}/report?since=${first}`);
    return seen.some(({ tick }) => tick > last + 1) && seen;
  });
  return Array.from({ length: TICKS }, (_, at) =>
    runs.filter(({ tick }) => tick === first + at).map(({ replica }) => replica),
  );
}
