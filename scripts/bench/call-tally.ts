/**
 * What is summed up over calls of one kind: how many, how many bytes, how long each, when, and what went wrong.
 */
import { LatencyHistogram } from './latency-histogram.ts';
import type { CallSummary } from './overlap-report.ts';
import { ThroughputSeries } from './throughput-series.ts';

export class CallTally {
  readonly latency = new LatencyHistogram();
  readonly series = new ThroughputSeries();
  calls = 0;
  bytes = 0;
  errors = 0;
  short = 0;
  firstError: string | null = null;

  add(latencyNs: number, sizeBytes: number, endedMs: number): void {
    this.calls++;
    this.bytes += sizeBytes;
    this.latency.add(latencyNs);
    this.series.add(endedMs, sizeBytes);
  }

  addFaults(faults: { readonly errors: number; readonly short: number; readonly error: string | null }): void {
    this.errors += faults.errors;
    this.short += faults.short;
    this.firstError ??= faults.error;
  }

  summary(elapsedMs: number): CallSummary {
    const seconds = Math.max(elapsedMs, 1) / 1000;
    return {
      calls: this.calls,
      callsPerSecond: this.calls / seconds,
      mibPerSecond: this.bytes / 2 ** 20 / seconds,
      errors: this.errors,
      firstError: this.firstError,
      short: this.short,
      latency: this.latency.summary(),
    };
  }
}
