/**
 * The loops of one writer and of one reader, the same in a process of its own (directories) and beside hundreds of
 * others in one process (a server). A caller issues one call at a time, takes the time right before and right after
 * it, and reports in batches. An error is reported and the loop goes on, for a mount may come back; when nothing but errors
 * came for a while, the caller gives up: it is gone.
 */
import { alignedBuffer } from './aligned-buffer.ts';
import type { MonotonicClock } from './monotonic-clock.ts';
import { ObservationBatch } from './observation-batch.ts';
import type { OverlapFile } from './overlap-target.ts';
import { type OverlapWorkload, RangeSource } from './overlap-workload.ts';
import { scanUnits, stampWrite, UNIT_BYTES } from './tagged-unit.ts';

const REPORT_EVERY_NS = 50e6;
/** A target that fails every call at once would otherwise fill the memory with its errors. */
const PAUSE_AFTER_ERROR_MS = 5;
/** So many errors in a row, over so long a time. Each of a soft mount alone takes longer. */
const GIVE_UP = { errors: 10, afterNs: 3e9 } as const;

export interface CallerJob {
  readonly role: 'write' | 'read';
  /** Unique among all callers of the run; the writer number in the tags. From 1. */
  readonly caller: number;
  /** Writes that this caller number has made before (a caller may run in several phases). */
  readonly sequence: number;
  readonly workload: OverlapWorkload;
  readonly seed: number;
  readonly runNonce: number;
  readonly endNs: number;
}

export interface CallerReport {
  readonly caller: number;
  readonly observations: Float64Array;
  /** Everything until here is in this report or an earlier one; Infinity at the end. */
  readonly reportedNs: number;
  readonly errors: number;
  readonly short: number;
  /** The first error, in words. */
  readonly error: string | null;
}

/** Runs one caller until job.endNs; rejects when every call fails. `report` may be awaited on: a slow receiver slows the caller down. */
export async function runCaller(
  job: CallerJob,
  file: OverlapFile,
  clock: MonotonicClock,
  report: (report: CallerReport) => Promise<void>,
): Promise<void> {
  const caller = new Caller(job, file, clock);
  let nextReportNs = clock() + REPORT_EVERY_NS;
  for (;;) {
    const nowNs = clock();
    if (nowNs >= job.endNs || caller.isLost(nowNs)) break;
    if (nowNs >= nextReportNs) {
      await report(caller.takeReport(nowNs));
      nextReportNs = nowNs + REPORT_EVERY_NS;
    }
    const worked = job.role === 'write' ? await caller.write() : await caller.read();
    if (!worked) await new Promise((resolve) => setTimeout(resolve, PAUSE_AFTER_ERROR_MS));
  }
  await report(caller.takeReport(Infinity));
  const { lost } = caller;
  if (lost) throw new Error(lost);
}

class Caller {
  readonly #job: CallerJob;
  readonly #file: OverlapFile;
  readonly #clock: MonotonicClock;
  readonly #ranges: RangeSource;
  readonly #buffer: Uint8Array<ArrayBuffer>;
  readonly #words: Uint32Array;
  readonly #batch = new ObservationBatch();
  #sequence: number;
  #errors = 0;
  #short = 0;
  #error: string | null = null;
  /** Since the last call that was none. */
  #errorsInRow = 0;
  #failingSinceNs = 0;
  #lastError = '';
  /** Why it gave up. */
  lost: string | undefined;

  constructor(job: CallerJob, file: OverlapFile, clock: MonotonicClock) {
    this.#job = job;
    this.#file = file;
    this.#clock = clock;
    this.#ranges = new RangeSource(job.workload, job.seed, job.caller);
    this.#buffer = alignedBuffer(Math.max(...job.workload.sizesUnits) * UNIT_BYTES);
    this.#words = new Uint32Array(this.#buffer.buffer, 0, this.#buffer.length / 4);
    this.#sequence = job.sequence;
  }

  async write(): Promise<boolean> {
    const range = this.#ranges.next();
    const tag = { writer: this.#job.caller, sequence: ++this.#sequence, ...range };
    stampWrite(this.#words, this.#job.runNonce, tag);
    const sizeBytes = range.unitCount * UNIT_BYTES;
    const issuedNs = this.#clock();
    let written = 0;
    try {
      written = await this.#file.write(range.startUnit * UNIT_BYTES, this.#buffer.subarray(0, sizeBytes));
      if (written !== sizeBytes) this.#short++;
      this.#errorsInRow = 0;
    } catch (error) {
      this.#noteError(error, issuedNs);
    }
    this.#batch.addWrite({ ...tag, issuedNs, acknowledgedNs: this.#clock(), whole: written === sizeBytes });
    return written > 0;
  }

  async read(): Promise<boolean> {
    const { startUnit, unitCount } = this.#ranges.next();
    const sizeBytes = unitCount * UNIT_BYTES;
    const issuedNs = this.#clock();
    try {
      const got = await this.#file.read(startUnit * UNIT_BYTES, this.#buffer.subarray(0, sizeBytes));
      const returnedNs = this.#clock();
      this.#errorsInRow = 0;
      if (got !== sizeBytes) this.#short++;
      const runs = scanUnits(this.#words, startUnit, Math.floor(got / UNIT_BYTES), this.#job.runNonce);
      this.#batch.addRead({ reader: this.#job.caller, startUnit, unitCount, issuedNs, returnedNs, runs });
      return got > 0;
    } catch (error) {
      this.#noteError(error, issuedNs);
      return false;
    }
  }

  /** Nothing but errors came for a while. */
  isLost(nowNs: number): boolean {
    const failingNs = nowNs - this.#failingSinceNs;
    if (this.#errorsInRow < GIVE_UP.errors || failingNs < GIVE_UP.afterNs) return false;
    this.lost = `gave up: every call failed for ${Math.round(failingNs / 1e9)} s, the last with ${this.#lastError}`;
    return true;
  }

  takeReport(reportedNs: number): CallerReport {
    const report = {
      caller: this.#job.caller,
      observations: this.#batch.take(),
      reportedNs,
      errors: this.#errors,
      short: this.#short,
      error: this.#error,
    };
    [this.#errors, this.#short] = [0, 0];
    return report;
  }

  #noteError(error: unknown, issuedNs: number): void {
    const text = error instanceof Error ? error.message : String(error);
    this.#errors++;
    this.#error ??= text;
    this.#lastError = text;
    if (this.#errorsInRow++ === 0) this.#failingSinceNs = issuedNs;
  }
}
