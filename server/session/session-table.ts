/**
 * All sessions of the server, by id, and what becomes of those whose clients are away. Until the session lease is over
 * they keep everything. Then they keep it as a courtesy, until somebody asks for it (a lock), or for too long, or too
 * many do. After a start of the server, those that held something in an earlier run come first: see GracePeriod. The server
 * calls `expire` from a timer; the table itself has no clock. Its times are performance.now().
 * Source: "courteous server" in RFC 8881, 8.4.2.4 and 8.4.3, and the Linux server's nfs4_laundromat().
 */
import { errno, FsError } from '../../shared/errno.ts';
import { limits } from '../../shared/limits.ts';
import { ANYONE } from '../access/credential.ts';
import type { Export } from '../export.ts';
import { GracePeriod } from '../state/grace-period.ts';
import type { Inode } from '../store/inode.ts';
import { ClientList, type ListedClient, mayWrite } from './client-list.ts';
import { type InterruptedWrite, InterruptedWrites } from './interrupted-writes.ts';
import type { RequestJournal } from './request-journal.ts';
import { Session, type SessionHost } from './session.ts';

export interface SessionTableOptions {
  readonly leaseMs?: number;
  /** Who held locks and wrote in an earlier run, and who does. */
  readonly clients?: ClientList;
  /** Which requests were applied. */
  readonly journal?: RequestJournal | undefined;
  /** Which may have been applied in part. */
  readonly interrupted?: InterruptedWrites;
  /** The server starts now. */
  readonly nowMs?: number;
}

/** For status. */
export interface GraceStatus {
  /** New locks are not granted meanwhile. */
  readonly holdsUpLocks: boolean;
  /** Nothing is changed. */
  readonly holdsUpChanges: boolean;
  /** No opened file is cached by the page. */
  readonly holdsUpPages: boolean;
  readonly atMostSeconds: number;
  readonly clients: readonly { client: string; export: string; isBack: boolean; heldLocks: boolean; wrote: boolean }[];
}

export class SessionTable implements SessionHost {
  readonly leaseMs: number;
  /** Of locks. */
  readonly grace: GracePeriod;
  /** Of files that were open for writing. */
  readonly writersGrace: GracePeriod;
  /** Of leases, by any client in the list: as long as one that has not heard of the start may use them. */
  readonly leasesGrace: GracePeriod;
  readonly #clients: ClientList;
  readonly #journal: RequestJournal | undefined;
  readonly #interrupted: InterruptedWrites;
  readonly #graceEndsMs: number;
  #earlierLeases: Promise<void> | undefined;
  #leasesEnded = () => {};
  /** The list of clients could not be written when that was tried last. */
  #isListStuck = false;
  readonly #sessions = new Map<string, Session>();
  /** Ended because its client stayed away. */
  onExpired: (session: Session) => void = () => {};
  /** The lease under which a client gathers was taken from it. */
  onFenced: (inode: Inode, session: Session) => void = () => {};
  /** It has said that it knows. */
  onTold: (session: Session) => void = () => {};
  /** The grace period of locks is over; these clients have not come back, or not taken all their locks. */
  onGraceOver: (late: readonly ListedClient[]) => void = () => {};

