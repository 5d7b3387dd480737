/**
 * Files that their client makes at the server when they are closed, in directories that nobody else knows of: what that costs, who sees
 * them when, and what becomes of them when something is in the way. A real server on real files. Needs root.
 */
import { execFile } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, statSync, writeFileSync } from 'node:fs';
import { promisify } from 'node:util';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { AloneDirectories } from '../../client-fuse/leases/alone-directories.ts';
import { type AttributeChanges, type Caller, type NodeId, ROOT_NODE } from '../../client-fuse/vfs/filesystem.ts';
import type { Node } from '../../client-fuse/vfs/node.ts';
import { NodeTable } from '../../client-fuse/vfs/node-table.ts';
import type { LeaseManager } from '../../server/leases/lease-manager.ts';
import type { DescriptorCalls } from '../../server/store/descriptor-calls.ts';
import { errno, FsError } from '../../shared/errno.ts';
import { KiB, limits } from '../../shared/limits.ts';
import { O } from '../../shared/linux/constants.ts';
import { AskingClient } from '../support/asking-client.ts';
import { ROOT, TemporaryDirectory } from '../support/fixture.ts';

const b = (text: string) => Buffer.from(text);
const callerOf = (uid: number, pid = 1): Caller => ({
  uid,
  gid: uid,
  pid,
  groups: [],
  signal: new AbortController().signal,
});
const root = callerOf(0);
const THEN = { sec: 1_000_000_000, nsec: 123_456_789 };
const { unmadeMs, aloneIdleMs } = limits;

let directory: TemporaryDirectory;
let client: AskingClient;
/** A directory of which nobody but the client knows. */
let d: NodeId;

beforeEach(async () => {
  // Nothing is made for want of time, but where that is what is tested.
  Object.assign(limits, { unmadeMs: 60_000 });
  directory = new TemporaryDirectory();
  client = await AskingClient.start(directory);
  d = (await client.filesystem.mkdir(root, ROOT_NODE, b('d'), 0o755, 0)).node;
  client.asked = [];
});
afterEach(async () => {
  Object.assign(limits, { unmadeMs, aloneIdleMs });
  await client[Symbol.asyncDispose]();
  directory[Symbol.dispose]();
});

const at = (name: string) => directory.join('d', name);

/** As another process reads it, which waits in the kernel while the client gathers. */
async function content(path: string): Promise<string> {
  return (await promisify(execFile)('cat', [path], { encoding: 'latin1' })).stdout;
}

function create(name: string, flags: number = O.WRONLY | O.EXCL, caller = root, mode = 0o600, parent = d) {
  return client.filesystem.create(caller, parent, b(name), mode, 0o022, flags);
}

function write(handle: number, offset: number, data: Buffer | string) {
  return client.filesystem.write(root, handle, offset, Buffer.from(data), O.WRONLY, false);
}

async function close(handle: number): Promise<void> {
  try {
    await client.filesystem.flush(root, handle, 1);
  } finally {
    client.filesystem.release(handle);
  }
}

/** The other client looks for it. */
async function found(name: string, parent = 'd') {
  const { other } = client;
  const inode = (await other.call('lookup', ROOT, { parent: other.hello.root.inode, name: b(parent) })).found?.inode;
  return (await other.call('lookup', ROOT, { parent: inode as Uint8Array, name: b(name) })).found;
}

