/**
 * The server's kernel leases on files whose data clients keep, on real files: a local program that would write waits until
 * clients have dropped what they read, and one that has the file open to write keeps it from being leased. Needs root.
 */
import { execFile } from 'node:child_process';
import { closeSync, linkSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { promisify } from 'node:util';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import type { ServerSession } from '../../client-fuse/transport/server-session.ts';
import type { Export } from '../../server/export.ts';
import { ReadLeases } from '../../server/leases/read-leases.ts';
import type { Inode } from '../../server/store/inode.ts';
import type { Store } from '../../server/store/store.ts';
import { errno, FsError } from '../../shared/errno.ts';
import { O } from '../../shared/linux/constants.ts';
import { deferred, lookUp, ROOT, TemporaryDirectory, TestServer } from '../support/fixture.ts';
import { PLAIN_WRITE } from '../support/requests.ts';

const run = promisify(execFile);
const b = (text: string) => Buffer.from(text);

let directory: TemporaryDirectory;
let server: TestServer;
let exported: Export;
let reader: ServerSession;
let other: ServerSession;
/** Recalls that `reader` was sent, and answers when the test says so. */
let recalls: { inodes: readonly Uint8Array[]; answer: () => void }[];

beforeEach(async () => {
  directory = new TemporaryDirectory();
  for (const name of ['f', 'g']) writeFileSync(path(name), 'text');
  server = await TestServer.start(directory.path);
  exported = server.server.exports.get('/') as Export;
  reader = await server.connect();
  other = await server.connect();
  recalls = [];
  reader.onRecall = (inodes) => {
    if (inodes === null) return { ready: undefined, finish: () => [] };
    const { promise, resolve } = deferred();
    recalls.push({ inodes, answer: resolve });
    return { ready: promise, finish: () => [] };
  };
});
afterEach(async () => {
  vi.restoreAllMocks();
  for (const session of [reader, other]) session.close();
  await server[Symbol.asyncDispose]();
  directory[Symbol.dispose]();
});

const path = (name: string) => directory.join(name);
const found = (session: ServerSession, name: string) =>
  lookUp(session, ROOT, { parent: session.hello.root.inode, name: b(name) });
const openWith = (session: ServerSession, inode: Uint8Array, flags: number, wants: 'none' | 'shared' | 'exclusive') =>
  session.call('open', ROOT, { inode, flags, killSuidgid: false, wants, firstBytes: 0 });
const readPages = async (session: ServerSession, handle: number) =>
  (
    await session.callForBulk('read', ROOT, {
      handle,
      offset: 0,
      size: 100,
      knownVersion: undefined,
      wantsLease: true,
      wantsBlock: false,
    })
  ).reply.leased;
const setSize = (session: ServerSession, inode: Uint8Array, size: number) => {
  const rest = { mode: undefined, uid: undefined, gid: undefined, atime: undefined, mtime: undefined };
  return session.call('setattr', ROOT, { inode, handle: 0, size, ...rest, killSuidgid: false });
};
const counts = () => exported.leases.counts;

/** `reader` keeps what it reads of `f`. */
async function keep(name = 'f') {
  const { inode } = await found(reader, name);
  const { lease, handle } = await openWith(reader, inode, O.RDONLY, 'shared');
  expect([lease, counts().read]).toEqual(['shared', 1]);
  return { inode, handle };
}

const local = (command: string) => run('sh', ['-c', command], { cwd: directory.path });

/** A local program does `command` only when `reader` has given its lease back. */
async function waitsForReader(command: string): Promise<void> {
  let isDone = false;
  const done = local(command).finally(() => {
    isDone = true;
  });
  await vi.waitFor(() => expect(recalls).toHaveLength(1), { timeout: 5000, interval: 1 });
  for (let round = 0; round < 3; round++) await other.call('statfs', ROOT, { inode: other.hello.root.inode });
  expect(isDone).toBe(false);
  recalls[0]?.answer();
  await done;
}

describe('a local program that would write waits until clients have dropped what they read', () => {
  const commands: [command: string, content: string][] = [
    ['echo more >> f', 'textmore\n'],
    ['echo anew > f', 'anew\n'],
    [`${process.execPath} -e "fs.truncateSync('f', 2)"`, 'te'],
    ['dd if=/dev/zero of=f bs=1 count=0 conv=notrunc status=none', 'text'],
  ];
  test.each(commands)('%s', async (command, content) => {
    const { inode } = await keep();
    await waitsForReader(command);
    expect([readFileSync(path('f'), 'utf8'), recalls.map((recall) => recall.inodes)]).toEqual([content, [[inode]]]);
    expect([counts().read, counts().revocations]).toEqual([0, 0]);
  });

  test('all who keep them', async () => {
    await keep();
    const { inode } = await found(other, 'f');
    const second = await openWith(other, inode, O.RDONLY, 'shared');
    expect([second.lease, counts().read]).toEqual(['shared', 1]);
    const asked = vi.fn();
    other.onRecall = (inodes) => {
      if (inodes) asked(inodes);
      return { ready: undefined, finish: () => [] };
    };
    await waitsForReader('echo more >> f');
    expect([asked.mock.calls, readFileSync(path('f'), 'utf8')]).toEqual([[[[inode]]], 'textmore\n']);
  });

  test('but for one that asks not to wait (O_NONBLOCK): EAGAIN, until they have', async () => {
    await keep();
    const truncate = () => local('truncate -s 2 f');
    await expect(truncate()).rejects.toMatchObject({ stderr: expect.stringContaining('temporarily unavailable') });
    await vi.waitFor(() => expect(recalls).toHaveLength(1));
    recalls[0]?.answer();
    await vi.waitFor(() => expect(counts().read).toBe(0));
    await truncate();
    expect(readFileSync(path('f'), 'utf8')).toBe('te');
  });

  test.each(['cat f', 'stat f', 'ln f h', 'chmod 600 f', 'mv f h'])('not for %s', async (command) => {
    await keep();
    await local(command);
    expect(counts().read).toBe(1);
  });
});

describe('while a local program has the file open to write', () => {
  test('nothing of it is leased; then again', async () => {
    const fd = openSync(path('f'), 'r+');
    const { inode } = await found(reader, 'f');
    const { lease, handle } = await openWith(reader, inode, O.RDONLY, 'shared');
    expect([lease, await readPages(reader, handle), counts().read]).toEqual(['none', false, 0]);
    expect((await reader.call('getattr', ROOT, { inode, handle: 0 })).leased).toBe(false);
    closeSync(fd);
    expect((await reader.call('getattr', ROOT, { inode, handle: 0 })).leased).toBe(true);
    expect((await openWith(reader, inode, O.RDONLY, 'shared')).lease).toBe('shared');
    expect([await readPages(reader, handle), counts().read, recalls]).toEqual([true, 1, []]);
  });

  test('what it wrote before is not kept by who knew the file from before that', async () => {
    const { inode } = await found(reader, 'f');
    // Its event comes some milliseconds later.
    writeFileSync(path('f'), 'longer text');
    const { lease, attributes } = await openWith(reader, inode, O.RDONLY, 'shared');
    expect([lease, attributes?.size]).toEqual(['none', 11]);
    await vi.waitFor(() => expect(recalls).toHaveLength(1));
    recalls[0]?.answer();
    await vi.waitFor(() => expect(counts().recallsPending).toBe(0));
    expect([counts().read, exported.store.find(exported.store.root, b('f'))?.leases.isIdle]).toEqual([0, true]);
  });
});

describe('clients that write', () => {
  test('the server does not wait for itself', async () => {
    const { inode } = await keep();
    await reader.call('release', ROOT, { handles: [(await openWith(reader, inode, O.RDWR, 'none')).handle] });
    expect(counts().read).toBe(0);
    await keep('g');
    await setSize(reader, (await found(reader, 'g')).inode, 1);
    expect([readFileSync(path('g'), 'utf8'), counts().read, recalls]).toEqual(['t', 0, []]);
  });

  test('another client: it waits for the reader, and then nobody holds it', async () => {
    const { inode, handle } = await keep();
    const opened = openWith(other, inode, O.RDWR, 'none');
    await vi.waitFor(() => expect(recalls).toHaveLength(1));
    expect(counts().read).toBe(1);
    recalls[0]?.answer();
    const writing = await opened;
    expect(counts().read).toBe(0);
    // The reader's old handle goes on, under a lease that each write recalls.
    expect(await readPages(reader, handle)).toBe(true);
    const written = other.call('write', ROOT, { handle: writing.handle, offset: 0, ...PLAIN_WRITE }, { bulk: b('T') });
    await vi.waitFor(() => expect(recalls).toHaveLength(2));
    recalls[1]?.answer();
    await written;
    expect([readFileSync(path('f'), 'utf8'), counts().revocations]).toEqual(['Text', 0]);
  });
});

describe('given up', () => {
  test('when the last reader has given its lease back, or its session has ended', async () => {
    const { inode } = await keep();
    const changed = other.call('setxattr', ROOT, {
      inode,
      name: b('user.x'),
      value: b('1'),
      flags: 0,
      killSgid: false,
    });
    await vi.waitFor(() => expect(recalls).toHaveLength(1));
    recalls[0]?.answer();
    await changed;
    expect(counts().read).toBe(0);
    await keep('g');
    reader.close();
    await vi.waitFor(() => expect(counts().read).toBe(0));
  });

  test('with a file that a client removes', async () => {
    await keep();
    const removed = other.call('unlink', ROOT, { parent: other.hello.root.inode, name: b('f') });
    await vi.waitFor(() => expect(recalls).toHaveLength(1));
    recalls[0]?.answer();
    await removed;
    expect(counts().read).toBe(0);
  });
});

describe('ReadLeases', () => {
  const inodeOf = () => ({ writers: 0, isWrittenLocally: false }) as unknown as Inode;
  function leasesOf(answer: () => Disposable | 'written' | 'refused', most = 2) {
    const descriptors = { holdOffLocalWriters: answer };
    const store = { descriptors, descriptorOf: () => 7 } as unknown as Store;
    const full: Inode[][] = [];
    return {
      full,
      leases: new ReadLeases(
        store,
        most,
        () => {},
        (inodes) => full.push([...inodes]),
      ),
    };
  }

  test('no more than there is room for; the oldest make room when they are old', () => {
    vi.useFakeTimers({ toFake: ['performance'] });
    try {
      const { full, leases } = leasesOf(() => ({ [Symbol.dispose]: () => {} }));
      const inodes = [inodeOf(), inodeOf(), inodeOf()] as [Inode, Inode, Inode];
      expect(inodes.map((inode) => leases.take(inode))).toEqual([true, true, false]);
      expect([full, leases.take(inodes[0])]).toEqual([[], true]);
      vi.advanceTimersByTime(31_000);
      expect([leases.take(inodes[2]), full]).toEqual([false, [[inodes[0], inodes[1]]]]);
      leases.end(inodes[0]);
      expect([leases.take(inodes[2]), leases.size]).toEqual([true, 2]);
    } finally {
      vi.useRealTimers();
    }
  });

  test('where the kernel has none, local changes are seen afterwards', () => {
    const { leases } = leasesOf(() => 'refused');
    expect([leases.hasRefused, leases.take(inodeOf()), leases.size, leases.hasRefused]).toEqual([false, true, 0, true]);
  });

  test('not without a descriptor', () => {
    const { leases } = leasesOf(() => {
      throw new FsError(errno.EMFILE, 'openat');
    });
    expect(leases.take(inodeOf())).toBe(false);
  });
});

test.each([
  { what: 'opened to write', open: (inode: Uint8Array) => openWith(other, inode, O.RDWR, 'none') },
  { what: 'truncated', open: (inode: Uint8Array) => setSize(other, inode, 1) },
])('a file that another server of this machine has leased is $what when that has given it up', async ({ open }) => {
  using elsewhere = new TemporaryDirectory();
  linkSync(path('f'), elsewhere.join('f'));
  await using second = await TestServer.start(elsewhere.path);
  const keeper = await second.connect();
  const { promise, resolve } = deferred();
  const asked = vi.fn(() => ({ ready: promise, finish: () => [] }));
  keeper.onRecall = asked;
  const { inode } = await found(keeper, 'f');
  expect((await openWith(keeper, inode, O.RDONLY, 'shared')).lease).toBe('shared');
  let isOpen = false;
  const opened = open((await found(other, 'f')).inode).then(() => {
    isOpen = true;
  });
  await vi.waitFor(() => expect(asked).toHaveBeenCalled());
  expect(isOpen).toBe(false);
  resolve();
  await opened;
  keeper.close();
});
