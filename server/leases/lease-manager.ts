/**
 * Grants leases with replies, and recalls them before a change: the clock and the messages around InodeLeases. One an
 * export. A holder that does not answer within the recall time loses all its leases; it knows, because a client uses
 * leases only for so long after the server has answered it (limits.leaseUseMs, shorter than limits.recallMs).
 */
import type { Logger } from 'pino';
import { mode } from '../../shared/attributes.ts';
import { errno, FsError } from '../../shared/errno.ts';
import type { Eventually } from '../../shared/eventually.ts';
import { limits } from '../../shared/limits.ts';
import type { LocalAttributes } from '../../shared/linux/libc.ts';
import { ALL_BLOCKS, type BlockRange } from '../state/block-leases.ts';
import type { Inode, LeaseHolder } from '../store/inode.ts';
import type { OpenFile } from '../store/open-file.ts';
import type { Store } from '../store/store.ts';
import { ExclusiveLeases } from './exclusive-leases.ts';
import { type BlockChange, LeasedBlocks } from './leased-blocks.ts';
import type { LocalChanges } from './local-changes.ts';
import { ReadLeases } from './read-leases.ts';
import { isInTime } from './recall-time.ts';

const NO_BLOCKS: readonly BlockChange[] = [];
const DIRECTORY = { mode: mode.S_IFDIR };

/** A change of some inodes: nobody else holds a lease on them until it is disposed. */
export class Change implements Disposable {
  readonly #inodes: readonly Inode[];
  readonly #blocks: readonly BlockChange[];
  /** For recalls, or for the leases of the last process: what was looked at before may be different now. */
  readonly hasWaited: boolean;
  /** It took more than one turn of the event loop. */
  isLong = false;
  /** What its author is told of inodes as they are after it. */
  readonly said = new Map<Inode, LocalAttributes>();

  constructor(inodes: readonly Inode[], hasWaited: boolean, blocks: readonly BlockChange[] = NO_BLOCKS) {
    this.#inodes = inodes;
    this.#blocks = blocks;
    this.hasWaited = hasWaited;
  }

  /** It is one of data, which clients hold blocks of. */
  get hasBlocks(): boolean {
    return this.#blocks.length > 0;
  }

