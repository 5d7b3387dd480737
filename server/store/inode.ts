/**
 * An inode of an export, as the server holds it in memory: the place of everything that belongs to the file and not to
 * a name or a handle. Owned by the InodeTable, which forgets it when it is idle; pinned while a handle is open.
 */

import type { BlockLeases } from '../state/block-leases.ts';
import { type LockKind, LockTable } from '../state/file-locks.ts';
import { InodeLeases } from '../state/inode-leases.ts';
import { PageRangeLockQueue } from '../state/page-range-lock-queue.ts';

/**
 * Numbers the states of files' data; one a store. Versions of an earlier run of the server do not come again: it counts
 * from the time, and never a million a second.
 */
export class VersionCounter {
  #last = Date.now() * 1000;

  next(): number {
    return ++this.#last;
  }
}

/** Where an inode was last seen; the way back to it for servers without kernel handles. */
export interface NameHint {
  readonly parent: Inode;
  readonly name: Uint8Array;
}

/** Who can hold leases: a client's session. */
export interface LeaseHolder {
  readonly client: string;
  /** When it was last heard, by performance.now(); undefined while it is connected. */
  readonly absentSinceMs: number | undefined;
  /** How many messages came from it. */
  readonly heard: number;
  /** It has ended: what a request of it that was waiting asks for now, nobody would give back. */
  readonly isClosed: boolean;
  /**
   * It is to be known to the next process of the server, from the list of clients; `writes`: as one that does. False: it
   * would not be.
   */
  enter(writes?: boolean): boolean;
  /** Resolves when no client uses a lease of an earlier process of the server; undefined: none does. */
  readonly earlierLeases: Promise<void> | undefined;
  readonly leaseCount: number;
  /** The lease that it was granted first. */
  readonly oldestLease: Inode | undefined;
  holdLease(inode: Inode): void;
  dropLease(inode: Inode): void;
  holdsLease(inode: Inode): boolean;
  /** Since when, in milliseconds since 1970; undefined when it holds none. */
  leaseSinceMs(inode: Inode): number | undefined;
  /** Asks for these leases back. Resolves when they are not used any more; never, when the client does not answer. */
  recall(inodes: readonly Inode[]): Promise<void>;
  /** Files of whose data it holds blocks. */
  readonly blockFiles: Set<Inode>;
  /** How many blocks, of all these together. Counted by LeasedBlocks. */
  heldBlocks: number;
  /** The same for blocks of a file's data, which are dropped then; null: all that it has of it. */
  recallBlocks(inode: Inode, blocks: readonly number[] | null): Promise<void>;
  /** Asks that its exclusive lease on the directory be a shared one. Resolves when it is; never, when the client does not answer. */
  share(directory: Inode): Promise<void>;
  /** Takes all leases away from a client that did not answer, and tells it. */
  revokeLeases(): void;
}

/** An inode whose local changes are seen, and what clients were told of a directory's names: a key, or null for "absent". */
export interface InodeWatch {
  readonly inode: Inode;
  readonly names: Map<string, string | null> | undefined;
}

export class Inode {
  /** Its handle on the wire. */
  readonly handle: Buffer;
  /** Key of the kernel's identity of the inode in the table. Only the table sets it. */
  key: string;
  /** Device and inode number, compared when it is found again by name. */
  readonly device: number;
  readonly ino: number | bigint;
  #rangeLocks: PageRangeLockQueue | undefined;
  readonly leases = new InodeLeases<LeaseHolder>();
  /** Blocks of its data that clients keep while others may write; made when the first is granted. */
  blocks: BlockLeases<LeaseHolder> | undefined;
  /** Locks of programs; made when they are first asked for, as most that only files have which somebody uses. */
  #lockTables: Map<LockKind, LockTable> | undefined;
  watch: InodeWatch | undefined;
  /** The state of the attributes that clients with a lease know; empty when none was said yet. */
  saidStamp = '';
  /** A local program had it open to write when that was looked at last: nothing of it is leased. Only ReadLeases and their owner set it. */
  isWrittenLocally = false;
  /** O_PATH descriptor, or -1 while the table has closed it. Only the table sets it. */
  descriptor = -1;
  /** Open handles and remembered entries: while there are any, the table keeps the inode. */
  pins = 0;
  /** Handles of all clients; and those of them that may write. Counted by OpenFile. */
  opens = 0;
  writers = 0;
  hint: NameHint | undefined;
  /** Its time of birth as it was found last, where there is no kernel handle. Only the table sets it. */
  born: string | undefined;
  /** Its last name is gone. Only the table sets it. */
  isRemoved = false;
  readonly #versions: VersionCounter;
  #version: number;
  #stamp = '';

  constructor(handle: Buffer, key: string, device: number, ino: number | bigint, versions: VersionCounter) {
    this.handle = handle;
    this.key = key;
    this.device = device;
    this.ino = ino;
    this.#versions = versions;
    this.#version = versions.next();
  }

  /** Its last name is gone, and nobody has it open: it does not change any more, and events tell only of that. */
  get isGone(): boolean {
    return this.isRemoved && this.pins === 0;
  }

  get isIdle(): boolean {
    return (
      this.pins === 0 &&
      this.leases.isIdle &&
      this.blocks?.isIdle !== false &&
      this.#rangeLocks?.locks.isIdle !== false &&
      !this.#isLocked
    );
  }

  /** Some client would answer for it without asking. */
  get isLeased(): boolean {
    return this.leases.holders.size > 0 || this.hasHeldBlocks;
  }

  get hasHeldBlocks(): boolean {
    return this.blocks?.isHeld === true;
  }

  get #isLocked(): boolean {
    for (const table of this.#lockTables?.values() ?? []) if (!table.isIdle) return true;
    return false;
  }

  get rangeLocks(): PageRangeLockQueue {
    this.#rangeLocks ??= new PageRangeLockQueue();
    return this.#rangeLocks;
  }

  lockTable(kind: LockKind): LockTable {
    this.#lockTables ??= new Map();
    const table = this.#lockTables.get(kind) ?? new LockTable(kind, this.ino);
    this.#lockTables.set(kind, table);
    return table;
  }

  /**
   * The version of the file's data, never 0 and never one that it had before. `stamp` is the size and change time as
   * they are now: when they differ from what was seen last, a local program changed the file, and the version is new.
   */
  versionAt(stamp: string): number {
    if (stamp !== this.#stamp) {
      this.#stamp = stamp;
      this.#version = this.#versions.next();
    }
    return this.#version;
  }

  /** Called under the exclusive page-range lock of what changes. */
  dataChanged(): void {
    this.#version = this.#versions.next();
  }
}
