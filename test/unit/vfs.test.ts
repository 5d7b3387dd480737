/** The client's filesystem over a real server, and the parts that it is made of. */
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  statSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { readFile } from 'node:fs/promises';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import type { ServerSession } from '../../client-fuse/transport/server-session.ts';
import { type Caller, type Entry, ROOT_NODE } from '../../client-fuse/vfs/filesystem.ts';
import { ForgetQueue } from '../../client-fuse/vfs/forget-queue.ts';
import type { Node } from '../../client-fuse/vfs/node.ts';
import { NodeTable } from '../../client-fuse/vfs/node-table.ts';
import { RemoteFilesystem } from '../../client-fuse/vfs/remote-filesystem.ts';
import { SharedReads } from '../../client-fuse/vfs/shared-reads.ts';
import { errno, FsError } from '../../shared/errno.ts';
import { O } from '../../shared/linux/constants.ts';
import { deferred, lookUp, ROOT, TemporaryDirectory, TestServer } from '../support/fixture.ts';
import { MountedFilesystem } from '../support/mounted.ts';

const b = (text: string) => Buffer.from(text);

function callerOf(uid: number, gid: number, groups: number[] = []): Caller {
  return { uid, gid, pid: 1, groups, signal: new AbortController().signal };
}
const root = callerOf(0, 0);

describe('SharedReads', () => {
  const fetcher = () => {
    const requests: ReturnType<typeof deferred<Uint8Array>>[] = [];
    const fetch = vi.fn(() => {
      const request = deferred<Uint8Array>();
      requests.push(request);
      return request.promise;
    });
    return { requests, fetch };
  };

  test('nobody joins a request that is on its way; all who came meanwhile share the next', async () => {
    const shared = new SharedReads();
    const { requests, fetch } = fetcher();
    const first = shared.read('k', fetch);
    const later = [shared.read('k', fetch), shared.read('k', fetch), shared.read('k', fetch)];
    expect(fetch).toHaveBeenCalledTimes(1);
    requests[0]?.resolve(b('old'));
    expect(await first).toEqual(b('old'));
    await vi.waitFor(() => expect(fetch).toHaveBeenCalledTimes(2));
    const third = shared.read('k', fetch); // the second is on its way now
    requests[1]?.resolve(b('new'));
    const results = await Promise.all(later);
    expect(results.every((one) => one === results[0] && b('new').equals(one))).toBe(true);
    await vi.waitFor(() => expect(fetch).toHaveBeenCalledTimes(3));
    requests[2]?.resolve(b('newest'));
    expect(await third).toEqual(b('newest'));
    await Promise.resolve();
    expect(shared.size).toBe(0);
  });

  test('other ranges have nothing to do with each other', () => {
    const shared = new SharedReads();
    const { fetch } = fetcher();
    void shared.read('a', fetch);
    void shared.read('b', fetch);
    expect(fetch).toHaveBeenCalledTimes(2);
  });

  test('who shared with one whose handle was closed meanwhile reads through its own', async () => {
    const shared = new SharedReads();
    const first = deferred<Uint8Array>();
    void shared.read('k', () => first.promise);
    const closed = shared.read('k', () => Promise.reject(new FsError(errno.EBADF, 'read')));
    const sharing = shared.read('k', async () => Buffer.from('own'));
    first.resolve(Buffer.from('first'));
    await expect(closed).rejects.toMatchObject({ code: errno.EBADF });
    expect(String(await sharing)).toBe('own');
  });

  test('a failure is told to those who shared it, and the next request starts all the same', async () => {
    const shared = new SharedReads();
    const { requests, fetch } = fetcher();
    const first = shared.read('k', fetch);
    const second = shared.read('k', fetch);
    requests[0]?.reject(new Error('lost'));
    await expect(first).rejects.toThrow('lost');
    await vi.waitFor(() => expect(fetch).toHaveBeenCalledTimes(2));
    requests[1]?.resolve(b('fine'));
    expect(await second).toEqual(b('fine'));
    await Promise.resolve();
    expect(shared.size).toBe(0);
  });
});

