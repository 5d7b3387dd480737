/**
 * A server and clients of which everything is real but the network, the disk, inotify and the clock: a model decides
 * which message arrives when. Two lanes a client, each in order, both ways; messages that arrive together are handled
 * without a turn of the event loop in between, as `ws` does.
 */
import { vi } from 'vitest';
import type { HelloReply, Lane, Link, LinkEvents } from '../../client-fuse/transport/link.ts';
import type { ServerAddress } from '../../client-fuse/transport/server-address.ts';
import { ServerSession } from '../../client-fuse/transport/server-session.ts';
import { type Caller, type NodeId, ROOT_NODE } from '../../client-fuse/vfs/filesystem.ts';
import { RemoteFilesystem } from '../../client-fuse/vfs/remote-filesystem.ts';
import { ANYONE } from '../../server/access/credential.ts';
import { Dispatcher } from '../../server/dispatch/dispatcher.ts';
import type { Export } from '../../server/export.ts';
import { Change, LeaseManager } from '../../server/leases/lease-manager.ts';
import type { LocalChanges } from '../../server/leases/local-changes.ts';
import { SessionTable } from '../../server/session/session-table.ts';
import type { Inode } from '../../server/store/inode.ts';
import { Connection, type ConnectionHost, type HelloRequest } from '../../server/transport/connection.ts';
import { errno, FsError } from '../../shared/errno.ts';
import type { Eventually } from '../../shared/eventually.ts';
import { decodeFrame, encodeFrame } from '../../shared/protocol/frame.ts';
import { frameKind, operations, PROTOCOL_VERSION } from '../../shared/protocol/messages.ts';
import { silent } from './fixture.ts';
import { MemoryStore, type Register } from './memory-store.ts';

const BULK = Buffer.alloc(64 * 1024 + 1);
export const NAMES = ['a', 'b', 'c'];
/** What setattr carries over the bulk lane, as a large write goes. */
const WRITE_TIME = { sec: 7, nsec: 7 };

/** One connection: what is on its way. */
export class Pipe {
  readonly toServer: Buffer[][] = [];
  readonly toClient: Buffer[] = [];
  readonly connection: Connection;
  readonly hello: HelloReply;
  events: LinkEvents;
  /** What the client has of it. */
  link!: Link;
  isOpen = true;

  constructor(world: World, events: LinkEvents, lane: Lane, session: Uint8Array | undefined) {
    this.events = events;
    this.connection = new Connection(world, {
      peer: 'model',
      credential: ANYONE,
      established: () => {},
      failed: () => {},
    });
    const nothing = () => {};
    this.connection.attach({
      send: (head, bulk, flushed) => {
        if (bulk) throw new Error('no bulk replies here');
        this.toClient.push(Buffer.from(head));
        flushed?.();
      },
      queuedBytes: 0,
      pause: nothing,
      resume: nothing,
      close: (reason) => {
        throw new Error(`the server ended a connection: ${reason}`);
      },
      terminate: nothing,
    });
    const body = { protocol: PROTOCOL_VERSION, export: '/', session, client: 'model', lane };
    const request = [frameKind.REQUEST, 0, 0, operations.hello.code, [], operations.hello.request.encode(body)];
    this.connection.message([Buffer.from(encodeFrame(request).head)]);
    const [, , , result] = decodeFrame([this.toClient.shift() as Buffer]);
    const hello = operations.hello.reply.decode(result);
    this.hello = {
      ...hello,
      session: Buffer.from(hello.session),
      instance: Buffer.from(hello.instance),
      boot: Buffer.from(hello.boot),
    };
  }

  deliverToServer(): void {
    const message = this.toServer.shift();
    if (message) this.connection.message(message);
  }

  deliverToClient(): void {
    const message = this.toClient.shift();
    if (message === undefined) return;
    const frame = decodeFrame([message]);
    if (frame[0] === frameKind.RECALL)
      this.events.recall(this.link, frame[1] as number, frame[2] as Uint8Array[] | null);
    else this.events.reply(frame);
  }
}

export interface Operation {
  readonly uid: number;
  readonly work: (caller: Caller) => Eventually<unknown>;
}