describe('a new file', () => {
  test('is one request with all that a program does until it has closed it', async () => {
    const { entry, opened } = await create('f');
    await write(opened.handle, 0, 'first, ');
    await write(opened.handle, 7, 'second');
    await client.filesystem.setattr(root, entry.node, { mtime: THEN });
    await client.filesystem.setattr(root, entry.node, { uid: 0, gid: 0 });
    await client.filesystem.setattr(root, entry.node, { mode: 0o644 });
    expect(existsSync(at('f'))).toBe(false);
    await close(opened.handle);
    expect(client.asked).toEqual(['createWith']);
    expect(await content(at('f'))).toBe('first, second');
    const { mode, mtimeMs, ino } = statSync(at('f'));
    expect([mode & 0o7777, Math.floor(mtimeMs)]).toEqual([0o644, THEN.sec * 1000 + 123]);
    const { attributes } = await client.filesystem.getattr(root, entry.node);
    expect(attributes).toMatchObject({ ino, size: 13, mode: 0o100644 });
    expect(client.asked).toEqual(['createWith']);
  });

  test('in several places, and with a hole', async () => {
    const { opened } = await create('f');
    await write(opened.handle, 8, 'end');
    await write(opened.handle, 0, 'begin');
    await close(opened.handle);
    expect(client.asked).toEqual(['createWith']);
    expect(await content(at('f'))).toBe('begin\0\0\0end');
  });

  test('that is larger is made first, and so is one that is closed with nothing in it', async () => {
    const large = await create('large');
    await write(large.opened.handle, 0, Buffer.alloc(limits.maxUnmadeBytes + 1, 'x'));
    await close(large.opened.handle);
    expect(client.asked.slice(0, 2)).toEqual(['create', 'write']);
    expect(statSync(at('large')).size).toBe(limits.maxUnmadeBytes + 1);
    client.asked = [];
    // A shell's `>`: through another descriptor of the same opening.
    const { opened } = await create('empty');
    await client.filesystem.flush(root, opened.handle, 1);
    await write(opened.handle, 0, 'through another descriptor');
    await close(opened.handle);
    expect(client.asked.slice(0, 2)).toEqual(['create', 'write']);
    expect(await content(at('empty'))).toBe('through another descriptor');
  });

  test('goes on being written to after it was closed the first time', async () => {
    const { opened } = await create('f', O.RDWR | O.EXCL, root, 0o400);
    await write(opened.handle, 0, 'first');
    await client.filesystem.flush(root, opened.handle, 1);
    await write(opened.handle, 5, ', second');
    expect((await client.filesystem.read(root, opened.handle, 0, 100)).toString()).toBe('first, second');
    await close(opened.handle);
    expect(await content(at('f'))).toBe('first, second');
  });

  test('of a user whom the mode would not let open it again stays open', async () => {
    const user = callerOf(1234);
    const own = (await client.filesystem.mkdir(root, ROOT_NODE, b('own'), 0o777, 0)).node;
    const theirs = (await client.filesystem.mkdir(user, own, b('theirs'), 0o755, 0)).node;
    const { opened } = await create('f', O.WRONLY | O.EXCL, user, 0o400, theirs);
    client.asked = [];
    await write(opened.handle, 0, 'first');
    await client.filesystem.flush(user, opened.handle, 1);
    await write(opened.handle, 5, ', second');
    await close(opened.handle);
    expect(client.asked.slice(0, 2)).toEqual(['createWith', 'write']);
    const file = directory.join('own', 'theirs', 'f');
    expect([await content(file), statSync(file).uid]).toEqual(['first, second', 1234]);
  });

  test('is made after a short time, or when its program has ended without closing it', async () => {
    Object.assign(limits, { unmadeMs: 5 });
    await create('slow');
    await vi.waitFor(() => expect(existsSync(at('slow'))).toBe(true));
    Object.assign(limits, { unmadeMs: 60_000 });
    const { opened } = await create('ended');
    await write(opened.handle, 0, 'gathered');
    client.filesystem.release(opened.handle);
    await vi.waitFor(async () => expect(await content(at('ended'))).toBe('gathered'));
  });

  test('is made by what synchronizes the mount', async () => {
    const { opened } = await create('f');
    await write(opened.handle, 0, 'gathered');
    await client.filesystem.syncfs(root);
    expect(await content(at('f'))).toBe('gathered');
    await close(opened.handle);
  });

  test('is made by what synchronizes its directory', async () => {
    const { handle } = await client.filesystem.opendir(root, d);
    const { opened } = await create('f');
    client.asked = [];
    await client.filesystem.fsyncdir(root, handle, false);
    expect(client.asked[0]).toBe('create');
    expect(client.asked.at(-1)).toBe('fsync');
    await close(opened.handle);
  });

  test('that is let go without being closed gathers no more', async () => {
    const { entry, opened } = await create('f');
    client.filesystem.release(opened.handle);
    await vi.waitFor(() => expect(existsSync(at('f'))).toBe(true));
    await client.quiet();
    await client.filesystem.setattr(root, entry.node, { mtime: THEN });
    expect(Math.floor(statSync(at('f')).mtimeMs)).toBe(THEN.sec * 1000 + 123);
  });

  test('whose data could not be synchronized is written once more, since the kernel tells of that once', async () => {
    const calls = client.server.server.exports.get('/')?.store.descriptors as DescriptorCalls;
    const synchronized = vi.spyOn(calls, 'synchronize').mockRejectedValueOnce(new FsError(errno.EIO, 'fsync'));
    const writes = vi.spyOn(calls, 'write');
    const { opened } = await create('f');
    await write(opened.handle, 0, 'precious');
    await client.filesystem.fsync(root, opened.handle, false);
    expect(synchronized).toHaveBeenCalledTimes(2);
    expect(writes.mock.calls.map(([, data]) => data.length)).toEqual([8, 8]);
    expect(client.asked).toEqual(['createWith', 'write']);
    await close(opened.handle);
    expect(await content(at('f'))).toBe('precious');
  });

  test('with O_SYNC, O_APPEND or a set-ID bit is made at once, and so is one of another user', async () => {
    for (const flags of [O.SYNC, O.DSYNC, O.APPEND, O.DIRECT]) await create(`f${flags}`, O.WRONLY | O.EXCL | flags);
    await create('suid', O.WRONLY | O.EXCL, root, 0o4755);
    expect(new Set(client.asked)).toEqual(new Set(['create']));
    expect(client.count('create')).toBe(5);
  });
});