describe('NodeTable', () => {
  test('a node lives as long as its references', () => {
    const table = new NodeTable(b('root'), 0);
    expect(table.get(ROOT_NODE)).toBe(table.root);
    const node = table.found(b('a'));
    expect(table.found(Buffer.from('a'))).toBe(node);
    expect(table.found(b('b')).id).not.toBe(node.id);
    expect(node).toMatchObject({ lookups: 2, entries: 2 });
    expect(table.forget(node.id, 1)).toBeUndefined();
    expect(table.get(node.id)).toBe(node);
    expect(table.forget(node.id, 1)).toBe(node);
    expect(() => table.get(node.id)).toThrow(expect.objectContaining({ code: errno.ESTALE }));
    expect(table.found(b('a')).id).toBeGreaterThan(node.id); // ids are not used again
    expect(table.size).toBe(3);
  });

  test('nodes without references stay, as many as may be idle; the one that came first goes', () => {
    const table = new NodeTable(b('root'), 2);
    const [one, two, three] = ['a', 'b', 'c'].map((name) => table.found(b(name))) as [Node, Node, Node];
    expect([one, two].map(({ id }) => table.forget(id, 1))).toEqual([undefined, undefined]);
    expect(table.found(b('a'))).toBe(one);
    expect(one).toMatchObject({ lookups: 1, entries: 2, isForgotten: false });
    expect(table.forget(one.id, 1)).toBeUndefined();
    expect(table.foundAgain(one).entries).toBe(2); // the server was not asked
    expect(table.forget(one.id, 1)).toBeUndefined();
    expect(table.forget(three.id, 1)).toBe(two);
    expect(two.isForgotten).toBe(true);
    expect(table.byInode(b('b'))).toBeUndefined();
    expect(table.byInode(b('a'))).toBe(one);
  });

  test('the root stays, unknown nodes are nothing, too much forgetting is a bug', () => {
    const table = new NodeTable(b('root'));
    expect(table.forget(ROOT_NODE, 5)).toBeUndefined();
    expect(table.get(ROOT_NODE)).toBe(table.root);
    expect(table.forget(99, 1)).toBeUndefined();
    const { id } = table.found(b('a'));
    expect(() => table.forget(id, 2)).toThrow('forgets no more');
  });

  test('the handle is a copy: the frame it came in may go', () => {
    const table = new NodeTable(b('root'));
    const frame = b('abc');
    const node = table.found(frame.subarray(1, 2));
    frame.fill(0);
    expect(String(node.inode)).toBe('b');
  });
});

test("ForgetQueue: batches of 512, the rest after a short time, failures are nobody's", async () => {
  vi.useFakeTimers();
  try {
    const call = vi.fn<(operation: string, caller: unknown, request: { inodes: unknown[] }) => Promise<unknown>>(() =>
      Promise.reject(new Error('gone')),
    );
    const queue = new ForgetQueue({ call } as unknown as ServerSession);
    for (let index = 0; index < 1030; index++) queue.add(b(`${index}`), 1);
    expect(call.mock.calls.map(([, , { inodes }]) => inodes.length)).toEqual([512, 512]);
    vi.advanceTimersByTime(99);
    expect(call).toHaveBeenCalledTimes(2);
    vi.advanceTimersByTime(1);
    expect(call.mock.calls[2]?.[2].inodes).toHaveLength(6);
    vi.advanceTimersByTime(1000);
    expect(call).toHaveBeenCalledTimes(3);
  } finally {
    vi.useRealTimers();
  }
});

