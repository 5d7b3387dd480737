/**
 * Leases on blocks of files' data, which clients keep while others have the file open to write: the clock, the messages and
 * the look at local programs around BlockLeases. One an export, owned by its LeaseManager.
 *
 * Those who hold blocks keep them while others change the rest of the file, so a local program's change must be told from a
 * client's: before and after each change, in one turn of the event loop, the attributes are looked at. A change that takes more than a turn
 * (`ALL_BLOCKS`) recalls all blocks first, its author's too.
 */
import { mode } from '../../shared/attributes.ts';
import { limits } from '../../shared/limits.ts';
import { ALL_BLOCKS, BlockLeases, type BlockRange } from '../state/block-leases.ts';
import type { Inode, LeaseHolder } from '../store/inode.ts';
import type { OpenFile } from '../store/open-file.ts';
import type { LocalChanges } from './local-changes.ts';
import { isInTime } from './recall-time.ts';

/** What changes data of a file: nobody is granted blocks that are in its way until it has ended. */
export interface BlockChange {
  /** What is to be waited for before. */
  readonly waits: readonly Promise<void>[];
  end(): void;
}

/** `blocks` null: all that it has of the file. */
interface BlockRecall {
  readonly blocks: ReadonlySet<number> | null;
  readonly answered: Promise<void>;
}

/** What it needs of the LeaseManager. */
export interface LeasedBlocksHost {
  /** True: local programs that would write to the file wait from now on, or will be seen. */
  keepsData(inode: Inode): boolean;
  /** No client keeps anything of it. */
  isFree(inode: Inode): void;
  /** It did not answer a recall. */
  isLate(holder: LeaseHolder): void;
}

export class LeasedBlocks {
  readonly #local: LocalChanges;
  readonly #host: LeasedBlocksHost;
  /** So many blocks are being taken back from a client that holds too many. */
  readonly #makingRoom = new Map<LeaseHolder, number>();
  /** Sent, and not answered. */
  readonly #recalls = new Map<LeaseHolder, Map<Inode, Set<BlockRecall>>>();
  #recallsSent = 0;

  constructor(local: LocalChanges, host: LeasedBlocksHost) {
    this.#local = local;
    this.#host = host;
  }

