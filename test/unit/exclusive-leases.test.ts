/**
 * Exclusive leases of a real server on real files: who gets one, who waits until what was gathered is written, local
 * programs included (the kernel keeps them waiting), and what happens to a client that does not answer. Needs root.
 */
import { execFile } from 'node:child_process';
import { closeSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { promisify } from 'node:util';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { parseServerAddress } from '../../client-fuse/transport/server-address.ts';
import { ServerSession } from '../../client-fuse/transport/server-session.ts';
import { ROOT_NODE } from '../../client-fuse/vfs/filesystem.ts';
import { RemoteFilesystem } from '../../client-fuse/vfs/remote-filesystem.ts';
import type { Export } from '../../server/export.ts';
import type { Session } from '../../server/session/session.ts';
import type { Inode } from '../../server/store/inode.ts';
import { OpenFile } from '../../server/store/open-file.ts';
import { errno } from '../../shared/errno.ts';
import { limits } from '../../shared/limits.ts';
import { O } from '../../shared/linux/constants.ts';
import { CuttingProxy } from '../support/cutting-proxy.ts';
import { deferred, lookUp, ROOT, silent, TemporaryDirectory, TestServer } from '../support/fixture.ts';
import { PLAIN_WRITE } from '../support/requests.ts';

const { recallMs } = limits;
const run = promisify(execFile);
const b = (text: string) => Buffer.from(text);

let directory: TemporaryDirectory;
let server: TestServer;
let exported: Export;
let holder: ServerSession;
let other: ServerSession;
/** Recalls that `holder` was sent, and has answered when the test says so. */
let recalls: { inode: Uint8Array; answer: () => void }[];
/** Opens of files by the server itself that would have waited for its own lease. */
let selfWaits: string[];

beforeEach(async () => {
  directory = new TemporaryDirectory();
  server = await TestServer.start(directory.path);
  exported = server.server.exports.get('/') as Export;
  holder = await server.connect();
  other = await server.connect();
  recalls = [];
  holder.onRecall = (inodes) => {
    const { promise, resolve } = deferred();
    if (inodes === null) return { ready: undefined, finish: () => [] };
    // What may be written first is asked for by itself.
    expect(inodes).toHaveLength(1);
    recalls.push({ inode: inodes[0] as Uint8Array, answer: resolve });
    return { ready: promise, finish: () => [] };
  };
  selfWaits = [];
  // Such an open stops the whole server for /proc/sys/fs/lease-break-time (45 s): here it fails instead.
  const { store } = exported;
  const open = store.open.bind(store);
  const refuse = (what: string): never => {
    selfWaits.push(what);
    throw new Error(`${what}: the server would wait for its own lease`);
  };
  vi.spyOn(store, 'open').mockImplementation((identity, inode, flags) =>
    inode.leases.exclusive === undefined ? open(identity, inode, flags) : refuse('open'),
  );
  const { appendDescriptor } = OpenFile.prototype;
  vi.spyOn(OpenFile.prototype, 'appendDescriptor').mockImplementation(function (this: OpenFile) {
    return this.isExclusive ? refuse('append') : appendDescriptor.call(this);
  });
});
afterEach(async () => {
  vi.restoreAllMocks();
  Object.assign(limits, { recallMs });
  for (const session of [holder, other]) session.close();
  await server[Symbol.asyncDispose]();
  directory[Symbol.dispose]();
});

const create = (session: ServerSession, name: string, flags: number = O.RDWR) =>
  session.call('create', ROOT, {
    parent: session.hello.root.inode,
    name: b(name),
    mode: 0o644,
    umask: 0,
    flags,
    wants: 'exclusive',
  });
const openWith = (session: ServerSession, inode: Uint8Array, flags: number, wants: 'none' | 'shared' | 'exclusive') =>
  session.call('open', ROOT, { inode, flags, killSuidgid: false, wants, firstBytes: 0 });
const write = (session: ServerSession, handle: number, offset: number, text: string, behind = false) =>
  session.call('write', ROOT, { handle, offset, ...PLAIN_WRITE, behind }, { bulk: b(text) });
const inodeOf = (name: string) => exported.store.find(exported.store.root, b(name)) as Inode;
const setSize = (session: ServerSession, inode: Uint8Array, handle: number, size: number) =>
  session.call('setattr', ROOT, {
    inode,
    handle,
    mode: undefined,
    uid: undefined,
    gid: undefined,
    size,
    atime: undefined,
    mtime: undefined,
    killSuidgid: false,
  });

/** `holder` has `f` exclusively. */
async function hold(name = 'f') {
  const reply = await create(holder, name);
  expect([reply.lease, inodeOf(name).leases.exclusive !== undefined]).toEqual(['exclusive', true]);
  return { handle: reply.handle, inode: reply.entry.inode };
}

/** The recall that `work` waits for is answered after what was gathered is written, and `work` is done only then. */
async function writtenBehindBefore<T>(handle: number, work: Promise<T>, text = 'behind\n'): Promise<T> {
  let isDone = false;
  const done = work.finally(() => {
    isDone = true;
  });
  done.catch(() => {});
  await vi.waitFor(() => expect(recalls).toHaveLength(1), { timeout: 5000, interval: 1 });
  for (let round = 0; round < 3; round++) await other.call('statfs', ROOT, { inode: other.hello.root.inode });
  expect(isDone).toBe(false);
  await write(holder, handle, 0, text, true);
  expect(isDone).toBe(false);
  recalls[0]?.answer();
  return await done;
}

describe('who gets one', () => {
  test('the creator, and the only one to open it for writing', async () => {
    const { handle, inode } = await hold();
    await holder.call('release', ROOT, { handles: [handle] });
    await vi.waitFor(() => expect(inodeOf('f').opens).toBe(0));
    expect(inodeOf('f').leases.exclusive).toBeUndefined();
    expect((await openWith(holder, inode, O.RDWR, 'exclusive')).lease).toBe('exclusive');
    expect(recalls).toEqual([]);
  });

  const flags: [what: string, flags: number, wants: 'none' | 'exclusive', lease: string][] = [
    ['read and write', O.RDWR, 'exclusive', 'exclusive'],
    ['write', O.WRONLY, 'exclusive', 'exclusive'],
    ['read', O.RDONLY, 'exclusive', 'none'],
    ['write, and not asking for it', O.WRONLY, 'none', 'none'],
    ['write, emptying it', O.WRONLY | O.TRUNC, 'exclusive', 'exclusive'],
  ];
  test.each(flags)('opened to %s', async (_what, flag, wants, lease) => {
    writeFileSync(directory.join('f'), 'text');
    const { inode } = await lookUp(holder, ROOT, { parent: holder.hello.root.inode, name: b('f') });
    expect((await openWith(holder, inode, flag, wants)).lease).toBe(lease);
    expect(exported.leases.counts.exclusive).toBe(lease === 'exclusive' ? 1 : 0);
  });

  test.each([
    ['read', 'r'],
    ['write', 'r+'],
  ])('nobody, while a local program has it open to %s; then again', async (_what, mode) => {
    writeFileSync(directory.join('f'), 'text');
    const fd = openSync(directory.join('f'), mode);
    const { inode } = await lookUp(holder, ROOT, { parent: holder.hello.root.inode, name: b('f') });
    const { lease, handle } = await openWith(holder, inode, O.RDWR, 'exclusive');
    expect([lease, inodeOf('f').leases.exclusive, exported.leases.counts.exclusive]).toEqual(['none', undefined, 0]);
    await holder.call('release', ROOT, { handles: [handle] });
    closeSync(fd);
    expect((await openWith(holder, inode, O.RDWR, 'exclusive')).lease).toBe('exclusive');
  });

  test('who opens to write, when what others know is taken back; nobody while another has a handle', async () => {
    writeFileSync(directory.join('f'), 'text');
    const { inode, leased } = await lookUp(other, ROOT, { parent: other.hello.root.inode, name: b('f') });
    expect(leased).toBe(true);
    expect((await openWith(holder, inode, O.RDWR, 'exclusive')).lease).toBe('exclusive');
    expect(exported.leases.counts.recallsSent).toBe(1);
    const again = openWith(other, inode, O.RDWR, 'exclusive');
    await vi.waitFor(() => expect(recalls).toHaveLength(1));
    recalls[0]?.answer();
    expect((await again).lease).toBe('none');
    expect(exported.leases.counts.revocations).toBe(0);
  });
});

describe('other requests wait until what was gathered is written', () => {
  type Ask = (inode: Uint8Array) => Promise<unknown>;
  const root = () => other.hello.root.inode;
  const asks: [what: string, ask: Ask, answer: unknown][] = [
    ['getattr', async (inode) => (await other.call('getattr', ROOT, { inode, handle: 0 })).attributes.size, 7],
    ['lookup', async () => (await lookUp(other, ROOT, { parent: root(), name: b('f') })).attributes.size, 7],
    ['open by another client', async (inode) => (await openWith(other, inode, O.RDWR, 'exclusive')).lease, 'none'],
    ['open by the same client', async (inode) => (await openWith(holder, inode, O.RDWR, 'exclusive')).lease, 'none'],
    ['create of what is there', async () => (await create(other, 'f')).entry.attributes.size, 7],
    [
      'open to read the whole file',
      async (inode) => {
        const request = { inode, flags: O.RDONLY, killSuidgid: false, wants: 'none', firstBytes: 0 } as const;
        const { handle } = await other.call('open', ROOT, request);
        const read = { handle, offset: 0, size: 100, knownVersion: undefined, wantsLease: false, wantsBlock: false };
        return Buffer.from((await other.callForBulk('read', ROOT, read)).bulk).toString();
      },
      'behind\n',
    ],
    [
      'truncation by another client',
      async (inode) => {
        await setSize(other, inode, 0, 3);
        return readFileSync(directory.join('f'), 'utf8');
      },
      'beh',
    ],
    [
      'truncation by path by the same client',
      async (inode) => {
        await setSize(holder, inode, 0, 3);
        return readFileSync(directory.join('f'), 'utf8');
      },
      'beh',
    ],
    [
      'open with O_TRUNC by another client',
      async (inode) => {
        await openWith(other, inode, O.WRONLY | O.TRUNC, 'none');
        return readFileSync(directory.join('f'), 'utf8');
      },
      '',
    ],
    [
      'open with O_TRUNC by the same client',
      async (inode) => {
        await openWith(holder, inode, O.WRONLY | O.TRUNC, 'none');
        return readFileSync(directory.join('f'), 'utf8');
      },
      '',
    ],
    ['removal by another client', () => other.call('unlink', ROOT, { parent: root(), name: b('f') }), {}],
  ];
  test.each(asks)('%s', async (_what, ask, answer) => {
    const { handle, inode } = await hold();
    const said = await writtenBehindBefore(handle, ask(inode));
    if (typeof answer === 'object') expect(said).toMatchObject(answer as object);
    else expect(said).toBe(answer);
    expect(recalls.map((recall) => Buffer.compare(recall.inode, inode))).toEqual([0]);
    expect([selfWaits, exported.leases.counts.revocations]).toEqual([[], 0]);
    await expect(write(holder, handle, 0, 'late', true)).rejects.toMatchObject({ code: errno.ESTALE });
  });

  const own: [what: string, ask: (of: { inode: Uint8Array; handle: number }) => Promise<unknown>][] = [
    ['getattr', ({ inode }) => holder.call('getattr', ROOT, { inode, handle: 0 })],
    ['lookup', () => lookUp(holder, ROOT, { parent: holder.hello.root.inode, name: b('f') })],
    ['write behind', ({ handle }) => write(holder, handle, 0, 'x', true)],
    ['truncation by its handle', ({ handle, inode }) => setSize(holder, inode, handle, 1)],
    ['fsync', ({ handle }) => holder.call('fsync', ROOT, { handle, dataOnly: false })],
  ];
  test.each(own)('%s by the holder does not', async (_what, ask) => {
    const { handle, inode } = await hold();
    await ask({ inode, handle });
    expect([recalls, inodeOf('f').leases.exclusive !== undefined, selfWaits]).toEqual([[], true, []]);
  });

  const attributed = (handle: number, text: string, behind: boolean, from: number, to: number) => {
    const attributes = { mode: { from, to }, atime: undefined, mtime: { sec: 7, nsec: 8 } };
    return holder.call('write', ROOT, { handle, offset: 0, ...PLAIN_WRITE, behind, attributes }, { bulk: b(text) });
  };
  const is = () => {
    const { mode, size, mtime } = exported.store.attributes(inodeOf('f'));
    return { mode: mode & 0o7777, size, sec: mtime.sec };
  };

  test('attributes that come with what it has gathered: after the data, and the reply says both', async () => {
    const { handle } = await hold();
    const { written, attributes } = await attributed(handle, 'abc', true, 0o644, 0o664);
    expect([written, attributes?.size, attributes?.mode, attributes?.mtime]).toEqual([
      3,
      3,
      0o100664,
      { sec: 7, nsec: 8 },
    ]);
    expect(is()).toEqual({ mode: 0o664, size: 3, sec: 7 });
    // Sent again, as after a restart, it is what it was; with a mode that somebody else has changed, only that stays.
    expect((await attributed(handle, '', true, 0o644, 0o666)).written).toBe(0);
    expect(is()).toEqual({ mode: 0o664, size: 3, sec: 7 });
    expect(recalls).toEqual([]);
  });

  test('attributes are refused beside a write that was not gathered, and when the lease is gone', async () => {
    const { handle, inode } = await hold();
    await expect(attributed(handle, 'abc', false, 0o644, 0o664)).rejects.toMatchObject({ code: errno.EINVAL });
    const opened = openWith(other, inode, O.RDONLY, 'none');
    await vi.waitFor(() => expect(recalls).toHaveLength(1), { timeout: 5000, interval: 1 });
    recalls[0]?.answer();
    await opened;
    await expect(attributed(handle, '', true, 0o644, 0o664)).rejects.toMatchObject({ code: errno.ESTALE });
    expect(is()).toMatchObject({ mode: 0o644, size: 0 });
  });

  // Its descriptor for appending would be opened under the kernel's lease.
  test('an append by the holder does not stop the server', async () => {
    const { handle } = await hold();
    await write(holder, handle, 0, 'one\n', true);
    const request = { handle, offset: 0, ...PLAIN_WRITE, append: true, behind: false };
    await holder.call('write', ROOT, request, { bulk: b('two\n') }).catch(() => {});
    expect(selfWaits).toEqual([]);
    expect(readFileSync(directory.join('f'), 'utf8')).toBe('one\ntwo\n');
  });

  // The first of two is granted the lease, and the second must look again before it opens the file.
  test('two that wait for the same recall, and the handle is released with it: the server does not stop', async () => {
    const { handle, inode } = await hold();
    const opens = [1, 2].map(() => openWith(other, inode, O.RDWR, 'exclusive').catch(() => undefined));
    other.onRecall = () => ({ ready: undefined, finish: () => [] });
    await vi.waitFor(() => expect(recalls).toHaveLength(1), { interval: 1 });
    await other.call('statfs', ROOT, { inode: other.hello.root.inode }); // both have been asked for
    await holder.call('release', ROOT, { handles: [handle] });
    recalls[0]?.answer();
    await Promise.all(opens);
    expect(selfWaits).toEqual([]);
  });
});

describe('local programs', () => {
  test('cat waits in the kernel, and sees what was written behind', async () => {
    const { handle } = await hold();
    const cat = run('cat', [directory.join('f')]).then(({ stdout }) => stdout);
    expect(await writtenBehindBefore(handle, cat)).toBe('behind\n');
    expect([inodeOf('f').leases.exclusive, exported.leases.counts.exclusive]).toEqual([undefined, 0]);
  });

  test('echo >> waits in the kernel, and appends to what was written behind', async () => {
    const { handle } = await hold();
    await writtenBehindBefore(handle, run('sh', ['-c', `echo local >> '${directory.join('f')}'`]));
    expect(readFileSync(directory.join('f'), 'utf8')).toBe('behind\nlocal\n');
  });

  test('each file has its own: the one that nobody opens is kept', async () => {
    const { handle } = await hold();
    await hold('g');
    const cat = run('cat', [directory.join('f')]).then(({ stdout }) => stdout);
    expect(await writtenBehindBefore(handle, cat)).toBe('behind\n');
    expect([inodeOf('g').leases.exclusive !== undefined, recalls.length]).toEqual([true, 1]);
  });

  test('a look at the attributes does not wait: the kernel keeps nobody from stat(2)', async () => {
    await hold();
    await run('stat', [directory.join('f')]);
    expect(recalls).toEqual([]);
  });
});

describe('a client that does not answer', () => {
  const waits: [what: string, work: (inode: Uint8Array) => Promise<unknown>][] = [
    ['a request', (inode) => other.call('getattr', ROOT, { inode, handle: 0 })],
    ['a local program', () => run('cat', [directory.join('f')])],
  ];
  test.each(waits)('%s waits for the recall time; what comes late is refused', async (_what, work) => {
    Object.assign(limits, { recallMs: 300 });
    const { handle, inode } = await hold();
    await write(holder, handle, 0, 'in time', true);
    const startMs = performance.now();
    await work(inode);
    expect(performance.now() - startMs).toBeGreaterThan(290);
    expect([exported.leases.counts.revocations, exported.leases.counts.exclusive]).toEqual([1, 0]);
    await expect(write(holder, handle, 0, 'too late', true)).rejects.toMatchObject({ code: errno.ESTALE });
    recalls[0]?.answer();
    await expect(write(holder, handle, 0, 'too late', true)).rejects.toMatchObject({ code: errno.ESTALE });
    expect(readFileSync(directory.join('f'), 'utf8')).toBe('in time');
    // Its handle is as good as any other's.
    await write(holder, handle, 0, 'IN');
    expect(readFileSync(directory.join('f'), 'utf8')).toBe('IN time');
  });

  test('and whose session has ended: what it gathered is refused, as its fsync says', async () => {
    await using proxy = await CuttingProxy.open(() => server.server.port);
    const session = await ServerSession.connect(parseServerAddress(`ws://127.0.0.1:${proxy.port}/`), silent);
    const filesystem = new RemoteFilesystem(session);
    const nothing = () => Promise.resolve();
    const notifier = {
      invalidateInode: async () => true,
      invalidateListing: nothing,
      invalidateEntry: nothing,
      incrementEpoch: nothing,
      storePages: nothing,
    };
    filesystem.attachKernel({ notifier, epochs: true, hasMountsInside: async () => false });
    const caller = { uid: 0, gid: 0, pid: 1, groups: [], signal: new AbortController().signal };
    const made = await filesystem.create(caller, ROOT_NODE, b('f'), 0o644, 0, O.RDWR);
    await filesystem.write(caller, made.opened.handle, 0, b('gathered'), O.RDWR, false);
    proxy.refusing = true;
    proxy.cutNow();
    const [ended] = [...server.server.sessions.all].slice(-1);
    server.server.sessions.end(ended as Session);
    writeFileSync(directory.join('f'), 'newer');
    proxy.refusing = false;
    const told = await filesystem.fsync(caller, made.opened.handle, false).catch((error: unknown) => error);
    expect(told).toMatchObject({ code: errno.ESTALE });
    expect(readFileSync(directory.join('f'), 'utf8')).toBe('newer');
    await filesystem.write(caller, made.opened.handle, 0, b('NEW'), O.RDWR, false);
    expect(readFileSync(directory.join('f'), 'utf8')).toBe('NEWer');
    session.close();
  });

  test('it says goodbye: nobody waits', async () => {
    const { inode } = await hold();
    holder.close();
    await vi.waitFor(() => expect(inodeOf('f').leases.exclusive).toBeUndefined());
    expect((await openWith(other, inode, O.RDWR, 'exclusive')).lease).toBe('exclusive');
    expect(exported.leases.counts.recallsSent).toBe(0);
  });
});
