import { w1Sequential } from './w1-sequential.js';
import { w2Parallel } from './w2-parallel.js';
import { w3Contended } from './w3-contended.js';
import type { Case, Workload } from './workload.js';

/** Every workload, in the order of the tables. */
export const workloads: readonly Workload[] = [w1Sequential, w2Parallel, w3Contended];

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
