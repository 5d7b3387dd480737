/**
 * Which requests were applied, for the next process of the server: of each request that changes something it is noted here
 * how it ended, and before that, if it must not be applied twice in any case, that its change begins; of a write also where,
 * so that nobody gets there before it is finished (interrupted-writes.ts). What a process wrote is in the kernel's page cache when it is
 * killed, so nothing is synchronized; after a start of the machine the journal says nothing, and is not believed.
 *
 * A session has a block: a header, and a record for each of its slots, where the slot's last such request is. A request
 * that is sent again and has no record was not done. Owned by the SessionTable; one server a file.
 *
 *   header   0 magic   8 session   24 boot   40 owner (SHA-256)   72 since when its client is awaited, or -1
 *            80 how many processes have been started since the session's first
 *   record   0 state   4 errno     8 seq     16 count             24 first half of the session   32 length of inode   33 inode
 *            of one that begins, in the place of errno: which of those processes; in that of the count: when, ms since 1970;
 *            of a write that begins, the inode that it changes, and   232 its first page   240 the one behind its last
 *
 * Records do not cross pages, so each is written entirely or not at all. Numbers are little endian, seq, count, time and
 * pages are doubles.
 */
import { createHash } from 'node:crypto';
import { limits } from '../../shared/limits.ts';
import type { PageRange } from '../state/page-range-locks.ts';

const RECORD_BYTES = 256;
const BLOCK_BYTES = (1 + limits.maxRequestsInFlight) * RECORD_BYTES;
const MAGIC = 'weftjrn1';
const BEGUN = 1;
const DONE = 2;
const IN_USE = -1;
const FIRST_PAGE_AT = 232;
const END_PAGE_AT = 240;

/** What an earlier process noted of a request. */
export interface EarlierRequest {
  readonly seq: number;
  /** False: it may have been applied, or not. */
  readonly isDone: boolean;
  readonly errno: number;
  /** The inode that it made, or that it has begun to write to. */
  readonly inode: Uint8Array | undefined;
  /** Bytes that it wrote or copied. */
  readonly count: number;
  /** When it began, in milliseconds since 1970, where that is all that is known. */
  readonly begunMs: number;
  /** It began in the process right before this one, where that is all that is known: no other has served anybody in between. */
  readonly isOfLastProcess: boolean;
  /** What it has begun to write. */
  readonly pages?: PageRange | undefined;
}

/** Where a write goes, by the handle of the inode. */
export interface WritePlace {
  readonly inode: Uint8Array;
  readonly pages: PageRange;
}

/** A write of an earlier process, of which only the beginning is noted. */
export interface InterruptedRequest extends WritePlace {
  /** Hexadecimal. */
  readonly session: string;
  readonly slot: number;
  readonly seq: number;
}

export interface JournalFile {
  readonly bytes: number;
  read(position: number, length: number): Buffer;
  /** Kept over the end of this process, though not of the machine. */
  write(data: Uint8Array, position: number): void;
}

interface Block {
  readonly index: number;
  readonly owner: Buffer;
  readonly process: number;
  /** When the session is one of this process. */
  readonly journal?: SessionJournal;
}

/** The journal of one session. */
export class SessionJournal {
  readonly #file: JournalFile;
  readonly #position: number;
  readonly #process: number;
  readonly #record = Buffer.alloc(RECORD_BYTES);
  #isClosed = false;
  /** What an earlier process noted, by slot. */
  readonly earlier: ReadonlyMap<number, EarlierRequest>;

  /** `process`: 0, when no earlier one had it. */
  constructor(file: JournalFile, position: number, session: Uint8Array, process: number) {
    this.#file = file;
    this.#position = position;
    this.#process = process;
    this.#record.set(session.subarray(0, 8), 24);
    this.earlier = process === 0 ? new Map() : this.#read();
  }

  begun(slot: number, seq: number, nowMs: number, where?: WritePlace): void {
    if (where) {
      this.#record.writeDoubleLE(where.pages.start, FIRST_PAGE_AT);
      this.#record.writeDoubleLE(where.pages.end, END_PAGE_AT);
    }
    this.#write(slot, BEGUN, seq, this.#process, where?.inode, nowMs);
  }

  done(slot: number, seq: number, errno: number, inode: Uint8Array | undefined, count: number): void {
    this.#write(slot, DONE, seq, errno, inode, count);
  }

  /** Its place is another session's from now on: what still ends of this one is not noted. */
  close(): void {
    this.#isClosed = true;
  }

  #read(): Map<number, EarlierRequest> {
    const requests = new Map<number, EarlierRequest>();
    const records = this.#file.read(this.#position, BLOCK_BYTES);
    for (let slot = 0; (slot + 2) * RECORD_BYTES <= records.length; slot++) {
      const record = records.subarray((slot + 1) * RECORD_BYTES, (slot + 2) * RECORD_BYTES);
      const state = record[0];
      const isOwn = record.subarray(24, 32).equals(this.#record.subarray(24, 32));
      if (!isOwn || (state !== BEGUN && state !== DONE)) continue;
      const isDone = state === DONE;
      const length = record[32] ?? 0;
      const isWrite = !isDone && length > 0;
      const pages = { start: record.readDoubleLE(FIRST_PAGE_AT), end: record.readDoubleLE(END_PAGE_AT) };
      requests.set(slot, {
        seq: record.readDoubleLE(8),
        isDone,
        errno: isDone ? record.readUInt32LE(4) : 0,
        inode: length > 0 ? Buffer.from(record.subarray(33, 33 + length)) : undefined,
        count: isDone ? record.readDoubleLE(16) : 0,
        begunMs: isDone ? 0 : record.readDoubleLE(16),
        isOfLastProcess: !isDone && record.readUInt32LE(4) === this.#process - 1,
        pages: isWrite ? pages : undefined,
      });
    }
    return requests;
  }

