/**
 * The client's session with a server: requests out, replies to whoever waits, over two connections (lanes), so that
 * bulk data never hold up a small reply. A broken connection is opened again; unanswered requests are then sent again
 * under their old sequence number, and the server answers what it has already done from its memory. Callers wait
 * meanwhile (a hard mount), they are not told.
 *
 * Owned by the mount (or a test). Invariant: a request is in flight from its first sending to its reply.
 */
import { hostname } from 'node:os';
import { Mutex } from 'async-mutex';
import type { Logger } from 'pino';
import { errno, FsError } from '../../shared/errno.ts';
import { limits } from '../../shared/limits.ts';
import { LoopPoll } from '../../shared/loop-poll.ts';
import {
  frameKind,
  type OperationName,
  operations,
  type ReplyOf,
  type RequestOf,
} from '../../shared/protocol/messages.ts';
import { ProtocolError } from '../../shared/protocol/schema.ts';
import { reconnectDelayMs } from './backoff.ts';
import { explainConnectError } from './connect-error.ts';
import { Denial, Interval } from './interval.ts';
import { type Connector, type HelloReply, type Lane, Link, type LinkEvents, RefusedError } from './link.ts';
import { RequestTable, type SlottedRequest } from './request-table.ts';
import { isOnceOnly, isOwed, laneOf, opens } from './request-traits.ts';
import { RoundTrip } from './round-trip.ts';
import type { ServerAddress } from './server-address.ts';
import { SoftTimeout, type Waiting } from './soft-timeout.ts';
import { UnansweredError } from './unanswered-error.ts';

/** uid, gid, then supplementary groups. */
export type CallerIdentity = readonly number[];

interface Pending extends Waiting, SlottedRequest {
  readonly operation: OperationName;
  readonly caller: CallerIdentity;
  readonly body: unknown;
  readonly bulk: Uint8Array | undefined;
  readonly lane: Lane;
  readonly signal: AbortSignal | undefined;
  /** A server may have begun with it. */
  wasSent: boolean;
  /** Applied twice, it would do something else, and nobody would notice. */
  readonly isOnceOnly: boolean;
  sentMs: number;
  /** Its caller was told that there is no answer. */
  isAbandoned: boolean;
  resolve: (reply: Answer<OperationName>) => void;
  reject: (error: unknown) => void;
}

/** Whoever waited for it has been told. */
const NOBODY = () => {};

export interface Answer<N extends OperationName> {
  readonly reply: ReplyOf<N>;
  /** A view of the received message; empty for operations without bulk data. */
  readonly bulk: Uint8Array;
}

export interface CallOptions {
  readonly bulk?: Uint8Array;
  /** When aborted, the server is asked to give up the wait; the reply (EINTR, or success after all) still comes. */
  readonly signal?: AbortSignal;
  /** On which connection: for what must not overtake, or be overtaken by, something else. */
  readonly lane?: Lane;
}

/** Leases are given back: what is to be done before, and what is said then. */
export interface Recall {
  /** Never rejects. Undefined: nothing is to be done. */
  readonly ready: Promise<void> | undefined;
  /** Called when it is ready, right before the server is told. Returns other inodes whose leases are given back too. */
  finish(): readonly Uint8Array[];
}

export interface SessionOptions {
  /** Callers get ETIMEDOUT when the server was silent for so long; undefined: they wait. */
  readonly softTimeoutMs?: number | undefined;
  /** How the server is reached; undefined: by WebSocket. */
  readonly connector?: Connector;
}

const NO_BULK = new Uint8Array(0);

