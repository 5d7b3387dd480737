/**
 * A client's session: its open handles, and the replies it may ask for again. It outlives its connections for the
 * session lease, so a request that was sent again after a broken connection is answered from here and applied once.
 */
import { randomBytes, randomInt } from 'node:crypto';
import { errno, FsError } from '../../shared/errno.ts';
import { limits } from '../../shared/limits.ts';
import type { Credential } from '../access/credential.ts';
import type { Export } from '../export.ts';
import type { Inode, LeaseHolder } from '../store/inode.ts';
import type { OpenFile } from '../store/open-file.ts';
import { InFlightRequest } from './in-flight-request.ts';
import type { InterruptedWrite } from './interrupted-writes.ts';
import type { Outcome } from './outcome.ts';
import type { SessionJournal } from './request-journal.ts';
import { SessionLocks } from './session-locks.ts';

/** A new session's handles start at random, so that a handle of an earlier session names no other file in this one. */
const FIRST_HANDLE_BELOW = 2 ** 47;

/** Connections to which the outcome of one request is said: the last that asked for it. */
const MAX_ANSWERS = 8;

/** The header of a reply that is kept; bulk replies belong to idempotent operations and are made again. */
export type KeptReply = readonly unknown[];

/** The connection on which recalls and decisions about locks are sent. */
export interface RecallChannel {
  sendRecall(id: number, inodes: readonly Uint8Array[] | null): void;
  sendRecallBlocks(id: number, inode: Uint8Array, blocks: readonly number[] | null): void;
  sendShare(id: number, directory: Uint8Array): void;
  sendGranted(ticket: number, errno: number): void;
  /** `late`: how many clients have lost their locks. */
  sendGraceOver(late: number): void;
}

interface BlockRecall {
  readonly inode: Inode;
  readonly blocks: readonly number[] | null;
  readonly resolve: () => void;
}

/** What a session needs of the table that it is in. */
export interface SessionHost {
  /** A lock of it is in somebody's way. */
  contested(session: Session): void;
  /** The lease under which it gathers is taken from it. */
  fenced(session: Session, inode: Inode): void;
  /** It knows of all that were. */
  told(session: Session): void;
  /** It is to be given a lock: throws FsError when it may not be now. */
  admitLock(session: Session, isReclaim: boolean): void;
  /** The next process of the server is to know of it. True: that is durable. `writes`: it has files open for writing. */
  enter(session: Session, writes: boolean): boolean;
  readonly earlierLeases: Promise<void> | undefined;
  /** It is back after a start of the server, and takes again what it had. */
  isReclaiming(session: Session): boolean;
  /** Clients that had files open for writing, before the server was started anew, may not be back yet. */
  readonly awaitsWriters: boolean;
  /** A request of it has come: the write that an earlier process had begun as this request, if there is one. */
  arrived(session: Session, slot: number, seq: number): InterruptedWrite | undefined;
  /** Its client holds again what it held before the server was started anew. */
  reclaimed(session: Session): void;
}

/** One connection of the session. A lane has one at a time. */
export interface LaneConnection {
  /** Another connection has taken its place, or the session has ended: nothing that it brings counts any more. */
  supersede(): void;
}

export class Session implements LeaseHolder {
  readonly id: Buffer;
  /** The same, hexadecimal. */
  readonly key: string;
  readonly exported: Export;
  readonly client: string;
  readonly credential: Credential;
  readonly createdMs: number;
  /** When its client was last heard, by performance.now(); undefined while it is connected. */
  absentSinceMs: number | undefined;
  /** Its client has been away for longer than the session lease: it is kept while nobody asks for what it holds. */
  isCourtesy = false;
  readonly #host: SessionHost;
  /** It is known which of its requests an earlier process of the server has applied. */
  remembers = false;
  connections = 0;
  isClosed = false;
  requests = 0;
  heard = 0;
  bytesRead = 0;
  bytesWritten = 0;
  readonly locks: SessionLocks;
  readonly #files = new Map<number, OpenFile>();
  /** What it gathered before the server was started is taken: it has not been given up since. */
  mayWriteLate = true;
  /** The next process knows of it; and that it writes. */
  #isListed = false;
  #isWriterListed = false;
  #lastHandle = randomInt(FIRST_HANDLE_BELOW);
  readonly #inFlight = new Map<number, InFlightRequest>();
  readonly #idle: (() => void)[] = [];
  /** By slot, the last request: a later one in its slot says that its reply was taken. So a slow request keeps no others' replies. */
  readonly #slots = new Map<number, { readonly seq: number; kept: KeptReply | undefined }>();
  readonly #journal: SessionJournal | undefined;
  readonly #remembered = new Map<Inode, number>();
  readonly #leases = new Map<Inode, number>();
  readonly #recalls = new Map<number, { readonly inodes: readonly Inode[]; readonly resolve: () => void }>();
  readonly blockFiles = new Set<Inode>();
  heldBlocks = 0;
  readonly #blockRecalls = new Map<number, BlockRecall>();
  readonly #shares = new Map<number, { readonly directory: Inode; readonly resolve: () => void }>();
  #lastRecall = 0;
  /** All leases were taken from the client, which has not said that it knows. */
  #untoldRevocation: number | undefined;
  #recallChannel: RecallChannel | undefined;
  readonly #lanes = new Map<string, LaneConnection>();

