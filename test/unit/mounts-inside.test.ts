/** Filesystems that are mounted inside an export: what clients hold of them goes on, over a restart too. */
import { execFileSync } from 'node:child_process';
import { closeSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { DirectoryStore } from '../../server/store/directory-store.ts';
import type { Inode } from '../../server/store/inode.ts';
import { HandleSigner } from '../../server/store/inode-handle.ts';
import { errno, FsError } from '../../shared/errno.ts';
import { O } from '../../shared/linux/constants.ts';
import { KEY, lookUp, ROOT, TemporaryDirectory, TestServer } from '../support/fixture.ts';
import { MountedAt, MountedFilesystem } from '../support/mounted.ts';

const root = { uid: 0, gid: 0, groups: [] };
const b = (text: string) => Buffer.from(text);

let directory: TemporaryDirectory;
let outside: TemporaryDirectory;
let store: DirectoryStore;

const opened = (maxDescriptors = 100) => new DirectoryStore(directory.path, new HandleSigner(KEY, '/'), maxDescriptors);

/** A server that is started anew knows nothing. */
function restart(): void {
  store.close();
  store = opened();
}

function at(...names: string[]): Inode {
  return names.reduce((parent, name) => store.lookup(root, parent, b(name)).inode, store.root);
}

/** The errno with which `work` fails; 0 when it does not. */
function codeOf(work: () => unknown): number {
  try {
    work();
    return 0;
  } catch (error) {
    if (error instanceof FsError) return error.code;
    throw error;
  }
}

function openCode(inode: Inode, flags: number): number {
  return codeOf(() => closeSync(store.open(root, store.resolve(inode.handle), flags)));
}

beforeEach(() => {
  directory = new TemporaryDirectory();
  outside = new TemporaryDirectory();
  for (const name of ['a', 'b']) mkdirSync(directory.join(name));
  writeFileSync(directory.join('file'), '');
  store = opened();
});
afterEach(() => {
  store.close();
  directory[Symbol.dispose]();
  outside[Symbol.dispose]();
});

test('handles survive a restart, and say which of the filesystems', () => {
  using first = new MountedAt(directory.join('a'), '-t', 'tmpfs', 'a');
  using second = new MountedAt(directory.join('b'), '-t', 'tmpfs', 'b');
  const files = [first, second].map(({ path }, index) => {
    writeFileSync(`${path}/f`, `of ${index}`);
    return at(index === 0 ? 'a' : 'b', 'f');
  });
  restart();
  const contents = [...files].reverse().map(({ handle }) => {
    const fd = store.open(root, store.resolve(handle), O.RDWR);
    const text = readFileSync(fd, 'utf8');
    closeSync(fd);
    return text;
  });
  expect(contents).toEqual(['of 1', 'of 0']);
  expect(at('a', 'f').handle.equals(files[0]?.handle as Buffer)).toBe(true);
});

test('a filesystem that is not there any more, or another in its place, is stale', () => {
  let inode: Inode;
  let top: Inode;
  {
    using mounted = new MountedAt(directory.join('a'), '-t', 'tmpfs', 'a');
    writeFileSync(`${mounted.path}/f`, '');
    [top, inode] = [at('a'), at('a', 'f')];
  }
  restart();
  for (const one of [top, inode]) expect(codeOf(() => store.resolve(one.handle))).toBe(errno.ESTALE);
  using other = new MountedAt(directory.join('a'), '-t', 'tmpfs', 'a');
  writeFileSync(`${other.path}/f`, '');
  for (const one of [top, inode]) expect(codeOf(() => store.resolve(one.handle))).toBe(errno.ESTALE);
});

test.each(['restart', 'eviction'])('a read-only bind mount stays read-only after a %s', (what) => {
  writeFileSync(outside.join('f'), 'original');
  using mounted = new MountedAt(directory.join('a'), '--bind', outside.path);
  execFileSync('mount', ['-o', 'remount,bind,ro', mounted.path]);
  if (what === 'eviction') {
    store.close();
    store = opened(1);
  }
  const inode = at('a', 'f');
  expect(openCode(inode, O.RDWR)).toBe(errno.EROFS);
  if (what === 'restart') restart();
  else at('b');
  expect(openCode(inode, O.RDONLY)).toBe(0);
  expect(openCode(inode, O.RDWR)).toBe(errno.EROFS);
});

test('one file by several mounts is one inode, so its locks are too', () => {
  writeFileSync(directory.join('b', 'f'), '');
  using _bind = new MountedAt(directory.join('a'), '--bind', directory.join('b'));
  expect(at('a', 'f')).toBe(at('b', 'f'));
  const { handle } = at('a', 'f');
  restart();
  expect(at('b', 'f').handle.equals(handle)).toBe(true);
});

test('a file that is mounted on a file', () => {
  using elsewhere = new MountedFilesystem('tmpfs');
  writeFileSync(`${elsewhere.path}/f`, 'mounted');
  using _bind = new MountedAt(directory.join('file'), '--bind', `${elsewhere.path}/f`);
  const inode = at('file');
  expect(store.attributes(inode).size).toBe(7);
  expect(openCode(inode, O.RDWR)).toBe(0);
  restart();
  expect(store.attributes(store.resolve(inode.handle)).size).toBe(7);
});

test('a device that is mounted on a file is there', () => {
  using _bind = new MountedAt(directory.join('file'), '--bind', '/dev/null');
  expect(store.attributes(at('file')).mode & 0o170000).toBe(0o020000);
});

test('a filesystem without handles inside of one that has them', () => {
  using mounted = new MountedAt(directory.join('a'), '-t', 'ramfs', 'a');
  mkdirSync(`${mounted.path}/d`);
  writeFileSync(`${mounted.path}/d/f`, 'text');
  store.close();
  store = opened(2);
  expect(store.inodes.usesKernelHandles).toBe(true);
  const inode = at('a', 'd', 'f');
  for (const name of ['b', 'file']) at(name); // closes its descriptor
  expect(store.attributes(store.resolve(inode.handle)).size).toBe(4);
  store.rename(root, at('a', 'd'), b('f'), at('a'), b('g'), 0);
  for (const name of ['b', 'file']) at(name);
  expect(store.attributes(store.resolve(inode.handle)).size).toBe(4);
  store.unlink(root, at('a'), b('g'));
  expect(existsSync(`${mounted.path}/g`)).toBe(false);
  expect(codeOf(() => at('a', 'g'))).toBe(errno.ENOENT);
});

test('what is mounted inside can be unmounted when no client is there, and mounted again', async () => {
  store.close();
  await using server = await TestServer.start(directory.path);
  using mounted = new MountedAt(directory.join('a'), '-t', 'tmpfs', 'a');
  const umount = () => execFileSync('umount', [mounted.path], { stdio: ['ignore', 'ignore', 'pipe'] });
  writeFileSync(`${mounted.path}/f`, 'text');
  const session = await server.connect();
  const { inode: parent } = await lookUp(session, ROOT, { parent: session.hello.root.inode, name: b('a') });
  const { inode } = await lookUp(session, ROOT, { parent, name: b('f') });
  expect(umount).toThrow(/busy/);
  session.close();
  await vi.waitFor(umount, { timeout: 5000 });

  using _again = new MountedAt(directory.join('a'), '-t', 'tmpfs', 'a');
  const other = await server.connect();
  const getattr = (of: Uint8Array) => other.call('getattr', ROOT, { inode: of, handle: 0 });
  await expect(getattr(inode)).rejects.toMatchObject({ code: errno.ESTALE });
  const { inode: top } = await lookUp(other, ROOT, { parent: other.hello.root.inode, name: b('a') });
  await expect(lookUp(other, ROOT, { parent: top, name: b('f') })).rejects.toThrow('absent');
  other.close();
});