describe('its attributes', () => {
  test('are asked for by the kernel before open(2) returns, which is no reason to make it', async () => {
    const { entry } = await create('f');
    const { attributes, attributesMs } = await client.filesystem.getattr(root, entry.node);
    expect(attributesMs).toBe(0);
    expect(attributes).toMatchObject({ mode: 0o100600, uid: 0, gid: 0, size: 0, nlink: 1 });
    expect(client.asked).toEqual([]);
    const shown = (await client.filesystem.getattr(root, entry.node)).attributes;
    expect(client.asked).toEqual(['create']);
    expect(shown.ino).toBe(statSync(at('f')).ino);
  });

  const others: [what: string, first: (entry: NodeId, handle: number) => unknown, thread: Caller][] = [
    ['another thread asks', () => {}, callerOf(0, 2)],
    ['it was written to before', (_entry, handle) => write(handle, 0, 'x'), root],
    ['it was changed before', (entry) => client.filesystem.setattr(root, entry, { mtime: THEN }), root],
  ];
  test.each(others)('are those of the server when %s', async (_what, first, thread) => {
    const { entry, opened } = await create('f');
    await first(entry.node, opened.handle);
    const { attributes } = await client.filesystem.getattr(thread, entry.node);
    expect(attributes.ino).toBe(statSync(at('f')).ino);
    await close(opened.handle);
  });

  test('those of its directory are of after it', async () => {
    const before = (await client.filesystem.getattr(root, d)).attributes;
    await new Promise((resolve) => setTimeout(resolve, 20));
    const { opened } = await create('f');
    const { attributes } = await client.filesystem.getattr(root, d);
    expect(attributes.mtime).not.toEqual(before.mtime);
    await close(opened.handle);
  });
});

