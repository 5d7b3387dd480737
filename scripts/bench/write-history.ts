/**
 * What is known of every write of an overlap run: its range and when it was issued and acknowledged. One log a writer;
 * a writer issues one write at a time, so sequence, issue and acknowledgement times all rise along its log.
 * Bounded: a log forgets its oldest half beyond HISTORY_WRITES, and what it then says of forgotten writes ("acknowledged
 * before the oldest that is kept was issued, issued at any time before") is weaker, never wrong.
 */
import type { WriteTag } from './tagged-unit.ts';

/** Per writer; about 100 bytes each. A write that stays visible for longer than this many successors is rare. */
const HISTORY_WRITES = 100_000;

export interface WriteRecord extends WriteTag {
  readonly issuedNs: number;
  /** Infinity when the end was not (yet) reported. */
  readonly acknowledgedNs: number;
  /** False for a write that failed or came back short: no telling what it did, so nothing is concluded from it. */
  readonly whole: boolean;
}

/** A write in the history. `visibleNs`: a read that had shown it had returned by then, or it was acknowledged by then. */
export interface KnownWrite extends WriteRecord {
  visibleNs: number;
}

export type TimeOfWrite = 'acknowledgedNs' | 'visibleNs';

export class WriterLog {
  #writes: KnownWrite[] = [];
  #forgotten = 0;
  readonly #historyWrites: number;

  constructor(historyWrites: number) {
    this.#historyWrites = historyWrites;
  }

  add(record: WriteRecord): void {
    this.#writes.push({ ...record, visibleNs: record.acknowledgedNs });
    if (this.#writes.length > 2 * this.#historyWrites) {
      this.#forgotten += this.#historyWrites;
      this.#writes = this.#writes.slice(this.#historyWrites);
    }
  }

  get length(): number {
    return this.#forgotten + this.#writes.length;
  }

  find(sequence: number): KnownWrite | undefined {
    return this.#writes[sequence - 1 - this.#forgotten];
  }

  /** The write as far as it is known: forgotten and not yet reported ones with times that claim nothing. */
  describe(tag: WriteTag): KnownWrite {
    const known = this.find(tag.sequence);
    if (known) return known;
    const oldest = this.#writes[0];
    const before = oldest && tag.sequence < oldest.sequence ? oldest.issuedNs : Infinity;
    return { ...tag, issuedNs: -Infinity, acknowledgedNs: before, visibleNs: before, whole: true };
  }

  /** The last write at or below `sequence` and above `floorSequence` that touches `[start, end)`. */
  latestTouching(start: number, end: number, sequence: number, floorSequence: number): KnownWrite | undefined {
    for (let index = Math.min(sequence - this.#forgotten, this.#writes.length) - 1; index >= 0; index--) {
      const write = this.#writes[index] as KnownWrite;
      if (write.sequence <= floorSequence) return undefined;
      if (write.whole && write.startUnit < end && start < write.startUnit + write.unitCount) return write;
    }
    return undefined;
  }

  /** The last write that was over (by `time`) before `beforeNs`, was issued after `floorNs` and touches `[start, end)`. */
  latestOver(start: number, end: number, time: TimeOfWrite, beforeNs: number, floorNs: number): KnownWrite | undefined {
    let low = 0;
    let high = this.#writes.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((this.#writes[middle] as KnownWrite)[time] < beforeNs) low = middle + 1;
      else high = middle;
    }
    for (let index = low - 1; index >= 0; index--) {
      const write = this.#writes[index] as KnownWrite;
      if (write.issuedNs <= floorNs) return undefined;
      if (write.whole && write.startUnit < end && start < write.startUnit + write.unitCount) return write;
    }
    return undefined;
  }
}

export class WriteHistory {
  readonly #logs = new Map<number, WriterLog>();

  readonly #historyWrites: number;

  constructor(historyWrites = HISTORY_WRITES) {
    this.#historyWrites = historyWrites;
  }

  /** Writes of one writer come in the order of their sequence, without gaps, from 1. */
  add(record: WriteRecord): void {
    this.log(record.writer).add(record);
  }

  log(writer: number): WriterLog {
    let log = this.#logs.get(writer);
    if (!log) {
      log = new WriterLog(this.#historyWrites);
      this.#logs.set(writer, log);
    }
    return log;
  }

  logs(): Iterable<WriterLog> {
    return this.#logs.values();
  }

  /** A read that showed this write returned at `returnedNs`: the write had taken place by then. */
  noteVisible(tag: WriteTag, returnedNs: number): void {
    const write = this.log(tag.writer).find(tag.sequence);
    if (write && returnedNs < write.visibleNs) write.visibleNs = returnedNs;
  }
}