  [Symbol.dispose](): void {
    for (const blocks of this.#blocks) blocks.end();
    for (const inode of this.#inodes) inode.leases.endChange();
  }
}

export class LeaseManager {
  readonly #store: Store;
  readonly #log: Logger;
  readonly #local: LocalChanges;
  readonly #exclusive = new ExclusiveLeases((inode) => void this.recallExclusive(inode));
  readonly #reads: ReadLeases;
  /** Of files' data that others may write. */
  readonly blocks: LeasedBlocks;
  /** Recalls that were sent and not answered: one a holder and inode, whoever waits for it. */
  readonly #recalls = new Map<LeaseHolder, Map<Inode, Promise<void>>>();
  /** The same of exclusive leases on directories that are to be shared. */
  readonly #shares = new Map<Inode, Promise<void>>();
  #recallsSent = 0;
  #revocations = 0;
  #localChanges = 0;

  /** It keeps at most `mostReadLeases` descriptors open, for files whose data clients may keep. */
  constructor(store: Store, local: LocalChanges, log: Logger, mostReadLeases = Number.POSITIVE_INFINITY) {
    this.#store = store;
    this.#local = local;
    this.#log = log;
    this.#reads = new ReadLeases(
      store,
      mostReadLeases,
      (inode) => this.#letWriterIn(inode),
      (inodes) => this.#takeBack(inodes),
    );
    this.blocks = new LeasedBlocks(local, {
      keepsData: (inode) => this.keepsData(inode),
      isFree: (inode) => this.#reads.end(inode),
      isLate: (holder) => this.#revoke(holder),
    });
    local.onChange = (inode) => this.changedLocally(inode);
  }

  /** For status. */
  get counts() {
    const blocks = this.blocks.counts;
    let recallsPending = blocks.recallsPending + this.#shares.size;
    for (const ofHolder of this.#recalls.values()) recallsPending += ofHolder.size;
    return {
      recallsSent: this.#recallsSent + blocks.recallsSent,
      recallsPending,
      revocations: this.#revocations,
      exclusive: this.#exclusive.size,
      read: this.#reads.size,
      localChanges: this.#localChanges,
    };
  }

  isRecalled(holder: LeaseHolder, inode: Inode): boolean {
    return this.#recalls.get(holder)?.has(inode) === true;
  }

  /** Local programs that would write to it wait until clients have dropped what they read. */
  makesWritersWait(inode: Inode): boolean {
    return this.#reads.has(inode);
  }

  get guarantee(): string {
    if (!this.#local.isAvailable)
      return 'no leases (switched off, or inotify is not available): clients ask the server each time';
    const whose = this.#reads.hasRefused ? ' of files on which the kernel grants leases' : '';
    return `leases on names, attributes and data: recalled before other clients change them, and after local programs did (inotify); local opens${whose} wait until clients have written what they gathered, and to write until they have dropped what they read`;
  }

  /** The answer about a name in `directory`, being sent to `session`, is one that it may keep. Asked before looking. */
  grantNames(session: LeaseHolder, directory: Inode): boolean {
    return this.#grant(session, directory, this.#local.watch(directory, DIRECTORY));
  }

  /** `session` is told what `name` is: an inode, or absent (null). */
  saidName(directory: Inode, name: Uint8Array, inode: Inode | null): void {
    this.#local.said(directory, name, inode);
  }

  /** The server made `name` this inode, or absent (null), on behalf of a client. */
  madeName(directory: Inode, name: Uint8Array, inode: Inode | null): void {
    this.#local.made(directory, name, inode);
  }

  /** `session` is told these attributes; true when it may keep them. */
  grantAttributes(session: LeaseHolder, inode: Inode, attributes: LocalAttributes): boolean {
    // What has no name goes with its last handle, and nobody is told of that.
    if (attributes.nlink === 0) return false;
    if (inode.isWrittenLocally && !this.#reads.take(inode)) return false;
    const wasWatched = inode.watch !== undefined;
    const isWatched = this.#local.watch(inode, attributes);
    // A change between the look at the attributes and the start of the watch would never be seen.
    const isCovered = isWatched && (wasWatched || this.#local.isAsSaid(attributes, this.#store.attributes(inode)));
    this.#local.saidAttributes(inode, attributes);
    return this.#grant(session, inode, isCovered);
  }

  /**
   * True when clients may keep what they read of the file: a local program that would write to it waits for them from now
   * on. Asked before it is looked at.
   */
  keepsData(inode: Inode): boolean {
    if (this.#reads.has(inode)) return true;
    if (!this.#reads.take(inode)) return false;
    // What was said before was not protected: who knows something old loses it.
    this.#local.saidAttributes(inode, this.#store.attributes(inode));
    return true;
  }

  /**
   * `session` will keep the data that it is sent, whatever the contention. Wait for `whenQuiet` before; a session that is
   * a holder already, and has been asked to give its lease back, will drop them when it does.
   */
  grantData(session: LeaseHolder, inode: Inode): boolean {
    // Local programs have no say while a client writes: what they change is seen afterwards.
    if (inode.writers === 0 && !this.keepsData(inode)) return false;
    // A holder that is asked for it will drop them. Its own change may be one that lets local programs write.
    if (inode.leases.holders.has(session)) return !inode.leases.isChanging || this.isRecalled(session, inode);
    return this.#grant(session, inode, this.#local.watch(inode, this.#store.attributes(inode)), true);
  }

  /** The server itself is about to open the file to write, or to truncate it: within a change, so nobody else keeps its data. */
  opensToWrite(inode: Inode): void {
    this.#reads.end(inode);
  }

  /** `session` may gather what it writes through `file`, the only handle there is. `isNew`: nothing was done to it yet. */
  grantExclusive(session: LeaseHolder, file: OpenFile, isNew = false): boolean {
    const { inode } = file;
    const isWatched = this.#local.watch(inode, { mode: mode.S_IFREG });
    if (!isWatched || session.isClosed || !session.enter(true)) return false;
    if (!inode.leases.grantExclusive(session, performance.now())) return false;
    if (!this.#exclusive.take(file)) {
      inode.leases.endExclusive();
      if (!session.holdsLease(inode)) inode.leases.drop(session);
      return false;
    }
    session.holdLease(inode);
    // It is the only handle: who held blocks has closed it, or is this client.
    this.blocks.dropAll(inode);
    // No local program has it open.
    inode.isWrittenLocally = false;
    // The event of its truncation is still to come.
    if (!isNew) this.#local.ownChange(inode, this.#store.attributes(inode));
    return true;
  }

  /**
   * `session`, which has just made the directory, may make files in it before the server has them: nobody else is told what is in it
   * without asking that client first (`settled`). Not where a default access list says what new files are to be.
   */
  grantAlone(session: LeaseHolder, directory: Inode): boolean {
    const isCovered = this.#local.watch(directory, DIRECTORY) && !this.#store.hasXattrs(directory);
    if (!isCovered || session.isClosed || !session.enter(true)) return false;
    if (!directory.leases.grantExclusive(session, performance.now())) return false;
    session.holdLease(directory);
    return true;
  }

  /** It makes no more files behind, and its lease is a shared one. */
  downgrade(holder: LeaseHolder, directory: Inode): void {
    if (directory.leases.exclusive === holder && !this.#exclusive.has(directory)) directory.leases.endExclusive();
  }

  #grant(session: LeaseHolder, inode: Inode, isCovered: boolean, mustKeep = false): boolean {
    const mayHold = isCovered && !session.isClosed && session.enter();
    if (!mayHold || !inode.leases.grant(session, performance.now(), mustKeep)) {
      if (!inode.isLeased) this.#reads.end(inode);
      return false;
    }
    session.holdLease(inode);
    if (session.leaseCount > limits.maxLeases) this.#takeBackOldest(session);
    return true;
  }

  /**
   * Resolves when what is said of the inode is what everybody else has done: nobody but `session` gathers writes to it, or makes files
   * in it behind. Undefined: that is so. Wait for it without holding any lock.
   */
  settled(session: LeaseHolder, inode: Inode): Promise<void> | undefined {
    const { exclusive } = inode.leases;
    if (exclusive === undefined || exclusive === session) return undefined;
    return this.#exclusive.has(inode) ? this.recallExclusive(inode) : this.#share(exclusive, inode);
  }

  /** Its holder makes at the server what it has not made yet, and goes on with a shared lease: nothing that it knows is old. */
  #share(holder: LeaseHolder, directory: Inode): Promise<void> {
    const pending = this.#shares.get(directory);
    if (pending) return pending;
    this.#recallsSent++;
    directory.leases.beginTakingBack();
    const shared = isInTime(holder, holder.share(directory)).then((isAnswered) => {
      if (!isAnswered) this.#revoke(holder);
      this.#shares.delete(directory);
      directory.leases.endTakingBack();
    });
    this.#shares.set(directory, shared);
    return shared;
  }

  /** Resolves when nobody gathers writes to the inode; undefined when nobody does. */
  recallExclusive(inode: Inode): Promise<void> | undefined {
    const { exclusive } = inode.leases;
    if (exclusive === undefined) return undefined;
    inode.leases.beginTakingBack();
    return this.#recall(exclusive, [inode]).then(() => inode.leases.endTakingBack());
  }

  /** Somebody gathers what it writes to the file. */
  gathersData(inode: Inode): boolean {
    return this.#exclusive.has(inode);
  }

  /** The holder gathers no more, and holds a shared lease. */
  endExclusive(inode: Inode): void {
    this.#exclusive.end(inode);
  }

  /** It gave the lease back, or it was taken from it. */
  drop(holder: LeaseHolder, inode: Inode): void {
    if (inode.leases.exclusive === holder) this.#exclusive.end(inode);
    inode.leases.drop(holder);
    holder.dropLease(inode);
    if (!inode.isLeased) this.#reads.end(inode);
  }

  /** The client holds more leases than it may: the one it was granted first goes. */
  #takeBackOldest(session: LeaseHolder): void {
    const oldest = session.oldestLease;
    if (oldest === undefined) return;
    oldest.leases.beginTakingBack();
    void this.#recall(session, [oldest]).then(() => oldest.leases.endTakingBack());
  }

  /**
   * Does `work`, which changes `inodes` for `author`, when nobody else holds a lease on them; none is granted until it is
   * done. Holds no lock while it waits. The author keeps its leases: it applies its own change to what it knows. `blocks`: of the
   * inodes' data, where these are changed.
   *
   * After a start of the server it waits, too, until no client uses leases of the last process, on whatever.
   */
  during<T>(
    author: LeaseHolder,
    inodes: readonly Inode[],
    work: (change: Change) => Eventually<T>,
    blocks?: BlockRange,
  ): Eventually<T> {
    return this.#during(author, inodes, work, blocks, author.earlierLeases);
  }

  /** The same for what is nothing new to clients with leases of the last process: it was so already. */
  duringReclaim<T>(
    author: LeaseHolder,
    inodes: readonly Inode[],
    work: (change: Change) => Eventually<T>,
  ): Eventually<T> {
    return this.#during(author, inodes, work, undefined, undefined);
  }

  #during<T>(
    author: LeaseHolder,
    inodes: readonly Inode[],
    work: (change: Change) => Eventually<T>,
    blocks: BlockRange | undefined,
    after: Promise<void> | undefined,
  ): Eventually<T> {
    const change = this.change(author, inodes, blocks, after);
    if (!(change instanceof Promise)) return this.#carryOut(author, inodes, change, work);
    return change.then((begun) => this.#carryOut(author, inodes, begun, work));
  }

  #carryOut<T>(
    author: LeaseHolder,
    inodes: readonly Inode[],
    change: Change,
    work: (change: Change) => Eventually<T>,
  ): Eventually<T> {
    if (author.isClosed) {
      // While it waited; nobody hears of it any more. After a restart its client sends it again, as one that was not begun.
      change[Symbol.dispose]();
      throw new FsError(errno.ESHUTDOWN, 'session');
    }
    const end = () => {
      for (const inode of inodes) this.#afterOwnChange(inode, change);
      change[Symbol.dispose]();
    };
    let result: Eventually<T>;
    if (!change.hasBlocks) for (const inode of inodes) if (inode.hasHeldBlocks) this.#lookAt(inode);
    try {
      result = work(change);
    } catch (error) {
      end();
      throw error;
    }
    if (result instanceof Promise) {
      change.isLong = true;
      return result.finally(end);
    }
    end();
    return result;
  }

  /** The author stays a holder: until it has the reply, it may not know that it changed this inode (a name's old one). */
  #afterOwnChange(inode: Inode, change: Change): void {
    if (!inode.isLeased) return;
    if (inode.isGone) return this.#dropAll(inode);
    try {
      this.attributesAfter(change, inode);
    } catch (error) {
      if (!(error instanceof FsError)) throw error;
      // It is gone, and with it what was said of it. One that is known by a path may only have another.
      if (error.code === errno.ESTALE && inode.hint === undefined) this.#dropAll(inode);
    }
  }

  /** Who holds blocks of it keeps them while it is changed: what a local program did is not to pass for this change. */
  #lookAt(inode: Inode): void {
    try {
      this.#local.saidAttributes(inode, this.#store.attributes(inode));
    } catch (error) {
      if (!(error instanceof FsError)) throw error;
      this.changedLocally(inode);
    }
  }

  /** Of an inode that is gone: to recall would be to ask for what is of no use to anybody. */
  #dropAll(inode: Inode): void {
    if (this.#exclusive.has(inode)) return;
    this.blocks.dropAll(inode);
    for (const holder of [...inode.leases.holders]) this.drop(holder, inode);
  }

  /** The attributes of an inode that was changed, when all of `change` is done to it: its events are no news then. */
  attributesAfter(change: Change, inode: Inode): LocalAttributes {
    const known = change.said.get(inode);
    if (known) return known;
    const attributes = this.#store.attributes(inode);
    // A local program may have changed the file since it was made; one of data has told of itself at once.
    if ((change.hasBlocks || change.isLong) && inode.hasHeldBlocks) this.#local.saidAttributes(inode, attributes);
    else this.#local.ownChange(inode, attributes);
    change.said.set(inode, attributes);
    return attributes;
  }

  /** The same of a directory for a client that holds its lease, to be sent with the reply to its own change. */
  attributesForHolder(session: LeaseHolder, change: Change, directory: Inode): LocalAttributes | undefined {
    return directory.leases.holders.has(session) ? this.attributesAfter(change, directory) : undefined;
  }

  /**
   * Resolves when nobody but `author` holds a lease on `inodes`, and `after`; none is granted until the change is disposed.
   * Synchronous when nothing must be recalled. Wait for it without holding any lock.
   */
  change(
    author: LeaseHolder | undefined,
    inodes: readonly Inode[],
    blocks?: BlockRange,
    after?: Promise<void>,
  ): Change | Promise<Change> {
    const nowMs = performance.now();
    let held: Map<LeaseHolder, Inode[]> | undefined;
    const changes = blocks ? this.#beginBlocks(author, inodes, blocks) : NO_BLOCKS;
    for (const inode of inodes) {
      for (const holder of inode.leases.beginChange(author, nowMs)) {
        held ??= new Map();
        const ofHolder = held.get(holder);
        if (ofHolder) ofHolder.push(inode);
        else held.set(holder, [inode]);
      }
    }
    const waits = changes.flatMap((one) => one.waits);
    if (after) waits.push(after);
    for (const [holder, ofHolder] of held ?? []) waits.push(this.#recall(holder, ofHolder));
    const change = new Change(inodes, waits.length > 0, changes);
    return waits.length > 0 ? Promise.all(waits).then(() => change) : change;
  }

  #beginBlocks(author: LeaseHolder | undefined, inodes: readonly Inode[], blocks: BlockRange): readonly BlockChange[] {
    if (inodes.every((inode) => inode.blocks === undefined)) return NO_BLOCKS;
    return inodes.map((inode) => this.blocks.begin(author, inode, blocks)).filter((one) => one !== undefined);
  }

  close(): void {
    this.#exclusive.close();
    this.#reads.close();
    this.#local.close();
  }

  /** A local program changed the inode: what clients know of it is old already. */
  changedLocally(inode: Inode): void {
    if (inode.isGone) return this.#dropAll(inode);
    this.#localChanges++;
    this.#takeBack([inode]);
  }

  /** A local program waits in the kernel to write to it. What it changes is seen by its event, as ever. */
  #letWriterIn(inode: Inode): void {
    inode.isWrittenLocally = true;
    this.#takeBack([inode]);
  }

  #takeBack(inodes: readonly Inode[]): void {
    const end = (change: Change) => {
      for (const inode of inodes) this.#reads.end(inode);
      change[Symbol.dispose]();
    };
    const change = this.change(undefined, inodes, ALL_BLOCKS);
    if (change instanceof Promise) void change.then(end);
    else end(change);
  }