export class Client {
  readonly world: World;
  readonly lanes = new Map<Lane, Pipe>();
  session!: ServerSession;
  filesystem!: RemoteFilesystem;
  /** Connections are refused. */
  isAway = false;
  /** What its kernel knows: nodes by inode number, with its references. */
  readonly nodes = new Map<number, { node: NodeId; references: number }>();

  constructor(world: World) {
    this.world = world;
  }

  /** Stands in for Link.open. */
  open(lane: Lane, session: Uint8Array | undefined, events: LinkEvents) {
    if (this.isAway) return Promise.reject(new FsError(errno.ECONNREFUSED, 'connect'));
    const pipe = new Pipe(this.world, events, lane, session);
    this.lanes.set(lane, pipe);
    const send = (elements: unknown[], bulk?: Uint8Array) => {
      if (!pipe.isOpen) return;
      const frame = encodeFrame(elements, bulk);
      pipe.toServer.push(
        [frame.head, frame.bulk].filter((part) => part !== undefined).map((part) => Buffer.from(part)),
      );
    };
    const link: Pick<Link, 'hello' | 'send' | 'close' | 'isClosed'> = {
      hello: pipe.hello,
      send,
      close: () => {},
      get isClosed() {
        return !pipe.isOpen;
      },
    };
    pipe.link = link as Link;
    return Promise.resolve(link);
  }

  /** The connection breaks: of what was on its way to the server, the first `arriving` messages arrive. */
  cut(lane: Lane, arriving: number): void {
    const pipe = this.lanes.get(lane);
    if (!pipe?.isOpen) return;
    pipe.isOpen = false;
    for (let count = 0; count < arriving; count++) pipe.deliverToServer();
    pipe.toServer.length = 0;
    pipe.toClient.length = 0;
    pipe.connection.closed('cut');
    pipe.events.closed(pipe.link, 'cut');
  }

  nodeOf(ino: number): NodeId | undefined {
    return ino === this.world.rootIno ? ROOT_NODE : this.nodes.get(ino)?.node;
  }

  found(ino: number, node: NodeId): void {
    const known = this.nodes.get(ino);
    if (known?.node === node) known.references++;
    else this.nodes.set(ino, { node, references: 1 });
  }

  forget(ino: number): void {
    const known = this.nodes.get(ino);
    if (known === undefined) return;
    this.nodes.delete(ino);
    this.filesystem.forget(known.node, known.references);
  }
}

export class World implements ConnectionHost {
  readonly store = new MemoryStore();
  readonly clients: Client[] = [];
  readonly leases: LeaseManager;
  readonly dispatcher = new Dispatcher(() => '', silent);
  readonly log = silent;
  readonly #sessions = new SessionTable();
  readonly #exported: Export;
  readonly local: LocalChanges & { onChange(inode: Inode): void };
  readonly rootIno: number;
  /** Inotify events that the server has not read. */
  readonly events: { readonly inode: Inode; readonly changes: readonly [Register, number][] }[] = [];
  /** Work of setattr that is under way on the server's disk. */
  readonly busy: (() => void)[] = [];
  /** True: the next setattr takes its time on the disk. */
  slowDisk = false;
  #lastUid = 0;
  openOperations = 0;
  answersFromCache = 0;
  stale: string[] = [];

