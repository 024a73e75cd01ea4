/**
 * A further process of a case. It says 'ready', plays its role, and is ended by the process that measures.
 */
import { adapterOf } from '../adapters/catalogue.js';
import { countCommands } from '../client-meter.js';
import { workloadOf } from '../workloads/catalogue.js';
import { DEFAULT_TTL } from '../workloads/workload.js';
import { Inbox } from './inbox.js';
import type { PeerRequest } from './peer.js';

const request = JSON.parse(process.argv[2] ?? '') as PeerRequest;
const inbox = new Inbox();
countCommands();
const role = workloadOf(request.workload).roles?.[request.role];
if (role === undefined) throw new Error(`${request.workload} has no role ${request.role}.`);
const adapter = adapterOf(request.adapter);
process.send?.('ready');
await role({
  url: request.url,
  open: (options = {}) =>
    adapter.open({ url: request.url, ttl: DEFAULT_TTL, renew: false, ...options }),
  send: (message) => process.send?.(message),
  next: () => inbox.next(),
});
