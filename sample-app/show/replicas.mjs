/** The replicas of the shop: three processes on one Redis, or, without one, three applications in one process. */
import { fileURLToPath } from 'node:url';

import { Child } from './child.mjs';
import { request, until } from './http.mjs';

const main = fileURLToPath(new URL('../dist/main.js', import.meta.url));
const threeInOne = fileURLToPath(new URL('../dist/three-in-one.js', import.meta.url));
const clockBehind = new URL('../clock-behind.mjs', import.meta.url).href;
const START_TIMEOUT = 20_000;
const HEALTH_TIMEOUT = 2_000;

export const NAMES = ['A', 'B', 'C'];

export class Replica {
  constructor(name, url, child) {
    this.name = name;
    this.url = url;
    this.child = child;
  }
}

/** A process for each. `clocksBehind`: by how many ms the clock of which is wrong. */
export async function startReplicas({ basePort, env, clocksBehind }) {
  const started = await Promise.allSettled(
    NAMES.map((name, at) =>
      startReplica(name, basePort === 0 ? 0 : basePort + at, env, clocksBehind[name]),
    ),
  );
  const failed = started.find(({ status }) => status === 'rejected');
  if (failed === undefined) return started.map(({ value }) => value);
  await Promise.all(started.map(({ value }) => value?.child.stop()));
  throw failed.reason;
}

export async function startReplica(name, port, env, behind = 0) {
  const child = Child.node(`Replica ${name}`, main, {
    env: { ...env, REPLICA: name, PORT: String(port), CLOCK_BEHIND_MS: String(behind) },
    execArgv: behind > 0 ? ['--import', clockBehind] : [],
  });
  return answering(child, async () => {
    const url = await child.until('listen', (message) => message?.url, START_TIMEOUT);
    return new Replica(name, url, child);
  });
}

export async function startThreeInOne({ basePort, env }) {
  const child = Child.node('The shop', threeInOne, { env: { ...env, PORT: String(basePort) } });
  const urls = new Map();
  const all = (message) => {
    if (message?.url) urls.set(message.replica, message.url);
    return urls.size === NAMES.length;
  };
  return answering(child, async () => {
    await child.until('listen', all, START_TIMEOUT);
    return NAMES.map((name) => new Replica(name, urls.get(name), child));
  });
}

/** What was started has to answer, or nothing is left of it. */
async function answering(child, start) {
  try {
    const started = await start();
    await Promise.all([started].flat().map(({ url }) => answers(child, url)));
    return started;
  } catch (error) {
    await child.stop();
    throw error;
  }
}

async function answers(child, url) {
  let answer;
  try {
    await until(`${url} is well`, HEALTH_TIMEOUT, async () => {
      answer = await request('GET', `${url}/health`);
      return answer.status === 200;
    });
  } catch (error) {
    throw child.error(
      `does not answer as it should: ${JSON.stringify(answer?.body ?? error.message)}`,
    );
  }
}