  /** `how`: an errno, or in which process it began. */
  #write(slot: number, state: number, seq: number, how: number, inode: Uint8Array | undefined, count: number): void {
    if (this.#isClosed) return;
    const record = this.#record;
    record[0] = state;
    record.writeUInt32LE(how, 4);
    record.writeDoubleLE(seq, 8);
    record.writeDoubleLE(count, 16);
    record[32] = inode?.length ?? 0;
    if (inode) record.set(inode, 33);
    this.#file.write(record, this.#position + (slot + 1) * RECORD_BYTES);
  }
}

export class RequestJournal {
  readonly #file: JournalFile;
  readonly #boot: Buffer;
  /** By session id, hexadecimal: of this process, and of earlier ones whose clients have not come back. */
  readonly #blocks = new Map<string, Block>();
  readonly #free: number[] = [];
  #count = 0;

  /** `boot`: 16 bytes that are others after each start of the machine. `nowMs`: by a clock that goes on from one process to the next. */
  constructor(file: JournalFile, boot: Buffer, nowMs: number) {
    this.#file = file;
    this.#boot = boot;
    for (; this.#count * BLOCK_BYTES < file.bytes; this.#count++) {
      const header = file.read(this.#count * BLOCK_BYTES, RECORD_BYTES);
      const isValid = header.length === RECORD_BYTES && header.toString('latin1', 0, 8) === MAGIC;
      // It was used until the last process ended, however long that was: it is awaited from now on.
      const awaitedMs = isValid && header.readDoubleLE(72) !== IN_USE ? header.readDoubleLE(72) : nowMs;
      if (isValid && header.subarray(24, 40).equals(boot) && nowMs - awaitedMs < limits.maxCourtesyMs) {
        const owner = Buffer.from(header.subarray(40, 72));
        const process = header.readUInt32LE(80) + 1;
        // Before this one serves anybody: the next is to know that it did, though the session's client stays away.
        header.writeUInt32LE(process, 80);
        header.writeDoubleLE(awaitedMs, 72);
        file.write(header, this.#count * BLOCK_BYTES);
        this.#blocks.set(header.toString('hex', 8, 24), { index: this.#count, owner, process });
      } else this.#free.push(this.#count);
    }
  }

  /** An earlier process had this session, opened by `owner`. */
  knows(key: string, owner: string): boolean {
    return this.#blocks.get(key)?.owner.equals(hashOf(owner)) === true;
  }

  /** For a new session, or to go on with that of an earlier process, which `knows` knew. */
  open(id: Uint8Array, owner: string): SessionJournal {
    const key = Buffer.from(id).toString('hex');
    const known = this.#blocks.get(key);
    const index = known?.index ?? this.#free.pop() ?? this.#count++;
    const process = known?.process ?? 0;
    const journal = new SessionJournal(this.#file, index * BLOCK_BYTES, id, process);
    const block: Block = { index, owner: hashOf(owner), process, journal };
    this.#blocks.set(key, block);
    const header = Buffer.alloc(RECORD_BYTES);
    header.write(MAGIC, 'latin1');
    header.set(id, 8);
    header.set(this.#boot, 24);
    header.set(block.owner, 40);
    header.writeDoubleLE(IN_USE, 72);
    header.writeUInt32LE(process, 80);
    this.#file.write(header, index * BLOCK_BYTES);
    return journal;
  }

  /** Writes of which it is not known whether they were done. */
  *interrupted(): Generator<InterruptedRequest> {
    for (const [session, block] of [...this.#blocks]) {
      for (const [slot, { seq, inode, pages }] of this.#journalOf(session, block).earlier) {
        if (inode && pages) yield { session, slot, seq, inode, pages };
      }
    }
  }

  /** The same as SessionJournal.done, for a session that may not be back. */
  done(session: string, slot: number, seq: number, errno: number): void {
    const block = this.#blocks.get(session);
    if (block) this.#journalOf(session, { ...block, process: 0 }).done(slot, seq, errno, undefined, 0);
  }

  #journalOf(session: string, { index, process }: Block): SessionJournal {
    return new SessionJournal(this.#file, index * BLOCK_BYTES, Buffer.from(session, 'hex'), process);
  }

  /** The session has ended: its client is told so, and asks for none of its replies. */
  close(key: string): void {
    const block = this.#blocks.get(key);
    if (block === undefined) return;
    this.#blocks.delete(key);
    block.journal?.close();
    this.#free.push(block.index);
    this.#file.write(Buffer.alloc(RECORD_BYTES), block.index * BLOCK_BYTES);
  }
}

function hashOf(owner: string): Buffer {
  return createHash('sha256').update(owner).digest();
}
