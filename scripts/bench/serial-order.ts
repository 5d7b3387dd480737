/**
 * Can one read be explained by some serial order of whole writes? The exact rule, for one read R:
 *
 * Nodes are the writes that R shows; "A before B" holds when
 *   cover    A also covers a unit that shows B (A came later, it would show there), or
 *   program  A and B are of one writer, and A has the lower sequence, or
 *   time     A was acknowledged before B was issued; and each of these also through a write W that R does not show but
 *            that must lie before R: A before W by program or time, and W covers a unit that shows B.
 * W must lie before R when its writer went on to a write that R shows, when it was acknowledged before R began, or
 * before a write that R shows was issued. R is explained if and only if this relation has no cycle: executed in any
 * order that extends it, each unit ends up with the write it shows (and what is left can come after R).
 *
 * Faults, the one that needs least to be proved first: `torn` from the tags of the read alone (cover, program); `stale`:
 * a unit shows what a write acknowledged before the read began had surely overwritten; `torn` by the times too;
 * `backward`: only with "an earlier read had already shown that write", so two reads together contradict every order.
 */
import { GARBLED, type UnitRun } from './tagged-unit.ts';
import type { KnownWrite, TimeOfWrite, WriteHistory } from './write-history.ts';

export interface ReadRecord {
  readonly reader: number;
  readonly startUnit: number;
  readonly unitCount: number;
  readonly issuedNs: number;
  readonly returnedNs: number;
  readonly runs: readonly UnitRun[];
}

export type ReadFault = 'torn' | 'stale' | 'backward';

/** One step of the contradiction: `before` must precede `after`, because of what `unit` shows. */
export interface OrderStep {
  readonly before: KnownWrite;
  readonly after: KnownWrite;
  readonly why: string;
}

export interface ReadVerdict {
  readonly fault: ReadFault | null;
  /** The cycle, first step to last; empty when there is no fault. */
  readonly cycle: readonly OrderStep[];
}

interface ShownRun {
  readonly start: number;
  readonly end: number;
  readonly node: number;
}

interface Seen {
  readonly writes: KnownWrite[];
  readonly runs: ShownRun[];
  /** Node numbers by writer, in the order of their sequence. */
  readonly writers: Map<number, number[]>;
}

const explained: ReadVerdict = { fault: null, cycle: [] };

export function judgeRead(read: ReadRecord, history: WriteHistory): ReadVerdict {
  const seen = collectSeen(read.runs, history);
  if (!findCycle(new OrderGraph(seen, history, read, 'visibleNs'))) return explained;
  const proofs: readonly (readonly [ReadFault, TimeOfWrite | null])[] = [
    ['torn', null],
    ['stale', 'acknowledgedNs'],
    ['torn', 'acknowledgedNs'],
    ['backward', 'visibleNs'],
  ];
  for (const [fault, time] of proofs) {
    const graph = new OrderGraph(seen, history, read, time);
    const cycle = fault === 'stale' ? graph.findStale() : findCycle(graph);
    if (cycle) return { fault, cycle: graph.explain(cycle) };
  }
  return explained;
}

/** Whether the runs alone, by cover and program order, contradict every serial order. For the units of one page. */
export function contradictsItself(runs: readonly UnitRun[], history: WriteHistory): boolean {
  const read = { reader: 0, startUnit: 0, unitCount: 0, issuedNs: 0, returnedNs: 0, runs };
  return findCycle(new OrderGraph(collectSeen(runs, history), history, read, null)) !== null;
}

function collectSeen(runs: readonly UnitRun[], history: WriteHistory): Seen {
  const seen: Seen = { writes: [], runs: [], writers: new Map() };
  const nodes = new Map<string, number>();
  for (const { tag, startUnit, unitCount } of runs) {
    if (tag.writer === GARBLED) continue;
    const key = `${tag.writer}#${tag.sequence}`;
    let node = nodes.get(key);
    if (node === undefined) {
      node = seen.writes.push(history.log(tag.writer).describe(tag)) - 1;
      nodes.set(key, node);
      const own = seen.writers.get(tag.writer);
      if (own) own.push(node);
      else seen.writers.set(tag.writer, [node]);
    }
    seen.runs.push({ start: startUnit, end: startUnit + unitCount, node });
  }
  const sequenceOf = (node: number) => (seen.writes[node] as KnownWrite).sequence;
  for (const own of seen.writers.values()) own.sort((a, b) => sequenceOf(a) - sequenceOf(b));
  return seen;
}

class OrderGraph {
  readonly seen: Seen;
  readonly history: WriteHistory;
  readonly read: ReadRecord;
  /** Which times count; null: none, the tags alone. */
  readonly time: TimeOfWrite | null;
  readonly size: number;
  /** before[a * size + b]: 1 + the number of the run that proves "a before b"; -1 when the program order does; 0: not known. */
  readonly before: Int32Array;

  constructor(seen: Seen, history: WriteHistory, read: ReadRecord, time: TimeOfWrite | null) {
    this.seen = seen;
    this.history = history;
    this.read = read;
    this.time = time;
    this.size = seen.writes.length;
    this.before = new Int32Array(this.size * this.size);
    for (const own of seen.writers.values()) {
      for (let i = 1; i < own.length; i++) {
        if (this.#write(own[i - 1] as number).whole)
          this.before[(own[i - 1] as number) * this.size + (own[i] as number)] = -1;
      }
    }
    const mustPrecedeNs = Math.max(read.issuedNs, ...seen.writes.map((write) => write.issuedNs));
    const floorNs = time ? Math.min(...seen.writes.map((write) => write[time])) : 0;
    seen.runs.forEach((run, index) => {
      this.#addCover(run, index);
      this.#addProgramOrder(run, index);
      if (time) this.#addTime(run, index, this.#latestIssue(run, time, mustPrecedeNs, floorNs));
    });
  }

  #write(node: number): KnownWrite {
    return this.seen.writes[node] as KnownWrite;
  }

