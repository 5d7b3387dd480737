/** The store of an ordinary directory: every operation, as different users, with few descriptors and with many inodes. */
import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  closeSync,
  existsSync,
  fstatSync,
  ftruncateSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  readSync,
  renameSync,
  rmSync,
  statfsSync,
  statSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { openExports } from '../../server/open-exports.ts';
import { DirectoryStore } from '../../server/store/directory-store.ts';
import { readEntries } from '../../server/store/directory-stream.ts';
import { type Identity, identityOf, type Squash } from '../../server/store/identity.ts';
import type { Inode } from '../../server/store/inode.ts';
import { HandleSigner } from '../../server/store/inode-handle.ts';
import { errno, FsError } from '../../shared/errno.ts';
import { O, RENAME } from '../../shared/linux/constants.ts';
import { raiseOpenFileLimit } from '../../shared/linux/libc.ts';
import { anyName } from '../support/arbitraries.ts';
import { KEY, silent, TemporaryDirectory } from '../support/fixture.ts';
import { MountedAt, MountedFilesystem } from '../support/mounted.ts';

const root: Identity = { uid: 0, gid: 0, groups: [] };
const nobody: Identity = { uid: 65534, gid: 65534, groups: [] };
const user: Identity = { uid: 1234, gid: 1234, groups: [] };
const b = (text: string) => Buffer.from(text);