export class ServerSession {
  readonly address: ServerAddress;
  readonly log: Logger;
  readonly #loop: LoopPoll;
  readonly #connector: Connector | undefined;
  readonly #client = `${hostname()}:${process.pid}`;
  readonly #links = new Map<Lane, Link>();
  readonly #requests = new RequestTable<Pending>();
  /** Lanes are opened one after the other: the second must join the session that the first was given. */
  readonly #opening = new Mutex();
  #hello!: HelloReply;
  #lastSeq = 0;
  /** When the last request was sent that the server answered on the small lane. */
  #answeredMs = Number.NEGATIVE_INFINITY;
  readonly roundTrip = new RoundTrip();
  /**
   * The connection on which recalls come is lost: shared leases are, and exclusive ones are kept as long as nobody minds.
   * Told again when it is back: what the other lane brought meanwhile may have been recalled, and nobody could be told.
   */
  onLost: () => void = () => {};
  /**
   * The server was started anew, or had ended this session (`isSameServer`): it knows of no lease, no open file, no lock.
   * Another machine, or another start of it, has not what was written and not synchronized.
   */
  onForgotten: (isSameServer: boolean, isSameMachine: boolean) => void = () => {};
  /** A lock that was waited for is decided: 0, or an errno. It may be said twice. */
  onGranted: (ticket: number, errno: number) => void = () => {};
  /** Leases are not to be used from now on; null: none is. */
  onRecall: (inodes: readonly Uint8Array[] | null) => Recall = () => ({ ready: undefined, finish: () => [] });
  /** Blocks of a file's data are not to be used from now on; null: none is. */
  onRecallBlocks: (inode: Uint8Array, blocks: readonly number[] | null) => void = () => {};
  /** Others look into this directory. Resolves when the server has all that was made there. */
  onShare: (directory: Uint8Array) => Promise<void> | undefined = () => undefined;
  #denial: Denial | undefined;
  /** End the pauses between attempts: when one lane is opened, the other has no reason to wait. */
  readonly #paused = new Set<() => void>();
  /** The server was started lately: until this is resolved locks are only taken again. */
  #grace: Interval | undefined;
  #isRenewing = false;
  /** A soft mount's. */
  readonly #softTimeout: SoftTimeout<Pending> | undefined;
  #closed = false;
  /** Counts the sessions this client has had: handles of an earlier one are gone. */
  epoch = 0;
  /** When the server went away (milliseconds since 1970), for status; undefined while it is there. */
  unreachableSinceMs: number | undefined;

