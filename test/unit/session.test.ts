/** Sessions over connections that break: every request is applied exactly once, and its caller gets its reply. */
import { mkdirSync, readdirSync, statSync, unlinkSync, writeFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { parseServerAddress } from '../../client-fuse/transport/server-address.ts';
import { ServerSession } from '../../client-fuse/transport/server-session.ts';
import type { Caller } from '../../client-fuse/vfs/filesystem.ts';
import { ROOT_NODE } from '../../client-fuse/vfs/filesystem.ts';
import { RemoteFilesystem } from '../../client-fuse/vfs/remote-filesystem.ts';
import type { Export } from '../../server/export.ts';
import { ClientList } from '../../server/session/client-list.ts';
import type { Outcome } from '../../server/session/outcome.ts';
import type { Session } from '../../server/session/session.ts';
import { SessionTable } from '../../server/session/session-table.ts';
import { LockTable } from '../../server/state/file-locks.ts';
import type { Inode } from '../../server/store/inode.ts';
import { errno, FsError } from '../../shared/errno.ts';
import { limits } from '../../shared/limits.ts';
import { frameKind } from '../../shared/protocol/messages.ts';
import { CuttingProxy } from '../support/cutting-proxy.ts';
import { lookUp, RawClient, ROOT, silent, TemporaryDirectory, TestServer } from '../support/fixture.ts';
import { KeptClients } from '../support/kept-state.ts';
import { PLAIN_WRITE } from '../support/requests.ts';

const RDWR = 2;
const caller: Caller = { uid: 0, gid: 0, pid: 0, groups: [], signal: new AbortController().signal };

/** Numbers that look random and are the same in every run. */
function* numbers(seed: number): Generator<number, never> {
  for (let state = seed; ; ) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    yield state;
  }
}

/** An open file `f`, on which reads and writes wait until `held` is disposed. */
async function lockedFile(session: ServerSession, server: TestServer) {
  const { store } = server.server.exports.get('/') as Export;
  const parent = session.hello.root.inode;
  const created = { parent, name: Buffer.from('f'), mode: 0o644, umask: 0, flags: RDWR, wants: 'none' } as const;
  const { handle, entry } = await session.call('create', ROOT, created);
  const held = await store.resolve(entry.inode).rangeLocks.acquire('exclusive', { start: 0, end: Infinity });
  const append = { handle, offset: 0, ...PLAIN_WRITE, append: true } as const;
  return { parent, handle, append, held };
}