function openStore(path: string, maxDescriptors = 100): DirectoryStore {
  return new DirectoryStore(path, new HandleSigner(KEY, '/'), maxDescriptors);
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

let directory: TemporaryDirectory;
let store: DirectoryStore;
let top: Inode;

beforeEach(() => {
  directory = new TemporaryDirectory();
  chmodSync(directory.path, 0o755);
  openExports([], 'none', KEY, silent); // the umask of a server
  store = openStore(directory.path);
  top = store.root;
});
afterEach(() => {
  store.close();
  directory[Symbol.dispose]();
});

function file(name: string, content = ''): Inode {
  writeFileSync(directory.join(name), content);
  return store.lookup(root, top, b(name)).inode;
}

describe('names', () => {
  test('a name of any bytes goes through unchanged', () => {
    fc.assert(
      fc.property(anyName, fc.constantFrom('file', 'directory', 'link'), (name, kind) => {
        if (kind === 'file') store.mknod(root, top, name, 0o100644, 0, 0);
        else if (kind === 'directory') store.mkdir(root, top, name, 0o755, 0);
        else store.symlink(root, top, name, name);
        const onDisk = readdirSync(directory.path, { encoding: 'buffer' });
        expect(onDisk.map((one) => one.toString('hex'))).toEqual([name.toString('hex')]);
        const fd = store.openDirectory(root, top);
        const listed = readEntries(fd, 0, 65536).entries.map((one) => one.name.toString('hex'));
        closeSync(fd);
        expect(listed).toContain(name.toString('hex'));
        const { inode } = store.lookup(root, top, name);
        if (kind === 'link') expect(store.readlink(inode).equals(name)).toBe(true);
        if (kind === 'directory') store.rmdir(root, top, name);
        else store.unlink(root, top, name);
        expect(codeOf(() => store.lookup(root, top, name))).toBe(errno.ENOENT);
      }),
      { numRuns: 100 },
    );
  });

  const kinds: [string, number][] = [
    ['a file', 0o100640],
    ['a fifo', 0o010640],
    ['a socket', 0o140640],
    ['a character device', 0o020640],
    ['a block device', 0o060640],
  ];
  test.each(kinds)('mknod makes %s, and opens none but files', (_what, mode) => {
    const device = (mode & 0o170000) === 0o020000 || (mode & 0o170000) === 0o060000;
    const rdev = device ? (0x12300 | 0x45 | (0x678 << 20)) >>> 0 : 0;
    const { inode, attributes } = store.mknod(root, top, b('n'), mode, rdev, 0o27);
    expect(attributes.mode).toBe(mode & ~0o27);
    expect(attributes.rdev).toBe(rdev);
    if ((mode & 0o170000) === 0o100000) closeSync(store.open(root, inode, O.RDWR));
    else expect(codeOf(() => store.open(root, inode, O.RDWR))).toBe(errno.ENXIO);
  });

  test('hard links are one inode; symbolic links and directories are what they are', () => {
    const inode = file('a', 'text');
    const linked = store.link(root, inode, top, b('b'));
    expect(linked.inode).toBe(inode);
    expect(linked.attributes.nlink).toBe(2);
    const link = store.symlink(root, top, b('l'), b('/etc/passwd')).inode;
    expect(codeOf(() => store.link(root, link, top, b('l2')))).toBe(0);
    expect(readlinkSync(directory.join('l2'))).toBe('/etc/passwd');
    const dir = store.mkdir(root, top, b('d'), 0o755, 0).inode;
    expect(codeOf(() => store.link(root, dir, top, b('d2')))).toBe(errno.EPERM);
    expect(codeOf(() => store.open(root, dir, 0))).toBe(errno.EISDIR);
    expect(codeOf(() => store.openDirectory(root, inode))).toBe(errno.ENOTDIR);
    expect(codeOf(() => store.openDirectory(root, link))).not.toBe(0);
    expect(codeOf(() => store.lookup(root, link, b('x')))).toBe(errno.ENOTDIR);
  });

  const renames: { what: string; flags: number; to: string; code: number; after: Record<string, string> }[] = [
    { what: 'replaces', flags: 0, to: 'b', code: 0, after: { b: 'A' } },
    { what: 'NOREPLACE refuses', flags: RENAME.NOREPLACE, to: 'b', code: errno.EEXIST, after: { a: 'A', b: 'B' } },
    { what: 'NOREPLACE moves', flags: RENAME.NOREPLACE, to: 'c', code: 0, after: { b: 'B', c: 'A' } },
    { what: 'EXCHANGE swaps', flags: RENAME.EXCHANGE, to: 'b', code: 0, after: { a: 'B', b: 'A' } },
    { what: 'EXCHANGE needs both', flags: RENAME.EXCHANGE, to: 'c', code: errno.ENOENT, after: { a: 'A', b: 'B' } },
    { what: 'contradicting flags', flags: 3, to: 'b', code: errno.EINVAL, after: { a: 'A', b: 'B' } },
    { what: 'unknown flags', flags: 0x80, to: 'b', code: errno.EINVAL, after: { a: 'A', b: 'B' } },
  ];
  test.each(renames)('rename $what', ({ flags, to, code, after }) => {
    writeFileSync(directory.join('a'), 'A');
    writeFileSync(directory.join('b'), 'B');
    expect(codeOf(() => store.rename(root, top, b('a'), top, b(to), flags))).toBe(code);
    const found = readdirSync(directory.path).map((name) => [name, readFileSync(directory.join(name), 'utf8')]);
    expect(Object.fromEntries(found)).toEqual(after);
  });

  test('rename with WHITEOUT leaves a whiteout', () => {
    writeFileSync(directory.join('a'), 'A');
    expect(codeOf(() => store.rename(root, top, b('a'), top, b('b'), RENAME.WHITEOUT))).toBe(0);
    expect(lstatSync(directory.join('a')).isCharacterDevice()).toBe(true);
  });

  const refused: [string, () => unknown, number][] = [
    ['mkdir over a file', () => store.mkdir(root, top, b('f'), 0o755, 0), errno.EEXIST],
    ['rmdir of a file', () => store.rmdir(root, top, b('f')), errno.ENOTDIR],
    ['rmdir of a full directory', () => store.rmdir(root, top, b('full')), errno.ENOTEMPTY],
    ['unlink of a directory', () => store.unlink(root, top, b('full')), errno.EISDIR],
    ['a name that is too long', () => store.mkdir(root, top, Buffer.alloc(256, 'x'), 0o755, 0), errno.ENAMETOOLONG],
    [
      'create exclusively what is there',
      () => store.create(root, top, b('f'), 0o644, 0, O.RDWR | O.EXCL),
      errno.EEXIST,
    ],
  ];
  test.each(refused)('%s', (_what, work, code) => {
    writeFileSync(directory.join('f'), '');
    mkdirSync(directory.join('full', 'x'), { recursive: true });
    expect(codeOf(work)).toBe(code);
  });

  test('creating what another created first is no error without EXCL, and opens nothing', () => {
    writeFileSync(directory.join('f'), 'text');
    expect(store.create(root, top, b('f'), 0o644, 0, O.RDWR | O.TRUNC)).toBeUndefined();
    expect(readFileSync(directory.join('f'), 'utf8')).toBe('text');
  });
});

describe('attributes', () => {
  const times = [
    { sec: 0, nsec: 0 },
    { sec: -1, nsec: 999_999_999 },
    { sec: -2_000_000_000, nsec: 1 },
    { sec: 2 ** 33, nsec: 123_456_789 },
  ];
  const none = { mode: undefined, uid: undefined, gid: undefined, atime: undefined, mtime: undefined };

  test.each(times)('times: $sec s, $nsec ns, also of a symbolic link', (time) => {
    symlinkSync('nowhere', directory.join('l'));
    for (const inode of [file('f'), store.lookup(root, top, b('l')).inode]) {
      store.change(root, inode, { ...none, mtime: time });
      const other = { sec: time.sec, nsec: 5 };
      store.change(root, inode, { ...none, atime: other });
      expect(store.attributes(inode)).toMatchObject({ mtime: time, atime: other });
    }
  });

  test('a time that 53 bits cannot hold is refused, not rounded', () => {
    using mounted = new MountedFilesystem('tmpfs');
    writeFileSync(`${mounted.path}/f`, '');
    execFileSync('touch', ['-d', '@4611686018427387905', `${mounted.path}/f`]);
    const other = openStore(mounted.path);
    expect(codeOf(() => other.lookup(root, other.root, b('f')))).toBe(errno.EOVERFLOW);
    other.close();
  });

  test('and such a file can be removed, and replaced', () => {
    using mounted = new MountedFilesystem('tmpfs');
    const other = openStore(mounted.path);
    for (const name of ['f', 'g']) {
      writeFileSync(`${mounted.path}/${name}`, '');
      execFileSync('touch', ['-d', '@4611686018427387905', `${mounted.path}/${name}`]);
    }
    other.mknod(root, other.root, b('new'), 0o100644, 0, 0);
    other.rename(root, other.root, b('new'), other.root, b('f'), 0);
    other.unlink(root, other.root, b('g'));
    expect(readdirSync(mounted.path)).toEqual(['f']);
    other.close();
  });

  test('"now" is now, and what is not named stays', () => {
    const inode = file('f');
    store.change(root, inode, { ...none, atime: { sec: 5, nsec: 0 }, mtime: { sec: 6, nsec: 0 }, mode: 0o600 });
    store.change(root, inode, { ...none, mtime: 'now' });
    const { atime, mtime, mode } = store.attributes(inode);
    expect(atime).toEqual({ sec: 5, nsec: 0 });
    expect(Math.abs(mtime.sec - Date.now() / 1000)).toBeLessThan(60);
    expect(mode).toBe(0o100600);
  });

  test('owner, group and mode in one change: set-ID bits asked for are kept', () => {
    const inode = file('f');
    store.change(root, inode, { ...none, uid: 1000, gid: 1001, mode: 0o6755 });
    expect(store.attributes(inode)).toMatchObject({ uid: 1000, gid: 1001, mode: 0o106755 });
    store.killSuidgid(inode);
    expect(store.attributes(inode).mode).toBe(0o100755);
    store.change(root, inode, { ...none, mode: 0o2644 });
    store.killSuidgid(inode);
    expect(store.attributes(inode).mode).toBe(0o102644); // mandatory locking, not set-group-ID
  });

  test('beyond 4 GiB, sparse', () => {
    const created = store.create(root, top, b('big'), 0o644, 0, O.RDWR | O.EXCL);
    const size = 5 * 2 ** 40 + 3;
    ftruncateSync(created?.fd as number, size);
    writeSync(created?.fd as number, b('x'), 0, 1, size - 1);
    closeSync(created?.fd as number);
    const attributes = store.attributes(created?.inode as Inode);
    expect(attributes.size).toBe(size);
    expect(attributes.blocks).toBeLessThan(100);
    expect(attributes.size).toBe(statSync(directory.join('big')).size);
  });

  test('extended attributes', () => {
    const inode = file('f');
    const value = Buffer.from([0, 1, 255, 0]);
    store.setxattr(root, inode, b('user.one'), value, 0);
    store.setxattr(root, inode, b('user.empty'), Buffer.alloc(0), 0);
    expect(store.getxattr(root, inode, b('user.one')).equals(value)).toBe(true);
    expect(store.getxattr(root, inode, b('user.empty')).length).toBe(0);
    expect(String(store.listxattr(root, inode)).split('\0').sort()).toEqual(['', 'user.empty', 'user.one']);
    expect(codeOf(() => store.setxattr(root, inode, b('user.one'), value, 1))).toBe(errno.EEXIST);
    expect(codeOf(() => store.setxattr(root, inode, b('user.two'), value, 2))).toBe(errno.ENODATA);
    store.removexattr(root, inode, b('user.one'));
    expect(codeOf(() => store.getxattr(root, inode, b('user.one')))).toBe(errno.ENODATA);
    symlinkSync('f', directory.join('l'));
    const link = store.lookup(root, top, b('l')).inode;
    expect(codeOf(() => store.setxattr(root, link, b('user.x'), value, 0))).toBe(errno.EPERM);
    expect(String(store.listxattr(root, inode))).toBe('user.empty\0'); // the link was not followed
  });
});

describe('identities', () => {
  const callers: [number[], Squash, Identity][] = [
    [[0, 0, 5], 'none', { uid: 0, gid: 0, groups: [5] }],
    [[0, 0, 5], 'root', nobody],
    [[0, 0], 'all', nobody],
    [[7, 8, 9, 0], 'none', { uid: 7, gid: 8, groups: [9, 0] }],
    [[7, 8, 9], 'root', { uid: 7, gid: 8, groups: [9] }],
    [[7, 0, 0, 9], 'root', { uid: 7, gid: 65534, groups: [65534, 9] }],
    [[7, 8, 9], 'all', nobody],
    [[], 'none', nobody],
    [[], 'root', nobody],
  ];
  test.each(callers)('%j with squash %s', (caller, squash, identity) => {
    expect(identityOf(caller, squash)).toEqual(identity);
  });

  const group: Identity = { uid: 4321, gid: 4321, groups: [50] };
  const rows: { what: string; as: Identity; work: (as: Identity) => unknown; code: number }[] = [
    { what: 'lookup in a closed directory', as: user, work: (as) => look(as, 'closed', 'x'), code: errno.EACCES },
    { what: 'lookup there as root', as: root, work: (as) => look(as, 'closed', 'x'), code: 0 },
    { what: 'lookup there by its group', as: group, work: (as) => look(as, 'closed', 'x'), code: 0 },
    { what: 'create in a directory of root', as: user, work: (as) => store.mkdir(as, top, b('n'), 0o755, 0), code: 13 },
    { what: 'read what is secret', as: user, work: (as) => opened(as, 'secret', O.RDONLY), code: errno.EACCES },
    { what: 'read it by its group', as: group, work: (as) => opened(as, 'secret', O.RDONLY), code: 0 },
    { what: 'write it by its group', as: group, work: (as) => opened(as, 'secret', O.WRONLY), code: errno.EACCES },
    { what: 'execute what may be executed only', as: user, work: (as) => opened(as, 'x-only', O.EXEC), code: 0 },
    { what: 'read it', as: user, work: (as) => opened(as, 'x-only', O.RDONLY), code: errno.EACCES },
    { what: 'execute what may not be', as: user, work: (as) => opened(as, 'secret', O.EXEC), code: errno.EACCES },
    { what: 'access says no', as: user, work: (as) => store.access(as, found('secret'), 4), code: errno.EACCES },
    { what: 'access says yes', as: group, work: (as) => store.access(as, found('secret'), 4), code: 0 },
    { what: 'chmod of what is not yours', as: user, work: (as) => change(as, { mode: 0o777 }), code: errno.EPERM },
    { what: 'chown to you', as: user, work: (as) => change(as, { uid: 1234 }), code: errno.EPERM },
    { what: 'times of what is not yours', as: user, work: (as) => change(as, { mtime: { sec: 1, nsec: 0 } }), code: 1 },
    { what: 'unlink in a directory of root', as: user, work: (as) => store.unlink(as, top, b('secret')), code: 13 },
    { what: 'make a device', as: user, work: (as) => store.mknod(as, found('open'), b('d'), 0o20666, 259, 0), code: 1 },
    { what: 'make a fifo', as: user, work: (as) => store.mknod(as, found('open'), b('p'), 0o10666, 0, 0), code: 0 },
    { what: 'an id that nobody has', as: { ...user, uid: 0xffffffff }, work: (as) => look(as, 'closed', 'x'), code: 1 },
    { what: 'a gid that nobody has', as: { ...user, gid: 0xffffffff }, work: (as) => look(as, 'closed', 'x'), code: 1 },
    { what: 'trusted attributes', as: user, work: (as) => mark(as, 'trusted.x'), code: errno.EPERM },
    { what: 'security attributes', as: user, work: (as) => mark(as, 'security.x'), code: errno.EPERM },
    { what: 'file capabilities', as: user, work: (as) => mark(as, 'security.capability'), code: errno.EPERM },
    { what: 'trusted attributes as root', as: root, work: (as) => mark(as, 'trusted.x'), code: 0 },
    { what: 'reading trusted ones', as: user, work: (as) => marked(as, 'trusted.seen'), code: errno.ENODATA },
  ];

  function look(as: Identity, parent: string, name: string) {
    return store.lookup(as, found(parent), b(name));
  }
  function found(name: string): Inode {
    return store.lookup(root, top, b(name)).inode;
  }
  function opened(as: Identity, name: string, flags: number): void {
    closeSync(store.open(as, found(name), flags));
  }
  function change(as: Identity, changes: Partial<Parameters<DirectoryStore['change']>[2]>): void {
    const none = { mode: undefined, uid: undefined, gid: undefined, atime: undefined, mtime: undefined };
    store.change(as, found('secret'), { ...none, ...changes });
  }
  const capability = Buffer.from('0100000200000000000000000000000000000000', 'hex');
  function mark(as: Identity, name: string): void {
    store.setxattr(as, found('mine'), b(name), capability, 0);
  }
  function marked(as: Identity, name: string): void {
    store.setxattr(root, found('mine'), b(name), capability, 0);
    expect(String(store.listxattr(as, found('mine')))).not.toContain('trusted');
    store.getxattr(as, found('mine'), b(name));
  }

  test.each(rows)('$what', ({ as, work, code }) => {
    mkdirSync(directory.join('closed', 'x'), { recursive: true });
    mkdirSync(directory.join('open'));
    chmodSync(directory.join('open'), 0o777);
    const none = { mode: undefined, uid: undefined, gid: undefined, atime: undefined, mtime: undefined };
    for (const [name, mode] of [
      ['secret', 0o640],
      ['x-only', 0o711],
      ['mine', 0o700],
    ] as const) {
      store.change(root, file(name), { ...none, mode, gid: 50 });
    }
    store.change(root, found('mine'), { ...none, uid: user.uid });
    store.change(root, found('closed'), { ...none, mode: 0o750, gid: 50 });
    expect(codeOf(() => work(as))).toBe(code);
    // The thread is root again, with no groups.
    writeFileSync(directory.join('root-again'), '');
    expect(statSync(directory.join('root-again'))).toMatchObject({ uid: 0, gid: 0 });
  });

  test("what a user creates is the user's, with the user's umask", () => {
    mkdirSync(directory.join('open'));
    chmodSync(directory.join('open'), 0o777);
    const open = store.lookup(root, top, b('open')).inode;
    const created = store.create(user, open, b('f'), 0o666, 0o27, O.RDWR);
    closeSync(created?.fd as number);
    expect(created?.attributes).toMatchObject({ uid: 1234, gid: 1234, mode: 0o100640 });
    expect(store.mkdir(user, open, b('d'), 0o777, 0o77).attributes).toMatchObject({ uid: 1234, mode: 0o40700 });
    expect(store.symlink(user, open, b('l'), b('x')).attributes).toMatchObject({ uid: 1234 });
  });

  test('a sticky directory protects what is in it', () => {
    mkdirSync(directory.join('tmp'));
    chmodSync(directory.join('tmp'), 0o1777);
    const tmp = store.lookup(root, top, b('tmp')).inode;
    closeSync(store.create(user, tmp, b('f'), 0o644, 0, O.RDWR)?.fd as number);
    expect(codeOf(() => store.unlink(nobody, tmp, b('f')))).toBe(errno.EPERM);
    expect(codeOf(() => store.rename(nobody, tmp, b('f'), tmp, b('g'), 0))).toBe(errno.EPERM);
    expect(codeOf(() => store.unlink(user, tmp, b('f')))).toBe(0);
  });
});

describe('inodes', () => {
  test('many inodes with few descriptors: all are right, and the descriptors stay few', () => {
    const small = openStore(directory.path, 4);
    const handles: Buffer[] = [];
    for (let index = 0; index < 300; index++) {
      const parent = index % 3 === 0 ? small.root : small.resolve(handles[index - 1] as Buffer);
      const { inode } = small.mkdir(root, parent, b(`d${index}`), 0o755, 0);
      small.change(root, inode, { mode: undefined, uid: index, gid: 0, atime: undefined, mtime: undefined });
      handles.push(inode.handle);
      expect(small.inodes.openDescriptors).toBeLessThanOrEqual(4);
    }
    for (const [index, handle] of handles.entries()) expect(small.attributes(small.resolve(handle)).uid).toBe(index);
    small.rename(
      root,
      small.resolve(handles[0] as Buffer),
      b('d1'),
      small.resolve(handles[3] as Buffer),
      b('moved'),
      0,
    );
    expect(existsSync(directory.join('d3', 'moved', 'd2'))).toBe(true);
    small.close();
  });

  test('handles survive renames by anybody, and a new table', () => {
    const { handle } = file('a', 'text');
    renameSync(directory.join('a'), directory.join('b'));
    store.close();
    const again = openStore(directory.path);
    closeSync(again.open(root, again.resolve(handle), O.RDONLY));
    unlinkSync(directory.join('b'));
    again.close();
    store = openStore(directory.path);
    expect(codeOf(() => store.resolve(handle))).toBe(errno.ESTALE);
  });

  test('an inode number that is used again is another inode', () => {
    const seen = new Map<string, string>();
    for (let index = 0; index < 200; index++) {
      const { inode, attributes } = store.mknod(root, top, b('f'), 0o100644, 0, 0);
      const handle = inode.handle.toString('hex');
      expect(seen.has(handle)).toBe(false);
      seen.set(handle, String(attributes.ino));
      store.unlink(root, top, b('f'));
    }
    expect(new Set(seen.values()).size).toBeLessThan(200); // the numbers were used again
  });

  test('what local programs have removed is found in turn, and not kept open', () => {
    const large = openStore(directory.path, 1_000);
    const inodes = Array.from({ length: 600 }, (_, index) => {
      writeFileSync(directory.join(`f${index}`), '');
      return large.lookup(root, large.root, b(`f${index}`)).inode;
    });
    for (let index = 0; index < inodes.length; index += 2) unlinkSync(directory.join(`f${index}`));
    const [first] = inodes as [Inode];
    large.pin(first);
    for (let round = 0; round < 6; round++) large.closeRemoved();
    const isOpen = inodes.map(({ descriptor }) => descriptor >= 0);
    expect(isOpen).toEqual(inodes.map((inode, index) => inode === first || index % 2 === 1));
    large.unpin(first);
    expect(first.descriptor).toBe(-1);
    large.close();
  });

  test('a directory that was removed lists nothing, to whoever is in it', () => {
    const { inode } = store.mkdir(root, top, b('d'), 0o755, 0);
    store.rmdir(root, top, b('d'));
    const fd = store.openDirectory(root, inode);
    expect(store.descriptors.entries(fd, 0, 4096)).toEqual({ entries: [], end: true });
    closeSync(fd);
  });

  test('of directories that were removed the last 128 are reached, for whoever is in one', () => {
    const large = openStore(directory.path, 1_000);
    const inodes = Array.from(
      { length: 140 },
      (_, index) => large.mkdir(root, large.root, b(`d${index}`), 0o755, 0).inode,
    );
    for (const index of inodes.keys()) large.rmdir(root, large.root, b(`d${index}`));
    expect(inodes.map(({ descriptor }) => descriptor >= 0)).toEqual(inodes.map((_, index) => index >= 140 - 128));
    expect(large.attributes(inodes[139] as Inode)).toMatchObject({ nlink: 0 });
    expect(codeOf(() => large.attributes(inodes[0] as Inode))).toBe(errno.ESTALE);
    large.close();
  });

  test('unlinked but open: it goes on, with few descriptors too', () => {
    const small = openStore(directory.path, 2);
    const created = small.create(root, small.root, b('f'), 0o600, 0, O.RDWR);
    const { fd, inode } = created as NonNullable<typeof created>;
    small.unlink(root, small.root, b('f'));
    for (let index = 0; index < 5; index++) small.mkdir(root, small.root, b(`d${index}`), 0o755, 0);
    expect(small.attributes(inode)).toMatchObject({ nlink: 0 });
    small.change(root, inode, { mode: 0o644, uid: undefined, gid: undefined, atime: undefined, mtime: undefined });
    expect(fstatSync(fd).mode & 0o777).toBe(0o644);
    closeSync(fd);
    small.close();
  });

  test('what cannot be looked at is not taken for absent: others may hold leases on it', () => {
    file('f');
    // Below the number of those that are open: nothing more can be opened.
    execFileSync('prlimit', ['--pid', String(process.pid), '--nofile=3:']);
    const codes: number[] = [];
    try {
      codes.push(codeOf(() => store.find(top, b('f'))));
      codes.push(codeOf(() => store.unlink(root, top, b('f'))));
    } finally {
      raiseOpenFileLimit();
    }
    expect(codes).toEqual([errno.EMFILE, errno.EMFILE]);
    expect(existsSync(directory.join('f'))).toBe(true);
    expect(store.find(top, b('absent'))).toBeNull();
  });

  test('O_TMPFILE: no name, then one', () => {
    const { fd, inode } = store.tmpfile(root, top, 0o640, 0o22, O.RDWR);
    writeSync(fd, 'text');
    expect(store.attributes(inode)).toMatchObject({ nlink: 0, mode: 0o100640 });
    expect(store.link(root, inode, top, b('named')).inode).toBe(inode);
    expect(readFileSync(directory.join('named'), 'utf8')).toBe('text');
    closeSync(fd);
    const { fd: never, inode: stays } = store.tmpfile(root, top, 0o640, 0, O.RDWR | O.EXCL);
    expect(codeOf(() => store.link(root, stays, top, b('other')))).toBe(errno.ENOENT);
    closeSync(never);
  });

  test('removed files are not remembered, but for those that are in use', () => {
    const { inode: open } = store.mknod(root, store.root, b('open'), 0o100644, 0, 0);
    store.pin(open);
    store.unlink(root, store.root, b('open'));
    const before = store.inodes.size;
    for (let index = 0; index < 200; index++) {
      store.mknod(root, store.root, b('f'), 0o100644, 0, 0);
      store.unlink(root, store.root, b('f'));
    }
    expect(store.inodes.size).toBe(before);
    expect(store.resolve(open.handle)).toBe(open);
    store.unpin(open);
    store.mknod(root, store.root, b('f'), 0o100644, 0, 0);
    store.unlink(root, store.root, b('f'));
    expect(store.inodes.size).toBe(before - 1);
  });

  test('the space of a removed file is free, though clients had looked at it', () => {
    using mounted = new MountedFilesystem('tmpfs', 'size=8m');
    const other = openStore(mounted.path);
    const free = () => statfsSync(mounted.path).bfree;
    const before = free();
    for (const how of ['unlink', 'rename over it', 'rmdir'] as const) {
      if (how === 'rmdir') {
        other.mkdir(root, other.root, b('f'), 0o755, 0);
        other.rmdir(root, other.root, b('f'));
      } else {
        writeFileSync(`${mounted.path}/f`, Buffer.alloc(4 << 20));
        other.lookup(root, other.root, b('f'));
        writeFileSync(`${mounted.path}/g`, '');
        if (how === 'unlink') other.unlink(root, other.root, b('f'));
        else other.rename(root, other.root, b('g'), other.root, b('f'), 0);
        for (const name of ['f', 'g']) rmSync(`${mounted.path}/${name}`, { force: true });
      }
      // What tmpfs keeps for the empty file of the rename is one page at most.
      expect(before - free(), how).toBeLessThanOrEqual(1);
    }
    other.close();
  });
});

describe('without kernel handles', () => {
  let mounted: MountedFilesystem;
  let plain: DirectoryStore;

  beforeEach(() => {
    mounted = new MountedFilesystem('ramfs'); // has no file handles
    plain = openStore(mounted.path, 3);
  });
  afterEach(() => {
    plain.close();
    mounted[Symbol.dispose]();
  });

  const gone = (inode: Inode) => codeOf(() => plain.attributes(plain.resolve(inode.handle)));

  /** Makes the table close every other descriptor. */
  function crowd(): void {
    for (const name of ['x1', 'x2', 'x3']) {
      if (existsSync(`${mounted.path}/${name}`)) plain.lookup(root, plain.root, b(name));
      else plain.mkdir(root, plain.root, b(name), 0o755, 0);
    }
  }

  test('the mode is what the test is about', () => {
    expect(plain.inodes.usesKernelHandles).toBe(false);
    expect(store.inodes.usesKernelHandles).toBe(true);
  });

  test('inodes are found again by name, after renames through weft too', () => {
    const dir = plain.mkdir(root, plain.root, b('dir'), 0o755, 0).inode;
    const inner = plain.mkdir(root, dir, b('inner'), 0o755, 0).inode;
    crowd();
    expect(gone(inner)).toBe(0);
    plain.rename(root, dir, b('inner'), plain.root, b('moved'), 0);
    crowd();
    expect(gone(inner)).toBe(0);
    const other = plain.mkdir(root, plain.root, b('other'), 0o755, 0).inode;
    plain.rename(root, plain.root, b('moved'), plain.root, b('other'), RENAME.EXCHANGE);
    crowd();
    expect([gone(inner), gone(other)]).toEqual([0, 0]);
    expect(plain.lookup(root, plain.root, b('other')).inode).toBe(inner);
  });

  test('after a local rename or removal the handle is stale, and found again by a lookup', () => {
    const dir = plain.mkdir(root, plain.root, b('dir'), 0o755, 0).inode;
    crowd();
    renameSync(`${mounted.path}/dir`, `${mounted.path}/new`);
    expect(gone(dir)).toBe(errno.ESTALE);
    mkdirSync(`${mounted.path}/dir`);
    expect(gone(dir)).toBe(errno.ESTALE); // another directory under its name
    expect(plain.lookup(root, plain.root, b('new')).inode).toBe(dir);
    crowd();
    expect(gone(dir)).toBe(0);
  });

  test('deep below, with few descriptors, two directories of one operation are not mixed up', () => {
    let left = plain.root;
    let right = plain.root;
    for (let level = 0; level < 10; level++) {
      left = plain.mkdir(root, left, b(`l${level}`), 0o755, 0).inode;
      right = plain.mkdir(root, right, b(`r${level}`), 0o755, 0).inode;
    }
    plain.mkdir(root, left, b('it'), 0o755, 0);
    crowd();
    plain.rename(root, left, b('it'), right, b('it'), 0);
    crowd();
    expect(plain.lookup(root, right, b('it')).attributes.nlink).toBe(2);
    expect(codeOf(() => plain.lookup(root, left, b('it')))).toBe(errno.ENOENT);
  });

  test('a handle of an earlier table is stale', () => {
    const dir = plain.mkdir(root, plain.root, b('dir'), 0o755, 0).inode;
    const again = openStore(mounted.path, 3);
    expect(codeOf(() => again.resolve(dir.handle))).toBe(errno.ESTALE);
    again.close();
  });
});

test('hard links made by a local program are one inode', () => {
  const inode = file('a', 'text');
  linkSync(directory.join('a'), directory.join('b'));
  expect(store.lookup(root, top, b('b')).inode).toBe(inode);
});

describe('overlayfs: a file is copied up when it is first written', () => {
  let layers: MountedFilesystem;
  let overlay: MountedAt;
  let over: DirectoryStore;

  beforeEach(() => {
    layers = new MountedFilesystem('tmpfs');
    const [lower, upper, work, merged] = ['lower', 'upper', 'work', 'merged'].map((name) => `${layers.path}/${name}`);
    for (const path of [lower, upper, work, merged]) mkdirSync(path as string);
    writeFileSync(`${lower}/f`, 'lower');
    const options = `lowerdir=${lower},upperdir=${upper},workdir=${work}`;
    overlay = new MountedAt(merged as string, '-t', 'overlay', '-o', options, 'overlay');
    over = openStore(overlay.path, 2);
  });
  afterEach(() => {
    over.close();
    overlay[Symbol.dispose]();
    layers[Symbol.dispose]();
  });

  const look = () => over.lookup(root, over.root, b('f'));
  const open = (flags: number) => over.open(root, look().inode, flags);
  const bornAt = ({ btime: { sec, nsec } }: { btime: { sec: number; nsec: number } }) => `${sec}.${nsec}`;
  /** Makes the table close every other descriptor. */
  const crowd = () => {
    for (const name of ['x', 'y']) over.mkdir(root, over.root, b(name), 0o755, 0);
  };

  test('it stays one inode, so that its locks are in one place', () => {
    const before = look();
    closeSync(open(O.RDWR));
    const after = look();
    expect(bornAt(after.attributes)).not.toBe(bornAt(before.attributes)); // what the test is about
    expect(after.inode).toBe(before.inode);
    expect(over.resolve(before.inode.handle)).toBe(after.inode);
  });

  test('the same when its descriptor was closed in between', () => {
    const { inode } = look();
    closeSync(open(O.RDWR));
    crowd();
    expect(inode.descriptor).toBe(-1);
    expect(look().inode).toBe(inode);
  });

  test('and when a local program copied it up then, and a client has it open', () => {
    const { inode } = look();
    crowd();
    inode.opens++;
    writeFileSync(`${overlay.path}/f`, 'local');
    expect(look().inode).toBe(inode);
  });

  test('what was opened before reads what is written after, by whomever', () => {
    const [reader, writer] = [open(O.RDONLY), open(O.RDWR)];
    const read = (fd: number) => readFileSync(`/proc/self/fd/${fd}`, 'utf8');
    const held = (fd: number) => {
      const buffer = Buffer.alloc(20);
      return buffer.toString('utf8', 0, readSync(fd, buffer, 0, 20, 0));
    };
    writeSync(writer, 'client', 0);
    expect([held(reader), read(over.descriptorOf(look().inode))]).toEqual(['client', 'client']);
    writeFileSync(`${overlay.path}/f`, 'local');
    expect([held(reader), held(writer), read(over.descriptorOf(look().inode))]).toEqual(['local', 'local', 'local']);
    closeSync(reader);
    closeSync(writer);
  });

  test('a number that is used again, while nobody has the inode open, is another inode', () => {
    const { inode } = look();
    over.pin(inode);
    crowd();
    inode.born = 'another time'; // as if the file had been another
    expect(look().inode).not.toBe(inode);
    expect(look().inode).toBe(look().inode);
    expect(over.known(inode.handle)).toBe(inode);
  });
});
