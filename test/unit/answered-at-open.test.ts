/** Small files and short directories, which come with the reply to their opening and do not stay open at the server. */
import {
  chmodSync,
  mkdirSync,
  readdirSync,
  statSync,
  symlinkSync,
  unlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import type { ServerSession } from '../../client-fuse/transport/server-session.ts';
import { type Caller, ROOT_NODE } from '../../client-fuse/vfs/filesystem.ts';
import { RemoteFilesystem } from '../../client-fuse/vfs/remote-filesystem.ts';
import { errno } from '../../shared/errno.ts';
import { limits } from '../../shared/limits.ts';
import { O } from '../../shared/linux/constants.ts';
import { deferred, lookUp, ROOT, TemporaryDirectory, TestServer } from '../support/fixture.ts';

const b = (text: string) => Buffer.from(text);
const root: Caller = { uid: 0, gid: 0, pid: 1, groups: [], signal: new AbortController().signal };
const user: Caller = { ...root, uid: 1000, gid: 1000 };

let directory: TemporaryDirectory;
let server: TestServer;
let session: ServerSession;
let other: ServerSession;
let filesystem: RemoteFilesystem;
/** What the kernel waits for before it drops pages. */
let pagesUnlocked: Promise<void>;

beforeEach(async () => {
  directory = new TemporaryDirectory();
  chmodSync(directory.path, 0o777);
  writeFileSync(directory.join('f'), 'text');
  server = await TestServer.start(directory.path);
  [session, other] = [await server.connect(), await server.connect()];
  pagesUnlocked = Promise.resolve();
  filesystem = new RemoteFilesystem(session);
  filesystem.attachKernel({
    epochs: true,
    hasMountsInside: () => Promise.resolve(false),
    notifier: {
      invalidateInode: (_node, offset) => (offset < 0 ? Promise.resolve(true) : pagesUnlocked.then(() => true)),
      invalidateListing: () => Promise.resolve(),
      invalidateEntry: () => Promise.resolve(),
      incrementEpoch: () => Promise.resolve(),
      storePages: () => Promise.resolve(),
    },
  });
});
afterEach(async () => {
  session.close();
  other.close();
  await server[Symbol.asyncDispose]();
  directory[Symbol.dispose]();
});

/** What the client's requests were, since the last call. */
function requestsOf(): { readonly names: () => string[] } {
  const bulk = vi.spyOn(session, 'callForBulk');
  return {
    names() {
      const names = bulk.mock.calls.map(([name]) => name);
      bulk.mockClear();
      return names;
    },
  };
}

async function open(caller: Caller, name: string): Promise<number> {
  const { node } = await filesystem.lookup(caller, ROOT_NODE, b(name));
  return (await filesystem.open(caller, node, O.RDONLY, false)).handle;
}

const read = async (handle: number) => Buffer.from(await filesystem.read(root, handle, 0, 4096)).toString();

describe('a small file', () => {
  test('is one request, and no open file of the server', async () => {
    const requests = requestsOf();
    const handle = await open(root, 'f');
    expect(await read(handle)).toBe('text');
    filesystem.release(handle);
    expect(requests.names()).toEqual(['lookup', 'open']);
  });

  test('is asked once where its holes are, until it changes', async () => {
    const handle = await open(root, 'f');
    const requests = requestsOf();
    const SEEK_HOLE = 4;
    for (let round = 0; round < 3; round++) expect(await filesystem.lseek(root, handle, 0, SEEK_HOLE)).toBe(4);
    expect(requests.names()).toEqual(['open', 'lseek']);
    const { inode } = await lookUp(other, ROOT, { parent: other.hello.root.inode, name: b('f') });
    const none = { mode: undefined, uid: undefined, gid: undefined, atime: undefined, mtime: undefined };
    await other.call('setattr', ROOT, { inode, handle: 0, ...none, size: 2, killSuidgid: false });
    expect(await filesystem.lseek(root, handle, 0, SEEK_HOLE)).toBe(2);
  });

  test('a write that is pages of the kernel is answered without dropping them: they are locked until then', async () => {
    const reader = await open(root, 'f');
    await read(reader);
    const { node } = await filesystem.lookup(root, ROOT_NODE, b('f'));
    const { handle } = await filesystem.open(root, node, O.RDWR, false);
    const { promise, resolve } = deferred<void>();
    pagesUnlocked = promise;
    expect(await filesystem.write(root, handle, 0, b('TEXT'), 0, false, true)).toBe(4);
    let isAnswered = false;
    const written = filesystem.write(root, handle, 0, b('more'), 0, false).then(() => {
      isAnswered = true;
    });
    await filesystem.statfs(root, node);
    await new Promise((done) => setTimeout(done, 50));
    expect(isAnswered).toBe(false);
    resolve();
    await written;
  });

  test.each([
    ['another client', () => other],
    ['the same client', () => undefined],
  ])('that %s has open for writing is not opened without asking, and is read past the page cache', async (_who, by) => {
    filesystem.release(await open(root, 'f'));
    const { node } = await filesystem.lookup(root, ROOT_NODE, b('f'));
    const session = by();
    if (session) {
      const { inode } = await lookUp(session, ROOT, { parent: session.hello.root.inode, name: b('f') });
      const request = { inode, flags: O.RDWR, killSuidgid: false, wants: 'none', firstBytes: 0 } as const;
      await session.call('open', ROOT, request);
    } else await filesystem.open(root, node, O.RDWR | O.APPEND, false);
    const requests = requestsOf();
    expect(await filesystem.open(root, node, O.RDONLY, false)).toMatchObject({ directIo: true });
    expect(requests.names()).toEqual(['open']);
  });

  test.each([
    ['first', [O.RDONLY, O.RDWR]],
    ['last', [O.RDWR, O.RDONLY]],
  ])('that is opened to be read %s, while it is opened to be written, is open at the server', async (_when, order) => {
    for (const isKnown of [false, true]) {
      const { node } = await filesystem.lookup(root, ROOT_NODE, b('f'));
      if (isKnown) filesystem.release(await open(root, 'f'));
      const opening = order.map(async (flags) => {
        const { handle } = await filesystem.open(root, node, flags, false);
        return [flags, handle] as const;
      });
      const handles = new Map(await Promise.all(opening));
      const [reader, writer] = [handles.get(O.RDONLY) as number, handles.get(O.RDWR) as number];
      // Its client would have to open it at the server before it may give back what the server recalls for that very opening.
      expect(await read(reader)).toBe('text');
      await filesystem.write(root, writer, 0, b('TEXT'), 0, false);
      expect(await read(reader)).toBe('TEXT');
      await filesystem.write(root, writer, 0, b('text'), 0, false);
      for (const handle of [reader, writer]) filesystem.release(handle);
      await filesystem.drain();
      expect(server.server.exports.get('/')?.leases.counts.revocations).toBe(0);
    }
  });

  test('that another client removes goes on to be read', async () => {
    const handle = await open(root, 'f');
    await other.call('unlink', ROOT, { parent: other.hello.root.inode, name: b('f') });
    expect(readdirSync(directory.path)).toEqual([]);
    expect([await read(handle), await read(handle)]).toEqual(['text', 'text']);
  });

  test('that this client removes goes on to be read', async () => {
    const handle = await open(root, 'f');
    await filesystem.unlink(root, ROOT_NODE, b('f'));
    expect([await read(handle), await read(handle)]).toEqual(['text', 'text']);
  });

  test('that this client removes while it is being opened is open for good, or not at all', async () => {
    const { node } = await filesystem.lookup(root, ROOT_NODE, b('f'));
    const opening = filesystem.open(root, node, O.RDONLY, false);
    await filesystem.unlink(root, ROOT_NODE, b('f'));
    await Promise.resolve(opening).then(
      async ({ handle }) => expect([await read(handle), await read(handle)]).toEqual(['text', 'text']),
      (error: unknown) => expect(error).toMatchObject({ message: expect.stringMatching(/ESTALE|ENOENT/) }),
    );
  });

  test('whose mode this client changes goes on to be read by whoever had it open', async () => {
    const handle = await open(user, 'f');
    const { node } = await filesystem.lookup(root, ROOT_NODE, b('f'));
    await filesystem.setattr(root, node, { mode: 0o600 });
    expect([await read(handle), await read(handle)]).toEqual(['text', 'text']);
  });

  test('whose mode another client changes, too', async () => {
    const handle = await open(user, 'f');
    const { inode } = await lookUp(other, ROOT, { parent: other.hello.root.inode, name: b('f') });
    const none = { size: undefined, uid: undefined, gid: undefined, atime: undefined, mtime: undefined };
    await other.call('setattr', ROOT, { inode, handle: 0, ...none, mode: 0o600, killSuidgid: false });
    expect([await read(handle), await read(handle)]).toEqual(['text', 'text']);
  });
});

describe('a file that is too large for that', () => {
  const openLarge = async () => {
    writeFileSync(directory.join('large'), Buffer.alloc(limits.maxFirstBytes + 1));
    // As after an untar: whoever reads it first sets the access time (relatime).
    utimesSync(directory.join('large'), 1, 2);
    const { node } = await filesystem.lookup(root, ROOT_NODE, b('large'));
    const { handle } = await filesystem.open(root, node, O.RDONLY, false);
    return { node, handle };
  };

  test('is not asked for the access time that reading it has set', async () => {
    const { node, handle } = await openLarge();
    await filesystem.read(root, handle, 0, 4096);
    const requests = requestsOf();
    const { attributes } = await filesystem.getattr(root, node);
    expect(requests.names()).toEqual([]);
    expect(attributes.atime.sec).toBe(Math.floor(statSync(directory.join('large')).atimeMs / 1000));
    expect(attributes.atime.sec).toBeGreaterThan(2);
  });

  test('but is when its reply did not say it, since it was written to meanwhile', async () => {
    const { node, handle } = await openLarge();
    await filesystem.read(root, handle, 0, 4096);
    await filesystem.setattr(root, node, { mtime: { sec: 4_000_000_000, nsec: 0 } });
    await filesystem.read(root, handle, 4096, 4096);
    const requests = requestsOf();
    await filesystem.getattr(root, node);
    expect(requests.names()).toEqual(['getattr']);
  });
});

describe('a symbolic link', () => {
  test('is asked once where it leads to, until another one has its name', async () => {
    symlinkSync('f', directory.join('link'));
    const lookUpLink = () => filesystem.lookup(root, ROOT_NODE, b('link'));
    const { node } = await lookUpLink();
    const requests = requestsOf();
    const leadsTo = async (id: number) => Buffer.from(await filesystem.readlink(root, id)).toString();
    expect([await leadsTo(node), await leadsTo(node)]).toEqual(['f', 'f']);
    expect(requests.names()).toEqual(['readlink']);
    const parent = other.hello.root.inode;
    await other.call('symlink', ROOT, { parent, name: b('new'), target: b('elsewhere') });
    await other.call('rename', ROOT, { parent, name: b('new'), newParent: parent, newName: b('link'), flags: 0 });
    expect(await leadsTo((await lookUpLink()).node)).toBe('elsewhere');
  });
});

describe('a short directory', () => {
  const names = async (handle: number) => {
    const found: string[] = [];
    for (let cookie: number | bigint = 0; ; ) {
      const entries = await filesystem.readdir(root, handle, cookie, 512, true);
      const last = entries.at(-1);
      if (last === undefined) return found.sort();
      cookie = last.cookie;
      found.push(...entries.map(({ name }) => Buffer.from(name).toString()));
    }
  };

  beforeEach(() => {
    mkdirSync(directory.join('d'));
    for (let index = 0; index < limits.maxListedAtOpen - 3; index++)
      writeFileSync(directory.join('d', `f${index}`), '');
  });

  const opendir = async () => {
    const { node } = await filesystem.lookup(root, ROOT_NODE, b('d'));
    return { node, handle: (await filesystem.opendir(root, node)).handle };
  };

  test('is one request with all that ls -l shows, and its own attributes', async () => {
    const requests = requestsOf();
    const { node, handle } = await opendir();
    expect(await names(handle)).toEqual(['.', '..', ...readdirSync(directory.join('d'))].sort());
    filesystem.releasedir(handle);
    for (const name of readdirSync(directory.join('d'))) await filesystem.lookup(root, node, b(name));
    await filesystem.getattr(root, node);
    expect(requests.names()).toEqual(['lookup', 'opendir']);
  });

  test('a longer one stays open, and is listed in parts', async () => {
    for (const name of ['x', 'y', 'z', 'last']) writeFileSync(directory.join('d', name), '');
    const requests = requestsOf();
    const { handle } = await opendir();
    expect(await names(handle)).toHaveLength(limits.maxListedAtOpen + 3);
    filesystem.releasedir(handle);
    const [lookup, opendirName, ...others] = requests.names();
    expect([lookup, opendirName, others.at(-1), new Set(others.slice(0, -1))]).toEqual([
      'lookup',
      'opendir',
      'release',
      new Set(['readdir']),
    ]);
  });

  test('is read to its end as it was when it was opened; rewound, as it is', async () => {
    const { handle } = await opendir();
    const [first] = await filesystem.readdir(root, handle, 0, 200, true);
    await other.call('unlink', ROOT, { parent: await inodeOf('d'), name: b('f0') });
    const rest = await filesystem.readdir(root, handle, first?.cookie ?? 0, 1 << 20, true);
    expect(1 + rest.length).toBe(limits.maxListedAtOpen - 1);
    expect(await names(handle)).not.toContain('f0');
  });

  const inodeOf = async (name: string) =>
    (await lookUp(other, ROOT, { parent: other.hello.root.inode, name: b(name) })).inode;

  test('of files without extended attributes asks once how their absence is said', async () => {
    const { node, handle } = await opendir();
    await names(handle);
    const requests = requestsOf();
    const acl = async (name: string) => {
      const file = await filesystem.lookup(root, node, b(name));
      return filesystem.getxattr(root, file.node, b('system.posix_acl_access'));
    };
    for (const name of ['f0', 'f1', 'f2']) {
      await expect((async () => acl(name))()).rejects.toMatchObject({ code: errno.ENODATA });
    }
    expect(requests.names()).toEqual(['getxattr']);
    expect(await filesystem.listxattr(root, (await filesystem.lookup(root, node, b('f0'))).node)).toHaveLength(0);
    expect(requests.names()).toEqual([]);
    const d = await inodeOf('d');
    const { inode } = await lookUp(other, ROOT, { parent: d, name: b('f1') });
    // Version 2; the owner may read and write, user 1000 read, the group and the mask read, others nothing.
    const entries = [
      [1, 6, -1],
      [2, 4, 1000],
      [4, 4, -1],
      [16, 4, -1],
      [32, 0, -1],
    ] as const;
    const value = Buffer.alloc(4 + 8 * entries.length);
    value.writeUInt32LE(2, 0);
    for (const [index, [tag, permissions, id]] of entries.entries()) {
      value.writeUInt16LE(tag, 4 + 8 * index);
      value.writeUInt16LE(permissions, 6 + 8 * index);
      value.writeInt32LE(id, 8 + 8 * index);
    }
    const name = b('system.posix_acl_access');
    await other.call('setxattr', ROOT, { inode, name, value, flags: 0, killSgid: false });
    expect(await acl('f1')).toEqual(value);
    await expect((async () => acl('f2'))()).rejects.toMatchObject({ code: errno.ENODATA });
  });

  test('a local change shows in the next listing', async () => {
    const { node, handle } = await opendir();
    await names(handle);
    unlinkSync(directory.join('d', 'f0'));
    await vi.waitFor(async () => {
      const again = await filesystem.opendir(root, node);
      expect(await names(again.handle)).not.toContain('f0');
    });
  });
});