describe('who looks for it', () => {
  const looks: [what: string, look: (node: NodeId) => Promise<unknown>][] = [
    [
      'a lookup',
      async () => expect(await client.filesystem.lookup(root, d, b('f'))).toMatchObject({ node: expect.any(Number) }),
    ],
    [
      'a listing',
      async () => {
        const { handle } = await client.filesystem.opendir(root, d);
        const names = await client.filesystem.readdir(root, handle, 0, 4096, true);
        expect(names.map(({ name }) => name.toString())).toContain('f');
      },
    ],
    ['a link', (node) => Promise.resolve(client.filesystem.link(root, node, d, b('link')))],
    [
      'an extended attribute',
      (node) => Promise.resolve(client.filesystem.setxattr(root, node, b('user.x'), b('1'), 0, false)),
    ],
    ['a truncation', (node) => Promise.resolve(client.filesystem.setattr(root, node, { size: 3 }))],
    ['a second opening', (node) => Promise.resolve(client.filesystem.open(root, node, O.RDWR, false))],
    ['a rename', () => Promise.resolve(client.filesystem.rename(root, d, b('f'), d, b('renamed'), 0))],
    ['a removal', () => Promise.resolve(client.filesystem.unlink(root, d, b('f')))],
    [
      'a removal of what it is in',
      () => expect(client.filesystem.rmdir(root, ROOT_NODE, b('d'))).rejects.toMatchObject({ code: errno.ENOTEMPTY }),
    ],
  ];
  test.each(looks)('on its mount: %s makes it first', async (what, look) => {
    const { entry, opened } = await create('f');
    await look(entry.node);
    expect(client.asked[0]).toBe('create');
    await write(opened.handle, 0, 'afterwards');
    if (what === 'a removal') {
      expect(readdirSync(directory.join('d'))).toEqual([]);
    }
    await close(opened.handle);
    const name = what === 'a rename' ? 'renamed' : 'f';
    if (what !== 'a removal') expect(await content(at(name))).toBe('afterwards');
  });

  test('the other client finds it, with all that was written to it', async () => {
    const { opened } = await create('f');
    await write(opened.handle, 0, 'gathered');
    const seen = await found('f');
    expect(seen?.attributes.size).toBe(8);
    await close(opened.handle);
    // Who only looks takes nothing from its maker, but that it is alone.
    client.asked = [];
    expect(await client.filesystem.lookup(root, d, b('absent'))).toMatchObject({ node: 0 });
    expect(client.asked).toEqual([]);
    await create('late');
    expect(client.asked).toEqual(['create']);
  });

  test('the other client lists it, and is told that it is there when it makes one of that name', async () => {
    const { other } = client;
    const inode = (await other.call('lookup', ROOT, { parent: other.hello.root.inode, name: b('d') })).found
      ?.inode as Uint8Array;
    const e = (await client.filesystem.mkdir(root, ROOT_NODE, b('e'), 0o755, 0)).node;
    const inE = (await other.call('lookup', ROOT, { parent: other.hello.root.inode, name: b('e') })).found
      ?.inode as Uint8Array;
    expect(inode).toBeDefined();
    // It has been looked at: what is made there is made at once from now on.
    await create('late', O.WRONLY | O.EXCL, root, 0o600, e);
    expect(client.count('create')).toBe(1);
    const g = (await client.filesystem.mkdir(root, ROOT_NODE, b('g'), 0o755, 0)).node;
    const { opened } = await create('f', O.WRONLY | O.EXCL, root, 0o600, g);
    const inG = statSync(directory.join('g')).ino;
    const { entries } = await other.call('readNames', ROOT, { inode: inE, maxEntries: 10 });
    expect(entries.map(({ name }) => Buffer.from(name).toString())).toContain('late');
    const handle = (await other.call('readNames', ROOT, { inode: other.hello.root.inode, maxEntries: 10 })).entries;
    expect(handle.map(({ ino }) => Number(ino))).toContain(inG);
    expect(existsSync(directory.join('g', 'f'))).toBe(false);
    const parent = (await other.call('lookup', ROOT, { parent: other.hello.root.inode, name: b('g') })).found
      ?.inode as Uint8Array;
    expect(existsSync(directory.join('g', 'f'))).toBe(true);
    const again = { parent, name: b('f'), mode: 0o600, umask: 0, flags: O.WRONLY | O.EXCL, wants: 'none' } as const;
    await expect(other.call('create', ROOT, again)).rejects.toMatchObject({ code: errno.EEXIST });
    await close(opened.handle);
  });

  test('whoever makes one of the same name comes after it', async () => {
    const { other } = client;
    const parent = (await other.call('lookup', ROOT, { parent: other.hello.root.inode, name: b('d') })).found
      ?.inode as Uint8Array;
    const e = (await client.filesystem.mkdir(root, d, b('e'), 0o755, 0)).node;
    const { opened } = await create('f', O.WRONLY | O.EXCL, root, 0o600, e);
    expect(client.count('create')).toBe(0);
    const handle = (await client.session.call('lookup', ROOT, { parent, name: b('e') })).found?.inode as Uint8Array;
    const again = {
      parent: handle,
      name: b('f'),
      mode: 0o600,
      umask: 0,
      flags: O.WRONLY | O.EXCL,
      wants: 'none',
    } as const;
    await expect(other.call('create', ROOT, again)).rejects.toMatchObject({ code: errno.EEXIST });
    await close(opened.handle);
  });

  test('of other directories the lease is shared then, so that nobody has to be asked again', async () => {
    const nodes = await Promise.all(
      ['x', 'y'].map((name) => client.filesystem.mkdir(root, ROOT_NODE, b(name), 0o755, 0)),
    );
    await found('nothing', 'x');
    await client.quiet();
    const recalls = client.filesystem.counts.recalls;
    await found('nothing', 'y');
    await found('nothing', 'd');
    expect(client.filesystem.counts.recalls).toBe(recalls);
    client.asked = [];
    await create('late', O.WRONLY | O.EXCL, root, 0o600, nodes[1]?.node);
    expect(client.asked).toEqual(['create']);
  });

  test('nor after a directory was not used for a while', async () => {
    await client[Symbol.asyncDispose]();
    Object.assign(limits, { aloneIdleMs: 40 });
    client = await AskingClient.start(directory);
    const e = (await client.filesystem.mkdir(root, ROOT_NODE, b('e'), 0o755, 0)).node;
    await close((await create('f', O.WRONLY | O.EXCL, root, 0o600, e)).opened.handle);
    const downgraded = vi.spyOn(client.session, 'downgraded');
    await vi.waitFor(() => expect(downgraded).toHaveBeenCalledOnce());
    client.asked = [];
    await create('late', O.WRONLY | O.EXCL, root, 0o600, e);
    expect(client.asked).toEqual(['create']);
    await vi.waitFor(async () => {
      expect(await found('f', 'e')).toBeDefined();
      expect(client.filesystem.counts.recalls).toBe(0);
    });
  });

  test('also when no file was made in it', async () => {
    await client[Symbol.asyncDispose]();
    Object.assign(limits, { aloneIdleMs: 40 });
    client = await AskingClient.start(directory);
    const downgraded = vi.spyOn(client.session, 'downgraded');
    await client.filesystem.mkdir(root, ROOT_NODE, b('e'), 0o755, 0);
    await vi.waitFor(() => expect(downgraded).toHaveBeenCalledOnce());
  });

  test('a walk of removals takes no directory in which one is not made', async () => {
    const t = (await client.filesystem.mkdir(root, ROOT_NODE, b('t'), 0o755, 0)).node;
    const nodes: NodeId[] = [];
    for (let index = 0; index < 6; index++) {
      nodes.push((await client.filesystem.mkdir(root, t, b(`${index}`), 0o755, 0)).node);
      await close((await create('f', O.WRONLY | O.EXCL, root, 0o644, nodes.at(-1))).opened.handle);
    }
    const { opened } = await create('unmade', O.WRONLY | O.EXCL, root, 0o644, nodes[3]);
    const { other } = client;
    const find = async (parent: Uint8Array, name: string) =>
      (await other.call('lookup', ROOT, { parent, name: b(name) })).found?.inode as Uint8Array;
    const gaveBack = vi.spyOn(client.session, 'gaveBack');
    const inT = await find(other.hello.root.inode, 't');
    for (const name of ['0', '1']) await other.call('unlink', ROOT, { parent: await find(inT, name), name: b('f') });
    await vi.waitFor(() => expect(gaveBack).toHaveBeenCalled());
    expect(existsSync(directory.join('t', '3', 'unmade'))).toBe(true);
    const removed = other.call('rmdir', ROOT, { parent: inT, name: b('3') });
    await expect(removed).rejects.toMatchObject({ code: errno.ENOTEMPTY });
    await close(opened.handle);
  });

  test('a default access list says what new files are to be: they are made at once', async () => {
    // user::rwx, group::---, other::---
    const entry = (tag: number, perm: number) => [tag, 0, perm, 0, 0xff, 0xff, 0xff, 0xff];
    const list = Buffer.from([2, 0, 0, 0, ...entry(1, 7), ...entry(4, 0), ...entry(0x20, 0)]);
    await client.filesystem.setxattr(root, d, b('system.posix_acl_default'), list, 0, false);
    client.asked = [];
    await create('f', O.WRONLY | O.EXCL, root, 0o644);
    expect(client.asked).toEqual(['create']);
    expect(statSync(at('f')).mode & 0o7777).toBe(0o600);
    const below = (await client.filesystem.mkdir(root, d, b('below'), 0o755, 0)).node;
    await create('f', O.WRONLY | O.EXCL, root, 0o644, below);
    expect(client.count('create')).toBe(2);
  });
});