describe('exactly once', () => {
  test.each([1, 2, 3, 4, 5, 6])('over connections that are cut in the middle of frames (seed %i)', async (seed) => {
    using directory = new TemporaryDirectory();
    await using server = await TestServer.start(directory.path);
    await using proxy = await CuttingProxy.open(() => server.server.port);
    const session = await ServerSession.connect(parseServerAddress(`ws://127.0.0.1:${proxy.port}/`), silent);
    const parent = session.hello.root.inode;
    const log = await session.call('create', ROOT, {
      parent,
      name: Buffer.from('log'),
      mode: 0o644,
      umask: 0,
      flags: RDWR,
      wants: 'none' as const,
    });
    const random = numbers(seed);
    let left = 40;
    proxy.cutEvery(() => (left-- > 0 ? 200 + ((random.next().value >>> 8) % 60_000) : Number.POSITIVE_INFINITY));

    const WORKERS = 12;
    const ROUNDS = 12;
    const append = { handle: log.handle, offset: 0, ...PLAIN_WRITE, append: true } as const;
    const worker = async (id: number) => {
      for (let round = 0; round < ROUNDS; round++) {
        const name = (kind: string) => Buffer.from(`${kind}-${id}-${round}`);
        // Applied twice, each of these fails (EEXIST, ENOENT), or leaves a trace.
        await session.call('mkdir', ROOT, { parent, name: name('d'), mode: 0o755, umask: 0, wantsAlone: false });
        const created = { parent, name: name('f'), mode: 0o644, umask: 0, flags: RDWR | 0o200, wants: 'none' } as const;
        const { handle } = await session.call('create', ROOT, created);
        // One record in three is larger than what stays on the small lane.
        const record = Buffer.alloc(round % 3 === 0 ? 100_000 : 100, `${id}.${round} `);
        expect(await session.call('write', ROOT, append, { bulk: record })).toEqual({ written: record.length });
        await session.call('release', ROOT, { handles: [handle] });
        await session.call('rename', ROOT, {
          parent,
          name: name('f'),
          newParent: parent,
          newName: name('g'),
          flags: 1,
        });
        await session.call('rmdir', ROOT, { parent, name: name('d') });
        if (round % 2) await session.call('unlink', ROOT, { parent, name: name('g') });
      }
    };
    await Promise.all(Array.from({ length: WORKERS }, (_, id) => worker(id)));

    expect(proxy.cuts).toBeGreaterThan(10);
    expect(session.epoch).toBe(0);
    const kept = Array.from({ length: WORKERS }, (_, id) =>
      Array.from({ length: ROUNDS / 2 }, (_, half) => `g-${id}-${half * 2}`),
    );
    expect(readdirSync(directory.path).sort()).toEqual([...kept.flat(), 'log'].sort());
    const large = ROUNDS / 3;
    expect(statSync(directory.join('log')).size).toBe(WORKERS * (large * 100_000 + (ROUNDS - large) * 100));
    const [only] = server.server.sessions.all;
    expect(only?.inFlight).toBe(0);
    session.close();
  });

  test('a reply that was lost is given again, and the request is not applied again', async () => {
    using directory = new TemporaryDirectory();
    await using server = await TestServer.start(directory.path);
    await using proxy = await CuttingProxy.open(() => server.server.port);
    const session = await ServerSession.connect(parseServerAddress(`ws://127.0.0.1:${proxy.port}/`), silent);
    // Both requests wait at the server for a lock while their connections break, and are sent again.
    const { parent, handle, append, held } = await lockedFile(session, server);
    const write = session.call('write', ROOT, append, { bulk: Buffer.alloc(100_000, 'x') });
    const read = session.callForBulk('read', ROOT, {
      handle,
      offset: 0,
      size: 1 << 20,
      knownVersion: undefined,
      wantsLease: false,
      wantsBlock: false,
    });
    const [serverSession] = server.server.sessions.all;
    await until(() => serverSession?.inFlight === 2);
    for (let cut = 1; cut <= 3; cut++) {
      proxy.cutNow();
      await until(() => proxy.connections === 2 && session.unreachableSinceMs === undefined);
      await session.call('getattr', ROOT, { inode: parent, handle: 0 });
    }
    held[Symbol.dispose]();
    expect(await write).toEqual({ written: 100_000 });
    expect([0, 100_000]).toContain((await read).bulk.length);
    expect(statSync(directory.join('f')).size).toBe(100_000);
    session.close();
  });

  test('a hello that fails at the server leaves no session behind, and none more connected than it is', async () => {
    using directory = new TemporaryDirectory();
    await using server = await TestServer.start(directory.path);
    const { client, hello } = await RawClient.greeted(server.server.port);
    using _client = client;
    const { store } = server.server.exports.get('/') as Export;
    const attributes = store.attributes.bind(store);
    for (const session of [undefined, hello.session]) {
      store.attributes = () => {
        throw new FsError(errno.EIO, 'the disk is gone');
      };
      await expect(RawClient.greeted(server.server.port, session)).rejects.toThrow();
      store.attributes = attributes;
    }
    expect([...server.server.sessions.all].map(({ connections }) => connections)).toEqual([1]);
  });

  test('a recall that waits for the client comes after its hello was answered, and an older connection of the lane is void', async () => {
    using directory = new TemporaryDirectory();
    await using server = await TestServer.start(directory.path);
    const { client: old, hello } = await RawClient.greeted(server.server.port);
    using _old = old;
    const [session] = server.server.sessions.all as Iterable<Session>;
    if (session === undefined) throw new Error('no session');
    // An exclusive lease, which the client keeps when its connection breaks: it still has to write.
    const { handle } = session.exported.store.root;
    void session.recall([{ handle, leases: { exclusive: session } } as unknown as Inode]);
    expect((await old.next())[0]).toBe(frameKind.RECALL);
    const again = await RawClient.greeted(server.server.port, hello.session);
    using client = again.client;
    expect(again.hello.resumed).toBe(true);
    expect((await client.next())[0]).toBe(frameKind.RECALL);
    await old.closed;
    expect(session.connections).toBe(1);
  });

  test('as many requests as may be under way can be sent again over a new connection', async () => {
    using directory = new TemporaryDirectory();
    await using server = await TestServer.start(directory.path);
    await using proxy = await CuttingProxy.open(() => server.server.port);
    const session = await ServerSession.connect(parseServerAddress(`ws://127.0.0.1:${proxy.port}/`), silent);
    const { append, held } = await lockedFile(session, server);
    const [serverSession] = server.server.sessions.all;
    const COUNT = limits.maxRequestsInFlight + 10;
    const writes = Array.from({ length: COUNT }, () => session.call('write', ROOT, append, { bulk: Buffer.from('x') }));
    await until(() => serverSession?.inFlight === limits.maxRequestsInFlight);
    proxy.cutNow();
    await until(() => proxy.connections === 2 && session.unreachableSinceMs === undefined);
    held[Symbol.dispose]();
    await Promise.all(writes);
    expect(proxy.cuts).toBe(2);
    expect(statSync(directory.join('f')).size).toBe(COUNT);
    session.close();
  });

  test('cancelled while the connection is away: the wait ends after it is back', async () => {
    using directory = new TemporaryDirectory();
    await using server = await TestServer.start(directory.path);
    await using proxy = await CuttingProxy.open(() => server.server.port);
    const session = await ServerSession.connect(parseServerAddress(`ws://127.0.0.1:${proxy.port}/`), silent);
    const { store } = server.server.exports.get('/') as Export;
    const parent = session.hello.root.inode;
    const created = { parent, name: Buffer.from('f'), mode: 0o644, umask: 0, flags: RDWR, wants: 'none' } as const;
    const { handle, entry } = await session.call('create', ROOT, created);
    using _held = await store.resolve(entry.inode).rangeLocks.acquire('exclusive', { start: 0, end: Infinity });
    const controller = new AbortController();
    const request = { handle, offset: 0, size: 10, knownVersion: undefined, wantsLease: false, wantsBlock: false };
    const read = session.callForBulk('read', ROOT, request, { signal: controller.signal });
    const [serverSession] = server.server.sessions.all;
    await until(() => serverSession?.inFlight === 1);
    proxy.refusing = true;
    proxy.cutNow();
    await until(() => session.unreachableSinceMs !== undefined);
    controller.abort();
    proxy.refusing = false;
    await expect(read).rejects.toMatchObject({ code: errno.EINTR });
    session.close();
  });
});