  constructor({
    leaseMs = limits.sessionLeaseMs,
    clients = new ClientList(),
    journal,
    interrupted = new InterruptedWrites(),
    nowMs = 0,
  }: SessionTableOptions = {}) {
    this.#journal = journal;
    this.#interrupted = interrupted;
    this.leaseMs = leaseMs;
    this.#clients = clients;
    const endsMs = nowMs + Math.max(leaseMs, limits.minGraceMs);
    this.#graceEndsMs = endsMs;
    const idsOf = (which: (client: ListedClient) => boolean) => [...clients.all].filter(which).map(({ id }) => id);
    const lastMs = endsMs + limits.minGraceMs;
    this.grace = new GracePeriod(
      idsOf(({ locks }) => locks),
      endsMs,
      lastMs,
    );
    this.writersGrace = new GracePeriod(idsOf(mayWrite), endsMs, lastMs);
    const leasesEndMs = nowMs + limits.leaseUseMs;
    this.leasesGrace = new GracePeriod(
      idsOf(() => true),
      leasesEndMs,
      leasesEndMs,
    );
    if (this.leasesGrace.isOver) return;
    this.#earlierLeases = new Promise((resolve) => {
      this.#leasesEnded = resolve;
    });
  }

  /** Called when leases of the last process are used no more: they have ended, or all clients know of the start. */
  endEarlierLeases(): void {
    const isOnlyHolder = (id: string) => {
      const listed = this.#clients.get(id);
      return listed !== undefined && !mayWrite(listed) && !this.#sessions.has(id);
    };
    const late = this.leasesGrace.awaited.filter(isOnlyHolder);
    this.leasesGrace.end();
    this.#earlierLeases = undefined;
    this.#leasesEnded();
    // The next process need not wait for them once more.
    this.#clients.remove(late);
  }

  get all(): Iterable<Session> {
    return this.#sessions.values();
  }

  get size(): number {
    return this.#sessions.size;
  }

  /**
   * The session with this id on this export, if the same credential opened it, or a new one, made at `nowMs` since 1970.
   * A client of an earlier run goes on under its id: if it should not hear of it, and the server be started once more, it
   * is still known.
   */
  attach(
    id: Uint8Array | undefined,
    exported: Export,
    client: string,
    nowMs: number,
    credential = ANYONE,
  ): { session: Session; resumed: boolean } {
    const key = id && Buffer.from(id).toString('hex');
    const known = key === undefined ? undefined : this.#sessions.get(key);
    if (known && known.exported === exported && known.credential.id === credential.id) {
      known.connections++;
      known.absentSinceMs = undefined;
      known.isCourtesy = false;
      return { session: known, resumed: true };
    }
    const owner = `${exported.name} ${credential.id}`;
    const isBack = key !== undefined && this.#mayReturn(key, exported, credential.id);
    const remembers = known === undefined && key !== undefined && this.#journal?.knows(key, owner) === true;
    const openJournal = (of: Uint8Array) => this.#journal?.open(of, owner);
    const sameId = isBack || remembers ? id : undefined;
    const session = new Session(this, exported, client, nowMs, credential, sameId, openJournal);
    session.remembers = remembers;
    session.mayWriteLate = isBack || !this.#clients.isDurable;
    if (isBack) for (const grace of [this.grace, this.writersGrace, this.leasesGrace]) grace.returned(key);
    session.connections = 1;
    this.#sessions.set(session.key, session);
    return { session, resumed: false };
  }

  #mayReturn(key: string, exported: Export, credential: string): boolean {
    const isAwaited = this.writersGrace.mayReturn(key) || this.leasesGrace.mayReturn(key);
    const listed = isAwaited ? this.#clients.get(key) : undefined;
    return listed !== undefined && listed.export === exported.name && listed.credential === credential;
  }

  /** One connection less. `heardMs`: when its client was last heard. */
  detach(session: Session, heardMs: number): void {
    session.connections--;
    if (session.connections === 0) session.absentSinceMs = heardMs;
  }

  /** Ends the session now: the client said goodbye, or may be here no more. */
  end(session: Session): void {
    this.#clients.remove([session.key]);
    this.#close(session);
  }

  /** The server ends, and its clients will be back. Resolves when what they had begun to change is done, and noted. */
  async close(): Promise<void> {
    const sessions = [...this.#sessions.values()];
    for (const session of sessions) session.close();
    this.#sessions.clear();
    // Nothing is changed any more: what waits to is ended.
    this.#leasesEnded();
    await Promise.all(sessions.map((session) => session.whenIdle()));
  }

  #close(session: Session): void {
    session.close();
    this.#sessions.delete(session.key);
    this.#interrupted.sessionEnded(session.key);
    this.#journal?.close(session.key);
    this.#done(session.key);
  }

  /** Ends what nobody waits for any more, or somebody does. */
  expire(nowMs: number): void {
    this.#isListStuck = false;
    this.#endGraceIfDue(nowMs);
    this.#endWritersGraceIfDue(nowMs);
    if (nowMs >= this.#graceEndsMs) this.#interrupted.giveUpAll();
    const kept: { session: Session; absentMs: number }[] = [];
    const idle: Session[] = [];
    for (const session of [...this.#sessions.values()]) {
      if (session.absentSinceMs === undefined) continue;
      const absentMs = nowMs - session.absentSinceMs;
      if (absentMs < this.leaseMs) continue;
      session.isCourtesy = true;
      if (absentMs >= limits.recallMs && this.#isIdle(session)) idle.push(session);
      // One that never asked for anything holds nothing.
      const isOver = absentMs >= limits.maxCourtesyMs || session.requests === 0 || session.locks.isInTheWay;
      if (isOver) this.#expired(session);
      else kept.push({ session, absentMs });
    }
    // Their leases have ended long since: the next process need not wait for them.
    if (idle.length > 0 && this.#clients.remove(idle.map(({ key }) => key))) for (const one of idle) one.struckOut();
    if (kept.length <= limits.maxCourtesySessions) return;
    kept.sort((one, other) => other.absentMs - one.absentMs);
    for (const { session } of kept.slice(0, -limits.maxCourtesySessions)) this.#expired(session);
  }

  /** In the list for its leases alone: it has nothing else, nor may it take anything again. */
  #isIdle(session: Session): boolean {
    const mayReclaim = !this.grace.isOver || !this.writersGrace.isOver;
    return !mayReclaim && this.#clients.get(session.key) !== undefined && session.hasOnlyLeases;
  }

  /** Others get its locks, so it must not reclaim them after a crash: that is durable first, or it goes on. */
  #expired(session: Session): void {
    if (!this.#clients.remove([session.key])) return;
    this.onExpired(session);
    this.#close(session);
  }

  // SessionHost

  contested(session: Session): void {
    if (session.isCourtesy) this.#expired(session);
  }

  fenced(session: Session, inode: Inode): void {
    this.onFenced(inode, session);
  }

  told(session: Session): void {
    this.onTold(session);
  }

  admitLock({ key, exported, client, credential }: Session, isReclaim: boolean): void {
    if (isReclaim && !this.grace.mayReclaim(key)) throw new FsError(errno.ESTALE, 'reclaim');
    // Clients hold themselves back until they are told that it is over.
    if (!isReclaim && !this.grace.isOver) throw new FsError(errno.EAGAIN, 'grace period');
    const listed = { id: key, export: exported.name, client, credential: credential.id, writes: false, locks: true };
    if (!this.#clients.add(listed)) throw new FsError(errno.ENOLCK, 'list of clients');
  }

  /** One that could not be entered is tried again after a while, and not at each lease that it asks for. */
  enter({ key, exported, client, credential }: Session, writes: boolean): boolean {
    if (this.#isListStuck) return false;
    const listed = { id: key, export: exported.name, client, credential: credential.id, writes, locks: false };
    this.#isListStuck = !this.#clients.add(listed);
    return !this.#isListStuck;
  }

  get earlierLeases(): Promise<void> | undefined {
    return this.#earlierLeases;
  }

  isReclaiming({ key }: Session): boolean {
    return this.leasesGrace.mayReclaim(key);
  }

  get awaitsWriters(): boolean {
    return !this.writersGrace.isOver;
  }

  arrived({ key }: Session, slot: number, seq: number): InterruptedWrite | undefined {
    return this.#interrupted.arrived(key, slot, seq);
  }

  reclaimed({ key }: Session): void {
    this.#done(key);
  }

  #done(key: string): void {
    this.grace.done(key);
    this.writersGrace.done(key);
    this.leasesGrace.done(key);
    if (this.#earlierLeases && this.leasesGrace.awaited.length === 0) this.endEarlierLeases();
    this.#endGraceIfDue();
    this.#endWritersGraceIfDue();
  }

  /** Whom it is waited for after the start, and how long at most. Undefined: for nobody, any more. */
  graceStatus(nowMs: number): GraceStatus | undefined {
    const graces = [this.writersGrace, this.leasesGrace].filter(({ isOver }) => !isOver);
    if (graces.length === 0) return undefined;
    const endsMs = Math.max(...graces.map((one) => one.endsMs));
    const clients = [...new Set(graces.flatMap(({ awaited }) => awaited))].flatMap((id) => {
      const listed = this.#clients.get(id);
      if (listed === undefined) return [];
      const { client, export: exportName, locks: heldLocks, writes: wrote } = listed;
      return [{ client, export: exportName, isBack: graces.some((one) => one.mayReclaim(id)), heldLocks, wrote }];
    });
    return {
      holdsUpLocks: !this.grace.isOver,
      holdsUpChanges: !this.leasesGrace.isOver,
      holdsUpPages: !this.writersGrace.isOver,
      atMostSeconds: Math.ceil(Math.max(0, endsMs - nowMs) / 1000),
      clients,
    };
  }

  /** After that of locks: this one takes nothing from anybody. Who is not back is not waited for once more. */
  #endWritersGraceIfDue(nowMs = Number.NEGATIVE_INFINITY): void {
    if (!this.writersGrace.isDue(nowMs)) return;
    const late = this.writersGrace.awaited.filter((id) => !this.#sessions.has(id) && !this.#clients.get(id)?.locks);
    this.writersGrace.end();
    this.#clients.remove(late);
  }

  /** Without a time: if everybody is done. */
  #endGraceIfDue(nowMs = Number.NEGATIVE_INFINITY): void {
    if (!this.grace.isDue(nowMs)) return;
    const { awaited } = this.grace;
    const late = awaited.map((id) => this.#clients.get(id)).filter((one) => one !== undefined);
    // Others get their locks now; they must not reclaim them after another crash. Tried again at the next `expire`.
    if (!this.#clients.remove(awaited)) return;
    this.grace.end();
    this.onGraceOver(late);
    // One that is back and still at it loses what it has taken, too: it must not take the rest from the next server.
    for (const id of awaited) {
      const session = this.#sessions.get(id);
      if (session) this.#close(session);
    }
    for (const session of this.#sessions.values()) session.graceOver(late.length);
  }
}
