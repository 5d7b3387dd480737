/** Each libc wrapper once on something real, and its errno: a wrong signature crashes the process, so it shows here. */
import {
  closeSync,
  fsyncSync,
  ftruncateSync,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  readSync,
  statSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { errno, FsError } from '../../shared/errno.ts';
import { AT, FALLOC, O, SEEK, UTIME } from '../../shared/linux/constants.ts';
import * as libc from '../../shared/linux/libc.ts';
import { deferred, TemporaryDirectory } from '../support/fixture.ts';

const b = (text: string) => Buffer.from(text);
/** No such descriptor. */
const BAD = 1_000_000;

let directory: TemporaryDirectory;
let dirfd: number;
let fd: number;
/** O_PATH, of the same file as `fd`. */
let path: number;

beforeEach(() => {
  directory = new TemporaryDirectory();
  writeFileSync(directory.join('f'), 'content');
  symlinkSync('f', directory.join('l'));
  dirfd = openSync(directory.path, 'r');
  fd = openSync(directory.join('f'), 'r+');
  path = libc.openat(dirfd, b('f'), O.PATH);
});
afterEach(() => {
  for (const one of [dirfd, fd, path]) closeSync(one);
  directory[Symbol.dispose]();
});

const failures: [string, () => unknown, number][] = [
  ['openat', () => libc.openat(dirfd, b('none'), O.RDONLY), errno.ENOENT],
  ['openat, a long path', () => libc.openat(dirfd, Buffer.alloc(4096, 'x'), O.RDONLY), errno.ENAMETOOLONG],
  ['openat, O_NOFOLLOW', () => libc.openat(dirfd, b('l'), O.RDONLY | O.NOFOLLOW), errno.ELOOP],
  ['reopen', () => libc.reopen(BAD, O.RDONLY), errno.ENOENT],
  ['leaseForReading', () => libc.leaseForReading(BAD, () => {}), errno.ENOENT],
  ['lseek', () => libc.lseek(BAD, 0, SEEK.DATA), errno.EBADF],
  ['lseek beyond the end', () => libc.lseek(fd, 100, SEEK.DATA), errno.ENXIO],
  ['fstat', () => libc.fstat(BAD), errno.EBADF],
  ['fstatat', () => libc.fstatat(dirfd, b('none')), errno.ENOENT],
  ['chmod', () => libc.chmod(BAD, 0o644), errno.ENOENT],
  ['chown', () => libc.chown(BAD, 0, 0), errno.EBADF],
  ['utimens', () => libc.utimens(path, { sec: 0, nsec: 1e9 }, { sec: 0, nsec: 0 }), errno.EINVAL],
  ['access', () => libc.access(path, 1), errno.EACCES],
  ['fstatvfs', () => libc.fstatvfs(BAD), errno.EBADF],
  ['deviceOf', () => libc.deviceOf(BAD), errno.EBADF],
  ['filesystemOf', () => libc.filesystemOf(BAD), errno.EBADF],
  ['handleOf', () => libc.handleOf(BAD), errno.EBADF],
  ['openByHandle', () => libc.openByHandle(dirfd, Buffer.alloc(8), O.PATH), errno.EINVAL],
  ['mkdirat', () => libc.mkdirat(dirfd, b('f'), 0o755), errno.EEXIST],
  ['mknodat', () => libc.mknodat(dirfd, b('f'), 0o100644, 0), errno.EEXIST],
  ['symlinkat', () => libc.symlinkat(b('x'), dirfd, b('l')), errno.EEXIST],
  ['linkDescriptor', () => libc.linkDescriptor(path, dirfd, b('l')), errno.EEXIST],
  ['unlinkat', () => libc.unlinkat(dirfd, b('none'), 0), errno.ENOENT],
  ['renameat2', () => libc.renameat2(dirfd, b('none'), dirfd, b('x'), 0), errno.ENOENT],
  ['readlink', () => libc.readlink(path), errno.ENOENT],
  ['getdents', () => libc.getdents(fd, Buffer.alloc(4096)), errno.ENOTDIR],
  ['seekDirectory', () => libc.seekDirectory(BAD, 0), errno.EBADF],
  ['getxattr', () => libc.getxattr(fd, b('user.none')), errno.ENODATA],
  ['listxattr', () => libc.listxattr(BAD), errno.ENOENT],
  ['setxattr', () => libc.setxattr(fd, b('nonsense'), b(''), 0), errno.EOPNOTSUPP],
  ['removexattr', () => libc.removexattr(fd, b('user.none')), errno.ENODATA],
  ['setNonblocking', () => libc.setNonblocking(BAD), errno.EBADF],
  ['ioctl', () => libc.ioctl(fd, 0x5401, Buffer.alloc(64)), errno.ENOTTY],
  ['socket of receiveDescriptor', () => libc.receiveDescriptor(BAD), errno.EBADF],
  ['umount2', () => libc.umount2(b(directory.join('f')), 0), errno.EINVAL],
  ['receiveDescriptor', () => libc.receiveDescriptor(fd), errno.ENOTSOCK],
];

test.each(failures)('%s fails with its errno', (_what, work, code) => {
  let failure: unknown;
  try {
    work();
  } catch (error) {
    failure = error;
  }
  expect(failure).toBeInstanceOf(FsError);
  expect((failure as FsError).code).toBe(code);
});

const asynchronous: [string, () => Promise<unknown>, number][] = [
  ['fallocateAsync', () => libc.fallocateAsync(BAD, 0, 0, 1), errno.EBADF],
  ['copyFileRangeAsync', () => libc.copyFileRangeAsync(fd, 0, BAD, 0, 1), errno.EBADF],
  ['lockFileAsync, flock', () => libc.lockFileAsync(BAD, 'flock', 'exclusive'), errno.EBADF],
  ['lockFileAsync, fcntl', () => libc.lockFileAsync(BAD, 'fcntl', 'exclusive'), errno.EBADF],
  ['syncfsAsync', () => libc.syncfsAsync(BAD), errno.EBADF],
  ['umount2Async', () => libc.umount2Async(b(directory.join('f')), 0), errno.EINVAL],
];

test.each(asynchronous)('%s fails with the errno of its own thread', async (_what, work, code) => {
  await expect(work()).rejects.toMatchObject({ name: 'FsError', code });
});

describe('they do what they say', () => {
  test('open, read, write', () => {
    const one = libc.openat(dirfd, b('new'), O.CREAT | O.EXCL | O.RDWR, 0o600);
    expect(libc.writeBytes(one, b('hello!'), 5)).toBe(5);
    expect(readFileSync(directory.join('new'), 'utf8')).toBe('hello');
    const again = libc.reopen(one, O.RDONLY);
    const buffer = Buffer.alloc(10);
    expect(libc.readNonblocking(again, buffer)).toBe(5);
    expect(libc.writeBytes(again, b('x'), 1)).toBe(-errno.EBADF);
    expect(libc.readNonblocking(BAD, buffer)).toBe(-errno.EBADF);
    libc.close(one);
    libc.close(again);
    expect(libc.preadCached(again, buffer, 0)).toBe(-1);
  });

  test.each(['flock', 'fcntl'] as const)('%s locks of an open file are waited for', async (kind) => {
    const [one, other] = [libc.reopen(fd, O.RDWR), libc.reopen(fd, O.RDWR)];
    await libc.lockFileAsync(one, kind, 'exclusive');
    let isHeld = false;
    const waits = libc.lockFileAsync(other, kind, 'exclusive').then(() => (isHeld = true));
    await new Promise((done) => setTimeout(done, 50));
    expect(isHeld).toBe(false);
    await libc.lockFileAsync(one, kind, 'none');
    await waits;
    libc.close(one);
    libc.close(other);
  });

  test('what the page cache holds', () => {
    readSync(fd, Buffer.alloc(10), 0, 10, 0);
    const buffer = Buffer.alloc(100);
    expect(libc.preadCached(fd, buffer, 3)).toBe(4);
    expect(buffer.toString('utf8', 0, 4)).toBe('tent');
    expect(libc.preadCached(fd, buffer, 7)).toBe(0);
    expect(libc.preadCached(fd, buffer, 2 ** 53 - 1)).toBe(0);
    expect(libc.preadCached(fd, Buffer.alloc(0), 0)).toBe(0);
  });

  test('positions beyond 4 GiB, holes, allocation, copies', async () => {
    const far = 5 * 2 ** 32;
    ftruncateSync(fd, far + 4096);
    expect(libc.lseek(fd, 0, SEEK.HOLE)).toBe(4096);
    await libc.fallocateAsync(fd, FALLOC.KEEP_SIZE, far, 4096);
    expect(libc.fstat(fd).size).toBe(far + 4096);
    expect(await libc.copyFileRangeAsync(fd, 0, fd, far, 7)).toBe(7);
    expect(await libc.copyFileRangeAsync(fd, far + 4096, fd, 0, 7)).toBe(0);
    fsyncSync(fd);
    expect(libc.lseek(fd, 4096, SEEK.DATA)).toBe(far);
    await libc.syncfsAsync(dirfd);
  });

  test('attributes are what stat(2) says', () => {
    linkSync(directory.join('f'), directory.join('f2'));
    const { ino, size, nlink, mode, uid, gid, blocks, blksize, mtimeNs, birthtimeNs, dev } = statSync(
      directory.join('f'),
      {
        bigint: true,
      },
    );
    const found = libc.fstat(path);
    const ns = (time: { sec: number; nsec: number }) => BigInt(time.sec) * 1_000_000_000n + BigInt(time.nsec);
    expect(libc.fstatat(dirfd, b('f'))).toEqual(found);
    expect([found.ino, found.size, found.nlink, found.mode, found.uid, found.gid].map(BigInt)).toEqual([
      ino,
      size,
      nlink,
      mode,
      uid,
      gid,
    ]);
    expect([BigInt(found.blocks), BigInt(found.blksize)]).toEqual([blocks, blksize]);
    expect([ns(found.mtime), ns(found.btime)]).toEqual([mtimeNs, birthtimeNs]);
    expect(Number(dev & 0xffn)).toBe((found.device % 0x100000000) & 0xff);
    expect(libc.fstatat(dirfd, b('l')).mode & 0o170000).toBe(0o120000);
  });

  test('mode, owner, times', () => {
    libc.chmod(path, 0o4751);
    libc.chown(path, 0xffffffff, 12);
    libc.utimens(path, { sec: -3, nsec: 4 }, { sec: 0, nsec: UTIME.OMIT });
    const before = libc.fstat(fd);
    expect(before).toMatchObject({ gid: 12, uid: 0, atime: { sec: -3, nsec: 4 } });
    libc.utimens(path, { sec: 0, nsec: UTIME.OMIT }, { sec: 2 ** 33, nsec: 999_999_999 });
    expect(libc.fstat(fd)).toMatchObject({ atime: { sec: -3, nsec: 4 }, mtime: { sec: 2 ** 33, nsec: 999_999_999 } });
    expect(lstatSync(directory.join('f')).mode & 0o777).toBe(0o751);
    libc.access(path, 7);
  });

  test('names', () => {
    libc.mkdirat(dirfd, b('d'), 0o700);
    libc.mknodat(dirfd, b('p'), 0o010600, 0);
    libc.symlinkat(b('some/where'), dirfd, b('s'));
    libc.linkDescriptor(path, dirfd, b('f2'));
    libc.renameat2(dirfd, b('f2'), dirfd, b('f3'), 0);
    expect(readdirSync(directory.path).sort()).toEqual(['d', 'f', 'f3', 'l', 'p', 's']);
    const link = libc.openat(dirfd, b('s'), O.PATH | O.NOFOLLOW);
    expect(String(libc.readlink(link))).toBe('some/where');
    expect(readlinkSync(directory.join('s'))).toBe('some/where');
    closeSync(link);
    libc.unlinkat(dirfd, b('d'), AT.REMOVEDIR);
    libc.unlinkat(dirfd, b('f3'), 0);
    expect(readdirSync(directory.path).sort()).toEqual(['f', 'l', 'p', 's']);
  });

  test('a directory stream goes back to where it was', () => {
    for (let index = 0; index < 50; index++) mkdirSync(directory.join(`d${index}`));
    const buffer = Buffer.alloc(1024);
    const used = libc.getdents(dirfd, buffer);
    const cookie = libc.readU64(buffer, 8);
    const second = buffer.readUInt16LE(16);
    const name = buffer.subarray(second + 19, buffer.indexOf(0, second + 19)).toString();
    libc.seekDirectory(dirfd, cookie);
    expect(libc.getdents(dirfd, buffer)).toBeLessThanOrEqual(1024);
    expect(buffer.subarray(19, buffer.indexOf(0, 19)).toString()).toBe(name);
    expect(used).toBeGreaterThan(24);
  });

  test('kernel handles name the inode, not the name', () => {
    const { bytes: handle } = libc.handleOf(path) as libc.KernelHandle;
    libc.renameat2(dirfd, b('f'), dirfd, b('g'), 0);
    const again = libc.openByHandle(dirfd, handle, O.RDONLY);
    expect(readFileSync(again, 'utf8')).toBe('content');
    for (const one of [again, fd, path]) closeSync(one);
    unlinkSync(directory.join('g'));
    expect(() => libc.openByHandle(dirfd, handle, O.PATH)).toThrow(expect.objectContaining({ code: errno.ESTALE }));
    fd = openSync('/dev/null', 'r');
    path = openSync('/dev/null', 'r');
  });

  test('extended attributes of any bytes, up to 64 KiB less what ext4 can hold', () => {
    const value = Buffer.from([0, 255, 1, 0]);
    libc.setxattr(path, b('user.a'), value, 0);
    libc.setxattr(path, b('user.b'), Buffer.alloc(0), 0);
    expect(libc.getxattr(fd, b('user.a')).equals(value)).toBe(true);
    expect(libc.listxattr(fd).toString().split('\0').sort()).toEqual(['', 'user.a', 'user.b']);
    libc.removexattr(path, b('user.a'));
    expect(String(libc.listxattr(fd))).toBe('user.b\0');
  });

  test("the filesystem's figures fit a number", () => {
    const figures = libc.fstatvfs(dirfd);
    expect(figures.namelen).toBe(255);
    expect(figures.bsize).toBeGreaterThan(0);
    const proc = openSync('/proc', 'r');
    for (const value of Object.values(libc.fstatvfs(proc))) expect(Number.isSafeInteger(value)).toBe(true);
    closeSync(proc);
  });

  test('identity of the thread, groups, umask', () => {
    libc.setThreadGroups([5, 6]);
    expect(readFileSync('/proc/thread-self/status', 'utf8')).toMatch(/Groups:\t5 6 \n/);
    libc.setThreadGroups([]);
    libc.setfsgid(77);
    libc.setfsuid(78);
    expect([libc.setfsuid(0), libc.setfsgid(0)]).toEqual([78, 77]);
    expect(libc.setfsuid(0xffffffff)).toBe(0); // nobody's id: unchanged, and no error
    libc.setfsuid(0xfffffffe);
    expect(libc.setfsuid(0)).toBe(0xfffffffe);
    expect(libc.setfsuid(0)).toBe(0);
    const mask = libc.umask(0o27);
    expect(libc.umask(mask)).toBe(0o27);
  });

  test('descriptors: limit, pairs, waiting', async () => {
    expect(libc.raiseOpenFileLimit()).toBeGreaterThanOrEqual(1024);
    const [one, two] = libc.socketpair();
    libc.setNonblocking(one);
    const buffer = Buffer.alloc(10);
    expect(libc.readNonblocking(one, buffer)).toBe(-errno.EAGAIN);
    let wake = () => {};
    const awake = () =>
      new Promise<void>((resolve) => {
        wake = resolve;
      });
    const polling = libc.pollReadable(one, () => {
      polling.pause();
      wake();
    });
    libc.writeBytes(two, b('x'), 1);
    await awake();
    const again = awake();
    polling.resume(); // it is readable still
    await again;
    polling.close();
    expect(libc.readNonblocking(one, buffer)).toBe(1);
    libc.writeBytes(two, b('y'), 1);
    expect(() => libc.receiveDescriptor(one)).toThrow(expect.objectContaining({ code: errno.ENOMSG })); // none came with it
    libc.sendDescriptor(two, fd);
    const received = libc.receiveDescriptor(one);
    expect(readFileSync(received, 'utf8')).toBe('content');
    libc.close(received);
    libc.close(one);
    libc.close(two);
    expect(() => libc.sendDescriptor(fd, fd)).toThrow(expect.objectContaining({ code: errno.ENOTSOCK }));
  });

  test('a lease for reading is not given while somebody can write, nor without a break of it noticed', async () => {
    expect(libc.leaseForReading(path, () => {})).toBe('written');
    writeFileSync(directory.join('g'), '');
    const g = libc.openat(dirfd, b('g'), O.PATH);
    const broken = deferred();
    const lease = libc.leaseForReading(g, broken.resolve);
    if (typeof lease === 'string') throw new Error(lease);
    expect(() => libc.openat(dirfd, b('g'), O.WRONLY | O.NONBLOCK)).toThrow(
      expect.objectContaining({ code: errno.EAGAIN }),
    );
    await broken.promise;
    lease[Symbol.dispose]();
    libc.close(libc.openat(dirfd, b('g'), O.WRONLY | O.NONBLOCK));
    libc.close(g);
  });

  test('what is taken from the environment is not there any more, and nothing else goes', () => {
    Object.assign(process.env, { WEFT_TEST_SECRET: 'sécret', WEFT_TEST_OTHER: 'other' });
    expect(libc.takeFromEnvironment('WEFT_TEST_SECRET')).toBe('sécret');
    expect(libc.takeFromEnvironment('WEFT_TEST_SECRET')).toBe(undefined);
    expect([process.env.WEFT_TEST_SECRET, process.env.WEFT_TEST_OTHER]).toEqual([undefined, 'other']);
    delete process.env.WEFT_TEST_OTHER;
  });

  test('64-bit values are numbers where that is exact', () => {
    const buffer = Buffer.alloc(8);
    for (const value of [0n, 1n, 2n ** 32n, 2n ** 53n - 1n, 2n ** 53n, 2n ** 63n, 2n ** 64n - 1n]) {
      buffer.writeBigUInt64LE(value);
      expect(libc.readU64(buffer, 0)).toBe(value < 2n ** 53n ? Number(value) : value);
    }
  });
});
