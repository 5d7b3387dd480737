/**
 * One run of `weft bench overlap`: prepares the file, runs the phases, feeds the checker, inspects the final content
 * through every target, and sums up. `--disjoint` takes turns (one writer, all writers, one, all), so that both are
 * measured under the same load of the machine.
 */

import { CallTally } from './call-tally.ts';
import { visitObservations } from './observation-batch.ts';
import type { CallerReport } from './overlap-caller.ts';
import { OverlapChecker } from './overlap-checker.ts';
import type { CallerFailure, CallerPlan, OverlapDriver, OverlapFileSetup } from './overlap-driver.ts';
import { initialWrite } from './overlap-file.ts';
import { finalStates } from './overlap-final.ts';
import type { FinalState, ScalingSummary } from './overlap-report.ts';
import { UNIT_BYTES } from './tagged-unit.ts';

export interface OverlapOptions {
  readonly writers: number;
  readonly readers: number;
  /** Whole pages each, the largest no larger than the span. */
  readonly sizesBytes: readonly number[];
  /** The bytes that all callers share, or, disjoint, that each writer has of its own. */
  readonly spanBytes: number;
  readonly durationMs: number;
  readonly seed: number;
  readonly disjoint: boolean;
  readonly direct: boolean;
}

export interface OverlapProgress {
  readonly elapsedMs: number;
  readonly writes: number;
  readonly reads: number;
  readonly torn: number;
}

export interface OverlapOutcome {
  readonly writes: CallTally;
  readonly reads: CallTally;
  readonly checker: OverlapChecker;
  readonly finalStates: readonly FinalState[];
  readonly scaling: ScalingSummary | null;
  readonly failures: readonly CallerFailure[];
  readonly elapsedMs: number;
}

const DISJOINT_TURNS = 4;

export function fileUnitsOf(options: OverlapOptions): number {
  return (options.spanBytes / UNIT_BYTES) * (options.disjoint ? options.writers : 1);
}

/** Runs on a driver whose file setup is `setup`. The caller cleans the driver up. */
export async function runOverlap(
  options: OverlapOptions,
  driver: OverlapDriver,
  setup: OverlapFileSetup,
  progress: (now: OverlapProgress) => void,
): Promise<OverlapOutcome> {
  const run = new OverlapRun(options, driver, setup, progress);
  await driver.prepare();
  if (options.disjoint) await run.disjointPhases();
  else await run.phase(run.plans(options.writers), options.durationMs);
  return run.outcome();
}

interface PhaseRates {
  bytes: number;
  calls: number;
  elapsedMs: number;
}

class OverlapRun {
  readonly #options: OverlapOptions;
  readonly #driver: OverlapDriver;
  readonly #setup: OverlapFileSetup;
  readonly #progress: (now: OverlapProgress) => void;
  readonly #checker = new OverlapChecker();
  readonly #writes = new CallTally();
  readonly #reads = new CallTally();
  readonly #failures: CallerFailure[] = [];
  #elapsedMs = 0;
  readonly #one: PhaseRates = { bytes: 0, calls: 0, elapsedMs: 0 };
  readonly #all: PhaseRates = { bytes: 0, calls: 0, elapsedMs: 0 };

  constructor(
    options: OverlapOptions,
    driver: OverlapDriver,
    setup: OverlapFileSetup,
    progress: (now: OverlapProgress) => void,
  ) {
    this.#options = options;
    this.#driver = driver;
    this.#setup = setup;
    this.#progress = progress;
    const initial = { issuedNs: -2, acknowledgedNs: -1, whole: true };
    this.#checker.addWrite({ ...initialWrite(setup.fileUnits), ...initial });
  }

