/**
 * Runs one case with one library, tells what was measured, and ends.
 */
import { Redis } from 'ioredis';

import { adapterOf } from '../adapters/catalogue.js';
import { countCommands } from '../client-meter.js';
import { Meter } from '../meter.js';
import { caseOf } from '../workloads/catalogue.js';
import { DEFAULT_TTL } from '../workloads/workload.js';
import { Inbox } from './inbox.js';
import type { MeasurementOutcome, MeasurementRequest } from './measurement.js';
import { Peer } from './peer.js';

async function run(request: MeasurementRequest): Promise<MeasurementOutcome> {
  const { url, others, scale, workload } = request;
  const adapter = adapterOf(request.adapter);
  const redis = new Redis(url);
  const peers: Peer[] = [];
  try {
    const measured = await caseOf(workload, request.case).run({
      adapter,
      url,
      scale,
      redis,
      meter: new Meter(redis),
      open: (options = {}) =>
        adapter.open({ url, others, ttl: DEFAULT_TTL, renew: false, ...options }),
      async startPeer(role) {
        const peer = await Peer.start({ workload, role, adapter: adapter.id, url });
        peers.push(peer);
        return peer;
      },
    });
    return { measured };
  } catch (error) {
    return { failed: (error as Error).stack ?? String(error) };
  } finally {
    await Promise.all(peers.map((peer) => peer.end()));
    redis.disconnect();
  }
}

countCommands();
// Our parent's end is ours.
void new Inbox();
const outcome = await run(JSON.parse(process.argv[2] ?? '') as MeasurementRequest);
// What libraries leave open, timers and connections, ends with the process: the server is this run's alone.
process.send?.(outcome, () => process.exit(0));