  /** For status. */
  get counts() {
    let recallsPending = 0;
    for (const ofHolder of this.#recalls.values()) for (const { size } of ofHolder.values()) recallsPending += size;
    return { recallsSent: this.#recallsSent, recallsPending };
  }

  /**
   * Local changes from now on will be seen: the size of the file. Undefined: no block of it can be granted now. Asked in the turn
   * in which it is read.
   */
  prepare(session: LeaseHolder, file: OpenFile): number | undefined {
    const { inode } = file;
    if (session.isClosed || inode.leases.exclusive !== undefined) return undefined;
    // Changes that have begun before there was anything to recall are not known by their places.
    if (inode.blocks === undefined && inode.leases.isChanging) return undefined;
    if (inode.writers > 0 ? inode.isWrittenLocally : !this.#host.keepsData(inode)) return undefined;
    if (!this.#local.watch(inode, { mode: mode.S_IFREG }) || !session.enter()) return undefined;
    const attributes = file.calls.stat(file.fd);
    this.#local.saidAttributes(inode, attributes);
    return attributes.size;
  }

  /** `session` may keep the block, which was read in this turn, after `prepare`. `isEnd`: the file ends there. */
  grant(session: LeaseHolder, inode: Inode, block: number, isEnd: boolean): boolean {
    inode.blocks ??= new BlockLeases();
    const { blocks } = inode;
    const before = blocks.count(session);
    if (!blocks.grant(session, block, isEnd, performance.now())) return false;
    session.blockFiles.add(inode);
    session.heldBlocks += blocks.count(session) - before;
    if (session.heldBlocks - (this.#makingRoom.get(session) ?? 0) > limits.maxHeldBlocks) this.#makeRoom(session);
    return true;
  }

  /** Of the file that it has had blocks of for longest, the oldest ones. */
  #makeRoom(session: LeaseHolder): void {
    const [inode] = session.blockFiles;
    if (inode?.blocks === undefined) return;
    // The next that makes room is another one.
    session.blockFiles.delete(inode);
    session.blockFiles.add(inode);
    const oldest = inode.blocks.oldest(session, Math.ceil(limits.maxHeldBlocks / 4));
    const range = { ...ALL_BLOCKS };
    inode.blocks.beginTakingBack(range);
    const taken = (count: number) => {
      const left = (this.#makingRoom.get(session) ?? 0) + count;
      if (left === 0) this.#makingRoom.delete(session);
      else this.#makingRoom.set(session, left);
    };
    taken(oldest.length);
    void this.#recall(session, inode, oldest).then(() => {
      taken(-oldest.length);
      inode.blocks?.endChange(range);
    });
  }

  /** Undefined: nobody has ever held a block of it. */
  begin(author: LeaseHolder | undefined, inode: Inode, blocks: BlockRange): BlockChange | undefined {
    const leases = inode.blocks;
    if (leases === undefined) return undefined;
    const range = { ...blocks };
    const waits = leases
      .beginChange(author, range, performance.now())
      .map((conflict) => this.#recall(conflict.holder, inode, conflict.blocks));
    return { waits, end: () => leases.endChange(range) };
  }

  /** Each block is asked for once, whoever waits for it. Who gives it up has dropped it when this resolves. */
  #recall(holder: LeaseHolder, inode: Inode, blocks: readonly number[] | null): Promise<void> {
    const waits: Promise<void>[] = [];
    let left = blocks;
    for (const asked of this.#recalls.get(holder)?.get(inode) ?? []) {
      const before = left;
      if (asked.blocks === null) left = [];
      else if (left !== null) left = left.filter((block) => asked.blocks?.has(block) === false);
      if (left !== before && left?.length !== before?.length) waits.push(asked.answered);
    }
    if (left === null || left.length > 0) waits.push(this.#send(holder, inode, left));
    return Promise.all(waits).then(() => {});
  }

  #send(holder: LeaseHolder, inode: Inode, blocks: readonly number[] | null): Promise<void> {
    this.#recallsSent++;
    const ofHolder = this.#recalls.get(holder) ?? new Map<Inode, Set<BlockRecall>>();
    const ofInode = ofHolder.get(inode) ?? new Set<BlockRecall>();
    this.#recalls.set(holder, ofHolder);
    ofHolder.set(inode, ofInode);
    const answered = isInTime(holder, holder.recallBlocks(inode, blocks)).then((isAnswered) => {
      ofInode.delete(recall);
      if (ofInode.size === 0) ofHolder.delete(inode);
      if (ofHolder.size === 0) this.#recalls.delete(holder);
      if (!isAnswered) this.#host.isLate(holder);
    });
    const recall: BlockRecall = { blocks: blocks && new Set(blocks), answered };
    ofInode.add(recall);
    return answered;
  }

  /** It gave them up, or they were taken from it; null: all that it has of the file. */
  drop(holder: LeaseHolder, inode: Inode, blocks: readonly number[] | null): void {
    const held = inode.blocks;
    if (held === undefined) return;
    const before = held.count(holder);
    held.drop(holder, blocks);
    holder.heldBlocks -= before - held.count(holder);
    if (held.count(holder) === 0) holder.blockFiles.delete(inode);
    if (!inode.isLeased) this.#host.isFree(inode);
  }

  /** Nobody has it open who could ask for them. */
  dropAll(inode: Inode): void {
    for (const holder of [...(inode.blocks?.holders ?? [])]) this.drop(holder, inode, null);
  }

  /** In the turn in which a client's change is made, right before: what has changed since it was looked at last was a local program's doing. */
  beforeWrite({ inode, calls, fd }: OpenFile): void {
    if (inode.hasHeldBlocks) this.#local.saidAttributes(inode, calls.stat(fd));
  }

  /** The same right after. */
  afterWrite({ inode, calls, fd }: OpenFile): void {
    if (inode.hasHeldBlocks) this.#local.ownChange(inode, calls.stat(fd));
  }
}
