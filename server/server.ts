/**
 * The server: its exports, sessions and listener, put together and taken apart. Everything with a clock or a socket is
 * started here; the rooms below know nothing of each other but what they are handed.
 */
import { randomBytes } from 'node:crypto';
import type { Logger } from 'pino';
import { limits } from '../shared/limits.ts';
import { bootId } from '../shared/linux/boot-id.ts';
import { LoopPoll } from '../shared/loop-poll.ts';
import { operations, PROTOCOL_VERSION } from '../shared/protocol/messages.ts';
import { AccessControl } from './access/access-control.ts';
import { mayUse } from './access/credential.ts';
import type { TlsMaterial } from './access/tls-files.ts';
import { statusOf } from './admin/status.ts';
import { Dispatcher } from './dispatch/dispatcher.ts';
import { SinceStart } from './dispatch/since-start.ts';
import { closeExports, type Export } from './export.ts';
import type { ClientList } from './session/client-list.ts';
import { InterruptedWrites } from './session/interrupted-writes.ts';
import type { KeptChanges } from './session/kept-changes.ts';
import type { RequestJournal } from './session/request-journal.ts';
import type { Session } from './session/session.ts';
import { SessionTable } from './session/session-table.ts';
import { actsAsCallers } from './store/identity.ts';
import { Connection, type ConnectionHost, type HelloRequest } from './transport/connection.ts';
import {
  type Listen,
  type ListenAddress,
  Listener,
  type ListenerOptions,
  type Listening,
  type Visitor,
} from './transport/listener.ts';

export interface ServerOptions {
  readonly exports: readonly Export[];
  readonly listen: ListenAddress;
  readonly tls?: TlsMaterial;
  /** Where it is said who may connect; absent: nobody is asked. */
  readonly grantFile?: string;
  readonly log: Logger;
  /** How long the event loop stays awake after a message, in microseconds; 0: never. */
  readonly pollUs: number;
  /** How long a client may be away before others get what it holds. */
  readonly sessionLeaseMs?: number;
  /** Where it is kept who holds locks; absent: they do not survive a restart. */
  readonly clients?: ClientList;
  /** Where it is kept which requests were applied; absent: this is not known after a restart. */
  readonly journal?: RequestJournal | undefined;
  /** Where it is kept what clients change, for those that are away; absent: the next process does not know. */
  readonly changes?: KeptChanges;
  /** Which start of the machine it is; absent: as Linux says. */
  readonly boot?: Buffer;
}

const EXPIRY_CHECK_MS = 500;
const DRAIN_MS = 2_000;

function drainTime(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, DRAIN_MS).unref());
}

export class Server implements ConnectionHost {
  readonly instance = randomBytes(16);
  readonly #boot: Buffer;
  readonly startedMs = Date.now();
  readonly sessions: SessionTable;
  readonly exports: ReadonlyMap<string, Export>;
  readonly dispatcher: Dispatcher;
  readonly log: Logger;
  readonly #sinceStart: SinceStart;
  readonly #access: AccessControl;
  readonly #grantCheck: NodeJS.Timeout | undefined;
  readonly #connections = new Set<Connection>();
  readonly #poll: LoopPoll;
  readonly #expiry: NodeJS.Timeout;
  #listener: Listening | undefined;
  #wake: (() => void) | undefined;

  private constructor(options: ServerOptions) {
    this.log = options.log;
    this.#boot = options.boot ?? bootId();
    this.#access = new AccessControl(options.grantFile, options.log);
    if (!this.#access.isOpen) this.#grantCheck = setInterval(() => this.#checkGrants(), limits.grantCheckMs).unref();
    this.exports = new Map(options.exports.map((one) => [one.name, one]));
    this.#poll = new LoopPoll(options.pollUs);
    this.#sinceStart = new SinceStart(options.changes, options.clients?.hasWriters === true);
    this.dispatcher = new Dispatcher(
      () => JSON.stringify(statusOf(this)),
      options.log,
      this.instance,
      this.#sinceStart,
    );
    const interrupted = new InterruptedWrites(options.journal, options.exports);
    if (interrupted.size > 0)
      this.log.info({ writes: interrupted.size }, 'interrupted writes: nobody gets there before they are finished');
    this.sessions = new SessionTable({
      nowMs: performance.now(),
      journal: options.journal,
      interrupted,
      ...(options.clients ? { clients: options.clients } : {}),
      ...(options.sessionLeaseMs === undefined ? {} : { leaseMs: options.sessionLeaseMs }),
    });
    const { grace, writersGrace, leasesGrace } = this.sessions;
    // A client that has not noticed the end of the last process uses its leases no longer than this: that was before now.
    const leasesEnd = () => this.sessions.endEarlierLeases();
    if (!leasesGrace.isOver) setTimeout(leasesEnd, limits.leaseUseMs).unref();
    if (!leasesGrace.isOver)
      this.log.info(
        { clients: leasesGrace.awaited.length },
        'clients that held leases are awaited, for at most 3 s: nothing is changed before they know of this start',
      );
    if (!grace.isOver)
      this.log.info({ clients: grace.awaited.length }, 'grace period: clients may reclaim their locks');
    if (!writersGrace.isOver)
      this.log.info(
        { clients: writersGrace.awaited.length },
        'clients that wrote are awaited: no file is cached by the page',
      );
    this.sessions.onGraceOver = (late) =>
      this.log.info(
        { late: late.map(({ client }) => client) },
        'grace period over; late clients have lost their locks',
      );
    this.sessions.onFenced = (inode, holder) => this.#sinceStart.fenced(inode, holder);
    this.sessions.onTold = (holder) => this.#sinceStart.told(holder);
    this.sessions.onExpired = ({ client, openFiles, locks: { lockCount: locks } }) =>
      this.log.warn({ client, openFiles, locks }, 'session ended: its client stayed away');
    this.#expiry = setInterval(() => this.#expire(), EXPIRY_CHECK_MS);
    this.#expiry.unref();
  }

  /** Resolves when it listens. Rejects with a Node error (EADDRINUSE, EACCES) when it cannot. */
  static async start(options: ServerOptions, listen: Listen = Listener.open): Promise<Server> {
    const server = new Server(options);
    const { listen: address, tls, log } = options;
    const listening: ListenerOptions = { address, log, access: server.#access, ...(tls ? { tls } : {}) };
    server.#listener = await listen(listening, (transport, visitor) => {
      const connection = new Connection(server, visitor);
      connection.attach(transport(connection));
      server.#connections.add(connection);
    });
    return server;
  }

