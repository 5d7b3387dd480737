/**
 * Calls and bytes over the time of a run, in steps of STEP_MS counted by when a call ended: the plot of a report.
 */

export const STEP_MS = 100;
/** An hour; what comes later is counted in the last step, so the memory is bounded. */
const MAX_STEPS = 36_000;

export class ThroughputSeries {
  readonly calls: number[] = [];
  readonly bytes: number[] = [];

  add(endedMs: number, sizeBytes: number): void {
    const step = Math.min(MAX_STEPS - 1, Math.max(0, Math.floor(endedMs / STEP_MS)));
    while (this.calls.length <= step) {
      this.calls.push(0);
      this.bytes.push(0);
    }
    this.calls[step] = (this.calls[step] as number) + 1;
    this.bytes[step] = (this.bytes[step] as number) + sizeBytes;
  }
}