describe('RemoteFilesystem', () => {
  let directory: TemporaryDirectory;
  let server: TestServer;
  let session: ServerSession;
  let filesystem: RemoteFilesystem;

  beforeEach(async () => {
    directory = new TemporaryDirectory();
    chmodSync(directory.path, 0o755);
    server = await TestServer.start(directory.path);
    session = await server.connect();
    filesystem = new RemoteFilesystem(session);
  });
  afterEach(async () => {
    session.close();
    await server[Symbol.asyncDispose]();
    directory[Symbol.dispose]();
  });

  const read = async (handle: number, offset: number, size: number) =>
    Buffer.from(await filesystem.read(root, handle, offset, size)).toString();

  test('the life of a file', async () => {
    const { entry, opened } = await filesystem.create(root, ROOT_NODE, b('f'), 0o666, 0o22, O.RDWR | O.EXCL);
    expect(opened).toMatchObject({ directIo: true, keepCache: false });
    expect(entry).toMatchObject({ entryMs: 0, attributesMs: 0, attributes: { mode: 0o100644 } });
    expect(await filesystem.write(root, opened.handle, 0, b('hello'), O.RDWR, false)).toBe(5);
    expect(await filesystem.write(root, opened.handle, 0, b(' world'), O.RDWR | O.APPEND, false)).toBe(6);
    expect(await read(opened.handle, 0, 100)).toBe('hello world');
    for (const sync of [O.SYNC, O.DSYNC]) await filesystem.write(root, opened.handle, 0, b('H'), O.RDWR | sync, false);
    await filesystem.fsync(root, opened.handle, true);
    await filesystem.fallocate(root, opened.handle, 0, 0, 20);
    expect((await filesystem.getattr(root, entry.node, opened.handle)).attributes.size).toBe(20);
    const changed = await filesystem.setattr(root, entry.node, { size: 5, mode: 0o600, mtime: { sec: -7, nsec: 8 } });
    expect(changed.attributes).toMatchObject({ size: 5, mode: 0o100600, mtime: { sec: -7, nsec: 8 } });
    // Waits in the kernel until the exclusive lease is given back, so this thread must not.
    expect(await readFile(directory.join('f'), 'utf8')).toBe('Hello');

    await filesystem.link(root, entry.node, ROOT_NODE, b('g'));
    await filesystem.rename(root, ROOT_NODE, b('f'), ROOT_NODE, b('h'), 0);
    expect(readdirSync(directory.path).sort()).toEqual(['g', 'h']);
    await filesystem.unlink(root, ROOT_NODE, b('g'));
    await filesystem.unlink(root, ROOT_NODE, b('h'));
    expect(await read(opened.handle, 0, 100)).toBe('Hello');
    expect((await filesystem.getattr(root, entry.node)).attributes.nlink).toBe(0); // open without a name
    filesystem.release(opened.handle);
    await expect(filesystem.read(root, opened.handle, 0, 1)).rejects.toMatchObject({ code: errno.EBADF });
    // Whether it is gone for good, only the server's kernel knows, and says it after the fact.
    const attributes = async () => filesystem.getattr(root, entry.node);
    await vi.waitFor(() => expect(attributes).rejects.toMatchObject({ code: errno.ESTALE }));
  });

  test('names, links, nodes and attributes', async () => {
    const odd = Buffer.from([0xff, 0xfe, 0x80]);
    await filesystem.mkdir(root, ROOT_NODE, odd, 0o750, 0);
    const link = await filesystem.symlink(root, ROOT_NODE, b('l'), b('/nowhere'));
    expect(String(await filesystem.readlink(root, link.node))).toBe('/nowhere');
    const fifo = await filesystem.mknod(root, ROOT_NODE, b('p'), 0o010644, 0, 0);
    expect(fifo.attributes.mode).toBe(0o010644);
    await filesystem.setxattr(
      root,
      (await filesystem.lookup(root, ROOT_NODE, odd)).node,
      b('user.x'),
      b('1'),
      0,
      false,
    );
    const { node } = await filesystem.lookup(root, ROOT_NODE, odd);
    expect(String(await filesystem.getxattr(root, node, b('user.x')))).toBe('1');
    expect(String(await filesystem.listxattr(root, node))).toBe('user.x\0');
    await filesystem.removexattr(root, node, b('user.x'));
    await filesystem.access(root, node, 7);
    expect((await filesystem.statfs(root, ROOT_NODE)).namelen).toBe(255);
    await filesystem.syncfs(root);
    await filesystem.rmdir(root, ROOT_NODE, odd);
    expect(() => filesystem.lookup(root, ROOT_NODE, odd)).toThrow(expect.objectContaining({ code: errno.ENOENT }));
  });

  const refusals: [string, (name: Buffer) => Promise<unknown>][] = [
    ['lookup', async (name) => filesystem.lookup(root, ROOT_NODE, name)],
    ['mkdir', (name) => filesystem.mkdir(root, ROOT_NODE, name, 0o755, 0)],
    ['mknod', (name) => filesystem.mknod(root, ROOT_NODE, name, 0o100644, 0, 0)],
    ['symlink', (name) => filesystem.symlink(root, ROOT_NODE, name, b('x'))],
    ['link', (name) => filesystem.link(root, ROOT_NODE, ROOT_NODE, name)],
    ['unlink', (name) => filesystem.unlink(root, ROOT_NODE, name)],
    ['rmdir', (name) => filesystem.rmdir(root, ROOT_NODE, name)],
    ['rename', (name) => filesystem.rename(root, ROOT_NODE, b('x'), ROOT_NODE, name, 0)],
    ['create', (name) => filesystem.create(root, ROOT_NODE, name, 0o644, 0, O.RDWR)],
  ];
  test.each(refusals)('%s of a name that is too long or empty fails, and the connection stays', async (_what, work) => {
    await expect(work(Buffer.alloc(256, 'x'))).rejects.toMatchObject({ code: errno.ENAMETOOLONG });
    await expect(work(Buffer.alloc(0))).rejects.toMatchObject({ code: errno.ENOENT });
    expect(session.unreachableSinceMs).toBeUndefined();
  });

  test('what no message can hold fails for its caller, and the connection stays', async () => {
    const { entry, opened } = await filesystem.create(root, ROOT_NODE, b('f'), 0o644, 0, O.RDWR);
    const attempts = [
      filesystem.read(root, opened.handle, 2 ** 60, 1),
      filesystem.setattr(root, entry.node, { size: 2 ** 60 }),
      filesystem.setattr(root, entry.node, { mtime: { sec: 2 ** 60, nsec: 0 } }),
      filesystem.getxattr(root, entry.node, Buffer.alloc(0)),
      filesystem.setxattr(root, entry.node, b('user.x'), Buffer.alloc(65537), 0, false),
      filesystem.lookup(root, ROOT_NODE, b('a/b')),
    ];
    for (const attempt of attempts) await expect(attempt).rejects.toBeInstanceOf(Error);
    expect((await filesystem.getattr(root, entry.node)).attributes.size).toBe(0);
    expect(session.unreachableSinceMs).toBeUndefined();
  });

  test('a directory of any size in any chunks, with and without entries', async () => {
    const names = Array.from({ length: 500 }, (_, index) => `file-${index}`);
    for (const name of names) writeFileSync(directory.join(name), '');
    mkdirSync(directory.join('dir'));
    for (const plus of [false, true]) {
      const { handle } = await filesystem.opendir(root, ROOT_NODE);
      const found: string[] = [];
      let nodes = 0;
      for (let cookie: number | bigint = 0; ; ) {
        const entries = await filesystem.readdir(root, handle, cookie, 4096, plus);
        const last = entries.at(-1);
        if (last === undefined) break;
        cookie = last.cookie;
        found.push(...entries.map(({ name }) => Buffer.from(name).toString()));
        for (const { name, entry } of entries) {
          expect(entry !== undefined).toBe(plus && !['.', '..'].includes(String(name)));
          if (entry) nodes++;
        }
      }
      expect(found.sort()).toEqual(['.', '..', 'dir', ...names].sort());
      expect(filesystem.counts.nodes).toBe(plus ? 502 : 1);
      expect(nodes).toBe(plus ? 501 : 0);
      filesystem.releasedir(handle);
    }
    expect(filesystem.counts.handles).toBe(0);
  });

  test("the caller's own rights count, groups included", async () => {
    mkdirSync(directory.join('d'));
    const { node } = await filesystem.lookup(root, ROOT_NODE, b('d'));
    await filesystem.setattr(root, node, { mode: 0o770, gid: 77 });
    const outsider = filesystem.mkdir(callerOf(1000, 1000), node, b('x'), 0o755, 0);
    await expect(outsider).rejects.toMatchObject({ code: errno.EACCES });
    const made = await filesystem.mkdir(callerOf(1000, 1000, [5, 77]), node, b('x'), 0o755, 0);
    expect(made.attributes).toMatchObject({ uid: 1000, gid: 1000 });
    expect(statSync(directory.join('d', 'x')).uid).toBe(1000);
  });

  test('another owner and mask may be shown', async () => {
    writeFileSync(directory.join('f'), '');
    const shown = new RemoteFilesystem(session, { uid: 5, gid: 6, umask: 0o077 });
    const { node, attributes } = (await shown.lookup(root, ROOT_NODE, b('f'))) as Entry;
    expect(attributes).toMatchObject({ uid: 5, gid: 6, mode: 0o100600 });
    expect((await shown.getattr(root, node)).attributes).toMatchObject({ uid: 5, gid: 6, mode: 0o100600 });
  });

  test('what another client does is seen at once, whatever was answered before', async () => {
    const other = await server.connect();
    const elsewhere = new RemoteFilesystem(other);
    const absent = async (name: string) =>
      expect(async () => filesystem.lookup(root, ROOT_NODE, b(name))).rejects.toMatchObject({ code: errno.ENOENT });
    await absent('f');
    const created = await elsewhere.create(root, ROOT_NODE, b('f'), 0o644, 0, O.RDWR);
    const { node } = await filesystem.lookup(root, ROOT_NODE, b('f'));
    expect((await filesystem.getattr(root, node)).attributes.size).toBe(0);
    await elsewhere.write(root, created.opened.handle, 0, b('22'), O.RDWR, false);
    expect((await filesystem.getattr(root, node)).attributes.size).toBe(2);
    await elsewhere.rename(root, ROOT_NODE, b('f'), ROOT_NODE, b('g'), 0);
    await absent('f');
    expect((await filesystem.lookup(root, ROOT_NODE, b('g'))).node).toBe(node);
    other.close();
  });

  test('what a local program does is seen soon, whatever was answered before', async () => {
    const soon = { timeout: 50, interval: 1 };
    await expect(async () => filesystem.lookup(root, ROOT_NODE, b('f'))).rejects.toMatchObject({ code: errno.ENOENT });
    writeFileSync(directory.join('f'), '1');
    const { node } = await vi.waitFor(async () => filesystem.lookup(root, ROOT_NODE, b('f')), soon);
    writeFileSync(directory.join('f'), '22');
    const size = async () => (await filesystem.getattr(root, node)).attributes.size;
    await vi.waitFor(async () => expect(await size()).toBe(2), soon);
    renameSync(directory.join('f'), directory.join('g'));
    const found = async () => filesystem.lookup(root, ROOT_NODE, b('f'));
    await vi.waitFor(() => expect(found).rejects.toMatchObject({ code: errno.ENOENT }), soon);
    expect((await filesystem.lookup(root, ROOT_NODE, b('g'))).node).toBe(node);
  });

  test('read from front to back while it changes: never old, whatever was read ahead', async () => {
    const SIZE = 3 << 20;
    writeFileSync(directory.join('f'), Buffer.alloc(SIZE, 1));
    const { node } = await filesystem.lookup(root, ROOT_NODE, b('f'));
    const { handle } = await filesystem.open(root, node, O.RDONLY, false);
    const writer = await filesystem.open(root, node, O.RDWR, false);
    const READ = 128 * 1024;
    for (let offset = 0, tag = 1; offset < SIZE; offset += READ) {
      const data = Buffer.from(await filesystem.read(root, handle, offset, READ));
      expect(data.equals(Buffer.alloc(READ, tag))).toBe(true);
      tag++;
      // By turns another handle of the mount and a local program.
      if (tag % 2) await filesystem.write(root, writer.handle, 0, Buffer.alloc(SIZE, tag), O.RDWR, false);
      else writeFileSync(directory.join('f'), Buffer.alloc(SIZE, tag));
    }
  });

  test('copies on the server', async () => {
    writeFileSync(directory.join('a'), 'abcdef');
    const a = await filesystem.lookup(root, ROOT_NODE, b('a'));
    const source = await filesystem.open(root, a.node, O.RDONLY, false);
    const target = await filesystem.create(root, ROOT_NODE, b('b'), 0o644, 0, O.RDWR);
    expect(await filesystem.copyFileRange(root, source.handle, 2, target.opened.handle, 1, 100)).toBe(4);
    expect(await readFile(directory.join('b'), 'latin1')).toBe('\0cdef');
    expect(await filesystem.lseek(root, source.handle, 0, 4)).toBe(6);
  });

  test('O_TMPFILE gets a name by link', async () => {
    const { entry, opened } = await filesystem.tmpfile(root, ROOT_NODE, 0o600, 0, O.RDWR);
    await filesystem.write(root, opened.handle, 0, b('x'), O.RDWR, false);
    await filesystem.link(root, entry.node, ROOT_NODE, b('named'));
    filesystem.release(opened.handle);
    expect(readFileSync(directory.join('named'), 'utf8')).toBe('x');
  });

  test('O_TRUNC once: opening again after a restart does not', async () => {
    writeFileSync(directory.join('f'), 'old');
    const { node } = await filesystem.lookup(root, ROOT_NODE, b('f'));
    const { handle } = await filesystem.open(root, node, O.RDWR | O.TRUNC, false);
    await filesystem.write(root, handle, 0, b('new'), O.RDWR, false);
    const { port } = server.server;
    await server[Symbol.asyncDispose]();
    server = await TestServer.start(directory.path, { port });
    expect(await read(handle, 0, 10)).toBe('new');
    expect(session.epoch).toBe(1);
  });

  test('requests of every kind under way when the server is restarted go on with the new one', async () => {
    writeFileSync(directory.join('f'), 'text');
    const { node } = await filesystem.lookup(root, ROOT_NODE, b('f'));
    const handles = await Promise.all(
      Array.from({ length: 5 }, async () => (await filesystem.open(root, node, O.RDWR, false)).handle),
    );
    const list = await filesystem.opendir(root, ROOT_NODE);
    const { port } = server.server;
    await server[Symbol.asyncDispose]();
    const [one, two, three, four, five] = handles as [number, number, number, number, number];
    const work = [
      filesystem.read(root, one, 0, 4),
      filesystem.read(root, two, 0, 1 << 20), // on the bulk lane
      filesystem.write(root, three, 4, Buffer.alloc(100_000, 'x'), O.RDWR, false),
      filesystem.fsync(root, four, false),
      filesystem.getattr(root, node, five),
      filesystem.lseek(root, one, 0, 4),
      filesystem.readdir(root, list.handle, 0, 4096, false),
      filesystem.copyFileRange(root, one, 0, two, 200_000, 4),
    ];
    server = await TestServer.start(directory.path, { port });
    await Promise.all(work);
    expect(readFileSync(directory.join('f')).subarray(200_000).toString()).toBe('text');
    expect(session.epoch).toBe(1);
  });
});