  private constructor(
    address: ServerAddress,
    log: Logger,
    loop: LoopPoll,
    { softTimeoutMs, connector }: SessionOptions,
  ) {
    if (softTimeoutMs !== undefined) {
      this.#softTimeout = new SoftTimeout(softTimeoutMs, {
        waiting: () => this.#requests.all,
        askWhetherThere: () => this.#askWhetherThere(),
        abandon: (pending) => this.#abandon(pending),
      });
    }
    this.#loop = loop;
    this.#connector = connector;
    this.address = address;
    this.log = log;
  }

  /** Rejects with an Error whose message names the address and the next step. */
  static async connect(
    address: ServerAddress,
    log: Logger,
    loop = new LoopPoll(0),
    options: SessionOptions = {},
  ): Promise<ServerSession> {
    const session = new ServerSession(address, log, loop, options);
    try {
      await session.#open('small');
      await session.#open('bulk');
    } catch (error) {
      session.close();
      throw new Error(explainConnectError(address, error), { cause: error });
    }
    return session;
  }

  /** What the server said when the session was opened. */
  get hello(): HelloReply {
    return this.#hello;
  }

  /** The server would have had time to recall: it answered recently. It revokes leases only some time after that. */
  get mayUseLeases(): boolean {
    return this.leasesUsableMs > 0;
  }

  /** For how many milliseconds more. */
  get leasesUsableMs(): number {
    return this.#answeredMs + limits.leaseUseMs - performance.now();
  }

  /** Something was answered under a lease: others like it may follow, so leases should stay usable. */
  leaseUsed(): void {
    if (this.#isRenewing || this.leasesUsableMs > limits.leaseUseMs - limits.leaseRenewMs) return;
    this.#askWhetherThere();
  }

  /** Resolves when locks may be asked for that were not held before; undefined: now. */
  get grace(): Promise<void> | undefined {
    return this.#grace?.over;
  }

  #setGrace(isOn: boolean): void {
    if (isOn) {
      this.#grace ??= new Interval();
    } else {
      this.#grace?.end();
      this.#grace = undefined;
    }
  }

  /** How many were made. */
  get requests(): number {
    return this.#lastSeq;
  }

  get inFlight(): number {
    return this.#requests.size;
  }

  /** The leases on these are not used any more. Where that does not arrive, the server will ask for them in vain. */
  gaveBack(inodes: readonly Uint8Array[]): void {
    this.#links.get('small')?.send([frameKind.GIVEN_BACK, inodes]);
  }

  /** The exclusive leases on these directories are shared ones from now on. Where that does not arrive, the server will ask for them. */
  downgraded(inodes: readonly Uint8Array[]): void {
    this.#links.get('small')?.send([frameKind.DOWNGRADED, inodes]);
  }

  /** Sends a request and resolves with its reply. Rejects with FsError: the server's errno. */
  async call<N extends OperationName>(
    operation: N,
    caller: CallerIdentity,
    request: RequestOf<N>,
    options: CallOptions = {},
  ): Promise<ReplyOf<N>> {
    return (await this.callForBulk(operation, caller, request, options)).reply;
  }

  /** The same, with the reply's bulk data. */
  callForBulk<N extends OperationName>(
    operation: N,
    caller: CallerIdentity,
    request: RequestOf<N>,
    { bulk, signal, lane: wantedLane }: CallOptions = {},
  ): Promise<Answer<N>> {
    if (this.#closed) return Promise.reject(new FsError(errno.ESHUTDOWN, operation));
    if (this.#denial) return Promise.reject(new FsError(errno.EACCES, operation));
    if (signal?.aborted) return Promise.reject(new FsError(errno.EINTR, operation));
    const seq = ++this.#lastSeq;
    const { encode } = operations[operation].request as { encode(value: unknown): unknown };
    const lane = wantedLane ?? laneOf(request, bulk);
    return new Promise<Answer<N>>((resolve, reject) => {
      const settle = resolve as unknown as Pending['resolve'];
      const body = encode(request);
      const pending: Pending = {
        seq,
        operation,
        caller,
        body,
        bulk,
        lane,
        signal,
        slot: -1,
        wasSent: false,
        isOnceOnly: isOnceOnly(operation, request),
        calledMs: performance.now(),
        sentMs: 0,
        isAbandoned: false,
        resolve: settle,
        reject,
      };
      if (this.#requests.add(pending)) this.#send(pending);
      signal?.addEventListener('abort', () => this.#cancel(pending), { once: true });
    });
  }

  /** Ends the session: the server lets go of its handles, callers that wait get ESHUTDOWN. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#softTimeout?.close();
    for (const link of this.#links.values()) link.close();
    this.#fail(errno.ESHUTDOWN);
  }

  #send(pending: Pending): void {
    const { seq, slot, operation, caller, body, bulk, lane } = pending;
    pending.sentMs = performance.now();
    const link = this.#links.get(lane);
    if (link === undefined) return;
    pending.wasSent = true;
    link.send([frameKind.REQUEST, seq, slot, operations[operation].code, caller, body], bulk);
  }

  #cancel(pending: Pending): void {
    if (this.#requests.withdraw(pending)) pending.reject(new FsError(errno.EINTR, pending.operation));
    else if (this.#requests.find(pending.seq)) this.#links.get(pending.lane)?.send([frameKind.CANCEL, pending.seq]);
  }

  /** Waits for something that the server says unasked: on a soft mount only as long as it says anything at all. */
  expect<T>(said: Promise<T>, operation: string): Promise<T> {
    return this.#softTimeout?.expect(said, operation) ?? said;
  }

  #abandon(pending: Pending): void {
    if (isOwed(pending.operation)) return;
    pending.isAbandoned = true;
    const mayOpen = pending.wasSent && opens(pending.operation);
    if (!this.#requests.withdraw(pending) && !mayOpen) this.#ended(pending);
  }

  #askWhetherThere(): void {
    if (this.#isRenewing) return;
    this.#isRenewing = true;
    const renewed = () => {
      this.#isRenewing = false;
    };
    this.call('renew', [], {}, { lane: 'small' }).then(renewed, renewed);
  }

  /** Its place is free: the server takes the next request there as the word that nobody waits for this one. */
  #ended(pending: Pending): void {
    const next = this.#requests.end(pending);
    if (next) this.#send(next);
  }

  #reply(frame: unknown[], lane: Lane): void {
    this.#loop.active();
    this.#softTimeout?.heard();
    const [, seq, code, result, bulk] = frame;
    const pending = this.#requests.find(seq as number);
    if (pending === undefined) return; // answered already, over an earlier connection
    this.#ended(pending);
    // Recalls come on the small lane, before the replies that were sent after them.
    if (lane === 'small') {
      this.#answeredMs = Math.max(this.#answeredMs, pending.sentMs);
      this.roundTrip.answered(performance.now() - pending.sentMs);
    }
    if (code !== 0) {
      pending.reject(new FsError(Number(code), pending.operation));
      return;
    }
    try {
      const reply = operations[pending.operation].reply.decode(result) as ReplyOf<OperationName>;
      if (pending.isAbandoned) this.#close(reply);
      else pending.resolve({ reply, bulk: bulk instanceof Uint8Array ? bulk : NO_BULK });
    } catch (error) {
      pending.reject(new FsError(errno.EPROTO, pending.operation, { cause: error }));
      if (error instanceof ProtocolError) throw error; // ends this connection
    } finally {
      // Tables that a Map has outgrown stay in the heap, and name each other, until all of it is collected: with them, the data.
      pending.resolve = pending.reject = NOBODY;
    }
  }

  /** What was opened for a caller that does not wait any more. */
  #close(reply: { readonly handle?: unknown }): void {
    if (reply.handle) this.call('release', [], { handles: [Number(reply.handle)] }).catch(() => {});
  }

  #open(lane: Lane): Promise<void> {
    return this.#opening.runExclusive(async () => {
      // The other lane was told meanwhile. To show the credential again would count as one more guess.
      if (this.#denial && this.#denial.lane !== lane) throw new FsError(errno.EACCES, 'hello');
      try {
        await this.#openLane(lane);
      } catch (error) {
        if (error instanceof RefusedError && error.isDenied) this.#denied(lane, error);
        throw error;
      }
    });
  }

  async #openLane(lane: Lane): Promise<void> {
    const session = this.#hello?.session;
    const events: LinkEvents = {
      reply: (frame) => this.#reply(frame, lane),
      recall: (on, id, inodes) => {
        const { ready, finish } = this.onRecall(inodes);
        const answer = () => on.send([frameKind.RECALLED, id, finish()]);
        if (ready) void ready.then(answer);
        else answer();
      },
      recallBlocks: (on, id, inode, blocks) => {
        this.onRecallBlocks(inode, blocks);
        on.send([frameKind.RECALLED, id, []]);
      },
      share: (on, id, directory) => {
        const answer = () => on.send([frameKind.RECALLED, id, []]);
        const ready = this.onShare(directory);
        if (ready) void ready.then(answer);
        else answer();
      },
      granted: (on, ticket, code) => {
        this.onGranted(ticket, code);
        on.send([frameKind.GRANT_TAKEN, ticket]);
      },
      graceOver: () => this.#setGrace(false),
      closed: (on, reason) => this.#lost(lane, on, reason),
    };
    const link = await Link.open(this.address, this.#client, lane, session, events, this.#connector);
    if (this.#closed) return link.close();
    // Its end was told to nobody yet: it has not been this lane's connection so far.
    if (link.isClosed) throw new FsError(errno.ECONNRESET, 'hello');
    const before = this.#hello;
    this.#hello = link.hello;
    // GRACE_OVER comes on the small lane, and may overtake the bulk lane's older word.
    if (lane === 'small' || !this.#links.has('small')) this.#setGrace(link.hello.grace);
    const isSameServer = before?.instance.equals(link.hello.instance);
    // A server that was started anew may know the session's id, and nothing of what was under it.
    if (before && !(isSameServer && before.session.equals(link.hello.session))) {
      this.epoch++;
      if (!link.hello.remembers) this.#failUncertain();
      this.onForgotten(isSameServer === true, before.boot.equals(link.hello.boot));
      this.log.warn({ server: this.address.url }, 'the server has forgotten this session; files are opened anew');
    }
    this.#links.set(lane, link);
    if (lane === 'small' && before) this.onLost();
    for (const tryNow of this.#paused) tryNow();
    this.#denial?.end();
    this.#denial = undefined;
    // In the same turn: what is called from now on comes after what was called before.
    for (const pending of this.#requests.inFlight) {
      if (pending.lane !== lane) continue;
      this.#send(pending);
      if (pending.signal?.aborted) this.#cancel(pending);
    }
  }

  #lost(lane: Lane, link: Link, reason: string): void {
    if (this.#closed || this.#links.get(lane) !== link) return;
    this.#links.delete(lane);
    if (lane === 'small') {
      this.#answeredMs = Number.NEGATIVE_INFINITY;
      this.onLost();
    }
    if (this.unreachableSinceMs === undefined) {
      this.unreachableSinceMs = Date.now();
      this.log.warn({ server: this.address.url, reason }, 'connection lost; callers wait while it is opened again');
    }
    void this.#reconnect(lane);
  }

  #denied(lane: Lane, error: RefusedError): void {
    if (this.#denial === undefined && this.#hello) this.#logRefusal(error);
    this.#denial ??= new Denial(lane);
    this.#fail(errno.EACCES);
  }

  #logRefusal({ message }: RefusedError): void {
    this.log.error({ server: this.address.url, reason: message }, 'the server refuses this client');
  }

  /** Nobody knows whether these were applied by a server that has forgotten all of this session. */
  #failUncertain(): void {
    for (const pending of [...this.#requests.inFlight]) {
      if (!pending.wasSent || !pending.isOnceOnly) continue;
      this.#ended(pending);
      this.log.error({ operation: pending.operation }, 'nobody knows whether this was done: its caller is told EIO');
      pending.reject(new FsError(errno.EIO, pending.operation));
    }
  }

  /** Waiting would be for nothing: the session is closed, or the server has taken this client's rights away. */
  #fail(code: number): void {
    for (const { reject, operation } of this.#requests.clear()) reject(new UnansweredError(code, operation));
  }

  /** Never rejects: it tries until it is connected, or the session is closed. */
  async #reconnect(lane: Lane): Promise<void> {
    for (let attempt = 0; !this.#closed; attempt++) {
      try {
        await this.#open(lane);
        break;
      } catch (error) {
        if (error instanceof RefusedError && !this.#denial && attempt === 0) this.#logRefusal(error);
        if (this.#denial && this.#denial.lane !== lane) await this.#denial.over;
        else await this.#pause(attempt);
      }
    }
    if (this.#closed) return;
    if (this.#links.size < 2 || this.unreachableSinceMs === undefined) return;
    const seconds = (Date.now() - this.unreachableSinceMs) / 1000;
    this.unreachableSinceMs = undefined;
    this.log.info({ server: this.address.url, seconds }, 'connected again');
  }

  #pause(attempt: number): Promise<void> {
    const delayMs = this.#denial ? limits.deniedRetryMs : reconnectDelayMs(attempt);
    return new Promise((resolve) => {
      const tryNow = () => {
        clearTimeout(timer);
        this.#paused.delete(tryNow);
        resolve();
      };
      const timer = setTimeout(tryNow, delayMs);
      // Nothing of this process waits for it that long.
      if (this.#denial) timer.unref();
      this.#paused.add(tryNow);
    });
  }
}