  constructor() {
    const { store } = this;
    this.rootIno = Number(store.root.ino);
    const fake = {
      isAvailable: true,
      onChange: (_inode: Inode) => {},
      watch: (inode: Inode, { mode }: { mode: number }) => {
        inode.watch ??= { inode, names: (mode & 0o170000) === 0o040000 ? new Map() : undefined };
        return true;
      },
      said: () => {},
      noticed: () => {},
      made: () => {},
      saidAttributes: () => {},
      isAsSaid: () => true,
      ownChange: () => {},
      close: () => {},
    };
    this.local = fake as unknown as World['local'];
    this.leases = new LeaseManager(store.asStore, this.local, silent);
    const during = this.leases.during.bind(this.leases);
    this.leases.during = (author, inodes, work) => {
      const isSlow = this.slowDisk && inodes.length === 1;
      if (!isSlow) return during(author, inodes, work);
      this.slowDisk = false;
      return during(author, inodes, async () => {
        await new Promise<void>((resolve) => this.busy.push(resolve));
        // What was looked at before may be different now, as after a wait for recalls.
        return work(new Change(inodes, true));
      });
    };
    this.#exported = {
      name: '/',
      directory: '/',
      readOnly: false,
      squash: 'none',
      store: store.asStore,
      leases: this.leases,
      usesKernelHandles: true,
    };
  }

  static async open(clients: number): Promise<World> {
    const world = new World();
    for (let index = 0; index < clients; index++) {
      const client = new Client(world);
      world.clients.push(client);
      connecting = client;
      client.session = await ServerSession.connect({ url: 'model' } as ServerAddress, silent);
      const call = client.session.call.bind(client.session) as ServerSession['call'];
      client.session.call = (operation, caller, request, options) => {
        const isWrite = operation === 'setattr' && (request as { mtime?: unknown }).mtime !== undefined;
        return call(operation, caller, request, isWrite ? { ...options, bulk: BULK } : options);
      };
      client.filesystem = new RemoteFilesystem(client.session, {}, 1);
    }
    return world;
  }

  // ConnectionHost

  greet(request: HelloRequest) {
    const { session, resumed } = this.#sessions.attach(request.session, this.#exported, 'model', Date.now());
    const { root } = this.store;
    const reply = operations.hello.reply.encode({
      protocol: PROTOCOL_VERSION,
      instance: Buffer.alloc(16),
      boot: Buffer.alloc(16),
      session: session.id,
      resumed,
      grace: false,
      remembers: session.remembers,
      root: { inode: root.handle, attributes: this.store.attributes(root), leased: false },
      readOnly: false,
      identity: 'caller',
      wantsForget: false,
      maxDataBytes: 1,
    });
    return { session, reply };
  }

  active(): void {}

  closed(_connection: Connection, session: Parameters<ConnectionHost['closed']>[1]): void {
    if (session) this.#sessions.detach(session, performance.now());
  }

  // operations

  /** Starts an operation and checks its answer, when there is one, against what everybody knew when it was started. */
  start(
    what: string,
    registers: () => [Register, number][],
    work: (caller: Caller) => Eventually<unknown>,
    check: (result: unknown, error: unknown) => [Register, unknown][],
  ): void {
    const uid = ++this.#lastUid;
    const caller: Caller = { uid, gid: 0, pid: 0, groups: [], signal: new AbortController().signal };
    const floors = new Map(registers());
    const done = (how: string, result: unknown, error: unknown) => {
      for (const [register, value] of check(result, error)) {
        const index = register.values.lastIndexOf(value);
        const floor = floors.get(register);
        if (floor !== undefined && index < floor) {
          this.stale.push(
            `${what} (${how}): ${register.what} was ${String(value)}, then ${String(register.values.slice(index + 1, floor + 1))}`,
          );
        }
        this.#raise(register, index);
      }
      for (const [register, index] of this.store.changesOf.get(uid) ?? []) this.#raise(register, index);
    };
    let answer: Eventually<unknown>;
    try {
      answer = work(caller);
    } catch (error) {
      if (!(error instanceof FsError)) throw error;
      this.answersFromCache++;
      done('from cache', undefined, error);
      return;
    }
    if (!(answer instanceof Promise)) {
      this.answersFromCache++;
      done('from cache', answer, undefined);
      return;
    }
    this.openOperations++;
    const ended = (result: unknown, error: unknown) => {
      this.openOperations--;
      if (error !== undefined && !(error instanceof FsError)) this.stale.push(`${what}: ${String(error)}`);
      done('asked', result, error);
    };
    answer.then(
      (result) => ended(result, undefined),
      (error: unknown) => ended(undefined, error),
    );
  }

  /** Somebody knows this value now; nobody may be shown an older one, except for changes that raised no event yet. */
  #raise(register: Register, index: number): void {
    const unseen = Math.min(Number.POSITIVE_INFINITY, ...register.unseen);
    register.floor = Math.max(register.floor, Math.min(index, unseen - 1));
  }

  lookup(client: Client, parent: number, name: string): void {
    const node = client.nodeOf(parent);
    if (node === undefined) return;
    const register = this.store.nameRegister(parent, name);
    const registers = (): [Register, number][] => [
      [register, register.floor],
      ...register.values
        .filter((ino) => ino !== null)
        .map((ino): [Register, number] => {
          const attributes = this.store.attributesRegister(ino as number);
          return [attributes, attributes.floor];
        }),
    ];
    this.start(
      `${this.clients.indexOf(client)} lookup ${parent}/${name}`,
      registers,
      (caller) => client.filesystem.lookup(caller, node, Buffer.from(name)),
      (result, error) => {
        if (error instanceof FsError && error.code === errno.ENOENT) return [[register, null]];
        if (error) return [];
        const entry = result as { node: NodeId; attributes: { ino: number; size: number } };
        // With a kernel, a name that is absent is an answer that it may keep.
        if (entry.node === 0) return [[register, null]];
        client.found(entry.attributes.ino, entry.node);
        return [
          [register, entry.attributes.ino],
          [this.store.attributesRegister(entry.attributes.ino), entry.attributes.size],
        ];
      },
    );
  }

  getattr(client: Client, ino: number): void {
    const node = client.nodeOf(ino);
    if (node === undefined) return;
    const register = this.store.attributesRegister(ino);
    this.start(
      `${this.clients.indexOf(client)} getattr ${ino}`,
      () => [[register, register.floor]],
      (caller) => client.filesystem.getattr(caller, node),
      (result, error) => {
        if (error) return [];
        return [[register, (result as { attributes: { size: number } }).attributes.size]];
      },
    );
  }

  change(client: Client, what: string, work: (caller: Caller) => Promise<unknown>): void {
    this.start(
      `${this.clients.indexOf(client)} ${what}`,
      () => [],
      work,
      (result) => {
        const entry = result as { node?: NodeId; attributes?: { ino: number; size: number } } | undefined;
        if (entry?.node === undefined || entry.attributes === undefined) return [];
        client.found(entry.attributes.ino, entry.node);
        return [[this.store.attributesRegister(entry.attributes.ino), entry.attributes.size]];
      },
    );
  }

  setattr(client: Client, ino: number, isWrite: boolean, slow: boolean): void {
    const node = client.nodeOf(ino);
    if (node === undefined) return;
    this.change(client, `${isWrite ? 'write' : 'chmod'} ${ino}`, (caller) => {
      this.slowDisk ||= slow;
      return client.filesystem.setattr(caller, node, isWrite ? { mtime: WRITE_TIME } : { mode: 0o600 });
    });
  }

  /** A program on the server changes something; the event comes later. */
  changeLocally(work: (as: { uid: number; gid: number; groups: number[] }) => void): void {
    const uid = ++this.#lastUid;
    try {
      work({ uid, gid: 0, groups: [] });
    } catch (error) {
      if (!(error instanceof FsError)) throw error;
      return;
    }
    const changes = this.store.changesOf.get(uid) ?? [];
    for (const [register, index] of changes) register.unseen.add(index);
    const inos = new Set(changes.map(([{ what }]) => Number(/\d+/.exec(what)?.[0])));
    for (const { inode } of this.store.items)
      if (inos.has(Number(inode.ino)))
        this.events.push({
          inode,
          changes: changes.filter(([{ what }]) => Number(/\d+/.exec(what)?.[0]) === Number(inode.ino)),
        });
  }

  /** The server reads its oldest event. When nobody holds a lease of before it any more, everybody sees the change. */
  readEvent(): void {
    const event = this.events.shift();
    if (event === undefined) return;
    const before = this.leases.change(undefined, [event.inode]);
    const seen = () => {
      for (const [register, index] of event.changes) {
        register.unseen.delete(index);
        this.#raise(register, index);
      }
    };
    if (before instanceof Promise)
      void before.then((change) => {
        seen();
        change[Symbol.dispose]();
      });
    else {
      seen();
      before[Symbol.dispose]();
    }
  }

  /** Lets promises go on. */
  turn(): Promise<void> {
    return new Promise((resolve) => setImmediate(resolve));
  }
}

let connecting: Client;

/** Link.open of the real client: a pipe of whichever client connects. */
export function openLink(
  _address: unknown,
  _client: string,
  lane: Lane,
  session: Uint8Array | undefined,
  events: LinkEvents,
) {
  const owner = session ? ownerOf(session) : connecting;
  return owner.open(lane, session, events);
}

const owners = new Map<string, Client>();
function ownerOf(session: Uint8Array): Client {
  const key = Buffer.from(session).toString('hex');
  let owner = owners.get(key);
  if (owner === undefined) {
    owner = connecting;
    owners.set(key, owner);
  }
  return owner;
}

export function useFakeClock(): void {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance', 'Date'] });
}