  #addCover(run: ShownRun, index: number): void {
    for (let node = 0; node < this.size; node++) {
      const write = this.#write(node);
      const covers = write.whole && write.startUnit < run.end && run.start < write.startUnit + write.unitCount;
      if (covers && node !== run.node) this.before[node * this.size + run.node] = index + 1;
    }
  }

  /** Through writes that are not shown, but that their writer had made before one that is. */
  #addProgramOrder(run: ShownRun, index: number): void {
    for (const [writer, own] of this.seen.writers) {
      const first = this.#write(own[0] as number).sequence;
      const last = this.#write(own[own.length - 1] as number).sequence;
      if (last === first) continue;
      const hidden = this.history.log(writer).latestTouching(run.start, run.end, last, first);
      if (!hidden) continue;
      for (const node of own) {
        const write = this.#write(node);
        if (write.whole && write.sequence < hidden.sequence) this.before[node * this.size + run.node] = index + 1;
      }
    }
  }

  #addTime(run: ShownRun, index: number, latestIssueNs: number): void {
    for (let node = 0; node < this.size; node++) {
      const write = this.#write(node);
      if (write.whole && write[this.time as TimeOfWrite] < latestIssueNs)
        this.before[node * this.size + run.node] ||= index + 1;
    }
  }

  /** When the youngest write was issued that must lie before the read and covers a unit of the run. */
  #latestIssue(run: ShownRun, time: TimeOfWrite, mustPrecedeNs: number, floorNs: number): number {
    let latestNs = this.#write(run.node).issuedNs;
    for (const log of this.history.logs()) {
      const write = log.latestOver(run.start, run.end, time, mustPrecedeNs, floorNs);
      if (write && write.issuedNs > latestNs) latestNs = write.issuedNs;
    }
    return latestNs;
  }

  /** A unit whose write had surely been overwritten by one that was acknowledged before the read began. */
  findStale(): readonly number[] | null {
    for (const run of this.seen.runs) {
      const shown = this.#write(run.node);
      if (!shown.whole) continue;
      for (const log of this.history.logs()) {
        if (log.latestOver(run.start, run.end, 'acknowledgedNs', this.read.issuedNs, shown.acknowledgedNs))
          return [run.node];
      }
    }
    return null;
  }

  explain(cycle: readonly number[]): OrderStep[] {
    return cycle.map((node, index) => {
      const next = cycle[(index + 1) % cycle.length] as number;
      const before = this.#write(node);
      const after = this.#write(next);
      return { before, after, why: this.#why(before, next, this.before[node * this.size + next] as number) };
    });
  }

  #why(before: KnownWrite, next: number, proof: number): string {
    const after = this.#write(next);
    const run = this.seen.runs[proof - 1] ?? (this.seen.runs.find((each) => each.node === next) as ShownRun);
    const units = `units ${run.start}-${run.end - 1}`;
    if (proof === -1) return 'its writer made it earlier';
    if (before !== after && before.startUnit < run.end && run.start < before.startUnit + before.unitCount) {
      return `it also covers ${units}, which show the other`;
    }
    const hidden = this.#hiddenWrite(before, run);
    if (!hidden) return 'it was acknowledged before the other was issued';
    return `it was over before write ${hidden.writer}#${hidden.sequence} began, which covers ${units} and must lie before this read`;
  }

  #hiddenWrite(before: KnownWrite, run: ShownRun): KnownWrite | undefined {
    const own = this.seen.writers.get(before.writer) as number[];
    const last = this.#write(own[own.length - 1] as number).sequence;
    const hidden = this.history.log(before.writer).latestTouching(run.start, run.end, last, before.sequence);
    if (hidden || !this.time) return hidden;
    const mustPrecedeNs = Math.max(this.read.issuedNs, ...this.seen.writes.map((write) => write.issuedNs));
    for (const log of this.history.logs()) {
      const write = log.latestOver(run.start, run.end, this.time, mustPrecedeNs, before[this.time]);
      if (write) return write;
    }
    return undefined;
  }
}

/** The nodes of one cycle in order, or null. Depth first, with a stack of its own: reads can show hundreds of writes. */
function findCycle(graph: OrderGraph): readonly number[] | null {
  const { size, before } = graph;
  const state = new Uint8Array(size); // 0 not visited, 1 on the path, 2 done
  const nextChild = new Int32Array(size);
  for (let root = 0; root < size; root++) {
    if (state[root] !== 0) continue;
    const path = [root];
    state[root] = 1;
    while (path.length > 0) {
      const node = path[path.length - 1] as number;
      const child = nextChild[node] as number;
      if (child === size) {
        state[node] = 2;
        path.pop();
        continue;
      }
      nextChild[node] = child + 1;
      if (before[node * size + child] === 0) continue;
      if (state[child] === 1) return path.slice(path.indexOf(child));
      if (state[child] === 0) {
        state[child] = 1;
        path.push(child);
      }
    }
  }
  return null;
}