/** Looks again at every turn of the event loop. The test's own time limit ends a wait that is in vain. */
async function until(fact: () => boolean): Promise<void> {
  while (!fact()) await new Promise((resolve) => setImmediate(resolve));
}

describe('a soft mount', () => {
  test('a silent server: ETIMEDOUT, and afterwards it goes on; one that is there may let a caller wait', async () => {
    using directory = new TemporaryDirectory();
    await using server = await TestServer.start(directory.path);
    await using proxy = await CuttingProxy.open(() => server.server.port);
    const address = parseServerAddress(`ws://127.0.0.1:${proxy.port}/`);
    const softTimeoutMs = 1000;
    const session = await ServerSession.connect(address, silent, undefined, { softTimeoutMs });
    const { store } = server.server.exports.get('/') as Export;
    const parent = session.hello.root.inode;
    const created = { parent, name: Buffer.from('f'), mode: 0o644, umask: 0, flags: RDWR, wants: 'none' } as const;
    const { handle, entry } = await session.call('create', ROOT, created);
    const held = await store.resolve(entry.inode).rangeLocks.acquire('exclusive', { start: 0, end: Infinity });
    const read = { handle, offset: 0, size: 10, knownVersion: undefined, wantsLease: false, wantsBlock: false };
    let isAnswered = false;
    const waiting = session.callForBulk('read', ROOT, read).finally(() => (isAnswered = true));
    const startMs = performance.now();
    await until(() => performance.now() - startMs > 3 * softTimeoutMs);
    expect(isAnswered).toBe(false);
    held[Symbol.dispose]();
    await waiting;

    proxy.refusing = true;
    proxy.cutNow();
    const name = { parent, name: Buffer.from('f') };
    await expect(session.call('lookup', ROOT, name)).rejects.toMatchObject({ code: errno.ETIMEDOUT });
    proxy.refusing = false;
    await until(() => session.unreachableSinceMs === undefined);
    expect((await session.call('lookup', ROOT, name)).found).toBeDefined();
    session.close();
  });
});

