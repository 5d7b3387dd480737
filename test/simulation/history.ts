/**
 * What was called and answered in a run, and whether an order of the calls explains it.
 *
 * While the server goes on, nothing is relaxed: each call that was answered happened once, between its beginning and its
 * end; a write that was synchronized afterwards, when write(2) returned already; one that could not be synchronized,
 * before write(2) returned or never.
 *
 * The end of the server's process takes its memory, and leaves its journal: everything is done once all the same, and nobody
 * sees a part of a write. Only of one whose caller was told nothing good in the end (its machine crashed or stayed away, so
 * the write was given up) there may be a part (torn) until somebody writes the range anew.
 *
 * The end of the server's machine takes the journal: of a change that is under way then, the checker believes that it was
 * done before the end, or not, and again by the next server: the call is given to the checker a second time, as one that
 * may have happened until the server's end. Writes may be there in part, and an append once more for each such end. A call
 * that begins after the end, or was answered before it, is held to the full.
 * Until the next server is there, what is answered is from what clients know, as if it had been asked right before the end.
 * The end also takes what is not synchronized, page by page. The checker goes on from what is on the
 * disk, of which no page may be older than a write that was synchronized: also when the end came between the write and
 * its fsync. An increment that was under way then is believed to be done at any time, or not, whatever was there.
 */
import { type Call, violations } from './linearizability.ts';
import {
  type CounterCall,
  counterObject,
  type DataCall,
  type DataResult,
  directoryObject,
  type ModeCall,
  modeObject,
  type NameCall,
  type NameResult,
  rangeObject,
} from './objects.ts';

const NEVER = Number.POSITIVE_INFINITY;
/** Of what the simulation itself does. */
const NOBODY = -1;

export interface Observed<Argument, Result> extends Call<Argument, Result> {
  began: number;
  ended: number;
  isUncertain: boolean;
  result: Result | undefined;
  /** How often the server's process ended meanwhile. */
  ends: number;
  hasLostMachine: boolean;
}

/** What the disk has of a file, as the tags of its pages. */
export interface Content {
  readonly file: string;
  readonly tags: readonly number[];
}

interface Append {
  isUnderWay: boolean;
  isDone: boolean;
  ends: number;
}

export class History {
  /** In order, for people. */
  readonly lines: string[] = [];
  readonly #broken = new Set<string>();
  readonly #names: Observed<NameCall, NameResult>[] = [];
  readonly #modes: Observed<ModeCall, number>[] = [];
  readonly #data: Observed<DataCall, DataResult>[] = [];
  /** Parts of writes that were under way when the server's process ended: there if those came to nothing. */
  readonly #perhapsTorn: { torn: Observed<DataCall, DataResult>; call: Observed<DataCall, DataResult> }[] = [];
  readonly #counter: Observed<CounterCall, number>[] = [];
  readonly #appends = new Map<number, Append>();
  /** Changes whose callers were told nothing so far; those of clients that crashed stay. */
  readonly #underWay = new Set<Observed<unknown, unknown>>();
  #events = 0;
  /** There is no server since this event. */
  #downSince: number | undefined;

  note(what: string): void {
    this.lines.push(`${Math.round(performance.now())} ${what}`);
  }

  broke(what: string): void {
    this.#broken.add(what);
  }

  // --- calls

  name(process: number, argument: NameCall): Observed<NameCall, NameResult> {
    return this.#begin(this.#names, process, argument, argument.kind !== 'lookup' && argument.kind !== 'list');
  }

  mode(process: number, argument: ModeCall): Observed<ModeCall, number> {
    return this.#begin(this.#modes, process, argument, argument.mode !== undefined);
  }

  data(process: number, argument: DataCall): Observed<DataCall, DataResult> {
    return this.#begin(this.#data, process, argument, argument.tag !== undefined);
  }

  increment(process: number): Observed<CounterCall, number> {
    return this.#begin(this.#counter, process, { kind: 'increment', value: undefined }, true);
  }

  append(tag: number): Append {
    const append: Append = { isUnderWay: true, isDone: false, ends: 0 };
    this.#appends.set(tag, append);
    return append;
  }

