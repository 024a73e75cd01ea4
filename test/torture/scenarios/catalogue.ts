import type { Scenario } from '../scenario.js';
import { calm, clientKilled, clientStopped, loopBlocked } from './clients.js';
import { clockAhead, clockBack } from './clock.js';
import { clusterFailover, slotMoved } from './cluster.js';
import { limitClients, limitRestartEmpty } from './limits.js';
import {
  clientCutOff,
  nodeFrozen,
  nodeKilled,
  nodePartitioned,
  nodesRestartedEmpty,
} from './nodes.js';
import { proxyCuts, proxyDelays, proxyRepeats } from './network.js';
import {
  failoverLostWrite,
  failoverPlanned,
  masterIsolated,
  masterIsolatedWritable,
} from './sentinel.js';
import { killedInSteps, stoppedInSteps } from './steps.js';
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
  killedInSteps,
  stoppedInSteps,
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
  limitClients,
  limitRestartEmpty,
  failoverPlanned,
  failoverLostWrite,
  masterIsolated,
  masterIsolatedWritable,
  slotMoved,
  clusterFailover,
  nodeKilled,
  nodeFrozen,
  nodePartitioned,
  clientCutOff,
  nodesRestartedEmpty,
];