test('what was opened for a caller that got ETIMEDOUT is closed when the answer is here', async () => {
  using directory = new TemporaryDirectory();
  writeFileSync(directory.join('f'), '');
  await using server = await TestServer.start(directory.path);
  await using proxy = await CuttingProxy.open(() => server.server.port);
  const address = parseServerAddress(`ws://127.0.0.1:${proxy.port}/`);
  const session = await ServerSession.connect(address, silent, undefined, { softTimeoutMs: 400 });
  const [atServer] = [...server.server.sessions.all];
  const parent = session.hello.root.inode;
  const { found } = await session.call('lookup', ROOT, { parent, name: Buffer.from('f') });
  const inode = found?.inode as Buffer;
  const speak = proxy.silence();
  const timeout = { code: errno.ETIMEDOUT };
  const asked = { inode, flags: RDWR, killSuidgid: false, wants: 'none', firstBytes: 0 } as const;
  const created = { parent, name: Buffer.from('new'), mode: 0o644, umask: 0, flags: RDWR, wants: 'none' } as const;
  await Promise.all([
    expect(session.call('open', ROOT, asked)).rejects.toMatchObject(timeout),
    expect(session.call('create', ROOT, created)).rejects.toMatchObject(timeout),
  ]);
  expect(atServer?.openFiles).toBe(2);
  speak();
  await until(() => atServer?.openFiles === 0);
  session.close();
});

describe('a server that was restarted', () => {
  test('names, open files and directories go on; what was removed meanwhile is stale', async () => {
    using directory = new TemporaryDirectory();
    mkdirSync(directory.join('dir'));
    writeFileSync(directory.join('dir', 'file'), 'before');
    writeFileSync(directory.join('gone'), 'gone');
    const first = await TestServer.start(directory.path);
    const session = await first.connect();
    const filesystem = new RemoteFilesystem(session);
    const dir = await filesystem.lookup(caller, ROOT_NODE, Buffer.from('dir'));
    const file = await filesystem.lookup(caller, dir.node, Buffer.from('file'));
    const gone = await filesystem.lookup(caller, ROOT_NODE, Buffer.from('gone'));
    const opened = await filesystem.open(caller, file.node, RDWR, false);
    const openedGone = await filesystem.open(caller, gone.node, RDWR, false);
    const list = await filesystem.opendir(caller, dir.node);
    const port = first.server.port;
    await first[Symbol.asyncDispose]();
    unlinkSync(directory.join('gone'));
    await using _second = await TestServer.start(directory.path, { port });

    const data = Buffer.from('after!');
    expect(await filesystem.write(caller, opened.handle, 0, data, RDWR, false)).toBe(6);
    await filesystem.fsync(caller, opened.handle, false);
    expect(session.epoch).toBe(1);
    expect(Buffer.from(await filesystem.read(caller, opened.handle, 0, 100)).toString()).toBe('after!');
    expect((await filesystem.getattr(caller, file.node)).attributes.size).toBe(6);
    const names = (await filesystem.readdir(caller, list.handle, 0, 4096, false)).map(({ name }) => String(name));
    expect(names.sort()).toEqual(['.', '..', 'file']);
    await expect(filesystem.getattr(caller, gone.node)).rejects.toMatchObject({ code: errno.ESTALE });
    const read = filesystem.read(caller, openedGone.handle, 0, 1);
    await expect(read).rejects.toMatchObject({ code: errno.ESTALE });
    await filesystem.mkdir(caller, ROOT_NODE, Buffer.from('new'), 0o755, 0);
    expect(readdirSync(directory.path).sort()).toEqual(['dir', 'new']);
    session.close();
  });

  test('a handle number of the earlier session names no file of the new one', async () => {
    using directory = new TemporaryDirectory();
    writeFileSync(directory.join('a'), 'a');
    const handles: number[] = [];
    for (let start = 0; start < 2; start++) {
      await using server = await TestServer.start(directory.path);
      const session = await server.connect();
      const name = Buffer.from('a');
      const { inode } = await lookUp(session, ROOT, { parent: session.hello.root.inode, name });
      handles.push(
        (await session.call('open', ROOT, { inode, flags: RDWR, killSuidgid: false, wants: 'none', firstBytes: 0 }))
          .handle,
      );
      const [stale] = handles;
      const read = {
        handle: stale as number,
        offset: 0,
        size: 1,
        knownVersion: undefined,
        wantsLease: false,
        wantsBlock: false,
      };
      if (start === 1)
        await expect(session.callForBulk('read', ROOT, read)).rejects.toMatchObject({ code: errno.EBADF });
      session.close();
    }
    expect(new Set(handles).size).toBe(2);
  });
});