describe('a server without kernel handles', () => {
  test('forgotten inodes are let go by the server; others stay', async () => {
    using mounted = new MountedFilesystem('ramfs');
    await using server = await TestServer.start(mounted.path);
    const session = await server.connect();
    expect(session.hello.wantsForget).toBe(true);
    const filesystem = new RemoteFilesystem(session, {}, 0);
    const kept = await filesystem.mkdir(root, ROOT_NODE, b('kept'), 0o755, 0);
    const nodes = [];
    for (let index = 0; index < 600; index++) {
      nodes.push((await filesystem.mkdir(root, ROOT_NODE, b(`d${index}`), 0o755, 0)).node);
    }
    const { store } = server.server.exports.get('/') as never as {
      store: { resolve(handle: Uint8Array): { pins: number } };
    };
    const { inode } = await lookUp(session, ROOT, { parent: session.hello.root.inode, name: b('d0') });
    const first = store.resolve(inode);
    expect(first.pins).toBe(1);
    await session.call('forget', [], {
      inodes: [
        { inode: b('unknown'), entries: 1 },
        { inode, entries: 1 }, // one entry of two: it stays
      ],
    });
    expect(first.pins).toBe(1);
    for (const node of nodes) filesystem.forget(node, 1);
    await vi.waitFor(() => expect(first.pins).toBe(0));
    expect((await filesystem.getattr(root, kept.node)).attributes.nlink).toBe(2);
    session.close();
  });

  test('what a local program renamed is stale, a lookup finds it again', async () => {
    using mounted = new MountedFilesystem('ramfs');
    await using server = await TestServer.start(mounted.path);
    const session = await server.connect();
    const filesystem = new RemoteFilesystem(session);
    symlinkSync('x', `${mounted.path}/l`);
    const { node } = await filesystem.mkdir(root, ROOT_NODE, b('a'), 0o755, 0);
    await filesystem.rename(root, ROOT_NODE, b('a'), ROOT_NODE, b('b'), 0);
    expect((await filesystem.getattr(root, node)).attributes.nlink).toBe(2);
    unlinkSync(`${mounted.path}/l`);
    expect(existsSync(`${mounted.path}/b`)).toBe(true);
    expect((await filesystem.lookup(root, ROOT_NODE, b('b'))).node).toBe(node);
    session.close();
  });
});
