/** The tests that see mutations: each by its file, and by a part of its full name that no other test of the file contains. */
const of =
  (spec, before = '') =>
  (name) => ({ spec: `test/${spec}.spec.ts`, name: before + name });

export const backend = of('conformance/lock-backend', 'LockBackend: Redis ');
export const quorumBackend = of('conformance/lock-backend', 'LockBackend: quorum of 3 ');
export const locker = of('conformance/locker', 'Locker: Redis, passing leases on ');
export const several = of('conformance/locker', 'Locker: access over Redis, passing leases on ');
export const runOnce = of('conformance/run-once', 'runOnce: Redis ');
export const runOnceAway = of('conformance/run-once', 'runOnce, where ');
export const scripts = of('conformance/redis-scripts');

export const clock = of('unit/server-clock');
export const cleanUp = of('unit/clean-up');
export const guardUnit = of('unit/server-guard');
export const lease = of('unit/lease');
export const lockerUnit = of('unit/locker');
export const queue = of('unit/wait-queue');
export const refusal = of('unit/refusal');
export const quorumUnit = of('unit/quorum-backend');
export const quorumWakeUp = of('unit/quorum-wake-up', 'QuorumWakeUp of 5 nodes ');
export const renewal = of('unit/renewal');
export const vote = of('unit/acquire-vote');

export const cluster = of('integration/cluster');
export const clusterSafety = of('integration/cluster-safety');
export const clusterWakeUp = of('integration/cluster-wake-up');
export const diagnose = of('integration/diagnose');
export const failover = of('integration/failover-watch');
export const force = of('integration/force-release');
export const guard = of('integration/guard');
export const handover = of('integration/handover');
export const limit = of('integration/limit');
export const network = of('integration/faults-network');
export const processes = of('integration/faults-process');
export const quorum = of('integration/quorum');
export const quorumLeases = of('integration/quorum-leases');
export const quorumRuns = of('integration/quorum-run-once');
export const quorumSafety = of('integration/quorum-safety');
export const replicas = of('integration/replicas');
export const sentinel = of('integration/sentinel');
export const serverErrors = of('integration/server-errors');
export const servers = of('integration/faults-server');
export const wakeUp = of('integration/wake-up');
export const nestSafety = of('e2e/nest-safety');
