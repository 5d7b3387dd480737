/**
 * The checker of a whole overlap run: takes in what writers and readers report, in any order between callers, and judges
 * each read when every caller has reported up to its end (the watermark), so that no write is missing from the history.
 * A caller that hangs cannot stop it: beyond PENDING_READS reads are judged with the history as it is, which can miss a
 * fault but never invents one. Pure: no clock, no I/O.
 */

import { contradictsItself, judgeRead, type ReadFault, type ReadRecord, type ReadVerdict } from './serial-order.ts';
import { GARBLED, UNITS_PER_PAGE, type UnitRun } from './tagged-unit.ts';
import { WriteHistory, type WriteRecord } from './write-history.ts';

const PENDING_READS = 50_000;

export interface FaultExample {
  readonly fault: ReadFault | 'mixed';
  readonly read: ReadRecord;
  readonly verdict: ReadVerdict;
}

export interface FaultCounts {
  /** Reads that no serial order of whole writes explains. */
  torn: number;
  /** Reads that show what an acknowledged write had overwritten before they began. */
  stale: number;
  /** Reads that show less than an earlier read had shown. */
  backward: number;
  /** Pages, one by one, that hold a mixture of writes or units that no write can have left. */
  mixedPages: number;
  /** Reads with such units in them (a garbled unit says nothing, so it is left out of the order). */
  mixedReads: number;
}

export class OverlapChecker {
  readonly history: WriteHistory;
  readonly counts: FaultCounts = { torn: 0, stale: 0, backward: 0, mixedPages: 0, mixedReads: 0 };
  /** The first of each kind. */
  readonly examples = new Map<FaultExample['fault'], FaultExample>();
  /** Reads judged so far; at the end, all of them. */
  judgedReads = 0;
  readonly #watermarks = new Map<number, number>();
  #pending: ReadRecord[] = [];

  constructor(history = new WriteHistory()) {
    this.history = history;
  }

  addWrite(record: WriteRecord): void {
    this.history.add(record);
  }

  addRead(read: ReadRecord): void {
    this.#pending.push(read);
    if (this.#pending.length > PENDING_READS) this.#judgeUntil(Infinity);
  }

  /** Announces a caller; no read is judged before each of them has reported. */
  expect(caller: number): void {
    this.#watermarks.set(caller, -Infinity);
  }

  /** The caller has reported all that it did until `reportedNs`. Infinity when it has ended. */
  advance(caller: number, reportedNs: number): void {
    this.#watermarks.set(caller, reportedNs);
    this.#judgeUntil(Math.min(...this.#watermarks.values()));
  }

  /** Judges what is left. */
  finish(): void {
    this.#judgeUntil(Infinity);
  }

  #judgeUntil(watermarkNs: number): void {
    const ready = this.#pending.filter((read) => read.returnedNs < watermarkNs);
    if (ready.length === 0) return;
    this.#pending = this.#pending.filter((read) => read.returnedNs >= watermarkNs);
    // In the order of their ends, so that each is held against every read that was over before it.
    ready.sort((a, b) => a.returnedNs - b.returnedNs);
    for (const read of ready) this.judge(read);
  }

  /** Judges one read now, counts what is wrong with it, and says so. */
  judge(read: ReadRecord): ReadVerdict {
    this.judgedReads++;
    const runs = read.runs.map((run) => this.#believed(run));
    const clean = { ...read, runs };
    const verdict = judgeRead(clean, this.history);
    const mixedPages = this.#countMixedPages(runs, verdict.fault !== null);
    if (mixedPages > 0) {
      this.counts.mixedPages += mixedPages;
      this.counts.mixedReads++;
      this.#keepExample({ fault: 'mixed', read: clean, verdict });
    }
    if (verdict.fault) {
      this.counts[verdict.fault]++;
      this.#keepExample({ fault: verdict.fault, read: clean, verdict });
    } else {
      for (const run of runs) if (run.tag.writer !== GARBLED) this.history.noteVisible(run.tag, read.returnedNs);
    }
    return verdict;
  }

  /** A unit may say only what its writer has written: the range must be that of the log. */
  #believed(run: UnitRun): UnitRun {
    if (run.tag.writer === GARBLED) return run;
    const known = this.history.log(run.tag.writer).find(run.tag.sequence);
    if (!known || (known.startUnit === run.tag.startUnit && known.unitCount === run.tag.unitCount)) return run;
    return { ...run, tag: { ...run.tag, writer: GARBLED } };
  }

  #countMixedPages(runs: readonly UnitRun[], faulty: boolean): number {
    const garbled = runs.some((run) => run.tag.writer === GARBLED);
    if (!faulty && !garbled) return 0;
    let mixed = 0;
    for (const inPage of splitByPage(runs)) {
      if (inPage.some((run) => run.tag.writer === GARBLED)) mixed++;
      else if (inPage.length > 1 && contradictsItself(inPage, this.history)) mixed++;
    }
    return mixed;
  }

  #keepExample(example: FaultExample): void {
    if (!this.examples.has(example.fault)) this.examples.set(example.fault, example);
  }
}

/** The runs cut at page borders: one list a page that holds more than one run, or a garbled one. */
function splitByPage(runs: readonly UnitRun[]): UnitRun[][] {
  const pages = new Map<number, UnitRun[]>();
  for (const run of runs) {
    const end = run.startUnit + run.unitCount;
    const firstPage = Math.floor(run.startUnit / UNITS_PER_PAGE);
    const lastPage = Math.floor((end - 1) / UNITS_PER_PAGE);
    for (let page = firstPage; page <= lastPage; page++) {
      const startUnit = Math.max(run.startUnit, page * UNITS_PER_PAGE);
      const piece = { startUnit, unitCount: Math.min(end, (page + 1) * UNITS_PER_PAGE) - startUnit, tag: run.tag };
      const inPage = pages.get(page);
      if (inPage) inPage.push(piece);
      else pages.set(page, [piece]);
    }
  }
  return [...pages.values()];
}
