/** Attributes of inodes, and of their filesystem. */
import type { Attributes, FilesystemStatistics, Timespec } from '../attributes.ts';
import { errno, FsError } from '../errno.ts';
import { check, declare, descriptorPath, empty, pathA, readU64, terminated } from './call.ts';
import { AT } from './constants.ts';

const c = {
  statx: declare('int statx(int dirfd, void *path, int flags, uint mask, void *buffer)'),
  fchmodat: declare('int fchmodat(int dirfd, void *path, uint mode, int flags)'),
  fchownat: declare('int fchownat(int dirfd, void *path, uint uid, uint gid, int flags)'),
  utimensat: declare('int utimensat(int dirfd, void *path, void *times, int flags)'),
  faccessat: declare('int faccessat(int dirfd, void *path, int mode, int flags)'),
  fstatvfs: declare('int fstatvfs64(int fd, void *buffer)'),
} as const;

/*
 * struct statx (include/uapi/linux/stat.h), the part that is read, byte offsets:
 *   0 mask u32   4 blksize u32   8 attributes u64   16 nlink u32   20 uid u32   24 gid u32   28 mode u16
 *  32 ino u64   40 size u64   48 blocks u64   56 attributes_mask u64
 *  64 atime   80 btime   96 ctime   112 mtime   (each: sec s64, nsec u32, pad s32)
 * 128 rdev_major u32   132 rdev_minor u32   136 dev_major u32   140 dev_minor u32   144 mnt_id u64
 */
const STATX_BASIC_AND_BTIME = 0xfff;
const statxBuffer = Buffer.alloc(256);
/** The same by words: each stat(2) of a listing reads 30 of them. */
const words = new Uint32Array(statxBuffer.buffer, statxBuffer.byteOffset, statxBuffer.length / 4);
const HIGH = 0x100000000;

function timespecAt(offset: number): Timespec {
  const sec = ((words[offset / 4 + 1] as number) | 0) * HIGH + (words[offset / 4] as number);
  if (!Number.isSafeInteger(sec)) throw new FsError(errno.EOVERFLOW, 'statx');
  return { sec, nsec: words[offset / 4 + 2] as number };
}

function exactAt(offset: number): number {
  const high = words[offset / 4 + 1] as number;
  if (high >= 0x200000) throw new FsError(errno.EOVERFLOW, 'statx');
  return high * HIGH + (words[offset / 4] as number);
}

/** The kernel's 32-bit device encoding (new_encode_dev). */
function encodeDevice(major: number, minor: number): number {
  return ((minor & 0xff) | (major << 8) | ((minor & ~0xff) << 12)) >>> 0;
}

/** Attributes with the device number of the filesystem, which stays on this machine. */
export interface LocalAttributes extends Attributes {
  readonly device: number;
}

function deviceFromStatx(): number {
  return (words[136 / 4] as number) * HIGH + (words[140 / 4] as number);
}

function attributesFromStatx(): LocalAttributes {
  return {
    device: deviceFromStatx(),
    ino: readU64(statxBuffer, 32),
    mode: (words[28 / 4] as number) & 0xffff,
    nlink: words[16 / 4] as number,
    uid: words[20 / 4] as number,
    gid: words[24 / 4] as number,
    rdev: encodeDevice(words[128 / 4] as number, words[132 / 4] as number),
    size: exactAt(40),
    blocks: exactAt(48),
    blksize: words[4 / 4] as number,
    atime: timespecAt(64),
    mtime: timespecAt(112),
    ctime: timespecAt(96),
    btime: timespecAt(80),
  };
}

/** The attributes of the inode that a descriptor (O_PATH too) refers to. */
export function fstat(fd: number): LocalAttributes {
  check(c.statx(fd, empty, AT.EMPTY_PATH | AT.SYMLINK_NOFOLLOW, STATX_BASIC_AND_BTIME, statxBuffer), 'statx');
  return attributesFromStatx();
}

/** The device number alone, as the kernel has it: a FUSE client is not asked. */
export function deviceOf(fd: number): number {
  check(c.statx(fd, empty, AT.EMPTY_PATH | AT.SYMLINK_NOFOLLOW | AT.STATX_DONT_SYNC, 0, statxBuffer), 'statx');
  return deviceFromStatx();
}

/** The attributes of a name in a directory; a symbolic link is not followed. */
export function fstatat(dirfd: number, name: Uint8Array): LocalAttributes {
  const path = terminated(pathA, name);
  check(c.statx(dirfd, path, AT.SYMLINK_NOFOLLOW, STATX_BASIC_AND_BTIME, statxBuffer), 'statx');
  return attributesFromStatx();
}

export function chmod(fd: number, mode: number): void {
  check(c.fchmodat(AT.FDCWD, descriptorPath(fd), mode, 0), 'chmod');
}

/** 0xffffffff leaves the owner or group as it is. */
export function chown(fd: number, uid: number, gid: number): void {
  check(c.fchownat(fd, empty, uid, gid, AT.EMPTY_PATH | AT.SYMLINK_NOFOLLOW), 'fchownat');
}

const timespecs = Buffer.alloc(32);

/** nsec may be UTIME.NOW or UTIME.OMIT. */
export function utimens(fd: number, atime: Timespec, mtime: Timespec): void {
  timespecs.writeBigInt64LE(BigInt(atime.sec), 0);
  timespecs.writeBigInt64LE(BigInt(atime.nsec), 8);
  timespecs.writeBigInt64LE(BigInt(mtime.sec), 16);
  timespecs.writeBigInt64LE(BigInt(mtime.nsec), 24);
  check(c.utimensat(AT.FDCWD, descriptorPath(fd), timespecs, 0), 'utimensat');
}

/** access(2) with the thread's filesystem identity. */
export function access(fd: number, mask: number): void {
  check(c.faccessat(AT.FDCWD, descriptorPath(fd), mask, AT.EACCESS), 'faccessat');
}

const ST_RDONLY = 1n;
const statvfsBuffer = Buffer.alloc(112);

/** What a filesystem calls itself (0: it does not), and whether this mount of it is read-only. */
export function filesystemOf(fd: number): { readonly id: bigint; readonly isReadOnly: boolean } {
  check(c.fstatvfs(fd, statvfsBuffer), 'fstatvfs');
  return { id: statvfsBuffer.readBigUInt64LE(64), isReadOnly: (statvfsBuffer.readBigUInt64LE(72) & ST_RDONLY) !== 0n };
}

export function fstatvfs(fd: number): FilesystemStatistics {
  check(c.fstatvfs(fd, statvfsBuffer), 'fstatvfs');
  // struct statvfs: eleven 64-bit words (bsize frsize blocks bfree bavail files ffree favail fsid flag namemax)
  // Some filesystems say "all that 64 bits can count" for "no limit".
  const word = (index: number) => Math.min(Number(statvfsBuffer.readBigUInt64LE(index * 8)), Number.MAX_SAFE_INTEGER);
  return {
    bsize: word(0),
    frsize: word(1),
    blocks: word(2),
    bfree: word(3),
    bavail: word(4),
    files: word(5),
    ffree: word(6),
    namelen: word(10),
  };
}