  get port(): number {
    return this.#listener?.port ?? 0;
  }

  get connectionCount(): number {
    return this.#connections.size;
  }

  /** Messages that have come or gone so far, about. */
  get activities(): number {
    return this.#poll.activities;
  }

  active(): void {
    this.#poll.active();
  }

  greet(
    request: HelloRequest,
    { credential, peer }: Visitor,
  ): { session: Session; reply: unknown } | { refusal: string } {
    // It may have been taken back since the connection was opened.
    this.#access.refresh();
    if (!this.#access.stillHolds(credential, Date.now())) return { refusal: `"${credential.name}" holds no more` };
    const exported = mayUse(credential, request.export) ? this.exports.get(request.export) : undefined;
    if (exported === undefined) {
      const names = [...this.exports.keys()]
        .filter((name) => mayUse(credential, name))
        .map((name) => `"${name}"`)
        .join(', ');
      return { refusal: `no export "${request.export}" here; this server exports ${names}` };
    }
    const { root } = exported.store;
    // First: it may fail, and then nobody would detach.
    const entry = { inode: root.handle, attributes: exported.store.attributes(root), leased: false };
    // People read it in a terminal.
    const client = request.client.replace(/\p{C}/gu, '?');
    const { session, resumed } = this.sessions.attach(request.session, exported, client, Date.now(), credential);
    if (!resumed) this.log.info({ peer, client, export: exported.name, credential: credential.name }, 'session opened');
    const reply = operations.hello.reply.encode({
      protocol: PROTOCOL_VERSION,
      instance: this.instance,
      boot: this.#boot,
      session: session.id,
      resumed,
      remembers: session.remembers,
      grace: !this.sessions.grace.isOver,
      root: entry,
      readOnly: session.isReadOnly,
      identity:
        actsAsCallers && exported.squash !== 'all' && credential.identity.kind === 'trusted' ? 'caller' : 'server',
      wantsForget: !exported.usesKernelHandles,
      maxDataBytes: limits.maxDataBytes,
    });
    return { session, reply };
  }

  closed(connection: Connection, session: Session | undefined, forGood: boolean, silentMs: number): void {
    this.#connections.delete(connection);
    if (session) this.sessions.detach(session, performance.now() - silentMs);
    if (session && forGood && session.connections === 0) {
      this.log.info({ client: session.client }, 'session ended by its client');
      this.sessions.end(session);
    }
    if (this.#connections.size === 0) this.#wake?.();
  }

  #expire(): void {
    this.sessions.expire(performance.now());
    this.#sinceStart.expire();
    const used = new Set([...this.sessions.all].map(({ exported }) => exported));
    for (const exported of this.exports.values()) {
      if (used.has(exported)) exported.store.closeRemoved();
      else exported.store.closeUnused();
    }
  }

  /** Whoever has no grant any more loses the connections and the session at once. */
  #checkGrants(): void {
    this.#access.refresh();
    const nowMs = Date.now();
    for (const connection of this.#connections) {
      const { credential } = connection.visitor;
      if (!this.#access.stillHolds(credential, nowMs))
        connection.close(`"${credential.name}" was revoked or has expired`);
    }
    for (const session of [...this.sessions.all]) {
      const { credential, client } = session;
      if (this.#access.stillHolds(credential, nowMs)) continue;
      this.log.warn({ client, credential: credential.name }, 'session ended: its credential holds no more');
      this.sessions.end(session);
    }
  }

  /** Tells the clients, waits a moment for what is under way, and lets go of everything. */
  async close(): Promise<void> {
    clearInterval(this.#expiry);
    clearInterval(this.#grantCheck);
    this.#listener?.stopAccepting();
    for (const connection of this.#connections) connection.close('the server is shutting down');
    if (this.#connections.size > 0) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
        void drainTime().then(resolve);
      });
    }
    await this.#listener?.close();
    await Promise.race([this.sessions.close(), drainTime()]);
    closeExports(this.exports.values());
  }
}
