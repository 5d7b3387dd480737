/** Locks of programs at a real server over sockets: who is granted what when, also over broken connections. */
import { writeFileSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { parseServerAddress } from '../../client-fuse/transport/server-address.ts';
import { ServerSession } from '../../client-fuse/transport/server-session.ts';
import { type Caller, type Lock, ROOT_NODE } from '../../client-fuse/vfs/filesystem.ts';
import { RemoteFilesystem } from '../../client-fuse/vfs/remote-filesystem.ts';
import { statusOf } from '../../server/admin/status.ts';
import { errno, FsError } from '../../shared/errno.ts';
import { limits } from '../../shared/limits.ts';
import {
  frameKind,
  type OperationName,
  operations,
  type ReplyOf,
  type RequestOf,
} from '../../shared/protocol/messages.ts';
import { END_OF_BYTES } from '../../shared/range-map.ts';
import { CuttingProxy } from '../support/cutting-proxy.ts';
import { lookUp, RawClient, ROOT, silent, TemporaryDirectory, TestServer } from '../support/fixture.ts';
import { KeptClients } from '../support/kept-state.ts';

const { maxLocks, maxWaitingLocks, minGraceMs, sessionLeaseMs } = limits;
const all = { start: 0n, end: END_OF_BYTES } as const;

let directory: TemporaryDirectory;
let server: TestServer;
let clients: KeptClients;
let inode: Uint8Array;

beforeEach(async () => {
  directory = new TemporaryDirectory();
  writeFileSync(directory.join('f'), '');
  clients = new KeptClients();
  server = await TestServer.start(directory.path, { clients });
  const finder = await server.connect();
  ({ inode } = await lookUp(finder, ROOT, { parent: finder.hello.root.inode, name: Buffer.from('f') }));
  finder.close();
});
afterEach(async () => {
  Object.assign(limits, { maxLocks, maxWaitingLocks, minGraceMs, sessionLeaseMs });
  await server[Symbol.asyncDispose]();
  directory[Symbol.dispose]();
});

/** A client that has `f` open, and of which the test sees each frame. */
class Locker implements Disposable {
  readonly raw: RawClient;
  readonly session: Uint8Array;
  handle = 0;
  isGraceOver = false;
  #seq = 0;

  private constructor(raw: RawClient, session: Uint8Array, seq: number) {
    this.raw = raw;
    this.session = session;
    this.#seq = seq;
  }

  /** `id`: of a session of an earlier server. */
  static async open(id?: Uint8Array): Promise<Locker> {
    const { client, hello } = await RawClient.greeted(server.server.port, id);
    const locker = new Locker(client, hello.session, 0);
    const flags = { flags: 2, killSuidgid: false, wants: 'none', firstBytes: 0 } as const;
    locker.handle = (await locker.call('open', { inode, ...flags })).handle;
    return locker;
  }

  /** The same session over a new connection. */
  async again(): Promise<Locker> {
    this.raw[Symbol.dispose]();
    const { client } = await RawClient.greeted(server.server.port, this.session);
    const next = new Locker(client, this.session, this.#seq);
    return Object.assign(next, { handle: this.handle });
  }

  async call<N extends OperationName>(operation: N, request: RequestOf<N>): Promise<ReplyOf<N>> {
    const { code, request: asked, reply } = operations[operation];
    const body = (asked as { encode(value: unknown): unknown }).encode(request);
    this.raw.send([frameKind.REQUEST, ++this.#seq, 0, code, ROOT, body]);
    let frame = await this.raw.next();
    if (frame[0] === frameKind.GRACE_OVER) {
      this.isGraceOver = true;
      frame = await this.raw.next();
    }
    const [kind, seq, failed, result] = frame;
    expect([kind, seq]).toEqual([frameKind.REPLY, this.#seq]);
    if (failed !== 0) throw new FsError(Number(failed), operation);
    return reply.decode(result) as ReplyOf<N>;
  }

  async lock(
    mode: 'shared' | 'exclusive',
    more: { ticket?: number; owner?: number; start?: bigint; end?: bigint; reclaim?: boolean } = {},
  ) {
    const request = { kind: 'posix', owner: 1, pid: 1, ticket: undefined, reclaim: false, ...all, ...more } as const;
    return (await this.call('lock', { handle: this.handle, mode, ...request })).granted;
  }

  async unlock(range: { start: bigint; end: bigint } = all, owner = 1): Promise<void> {
    await this.call('unlock', { inode, kind: 'posix', owner, ...range });
  }

  [Symbol.dispose](): void {
    this.raw[Symbol.dispose]();
  }
}

const code = (name: keyof typeof errno) => expect.objectContaining({ code: errno[name] });
const counts = () => {
  const { held, waiting } = statusOf(server.server).locks;
  return { held, waiting };
};

describe('a lock that is in the way', () => {
  test('refuses without a ticket; with one it is waited for, granted after the unlock, and held', async () => {
    using a = await Locker.open();
    using b = await Locker.open();
    expect(await a.lock('exclusive')).toBe(true);
    await expect(b.lock('shared')).rejects.toEqual(code('EAGAIN'));
    expect(await b.lock('exclusive', { ticket: 7 })).toBe(false);
    expect(counts()).toEqual({ held: 1, waiting: 1 });
    await a.unlock();
    expect(await b.raw.next()).toEqual([frameKind.GRANTED, 7, 0]);
    await expect(a.lock('shared')).rejects.toEqual(code('EAGAIN'));
    expect(counts()).toEqual({ held: 1, waiting: 0 });
  });

  test('is described by getlk: with its process to its own client only', async () => {
    using a = await Locker.open();
    using b = await Locker.open();
    await a.lock('exclusive', { start: 5n, end: 9n });
    const ask = { mode: 'shared', ...all } as const;
    const lock = { mode: 'exclusive', start: 5n, end: 9n };
    expect(await b.call('getlk', { handle: b.handle, owner: 1, ...ask })).toEqual({ lock: { ...lock, pid: 0 } });
    expect(await a.call('getlk', { handle: a.handle, owner: 2, ...ask })).toEqual({ lock: { ...lock, pid: 1 } });
    expect(await a.call('getlk', { handle: a.handle, owner: 1, ...ask })).toEqual({ lock: undefined });
  });

  test('a circle over two sessions is EDEADLK for who closes it', async () => {
    using a = await Locker.open();
    using b = await Locker.open();
    await a.lock('exclusive', { start: 0n, end: 1n });
    await b.lock('exclusive', { start: 1n, end: 2n });
    expect(await a.lock('exclusive', { start: 1n, end: 2n, ticket: 1 })).toBe(false);
    await expect(b.lock('exclusive', { start: 0n, end: 1n, ticket: 1 })).rejects.toEqual(code('EDEADLK'));
  });
});

describe('who gives up', () => {
  test('waits no more, and the next is granted it', async () => {
    using a = await Locker.open();
    using b = await Locker.open();
    await a.lock('exclusive');
    await b.lock('exclusive', { ticket: 1 });
    await b.lock('exclusive', { ticket: 2, owner: 2 });
    expect(await b.call('cancelLock', { ticket: 1 })).toEqual({ errno: undefined });
    expect(counts()).toEqual({ held: 1, waiting: 1 });
    await a.unlock();
    expect(await b.raw.next()).toEqual([frameKind.GRANTED, 2, 0]);
  });

  test('too late is told of the grant, and need not be told again', async () => {
    using a = await Locker.open();
    using b = await Locker.open();
    await a.lock('exclusive');
    await b.lock('exclusive', { ticket: 1 });
    await a.unlock();
    expect(await b.raw.next()).toEqual([frameKind.GRANTED, 1, 0]);
    expect(await b.call('cancelLock', { ticket: 1 })).toEqual({ errno: 0 });
    expect(await b.call('cancelLock', { ticket: 1 })).toEqual({ errno: undefined });
    using again = await b.again();
    expect(await again.lock('exclusive')).toBe(true);
  });
});

describe('a broken connection', () => {
  test('loses no grant: it is said on each new one until it is taken', async () => {
    using a = await Locker.open();
    const b = await Locker.open();
    await a.lock('exclusive');
    await b.lock('exclusive', { ticket: 7 });
    b.raw[Symbol.dispose]();
    await a.unlock();
    using second = await b.again();
    expect(await second.raw.next()).toEqual([frameKind.GRANTED, 7, 0]);
    using third = await second.again();
    expect(await third.raw.next()).toEqual([frameKind.GRANTED, 7, 0]);
    third.raw.send([frameKind.GRANT_TAKEN, 7]);
    using fourth = await third.again();
    // The next frame is a reply.
    await fourth.unlock();
    expect(counts()).toEqual({ held: 0, waiting: 0 });
  });

  test('the end of a session gives back what it holds, and grants nothing to what it waited for', async () => {
    using a = await Locker.open();
    using b = await Locker.open();
    await a.lock('exclusive');
    await a.lock('exclusive', { owner: 2, ticket: 1 });
    await b.lock('exclusive', { ticket: 1 });
    a.raw.socket.close(1000, 'unmounted');
    expect(await b.raw.next()).toEqual([frameKind.GRANTED, 1, 0]);
    expect(counts()).toEqual({ held: 1, waiting: 0 });
  });
});

describe('the list of clients', () => {
  test('is written before the first lock of a client and after its end, and not in between', async () => {
    using a = await Locker.open();
    // It has a file open for writing.
    expect(clients.clients).toMatchObject([{ writes: true, locks: false }]);
    const before = clients.writes;
    await a.lock('exclusive');
    const id = Buffer.from(a.session).toString('hex');
    expect(clients.clients).toMatchObject([{ id, export: '/', client: 'raw', locks: true }]);
    await a.unlock();
    await a.lock('shared');
    expect(clients.writes).toBe(before + 1);
    a.raw.socket.close(1000, 'unmounted');
    await vi.waitFor(() => expect(clients.clients).toEqual([]));
  });

  test('cannot be written: no lock is given to a client that is not in it', async () => {
    using a = await Locker.open();
    clients.isFull = true;
    await expect(a.lock('exclusive')).rejects.toEqual(code('ENOLCK'));
    expect(counts()).toEqual({ held: 0, waiting: 0 });
    clients.isFull = false;
    expect(await a.lock('exclusive')).toBe(true);
  });

  test('says who may reclaim: nobody else, and nobody after it has said that it is done', async () => {
    using a = await Locker.open();
    await a.lock('exclusive');
    const { port } = server.server;
    await server[Symbol.asyncDispose]();
    server = await TestServer.start(directory.path, { port, clients });
    using other = await Locker.open();
    await expect(other.lock('exclusive', { reclaim: true })).rejects.toEqual(code('ESTALE'));
    await expect(other.lock('exclusive')).rejects.toEqual(code('EAGAIN'));
    using again = await Locker.open(a.session);
    expect(again.session).toEqual(a.session);
    await again.lock('shared', { reclaim: true });
    // What was said to an earlier server, and arrives late, ends nothing.
    await again.call('reclaimComplete', { instance: Buffer.alloc(16) });
    await expect(again.lock('shared', { owner: 2 })).rejects.toEqual(code('EAGAIN'));
    await again.call('reclaimComplete', { instance: server.server.instance });
    await expect(again.lock('shared', { reclaim: true })).rejects.toEqual(code('ESTALE'));
    expect(again.isGraceOver).toBe(true);
    expect(await other.lock('shared')).toBe(true);
    expect(other.isGraceOver).toBe(true);
  });
});

describe('limits', () => {
  test('of ranges held, also by splitting them', async () => {
    Object.assign(limits, { maxLocks: 2 });
    using a = await Locker.open();
    await a.lock('exclusive', { start: 0n, end: 10n });
    await a.unlock({ start: 4n, end: 5n });
    await expect(a.lock('exclusive', { start: 20n, end: 21n })).rejects.toEqual(code('ENOLCK'));
    await expect(a.unlock({ start: 1n, end: 2n })).rejects.toEqual(code('ENOLCK'));
    await a.unlock({ start: 0n, end: 2n });
    expect(counts().held).toBe(2);
  });

  test('of requests that wait, and of the ranges that a lock may have', async () => {
    Object.assign(limits, { maxWaitingLocks: 1 });
    using a = await Locker.open();
    await a.lock('exclusive');
    expect(await a.lock('exclusive', { owner: 2, ticket: 1 })).toBe(false);
    await expect(a.lock('exclusive', { owner: 3, ticket: 2 })).rejects.toEqual(code('ENOLCK'));
    await expect(a.lock('exclusive', { owner: 3, ticket: 1 })).rejects.toEqual(code('EINVAL'));
    await expect(a.lock('shared', { start: 5n, end: 5n })).rejects.toEqual(code('EINVAL'));
    await expect(a.lock('shared', { start: 5n, end: END_OF_BYTES + 1n })).rejects.toEqual(code('EINVAL'));
  });
});

describe('a client', () => {
  const caller: Caller = { uid: 0, gid: 0, pid: 1, groups: [], signal: new AbortController().signal };
  const lock = (owner: number, mode: Lock['mode'] = 'exclusive'): Lock => ({
    kind: 'posix',
    owner,
    pid: owner,
    mode,
    ...all,
  });

  async function openFile(session: ServerSession) {
    const filesystem = new RemoteFilesystem(session);
    const { node } = await filesystem.lookup(caller, ROOT_NODE, Buffer.from('f'));
    const { handle } = await filesystem.open(caller, node, 2, false);
    return { filesystem, handle };
  }

  test('goes on waiting over broken connections', async () => {
    await using proxy = await CuttingProxy.open(() => server.server.port);
    const session = await ServerSession.connect(parseServerAddress(`ws://127.0.0.1:${proxy.port}/`), silent);
    const { filesystem, handle } = await openFile(session);
    using a = await Locker.open();
    await a.lock('exclusive');
    const waits = filesystem.lock(caller, handle, lock(2), true);
    await vi.waitFor(() => expect(counts().waiting).toBe(1));
    proxy.cutNow();
    await a.unlock();
    await waits;
    expect(counts()).toEqual({ held: 1, waiting: 0 });
    session.close();
  });

  test.each([
    ['is still held when it is back', false],
    ['is free meanwhile', true],
  ])(
    'on a soft mount waits as long as the server is there, then gives up, and leaves nothing behind: the lock %s',
    async (_when, isFree) => {
      await using proxy = await CuttingProxy.open(() => server.server.port);
      const address = parseServerAddress(`ws://127.0.0.1:${proxy.port}/`);
      const softTimeoutMs = 800;
      const session = await ServerSession.connect(address, silent, undefined, { softTimeoutMs });
      const { filesystem, handle } = await openFile(session);
      using a = await Locker.open();
      await a.lock('exclusive', { end: 10n });
      const own = { ...lock(4), start: 10n };
      await filesystem.lock(caller, handle, own, false);
      const waits = filesystem.lock(caller, handle, { ...lock(2), end: 10n }, true);
      const settled = vi.fn();
      waits.then(settled, settled);
      await new Promise((done) => setTimeout(done, 2 * softTimeoutMs));
      expect(settled).not.toHaveBeenCalled();
      expect(counts()).toEqual({ held: 2, waiting: 1 });

      proxy.refusing = true;
      proxy.cutNow();
      await expect(waits).rejects.toEqual(code('ETIMEDOUT'));
      // Owed to the server, though nobody waits for it.
      await expect(filesystem.unlock(caller, handle, own, own)).rejects.toEqual(code('ETIMEDOUT'));
      if (isFree) await a.unlock();
      expect(counts()).toEqual(isFree ? { held: 2, waiting: 0 } : { held: 2, waiting: 1 });
      proxy.refusing = false;
      await vi.waitFor(() => expect(counts()).toEqual({ held: isFree ? 0 : 1, waiting: 0 }), { timeout: 5000 });
      if (!isFree) await a.unlock();
      await filesystem.lock(caller, handle, lock(3), true);
      session.close();
    },
  );

  test('whose session the server has ended says EIO for files on which it held locks, and for no others', async () => {
    await using proxy = await CuttingProxy.open(() => server.server.port);
    const session = await ServerSession.connect(parseServerAddress(`ws://127.0.0.1:${proxy.port}/`), silent);
    const { filesystem, handle } = await openFile(session);
    const other = await filesystem.open(
      caller,
      (await filesystem.lookup(caller, ROOT_NODE, Buffer.from('f'))).node,
      2,
      false,
    );
    await filesystem.lock(caller, handle, lock(2), false);
    const forgotten = vi.fn(session.onForgotten);
    session.onForgotten = forgotten;
    for (const one of server.server.sessions.all) server.server.sessions.end(one);
    proxy.cutNow();
    await vi.waitFor(() => expect(forgotten).toHaveBeenCalledWith(true, true));
    await expect(filesystem.read(caller, handle, 0, 1)).rejects.toEqual(code('EIO'));
    expect(await filesystem.read(caller, other.handle, 0, 1)).toHaveLength(0);
    session.close();
  });

  /** Ends the server without a word to its clients, which see broken connections. */
  async function restart(): Promise<void> {
    const { port } = server.server;
    await server[Symbol.asyncDispose]();
    server = await TestServer.start(directory.path, { port, clients });
  }

  test('takes its locks again from a server that was started anew, before anybody else gets them', async () => {
    const [one, two] = [await server.connect(), await server.connect()];
    const [a, b] = [await openFile(one), await openFile(two)];
    await a.filesystem.lock(caller, a.handle, lock(1), false);
    const waits = b.filesystem.lock(caller, b.handle, lock(2), true);
    await vi.waitFor(() => expect(counts()).toEqual({ held: 1, waiting: 1 }));
    const ids = [one.hello.session, two.hello.session];
    const startMs = performance.now();
    await restart();
    await expect(b.filesystem.lock(caller, b.handle, lock(3), false)).rejects.toEqual(code('EAGAIN'));
    // Both were back, and nobody had to wait for the end of a time.
    expect(performance.now() - startMs).toBeLessThan(limits.minGraceMs);
    await vi.waitFor(() => expect(counts()).toEqual({ held: 1, waiting: 1 }), { timeout: 5000 });
    expect([one.hello.session, two.hello.session]).toEqual(ids);
    await a.filesystem.unlock(caller, a.handle, lock(1), all);
    await waits;
    one.close();
    two.close();
  });

  test('waits for a lock, also without F_SETLKW, until others had the time to come back; and can give up', async () => {
    const { port } = server.server;
    await using proxy = await CuttingProxy.open(() => port);
    const away = await ServerSession.connect(parseServerAddress(`ws://127.0.0.1:${proxy.port}/`), silent);
    const here = await server.connect();
    const [a, b] = [await openFile(away), await openFile(here)];
    await a.filesystem.lock(caller, a.handle, lock(1), false);
    proxy.refusing = true;
    const restarted = restart();
    proxy.cutNow();
    await restarted;
    await vi.waitFor(() => expect(here.grace).toBeDefined(), { timeout: 5000 });
    const giveUp = new AbortController();
    const givenUp = b.filesystem.lock({ ...caller, signal: giveUp.signal }, b.handle, lock(2), false);
    const looks = b.filesystem.findLock(caller, b.handle, lock(2));
    const refused = b.filesystem.lock(caller, b.handle, lock(2), false);
    const granted = b.filesystem.lock(caller, b.handle, { ...lock(3), start: 7n }, true);
    refused.catch(() => {});
    granted.catch(() => {});
    giveUp.abort();
    await expect(givenUp).rejects.toEqual(code('EINTR'));
    expect(counts()).toEqual({ held: 0, waiting: 0 });
    proxy.refusing = false;
    // It is back in the grace period, and everybody else is decided about after it.
    await expect(refused).rejects.toEqual(code('EAGAIN'));
    expect(await looks).toMatchObject({ mode: 'exclusive' });
    await a.filesystem.unlock(caller, a.handle, lock(1), all);
    await granted;
    away.close();
    here.close();
  });

  test('that comes back when the grace period is over has lost its locks, and may not take them again', async () => {
    Object.assign(limits, { minGraceMs: 200, sessionLeaseMs: 200 });
    const { port } = server.server;
    await using proxy = await CuttingProxy.open(() => port);
    const away = await ServerSession.connect(parseServerAddress(`ws://127.0.0.1:${proxy.port}/`), silent);
    const a = await openFile(away);
    await a.filesystem.lock(caller, a.handle, lock(1), false);
    expect(clients.clients).toHaveLength(1);
    proxy.refusing = true;
    const restarted = restart();
    proxy.cutNow();
    await restarted;
    const here = await server.connect();
    const b = await openFile(here);
    await b.filesystem.lock(caller, b.handle, lock(2), false);
    await b.filesystem.unlock(caller, b.handle, lock(2), all);
    // Nor from the next server: another client has had the lock since.
    await restart();
    proxy.refusing = false;
    await vi.waitFor(() => expect(away.hello.instance).toEqual(server.server.instance), { timeout: 5000 });
    await expect(a.filesystem.read(caller, a.handle, 0, 1)).rejects.toEqual(code('EIO'));
    expect(counts()).toEqual({ held: 0, waiting: 0 });
    away.close();
    here.close();
  });

  test('gives back what it was granted after its caller was killed, and makes no request at the close of others', async () => {
    const session = await server.connect();
    const { filesystem, handle } = await openFile(session);
    const giveBack = await filesystem.lock(caller, handle, lock(2), true);
    expect(counts().held).toBe(1);
    giveBack();
    await vi.waitFor(() => expect(counts().held).toBe(0));
    const before = session.requests;
    await filesystem.flush(caller, handle, 99);
    expect(session.requests).toBe(before);
    await filesystem.lock(caller, handle, lock(2, 'shared'), true);
    await filesystem.flush(caller, handle, 2);
    expect(counts().held).toBe(0);
    session.close();
  });

  test('that gives up a wait is told EINTR', async () => {
    const session = await server.connect();
    const { filesystem, handle } = await openFile(session);
    await filesystem.lock(caller, handle, lock(1), false);
    const giveUp = new AbortController();
    const waits = filesystem.lock({ ...caller, signal: giveUp.signal }, handle, lock(2), true);
    await vi.waitFor(() => expect(counts().waiting).toBe(1));
    giveUp.abort();
    await expect(waits).rejects.toEqual(code('EINTR'));
    expect(counts()).toEqual({ held: 1, waiting: 0 });
    session.close();
  });

  test('excludes others, and is granted in the end, while connections are cut again and again', async () => {
    await using proxy = await CuttingProxy.open(() => server.server.port);
    const address = parseServerAddress(`ws://127.0.0.1:${proxy.port}/`);
    const sessions = await Promise.all([1, 2, 3].map(() => ServerSession.connect(address, silent)));
    const clients = await Promise.all(sessions.map(openFile));
    proxy.cutEvery(() => 500 + Math.random() * 3000);
    const inside = new Set<number>();
    const ROUNDS = 40;
    const work = async ({ filesystem, handle }: (typeof clients)[number], owner: number) => {
      for (let round = 0; round < ROUNDS; round++) {
        // Some give up, and must not keep what they were granted too late.
        const giveUp = new AbortController();
        const timer = round % 4 === 3 ? setTimeout(() => giveUp.abort(), Math.random() * 5) : undefined;
        try {
          await filesystem.lock({ ...caller, signal: giveUp.signal }, handle, lock(owner), true);
        } catch (error) {
          expect(error).toEqual(code('EINTR'));
          continue;
        } finally {
          clearTimeout(timer);
        }
        expect([...inside]).toEqual([]);
        inside.add(owner);
        await new Promise((done) => setImmediate(done));
        inside.delete(owner);
        await filesystem.unlock(caller, handle, lock(owner), all);
      }
    };
    await Promise.all(clients.flatMap((client, index) => [work(client, 2 * index), work(client, 2 * index + 1)]));
    expect(proxy.cuts).toBeGreaterThan(10);
    expect(counts()).toEqual({ held: 0, waiting: 0 });
    proxy.cutEvery(() => Number.POSITIVE_INFINITY);
    for (const session of sessions) session.close();
  }, 60_000);
});
