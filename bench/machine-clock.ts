/**
 * The machine's monotonic clock in ms: the same in all of its processes, so that times of one can be compared with
 * those of another. (`performance.now()` begins at a different moment in each.)
 */
export function machineNow(): number {
  return Number(process.hrtime.bigint()) / 1e6;
}
