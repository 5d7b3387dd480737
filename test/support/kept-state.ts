/** What a server keeps of its sessions for the next one, in memory: for one server after the other. */
import type { DurableClients, ListedClient } from '../../server/session/client-list.ts';
import type { KeptChange, KeptChanges } from '../../server/session/kept-changes.ts';
import type { JournalFile } from '../../server/session/request-journal.ts';

export class KeptClients implements DurableClients {
  clients: readonly ListedClient[] = [];
  writes = 0;
  isFull = false;

  read(): readonly ListedClient[] {
    return this.clients;
  }

  write(clients: readonly ListedClient[]): void {
    if (this.isFull) throw new Error('no space left');
    this.writes++;
    this.clients = [...clients];
  }
}

export class KeptChangesInMemory implements KeptChanges {
  readonly #changes: KeptChange[];
  /** Its process has: what it still says is not heard. */
  hasEnded = false;

  constructor(changes: KeptChange[] = []) {
    this.#changes = changes;
  }

  ofNextProcess(): KeptChangesInMemory {
    this.hasEnded = true;
    return new KeptChangesInMemory(this.#changes);
  }

  read(): readonly KeptChange[] {
    return [...this.#changes];
  }

  add(change: KeptChange): void {
    if (!this.hasEnded) this.#changes.push(change);
  }

  replace(changes: readonly KeptChange[]): void {
    if (!this.hasEnded) this.#changes.splice(0, this.#changes.length, ...changes);
  }
}

const RECORD_BYTES = 256;
const BEGUN = 1;

export class KeptJournal implements JournalFile {
  readonly #records: Map<number, Buffer>;
  /** Its process has: what it still says is not heard. */
  hasEnded = false;
  /** Called before a change is noted, at its begin or its end, with the first half of its session's id: the process may end right there. */
  onNote: (session: Buffer) => void = () => {};
  writes = 0;

  constructor(records = new Map<number, Buffer>()) {
    this.#records = records;
  }

  ofNextProcess(): KeptJournal {
    this.hasEnded = true;
    return new KeptJournal(this.#records);
  }

  get bytes(): number {
    return Math.max(0, ...[...this.#records.keys()].map((position) => position + RECORD_BYTES));
  }

  read(position: number, length: number): Buffer {
    const buffer = Buffer.alloc(length);
    for (const [at, record] of this.#records) {
      if (at >= position && at < position + length) buffer.set(record, at - position);
    }
    return buffer;
  }

  write(data: Uint8Array, position: number): void {
    if (this.hasEnded) return;
    if (data[0] === BEGUN || this.#records.get(position)?.[0] === BEGUN)
      this.onNote(Buffer.from(data.subarray(24, 32)));
    if (this.hasEnded) return;
    this.writes++;
    this.#records.set(position, Buffer.from(data));
  }
}
