import { decorator } from './decorator.js';
import { w10Growth } from './w10-growth.js';
import { w11Quorum } from './w11-quorum.js';
import { w1Sequential } from './w1-sequential.js';
import { w2Parallel } from './w2-parallel.js';
import { w3Contended } from './w3-contended.js';
import { w4Processes } from './w4-processes.js';
import { w5Waiting } from './w5-waiting.js';
import { w6Renewal } from './w6-renewal.js';
import { w8Memory } from './w8-memory.js';
import { w9HandOver } from './w9-hand-over.js';
import type { Case, Workload } from './workload.js';

/** Every workload, in the order of the tables. */
export const workloads: readonly Workload[] = [
  w1Sequential,
  w2Parallel,
  w3Contended,
  w4Processes,
  w5Waiting,
  w6Renewal,
  w8Memory,
  w9HandOver,
  w10Growth,
  w11Quorum,
  decorator,
];

export function workloadOf(id: string): Workload {
  const found = workloads.find((workload) => workload.id === id);
  if (found === undefined) throw new Error(`There is no workload ${id}.`);
  return found;
}

export function caseOf(workload: string, id: string): Case {
  const found = workloadOf(workload).cases.find((one) => one.id === id);
  if (found === undefined) throw new Error(`${workload} has no case '${id}'.`);
  return found;
}
