import type { Measured, Scale } from '../workloads/workload.js';
import { WatchedProcess } from './watched-process.js';

/** One run of one case with one library. */
export interface MeasurementRequest {
  readonly workload: string;
  readonly case: string;
  readonly adapter: string;
  readonly url: string;
  /** The further nodes, where the case takes several. */
  readonly others: readonly string[];
  readonly scale: Scale;
}

export type MeasurementOutcome = { readonly measured: Measured } | { readonly failed: string };

const TIMEOUT = { quick: 60_000, full: 180_000 } as const;
const END_PATIENCE = 2_000;

/** Runs it in a process of its own; what goes wrong there is an outcome. */
export async function measure(request: MeasurementRequest): Promise<MeasurementOutcome> {
  const file = new URL('./measuring-process.js', import.meta.url);
  const child = new WatchedProcess(file, [JSON.stringify(request)], ['--expose-gc']);
  try {
    return await child.next<MeasurementOutcome>(TIMEOUT[request.scale]);
  } catch (error) {
    child.kill();
    return { failed: (error as Error).message };
  } finally {
    await child.end(END_PATIENCE);
  }
}