  #begin<A, R>(calls: Observed<A, R>[], process: number, argument: A, isChange: boolean): Observed<A, R> {
    const call = {
      process,
      argument,
      began: ++this.#events,
      ended: NEVER,
      isUncertain: false,
      ends: 0,
      hasLostMachine: false,
    };
    const observed: Observed<A, R> = { ...call, result: undefined };
    calls.push(observed);
    if (isChange) this.#underWay.add(observed);
    return observed;
  }

  /** write(2) has returned; whether it lasts is told by fsync(2). */
  wrote(call: Observed<DataCall, DataResult>): void {
    if (call.ends > 0) return;
    call.ended = ++this.#events;
    call.isUncertain = true;
  }

  /** The caller has its answer; undefined: an error that says nothing. */
  end<A, R>(call: Observed<A, R>, result: R | undefined): void {
    this.#underWay.delete(call);
    if (result === undefined) return;
    call.result = result;
    call.isUncertain = false;
    if (this.#downSince !== undefined) call.began = Math.min(call.began, this.#downSince);
    if (call.ended === NEVER) call.ended = ++this.#events;
  }

  // --- ends of servers

  /** `withMachine`: `machineEnded` is called next. */
  serverEnded(withMachine: boolean): void {
    const at = ++this.#events;
    this.#downSince = at;
    if (withMachine) for (const append of this.#appends.values()) if (append.isUnderWay) append.ends++;
    for (const call of this.#underWay) {
      call.ends++;
      call.ended = NEVER;
    }
    const before = { ended: at, isUncertain: true };
    if (withMachine) {
      this.#names.push(
        ...this.#names.filter((call) => this.#underWay.has(call)).map((call) => ({ ...call, ...before })),
      );
      this.#modes.push(
        ...this.#modes.filter((call) => this.#underWay.has(call)).map((call) => ({ ...call, ...before })),
      );
    }
    for (const call of [...this.#data]) {
      if (!this.#underWay.has(call)) continue;
      const torn = { ...call, ...before, argument: { ...call.argument, tears: true } };
      if (withMachine) this.#data.push({ ...call, ...before }, torn);
      else this.#perhapsTorn.push({ torn, call });
    }
  }

  serverStarted(): void {
    this.#downSince = undefined;
  }

  /** Called after `serverEnded`, with the files of which something was not synchronized. */
  machineEnded(contents: readonly Content[], counter: number | undefined): void {
    const reset = this.#certain();
    for (const { file, tags } of contents) {
      for (const tag of tags) {
        if (this.#isObsolete(file, tag)) this.broke(`the machine ended, and file ${file} lost what was synchronized`);
      }
      const [tag = 0] = tags;
      const tears = tags.some((one) => one !== tag);
      this.#data.push({ ...reset, argument: { file, tag, tears }, result: 'written' });
    }
    for (const call of this.#underWay) call.hasLostMachine = true;
    if (counter !== undefined) this.#counter.push({ ...reset, argument: { kind: 'set', value: counter }, result: 0 });
  }

  #certain() {
    return {
      process: NOBODY,
      began: ++this.#events,
      ended: ++this.#events,
      isUncertain: false,
      ends: 0,
      hasLostMachine: false,
    };
  }

  /** Another write began after this one had ended, and was synchronized. */
  #isObsolete(file: string, tag: number): boolean {
    const ofFile = this.#data.filter(({ argument }) => argument.file === file && argument.tag !== undefined);
    const ended = ofFile.find(({ argument }) => argument.tag === tag)?.ended ?? 0;
    return ofFile.some(({ result, began }) => result === 'written' && began > ended);
  }

  // --- checks

  /** What is there in the end is read by nobody in particular. */
  check(names: ReadonlyMap<string, number>, contents: readonly Content[], counter: number, log: Buffer): string[] {
    const look = () => this.#certain();
    for (const [name, ino] of names) this.#names.push({ ...look(), argument: { kind: 'lookup', name }, result: ino });
    for (const { file, tags } of contents) {
      const [tag] = tags;
      const result = tags.every((one) => one === tag) ? (tag as number) : 'torn';
      this.#data.push({ ...look(), argument: { file }, result });
    }
    for (const { torn, call } of this.#perhapsTorn) if (call.result === undefined) this.#data.push(torn);
    this.#counter.push({ ...look(), argument: { kind: 'look', value: counter }, result: counter });
    if (violations(directoryObject, this.#names, () => '/').length > 0) this.broke('names are not linearizable');
    for (const file of violations(modeObject, this.#modes, ({ file: one }) => one)) {
      this.broke(`the mode of ${file} is not linearizable`);
    }
    for (const file of violations(rangeObject, this.#data, ({ file: one }) => one)) {
      this.broke(`file ${file} is not linearizable`);
    }
    if (violations(counterObject, this.#increments(), () => '').length > 0) {
      this.broke('increments under a lock are not linearizable');
    }
    this.#checkLog(log);
    return [...this.#broken];
  }

  /** What had read nothing has written nothing. */
  #increments(): Observed<CounterCall, number>[] {
    return this.#counter.flatMap((call) => {
      const { argument, ends, hasLostMachine } = call;
      if (argument.value === undefined) return [];
      if (!hasLostMachine) return [call];
      const written: CounterCall = { kind: 'set', value: argument.value + 1 };
      return Array.from({ length: ends + 1 }, () => ({ ...call, ended: NEVER, argument: written }));
    });
  }

  #checkLog(log: Buffer): void {
    const counts = new Map<number, number>();
    if (log.length % 4 !== 0) this.broke('an appended record is torn');
    for (let at = 0; at + 4 <= log.length; at += 4) {
      const tag = log.readUInt32LE(at);
      counts.set(tag, (counts.get(tag) ?? 0) + 1);
    }
    for (const [tag, { isDone, ends }] of this.#appends) {
      const count = counts.get(tag) ?? 0;
      if (isDone && count === 0) this.broke(`the appended record ${tag} is lost`);
      if (count > 1 + ends) this.broke(`the record ${tag} was appended ${count} times`);
    }
  }
}
