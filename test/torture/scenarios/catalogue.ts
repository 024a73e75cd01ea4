import type { Scenario } from '../scenario.js';
import { calm, clientKilled, clientStopped, loopBlocked } from './clients.js';
import { clockAhead, clockBack } from './clock.js';
import { clusterFailover, slotMoved } from './cluster.js';
import { nodeFrozen, nodeKilled, nodePartitioned, nodesRestartedEmpty } from './nodes.js';
import { proxyCuts, proxyDelays, proxyRepeats } from './network.js';
import { failoverLostWrite, failoverPlanned, masterIsolated } from './sentinel.js';
import {
  evicted,
  flushed,
  powerLostEverySecond,
  restartAlways,
  restartEmpty,
  restartEverySecond,
  scriptsFlushed,
  serverStopped,
} from './server.js';

/** Every scenario, in the order of the report. */
export const scenarios: readonly Scenario[] = [
  calm,
  clientKilled,
  clientStopped,
  loopBlocked,
  proxyCuts,
  proxyDelays,
  proxyRepeats,
  serverStopped,
  scriptsFlushed,
  restartEmpty,
  restartEverySecond,
  powerLostEverySecond,
  restartAlways,
  flushed,
  evicted,
  clockAhead,
  clockBack,
  failoverPlanned,
  failoverLostWrite,
  masterIsolated,
  slotMoved,
  clusterFailover,
  nodeKilled,
  nodeFrozen,
  nodePartitioned,
  nodesRestartedEmpty,
];