  /** `id`: of a session of an earlier run of the server, whose client goes on with this one. */
  constructor(
    host: SessionHost,
    exported: Export,
    client: string,
    nowMs: number,
    credential: Credential,
    id: Uint8Array = randomBytes(16),
    openJournal: (id: Uint8Array) => SessionJournal | undefined = () => undefined,
  ) {
    this.#host = host;
    this.id = Buffer.from(id);
    this.key = this.id.toString('hex');
    this.#journal = openJournal(this.id);
    this.exported = exported;
    this.client = client;
    this.credential = credential;
    this.createdMs = nowMs;
    this.locks = new SessionLocks(
      client,
      (ticket, code) => this.#recallChannel?.sendGranted(ticket, code),
      () => host.contested(this),
    );
  }

  get isReadOnly(): boolean {
    return this.exported.readOnly || this.credential.readOnly;
  }

  get openFiles(): number {
    return this.#files.size;
  }

  get inFlight(): number {
    return this.#inFlight.size;
  }

  // handles

  addFile(file: OpenFile): number {
    if (this.isClosed || this.#files.size >= limits.maxOpenHandles) {
      file.release();
      throw new FsError(this.isClosed ? errno.ESHUTDOWN : errno.EMFILE, 'open');
    }
    // A list that cannot be written stops nobody: after a crash now, others may keep pages of what this one writes.
    if (file.canWrite) this.enter(true);
    this.#files.set(++this.#lastHandle, file);
    return this.#lastHandle;
  }

  file(handle: number): OpenFile {
    const file = this.#files.get(handle);
    if (file === undefined) throw new FsError(errno.EBADF, `handle ${handle}`);
    return file;
  }