describe('the session table', () => {
  const exported = { name: '/' } as unknown as Export;

  test('a session ends when its client has been away for the lease, not before', () => {
    const { table, ended, away } = tableOf(30_000);
    const { session } = table.attach(undefined, exported, 'client', 1000);
    const second = table.attach(session.id, exported, 'client', 1000);
    expect(second).toEqual({ session, resumed: true });
    table.detach(session, 2000);
    table.expire(2000 + 300_000);
    expect(session.isCourtesy).toBe(false); // one connection is left
    table.detach(session, 5000);
    table.expire(34_999);
    expect(session.isCourtesy).toBe(false);
    expect(table.attach(session.id, exported, 'client', 6000).resumed).toBe(true);
    table.expire(36_000);
    expect(session.isCourtesy).toBe(false); // it came back
    away(session, 7000);
    table.expire(37_000);
    expect(ended).toEqual([session]); // it holds nothing
    expect(table.size).toBe(0);
    expect(table.attach(session.id, exported, 'client', 8000).resumed).toBe(false);
  });

  /** Sessions of clients that have asked for something. */
  function tableOf(leaseMs: number) {
    const table = new SessionTable({ leaseMs });
    const ended: Session[] = [];
    table.onExpired = (session) => void ended.push(session);
    const away = (session: Session, heardMs: number) => table.detach(session, heardMs);
    const open = (heardMs?: number) => {
      const { session } = table.attach(undefined, exported, 'client', 0);
      session.begin(0, 1, () => {});
      if (heardMs !== undefined) away(session, heardMs);
      return session;
    };
    return { table, ended, away, open };
  }

  test('what it holds is kept as a courtesy: for a day, and only while it is not the last of many', () => {
    const { table, ended, open } = tableOf(1000);
    const first = open(0);
    table.expire(limits.maxCourtesyMs - 1);
    expect([ended, first.isCourtesy]).toEqual([[], true]);
    const others = Array.from({ length: limits.maxCourtesySessions }, (_, index) => open(10 + index));
    table.expire(1000 + 9 + limits.maxCourtesySessions - 1);
    expect(ended).toEqual([]); // one is within its lease
    table.expire(1000 + 9 + limits.maxCourtesySessions);
    expect(ended).toEqual([first]);
    table.expire(limits.maxCourtesyMs + 11);
    expect(ended).toEqual([first, ...others.slice(0, 2)]);
  });

  test('one that is away, with nothing but leases, is in the list of clients until these have ended', () => {
    const clients = new ClientList(new KeptClients());
    const table = new SessionTable({ leaseMs: 1000, clients });
    const { session } = table.attach(undefined, exported, 'client', 0);
    session.begin(0, 1, () => {});
    const isListed = () => clients.get(session.key) !== undefined;
    expect([session.enter(), isListed()]).toEqual([true, true]);
    table.detach(session, 0);
    // Its client may not know that it is.
    table.expire(limits.recallMs - 1);
    expect([session.isCourtesy, isListed()]).toEqual([true, true]);
    table.expire(limits.recallMs);
    expect(isListed()).toBe(false);
    table.attach(session.id, exported, 'client', 0);
    expect([session.enter(), isListed()]).toEqual([true, true]);
  });

  const everything = { start: 0n, end: 10n, owner: '1', pid: 1, mode: 'exclusive' } as const;

  test('a lock of it is granted to others after the lease: at once to who asks then, and to who waits', () => {
    for (const how of ['asks', 'looks', 'waits'] as const) {
      const { table, ended, away, open } = tableOf(1000);
      const [holder, other] = [open(), open()];
      const locks = new LockTable('posix');
      holder.locks.lock(locks, everything, undefined);
      away(holder, 0);
      table.expire(999);
      expect(() => other.locks.lock(locks, everything, undefined)).toThrow(FsError);
      if (how === 'waits') expect(other.locks.lock(locks, everything, 1)).toBe(false);
      table.expire(1000);
      expect(ended).toEqual(how === 'waits' ? [holder] : []);
      if (how === 'asks') expect(other.locks.lock(locks, everything, undefined)).toBe(true);
      if (how === 'looks') expect(other.locks.conflict(locks, everything)).toBeUndefined();
      expect(ended).toEqual([holder]);
      expect([...other.locks.untaken]).toEqual(how === 'waits' ? [[1, 0]] : []);
    }
  });

  test('who comes back before anybody asks has kept its lock', () => {
    const { table, ended, away, open } = tableOf(1000);
    const [holder, other] = [open(), open()];
    const locks = new LockTable('posix');
    holder.locks.lock(locks, everything, undefined);
    away(holder, 0);
    table.expire(5000);
    expect(table.attach(holder.id, exported, 'client', 0).resumed).toBe(true);
    expect(() => other.locks.lock(locks, everything, undefined)).toThrow(FsError);
    expect(ended).toEqual([]);
  });

  test('a session belongs to its export', () => {
    const table = new SessionTable();
    const { session } = table.attach(undefined, exported, 'client', 0);
    expect(table.attach(session.id, { name: 'other' } as unknown as Export, 'client', 0).resumed).toBe(false);
  });

  const outcome: Outcome = { errno: 0, result: null };

  test('a request is begun once, until its reply was taken and for ever after', () => {
    const { session } = new SessionTable().attach(undefined, exported, 'client', 0);
    const answers: string[] = [];
    const by = (who: string) => () => void answers.push(who);
    expect(session.begin(0, 7, by('first'))).toBeDefined();
    expect(session.begin(0, 7, by('second'))).toBeUndefined(); // under way
    session.end(0, 7, ['kept'], outcome);
    expect(answers).toEqual(['first', 'second']);
    expect(session.begin(0, 7, by('third'))).toBeUndefined(); // answered
    expect(session.keptReply(0, 7)).toEqual(['kept']);
    expect(session.begin(1, 8, by('in another slot'))).toBeDefined();
    expect(session.keptReply(0, 7)).toEqual(['kept']);
    expect(session.begin(0, 9, by('next'))).toBeDefined(); // so the client has the reply of 7
    expect(session.keptReply(0, 7)).toBeUndefined();
    expect(session.begin(0, 7, by('late'))).toBeUndefined(); // a delayed copy
    session.end(1, 8, undefined, outcome);
    expect(session.begin(1, 8, by('again'))).toBeDefined(); // idempotent: its reply was not kept
    answers.splice(2);
    expect(answers).toEqual(['first', 'second']);
  });

  test('a request that is asked for again and again while it is under way is answered to the last that asked', () => {
    const { session } = new SessionTable().attach(undefined, exported, 'client', 0);
    const answers: number[] = [];
    for (let count = 0; count < 1000; count++) session.begin(0, 7, () => void answers.push(count));
    session.end(0, 7, ['kept'], outcome);
    expect([answers.length < 20, answers.at(-1)]).toEqual([true, 999]);
  });

  test('bulk data that go to two connections are free when both have sent them', () => {
    const { session } = new SessionTable().attach(undefined, exported, 'client', 0);
    const sent: (() => void)[] = [];
    const send = ({ flushed }: Outcome) => sent.push(flushed as () => void);
    let freed = 0;
    session.begin(0, 1, send);
    session.begin(0, 1, send);
    session.end(0, 1, undefined, { ...outcome, bulk: Buffer.alloc(1), flushed: () => freed++ });
    sent[1]?.();
    expect(freed).toBe(0);
    sent[0]?.();
    expect(freed).toBe(1);
  });
});