  /** Writers are callers 1 to W, readers W+1 on; each role goes round the targets. */
  plans(writers: number): CallerPlan[] {
    const { readers, sizesBytes, seed, disjoint, direct, spanBytes } = this.#options;
    const sizesUnits = sizesBytes.map((size) => size / UNIT_BYTES);
    const spanUnits = spanBytes / UNIT_BYTES;
    const targets = this.#driver.labels.length;
    const plan = (role: 'write' | 'read', index: number): CallerPlan => {
      const caller = role === 'write' ? index + 1 : this.#options.writers + index + 1;
      const own = { startUnit: index * spanUnits, unitCount: spanUnits };
      const region = disjoint && role === 'write' ? own : { startUnit: 0, unitCount: this.#setup.fileUnits };
      const workload = { region, sizesUnits, wholePages: direct };
      const sequence = this.#checker.history.log(caller).length;
      // Round the targets; where there are more of them than writers, readers take the next ones.
      const target = (targets > this.#options.writers ? caller - 1 : index) % targets;
      return {
        target,
        job: { role, caller, sequence, workload, seed: seed + sequence, runNonce: this.#setup.runNonce },
      };
    };
    return [
      ...Array.from({ length: writers }, (_, index) => plan('write', index)),
      ...Array.from({ length: readers }, (_, index) => plan('read', index)),
    ];
  }

  async disjointPhases(): Promise<void> {
    for (let turn = 0; turn < DISJOINT_TURNS && this.#failures.length === 0; turn++) {
      const alone = turn % 2 === 0;
      const before = { bytes: this.#writes.bytes, calls: this.#writes.calls, elapsedMs: this.#elapsedMs };
      await this.phase(this.plans(alone ? 1 : this.#options.writers), this.#options.durationMs / DISJOINT_TURNS);
      const rates = alone ? this.#one : this.#all;
      rates.bytes += this.#writes.bytes - before.bytes;
      rates.calls += this.#writes.calls - before.calls;
      rates.elapsedMs += this.#elapsedMs - before.elapsedMs;
    }
  }

  async phase(plans: readonly CallerPlan[], durationMs: number): Promise<void> {
    for (const { job } of plans) this.#checker.expect(job.caller);
    const beforeMs = this.#elapsedMs;
    let startNs = 0;
    let endNs = 0;
    const failures = await this.#driver.run({
      plans,
      durationMs,
      started: (nowNs) => {
        startNs = endNs = nowNs;
      },
      report: (report) => {
        endNs = Math.max(endNs, this.#take(report, startNs, beforeMs));
        this.#elapsedMs = beforeMs + (endNs - startNs) / 1e6;
        this.#progress({
          elapsedMs: this.#elapsedMs,
          writes: this.#writes.calls,
          reads: this.#reads.calls,
          torn: this.#checker.counts.torn,
        });
      },
    });
    this.#failures.push(...failures);
    for (const { job } of plans) this.#checker.advance(job.caller, Infinity);
  }

  /** Returns when the last call in the report ended. */
  #take(report: CallerReport, startNs: number, beforeMs: number): number {
    let lastNs = startNs;
    visitObservations(report.observations, {
      write: (record) => {
        this.#checker.addWrite(record);
        lastNs = Math.max(lastNs, record.acknowledgedNs);
        if (record.whole)
          this.#count(this.#writes, record.unitCount, record.issuedNs, record.acknowledgedNs, startNs, beforeMs);
      },
      read: (record) => {
        this.#checker.addRead(record);
        lastNs = Math.max(lastNs, record.returnedNs);
        this.#count(this.#reads, record.unitCount, record.issuedNs, record.returnedNs, startNs, beforeMs);
      },
    });
    const tally = report.caller <= this.#options.writers ? this.#writes : this.#reads;
    tally.addFaults(report);
    this.#checker.advance(report.caller, report.reportedNs);
    return lastNs;
  }

  #count(tally: CallTally, unitCount: number, fromNs: number, toNs: number, startNs: number, beforeMs: number): void {
    tally.add(toNs - fromNs, unitCount * UNIT_BYTES, beforeMs + (toNs - startNs) / 1e6);
  }

  async outcome(): Promise<OverlapOutcome> {
    this.#checker.finish();
    const hung = new Set(this.#failures.filter((failure) => failure.hung).map((failure) => failure.target));
    return {
      writes: this.#writes,
      reads: this.#reads,
      checker: this.#checker,
      finalStates: await finalStates(this.#driver, this.#checker.history, hung),
      scaling: this.#options.disjoint ? this.#scaling() : null,
      failures: this.#failures,
      elapsedMs: this.#elapsedMs,
    };
  }

  #scaling(): ScalingSummary {
    const perSecond = (amount: number, rates: PhaseRates) =>
      rates.elapsedMs === 0 ? 0 : amount / (rates.elapsedMs / 1000);
    const one = perSecond(this.#one.bytes / 2 ** 20, this.#one);
    const all = perSecond(this.#all.bytes / 2 ** 20, this.#all);
    return {
      oneWriterMibPerSecond: one,
      allWritersMibPerSecond: all,
      oneWriterCallsPerSecond: perSecond(this.#one.calls, this.#one),
      allWritersCallsPerSecond: perSecond(this.#all.calls, this.#all),
      ratio: one === 0 ? 0 : all / one,
    };
  }
}