  releaseFile(handle: number): void {
    const { inode } = this.file(handle);
    this.file(handle).release();
    this.#files.delete(handle);
    // Its client has dropped them before the last handle.
    if (this.blockFiles.has(inode) && !this.#hasOpen(inode)) this.exported.leases.blocks.drop(this, inode, null);
  }

  #hasOpen(inode: Inode): boolean {
    for (const file of this.#files.values()) if (file.inode === inode) return true;
    return false;
  }

  // requests

  /**
   * Undefined: the request is known already and must not be applied again. It is under way (then `answer` is called with
   * its outcome too), answered, or a late copy of one whose reply the client has taken.
   */
  begin(slot: number, seq: number, answer: (outcome: Outcome) => void): InFlightRequest | undefined {
    const underWay = this.#inFlight.get(seq);
    if (underWay) {
      underWay.answers.push(answer);
      // Of a connection that was lost long ago: who asks again is to have it.
      if (underWay.answers.length > MAX_ANSWERS) underWay.answers.shift();
    }
    const last = this.#slots.get(slot);
    if (underWay || (last && (seq < last.seq || (seq === last.seq && last.kept)))) return undefined;
    this.#slots.set(slot, { seq, kept: undefined });
    const request = new InFlightRequest(slot, seq, this.#journal, this.#host.arrived(this, slot, seq));
    request.answers.push(answer);
    this.#inFlight.set(seq, request);
    this.requests++;
    return request;
  }

  /** The request is done: everyone who asked is answered, and the bulk data are free when all have sent them. */
  end(slot: number, seq: number, keep: KeptReply | undefined, outcome: Outcome): void {
    const request = this.#inFlight.get(seq);
    request?.ended(outcome.errno);
    const answers = request?.answers ?? [];
    this.#over(seq);
    const last = this.#slots.get(slot);
    if (last?.seq === seq) last.kept = request?.isRepeatable ? undefined : keep;
    let sending = answers.length;
    const flushed = () => {
      if (--sending === 0) outcome.flushed?.();
    };
    for (const answer of answers) answer(answers.length === 1 ? outcome : { ...outcome, flushed });
  }

  /** The request did not fit the protocol: it is not under way any more, and has no answer. */
  abandon(seq: number): void {
    this.#inFlight.get(seq)?.ended(errno.EIO);
    this.#over(seq);
  }

  #over(seq: number): void {
    this.#inFlight.delete(seq);
    if (this.#inFlight.size === 0) for (const resolve of this.#idle.splice(0)) resolve();
  }

  /** Resolves when no request is under way. */
  whenIdle(): Promise<void> {
    return this.#inFlight.size === 0 ? Promise.resolve() : new Promise((resolve) => this.#idle.push(resolve));
  }

  keptReply(slot: number, seq: number): KeptReply | undefined {
    const last = this.#slots.get(slot);
    return last?.seq === seq ? last.kept : undefined;
  }

  cancel(seq: number): void {
    this.#inFlight.get(seq)?.cancel();
  }

  // locks

  admitLock(isReclaim: boolean): void {
    this.#host.admitLock(this, isReclaim);
  }

  enter(writes = false): boolean {
    if (writes) this.#isWriterListed ||= this.#host.enter(this, true);
    else this.#isListed ||= this.#isWriterListed || this.#host.enter(this, false);
    return writes ? this.#isWriterListed : this.#isListed;
  }

  /** Nobody would miss it who does not hear of it from the next process. */
  get hasOnlyLeases(): boolean {
    if (this.locks.lockCount > 0 || this.locks.waitingCount > 0) return false;
    for (const { canWrite } of this.#files.values()) if (canWrite) return false;
    return true;
  }

  /** It is not in the list of clients any more, and has been away for longer than its client uses leases. */
  struckOut(): void {
    this.#isListed = this.#isWriterListed = false;
    this.#giveUpLeases(() => true);
  }

  get earlierLeases(): Promise<void> | undefined {
    return this.#host.earlierLeases;
  }

  get isReclaiming(): boolean {
    return this.#host.isReclaiming(this);
  }

  get awaitsWriters(): boolean {
    return this.#host.awaitsWriters;
  }

  reclaimed(): void {
    this.#host.reclaimed(this);
  }

  graceOver(late: number): void {
    this.#recallChannel?.sendGraceOver(late);
  }

  // connections

  attachLane(lane: string, connection: LaneConnection): void {
    const earlier = this.#lanes.get(lane);
    this.#lanes.set(lane, connection);
    earlier?.supersede();
  }

  detachLane(connection: LaneConnection): void {
    for (const [lane, current] of this.#lanes) if (current === connection) this.#lanes.delete(lane);
  }

  // leases

  get leaseCount(): number {
    return this.#leases.size;
  }

  get oldestLease(): Inode | undefined {
    const [oldest] = this.#leases.keys();
    return oldest;
  }

  holdLease(inode: Inode): void {
    if (!this.#leases.has(inode)) this.#leases.set(inode, Date.now());
  }

  dropLease(inode: Inode): void {
    this.#leases.delete(inode);
  }

  /** In milliseconds since 1970; undefined when it holds none. */
  leaseSinceMs(inode: Inode): number | undefined {
    return this.#leases.get(inode);
  }

  holdsLease(inode: Inode): boolean {
    return this.#leases.has(inode);
  }

  /**
   * The small lane is connected. What the client knew under shared leases it has dropped when it lost the last one; what
   * it gathers under exclusive ones it still has to write.
   */
  attachRecalls(channel: RecallChannel): void {
    this.#giveUpLeases((inode) => inode.leases.exclusive !== this);
    this.#recallChannel = channel;
    if (this.#untoldRevocation !== undefined) channel.sendRecall(this.#untoldRevocation, null);
    for (const [id, { inodes }] of this.#recalls) channel.sendRecall(id, handlesOf(inodes));
    for (const [id, { directory }] of this.#shares) channel.sendShare(id, directory.handle);
    for (const [ticket, code] of this.locks.untaken) channel.sendGranted(ticket, code);
  }

  detachRecalls(channel: RecallChannel): void {
    if (this.#recallChannel === channel) this.#recallChannel = undefined;
  }

  recall(inodes: readonly Inode[]): Promise<void> {
    return new Promise((resolve) => {
      const id = ++this.#lastRecall;
      this.#recalls.set(id, { inodes, resolve });
      this.#recallChannel?.sendRecall(id, handlesOf(inodes));
    });
  }

  recallBlocks(inode: Inode, blocks: readonly number[] | null): Promise<void> {
    return new Promise((resolve) => {
      const id = ++this.#lastRecall;
      this.#blockRecalls.set(id, { inode, blocks, resolve });
      this.#recallChannel?.sendRecallBlocks(id, inode.handle, blocks);
    });
  }

  share(directory: Inode): Promise<void> {
    return new Promise((resolve) => {
      const id = ++this.#lastRecall;
      this.#shares.set(id, { directory, resolve });
      this.#recallChannel?.sendShare(id, directory.handle);
    });
  }

  /** The client answered a recall, and gave back the leases on other inodes with it. */
  recalled(id: number, others: readonly Uint8Array[]): void {
    if (this.#untoldRevocation === id) {
      this.#untoldRevocation = undefined;
      this.#host.told(this);
    }
    const recall = this.#recalls.get(id);
    const share = this.#shares.get(id);
    if (share) {
      this.#shares.delete(id);
      this.exported.leases.downgrade(this, share.directory);
      share.resolve();
    }
    const ofBlocks = this.#blockRecalls.get(id);
    if (ofBlocks) {
      this.#blockRecalls.delete(id);
      this.exported.leases.blocks.drop(this, ofBlocks.inode, ofBlocks.blocks);
      ofBlocks.resolve();
    }
    // Too late: all its leases were revoked, and these may have been granted again since.
    if (recall === undefined) return;
    this.#recalls.delete(id);
    this.gaveBack(others);
    // At once: the next message may be a read that is to wait, because this client holds the lease no more.
    for (const inode of recall.inodes) this.exported.leases.drop(this, inode);
    recall.resolve();
  }

  /** The client does not use the leases on these any more. What it is granted afterwards it asks for afterwards, on the same lane. */
  gaveBack(inodes: readonly Uint8Array[]): void {
    for (const handle of inodes) {
      const inode = this.exported.store.known(handle);
      if (inode) this.exported.leases.drop(this, inode);
    }
  }

  /** It lets others look into these directories. */
  downgraded(inodes: readonly Uint8Array[]): void {
    for (const handle of inodes) {
      const inode = this.exported.store.known(handle);
      if (inode) this.exported.leases.downgrade(this, inode);
    }
  }

  revokeLeases(): void {
    for (const inode of this.#leases.keys()) {
      if (inode.leases.exclusive === this && this.exported.leases.gathersData(inode)) this.#host.fenced(this, inode);
    }
    this.#untoldRevocation = ++this.#lastRecall;
    this.#recallChannel?.sendRecall(this.#untoldRevocation, null);
    this.#giveUpLeases(() => true);
  }

  #giveUpLeases(which: (inode: Inode) => boolean): void {
    const dropped = [...this.#leases.keys()].filter(which);
    for (const [id, { inodes, resolve }] of this.#recalls) {
      if (!inodes.every(which)) continue;
      this.#recalls.delete(id);
      resolve();
    }
    for (const inode of dropped) this.exported.leases.drop(this, inode);
    for (const [id, { directory, resolve }] of this.#shares) {
      if (!which(directory)) continue;
      this.#shares.delete(id);
      resolve();
    }
    for (const inode of [...this.blockFiles]) this.exported.leases.blocks.drop(this, inode, null);
    for (const { resolve } of this.#blockRecalls.values()) resolve();
    this.#blockRecalls.clear();
  }

  // inodes named to this client (only for servers without kernel handles)

  remember(inode: Inode): void {
    if (this.isClosed) return;
    const count = this.#remembered.get(inode) ?? 0;
    if (count === 0) this.exported.store.pin(inode);
    this.#remembered.set(inode, count + 1);
  }

  forget(inode: Inode, entries: number): void {
    const count = this.#remembered.get(inode) ?? 0;
    if (count > entries) {
      this.#remembered.set(inode, count - entries);
    } else if (count > 0) {
      this.#remembered.delete(inode);
      this.exported.store.unpin(inode);
    }
  }

  /** Lets go of everything. Requests under way are cancelled where they wait. */
  close(): void {
    this.isClosed = true;
    // Its client is to hear of it: from the reply to its next hello.
    for (const connection of this.#lanes.values()) connection.supersede();
    this.#lanes.clear();
    this.#giveUpLeases(() => true);
    for (const request of this.#inFlight.values()) request.sessionEnded();
    this.locks.close();
    for (const file of this.#files.values()) file.release();
    for (const inode of this.#remembered.keys()) this.exported.store.unpin(inode);
    this.#files.clear();
    this.#slots.clear();
    this.#remembered.clear();
  }
}

function handlesOf(inodes: readonly Inode[]): Buffer[] {
  return inodes.map(({ handle }) => handle);
}