describe('something is in the way', () => {
  test('a local program was faster: close(2) says so, and its file is as it was', async () => {
    const { opened } = await create('f');
    await write(opened.handle, 0, 'gathered');
    writeFileSync(at('f'), 'of a local program');
    await expect(close(opened.handle)).rejects.toMatchObject({ code: errno.EEXIST });
    expect(await content(at('f'))).toBe('of a local program');
    const { attributes } = (await client.filesystem.lookup(root, d, b('f'))) as { attributes: { size: number } };
    expect(attributes.size).toBe('of a local program'.length);
  });

  test('what a local program does there ends it', async () => {
    writeFileSync(at('local'), '');
    await vi.waitFor(() => expect(client.filesystem.counts.recalls).toBe(1));
    await create('f');
    expect(client.asked).toEqual(['create']);
  });

  test('it could not be made: each use says why, and the name is free', async () => {
    const { entry, opened } = await create('f');
    vi.spyOn(client.session, 'callForBulk').mockRejectedValueOnce(new FsError(errno.ENOSPC, 'create'));
    await expect(client.filesystem.getattr(callerOf(0, 2), entry.node)).rejects.toMatchObject({ code: errno.ENOSPC });
    await write(opened.handle, 0, 'x');
    await expect(client.filesystem.fsync(root, opened.handle, false)).rejects.toMatchObject({ code: errno.ENOSPC });
    client.filesystem.release(opened.handle);
    client.filesystem.forget(entry.node, 1);
    expect(() => client.filesystem.getattr(root, entry.node)).toThrow(expect.objectContaining({ code: errno.ESTALE }));
    const again = await create('f');
    await write(again.opened.handle, 0, 'again');
    await close(again.opened.handle);
    expect(await content(at('f'))).toBe('again');
  });

  test('no exclusive lease comes with it: what was gathered is written as any other data', async () => {
    vi.spyOn(client.server.server.exports.get('/')?.leases as LeaseManager, 'grantExclusive').mockReturnValue(false);
    const { entry, opened } = await create('f');
    await write(opened.handle, 0, 'first, ');
    await write(opened.handle, 20, 'second');
    await client.filesystem.setattr(root, entry.node, { mtime: THEN, mode: 0o640 } satisfies AttributeChanges);
    const made = client.filesystem.getattr(callerOf(0, 2), entry.node);
    await made;
    expect(client.asked[0]).toBe('create');
    await close(opened.handle);
    expect(await content(at('f'))).toBe(`first, ${'\0'.repeat(13)}second`);
    expect(statSync(at('f')).mode & 0o7777).toBe(0o640);
    expect(Math.floor(statSync(at('f')).mtimeMs)).toBe(THEN.sec * 1000 + 123);
  });

  test('the server took all leases away: the file is made all the same', async () => {
    const { opened } = await create('f');
    await write(opened.handle, 0, 'gathered');
    for (const session of client.server.server.sessions.all) session.revokeLeases();
    await vi.waitFor(() => expect(existsSync(at('f'))).toBe(true));
    await close(opened.handle);
    expect(await content(at('f'))).toBe('gathered');
    await create('late');
    expect([client.count('createWith'), client.count('create')]).toEqual([1, 1]);
  });

  test('too many are made at once', async () => {
    const most = limits.maxUnmade;
    Object.assign(limits, { maxUnmade: 3 });
    try {
      for (let index = 0; index < 5; index++) await create(`f${index}`);
      expect(client.asked).toEqual(['create', 'create']);
    } finally {
      Object.assign(limits, { maxUnmade: most });
    }
  });

  test('more data than one request takes, or another place than there is, is refused before a file is made', async () => {
    const parent = (
      await client.session.call('lookup', ROOT, { parent: client.session.hello.root.inode, name: b('d') })
    ).found?.inode as Uint8Array;
    const request = {
      ...{ parent, name: b('f'), mode: 0o600, umask: 0, flags: O.WRONLY, offset: 0, extents: undefined },
      ...{ attributes: undefined, sync: 'none' as const, closes: false },
    };
    const ask = (changed: object, bulk: Buffer) =>
      client.session.call('createWith', ROOT, { ...request, ...changed }, { bulk });
    await expect(ask({}, Buffer.alloc(64 * KiB + 1))).rejects.toMatchObject({ code: errno.EINVAL });
    await expect(ask({ extents: [{ offset: 0, length: 3 }] }, b('four'))).rejects.toMatchObject({ code: errno.EINVAL });
    await expect(ask({ offset: Number.MAX_SAFE_INTEGER }, b('x'))).rejects.toMatchObject({ code: errno.EFBIG });
    expect(readdirSync(directory.join('d'))).toEqual([]);
    mkdirSync(at('f'));
    await expect(ask({}, b('x'))).rejects.toMatchObject({ code: errno.EEXIST });
  });
});

