/**
 * The result of `weft bench overlap`, as `--json` prints it. Stable: fields are added, never renamed or removed, under
 * one `schema`; anything else is a new schema. Sizes are bytes, rates per second, latencies milliseconds.
 */
import type { LatencySummary } from './latency-histogram.ts';

export interface CallSummary {
  readonly calls: number;
  readonly callsPerSecond: number;
  readonly mibPerSecond: number;
  /** Calls that failed; not among `calls`. */
  readonly errors: number;
  readonly firstError: string | null;
  /** Calls that wrote or read fewer bytes than asked. */
  readonly short: number;
  readonly latency: LatencySummary;
}

export type FinalFault = 'unreadable' | 'differs' | 'lost' | 'unexplained' | 'mixed';

/** The content read through one directory after the run. */
export interface FinalState {
  readonly label: string;
  readonly sizeBytes: number;
  readonly sha256: string;
  readonly fault: FinalFault | null;
  readonly detail: string | null;
}

/** `--disjoint`: one writer against all of them, each on its own range of the one file, in turns within one run. */
export interface ScalingSummary {
  readonly oneWriterMibPerSecond: number;
  readonly allWritersMibPerSecond: number;
  readonly oneWriterCallsPerSecond: number;
  readonly allWritersCallsPerSecond: number;
  /** all / one, in MiB/s. */
  readonly ratio: number;
}

export interface OverlapReport {
  readonly schema: 'weft-bench-overlap/1';
  readonly passed: boolean;
  readonly verdict: string;
  readonly mode: 'overlap' | 'disjoint';
  readonly targets: readonly string[];
  readonly seed: number;
  readonly direct: boolean;
  readonly writers: number;
  readonly readers: number;
  readonly sizesBytes: readonly number[];
  readonly spanBytes: number;
  readonly elapsedSeconds: number;
  readonly writes: CallSummary;
  readonly reads: CallSummary;
  /** See serial-order.ts for what each of them means and proves. */
  readonly torn: number;
  readonly stale: number;
  readonly backward: number;
  readonly mixedPages: number;
  /** One example of each kind that was found, in words. */
  readonly examples: readonly { readonly fault: string; readonly text: string }[];
  readonly finalStates: readonly FinalState[];
  readonly scaling: ScalingSummary | null;
  /** Callers that hung or ended early. */
  readonly failures: readonly {
    readonly caller: number;
    readonly target: string;
    readonly hung: boolean;
    readonly reason: string;
  }[];
}