  /** One message for all that were not asked for before. What is to be written first goes by itself: nothing else waits for that. */
  #recall(holder: LeaseHolder, inodes: readonly Inode[]): Promise<void> {
    const pending = this.#recalls.get(holder);
    const waits: Promise<void>[] = [];
    const together: Inode[] = [];
    for (const inode of new Set(inodes)) {
      const known = pending?.get(inode);
      if (known) waits.push(known);
      else if (inode.leases.exclusive === holder) waits.push(this.#send(holder, [inode]));
      else together.push(inode);
    }
    if (together.length > 0) waits.push(this.#send(holder, together));
    return waits.length === 1 ? (waits[0] as Promise<void>) : Promise.all(waits).then(() => {});
  }

  #send(holder: LeaseHolder, inodes: readonly Inode[]): Promise<void> {
    const pending = this.#recalls.get(holder) ?? new Map<Inode, Promise<void>>();
    this.#recalls.set(holder, pending);
    this.#recallsSent++;
    const answered = this.#ask(holder, inodes).finally(() => {
      for (const inode of inodes) pending.delete(inode);
      if (pending.size === 0) this.#recalls.delete(holder);
    });
    for (const inode of inodes) pending.set(inode, answered);
    return answered;
  }

  async #ask(holder: LeaseHolder, inodes: readonly Inode[]): Promise<void> {
    if (await isInTime(holder, holder.recall(inodes))) {
      for (const inode of inodes) this.drop(holder, inode);
    } else this.#revoke(holder);
  }

  #revoke(holder: LeaseHolder): void {
    this.#revocations++;
    this.#log.warn({ client: holder.client }, 'leases revoked: the client did not answer a recall');
    holder.revokeLeases();
  }
}