describe('directories that one client is alone in', () => {
  let nowMs: number;
  let alone: AloneDirectories;
  let nodes: Node[];

  beforeEach(() => {
    const table = new NodeTable(b('root'));
    nowMs = 1_000;
    alone = new AloneDirectories(() => nowMs);
    nodes = ['a', 'b', 'c'].map((name) => table.found(b(name)));
    for (const node of nodes) alone.used(node);
  });

  test('that were not used for a while are shared, but for those in use', () => {
    const [a, second, c] = nodes as [Node, Node, Node];
    nowMs += aloneIdleMs - 1;
    alone.used(second);
    expect(alone.takeIdle(() => false)).toEqual([]);
    nowMs += 1;
    expect(alone.takeIdle((node) => node === a)).toEqual([c]);
    expect(nodes.map((node) => alone.has(node))).toEqual([true, true, false]);
    expect(alone.takeIdle(() => false)).toEqual([a]);
  });

  test('are shared all at once', () => {
    const [a, ...rest] = nodes;
    expect(alone.takeAll((node) => node === a)).toEqual(rest);
    expect(alone.size).toBe(1);
    alone.end(a as Node);
    expect(alone.size).toBe(0);
  });

  test('that are too many: the one that was used first goes', () => {
    const { maxAlone } = limits;
    Object.assign(limits, { maxAlone: 2 });
    try {
      expect(alone.takeIdle(() => false)).toEqual([nodes[0]]);
    } finally {
      Object.assign(limits, { maxAlone });
    }
  });
});
