/**
 * Every libc function that weft calls through koffi, in one place: a wrong signature crashes the process, so they
 * are declared, wrapped and tested together (test/unit/libc.test.ts). All calls are synchronous unless the name ends in
 * `Async`; a synchronous call costs 0.2-0.6 us plus the system call.
 *
 * Wrappers throw FsError with the call's errno. Names are bytes without NUL; they are copied into one scratch buffer
 * a call, which is safe because nothing else runs between the copy and the call.
 */
import { endianness } from 'node:os';
import koffi from 'koffi';
import { assert } from '../assert.ts';
import type { Attributes, FilesystemStatistics, Timespec, U64 } from '../attributes.ts';
import { errno, FsError } from '../errno.ts';
import { AT, F } from './constants.ts';

assert(endianness() === 'LE', 'the structures below are read as little endian');

const library = koffi.load('libc.so.6');
const declare = (signature: string) => library.func(signature);

const c = {
  open: declare('int open(void *path, int flags, uint mode)'),
  openat: declare('int openat(int dirfd, void *path, int flags, uint mode)'),
  close: declare('int close(int fd)'),
  read: declare('long read(int fd, void *buffer, ulong count)'),
  write: declare('long write(int fd, void *buffer, ulong count)'),
  pread: declare('long pread64(int fd, void *buffer, ulong count, int64 offset)'),
  pwrite: declare('long pwrite64(int fd, void *buffer, ulong count, int64 offset)'),
  preadv2: declare('long preadv2(int fd, void *iovec, int count, int64 offset, int flags)'),
  lseek: declare('int64 lseek64(int fd, int64 offset, int whence)'),
  statx: declare('int statx(int dirfd, void *path, int flags, uint mask, void *buffer)'),
  fstatvfs: declare('int fstatvfs64(int fd, void *buffer)'),
  getdents: declare('long getdents64(int fd, void *buffer, ulong count)'),
  nameToHandleAt: declare('int name_to_handle_at(int dirfd, void *path, void *handle, void *mountId, int flags)'),
  openByHandleAt: declare('int open_by_handle_at(int mountFd, void *handle, int flags)'),
  mkdirat: declare('int mkdirat(int dirfd, void *path, uint mode)'),
  mknodat: declare('int mknodat(int dirfd, void *path, uint mode, uint64 dev)'),
  symlinkat: declare('int symlinkat(void *target, int dirfd, void *path)'),
  linkat: declare('int linkat(int oldDirfd, void *oldPath, int newDirfd, void *newPath, int flags)'),
  unlinkat: declare('int unlinkat(int dirfd, void *path, int flags)'),
  renameat2: declare('int renameat2(int oldDirfd, void *oldPath, int newDirfd, void *newPath, uint flags)'),
  readlinkat: declare('long readlinkat(int dirfd, void *path, void *buffer, ulong size)'),
  fchmodat: declare('int fchmodat(int dirfd, void *path, uint mode, int flags)'),
  fchmod: declare('int fchmod(int fd, uint mode)'),
  fchownat: declare('int fchownat(int dirfd, void *path, uint uid, uint gid, int flags)'),
  utimensat: declare('int utimensat(int dirfd, void *path, void *times, int flags)'),
  faccessat: declare('int faccessat(int dirfd, void *path, int mode, int flags)'),
  getxattr: declare('long getxattr(void *path, void *name, void *value, ulong size)'),
  listxattr: declare('long listxattr(void *path, void *list, ulong size)'),
  setxattr: declare('int setxattr(void *path, void *name, void *value, ulong size, int flags)'),
  removexattr: declare('int removexattr(void *path, void *name)'),
  fallocate: declare('int fallocate64(int fd, int mode, int64 offset, int64 length)'),
  copyFileRange: declare('long copy_file_range(int in, void *offIn, int out, void *offOut, ulong length, uint flags)'),
  syncfs: declare('int syncfs(int fd)'),
  sync_file_range: declare('int sync_file_range(int fd, int64 offset, int64 length, uint flags)'),
  umask: declare('uint umask(uint mask)'),
  setfsuid: declare('int setfsuid(uint uid)'),
  setfsgid: declare('int setfsgid(uint gid)'),
  syscall: declare('long syscall(long number, long a, void *b)'),
  ioctl: declare('int ioctl(int fd, ulong request, void *argument)'),
  flock: declare('int flock(int fd, int operation)'),
  fcntl: declare('int fcntl(int fd, int command, long argument)'),
  fcntlLock: declare('int fcntl(int fd, int command, void *lock)'),
  inotifyInit: declare('int inotify_init1(int flags)'),
  inotifyAddWatch: declare('int inotify_add_watch(int fd, void *path, uint mask)'),
  inotifyRemoveWatch: declare('int inotify_rm_watch(int fd, int wd)'),
  umount2: declare('int umount2(void *target, int flags)'),
  socketpair: declare('int socketpair(int domain, int type, int protocol, void *pair)'),
  sendmsg: declare('long sendmsg(int fd, void *message, int flags)'),
  recvmsg: declare('long recvmsg(int fd, void *message, int flags)'),
  getrlimit: declare('int getrlimit64(int resource, void *limit)'),
  setrlimit: declare('int setrlimit64(int resource, void *limit)'),
} as const;

/** SYS_setgroups, raw: glibc's setgroups changes all threads of the process, weft needs its own thread only. */
const SYS_SETGROUPS = process.arch === 'arm64' ? 159 : 116;

const PATH_MAX = 4096;
const pathA = Buffer.alloc(PATH_MAX + 1);
const pathB = Buffer.alloc(PATH_MAX + 1);
const empty = Buffer.alloc(1);

function terminated(scratch: Buffer, path: Uint8Array): Buffer {
  if (path.length >= PATH_MAX) throw new FsError(errno.ENAMETOOLONG, 'path');
  scratch.set(path);
  scratch[path.length] = 0;
  return scratch;
}

function check(result: number, operation: string): number {
  if (result < 0) throw new FsError(koffi.errno(), operation);
  return result;
}

/** The magic link to an open descriptor: reaches the inode itself, whatever its name has become. */
function descriptorPath(fd: number): Buffer {
  const length = pathA.write(`/proc/self/fd/${fd}`, 'latin1');
  pathA[length] = 0;
  return pathA;
}

/** A 64-bit value at `offset`, as a number where that is exact. */
export function readU64(buffer: Buffer, offset: number): U64 {
  const high = buffer.readUInt32LE(offset + 4);
  if (high >= 0x200000) return buffer.readBigUInt64LE(offset);
  return high * 0x100000000 + buffer.readUInt32LE(offset);
}

// --- files -----------------------------------------------------------------------------------------------------------

export function openat(dirfd: number, path: Uint8Array, flags: number, mode = 0): number {
  return check(c.openat(dirfd, terminated(pathA, path), flags, mode), 'openat');
}

/** The same: the descriptor, or a negative errno. Throws nothing: that a name is absent is frequent. */
export function tryOpenat(dirfd: number, path: Uint8Array, flags: number): number {
  const fd = c.openat(dirfd, terminated(pathA, path), flags, 0) as number;
  return fd < 0 ? -koffi.errno() : fd;
}

/** Opens the inode behind a descriptor (an O_PATH one too) anew, with the access rights checked again. */
export function reopen(fd: number, flags: number): number {
  return check(c.open(descriptorPath(fd), flags, 0), 'open');
}

export function close(fd: number): void {
  c.close(fd);
}

/** read(2) on a descriptor that does not block: the bytes read, or a negative errno. Throws nothing: EAGAIN is frequent. */
export function readNonblocking(fd: number, buffer: Uint8Array): number {
  const count = c.read(fd, buffer, buffer.length) as number;
  return count < 0 ? -koffi.errno() : count;
}

/** write(2) of the first `length` bytes: the bytes written, or a negative errno. Throws nothing. */
export function writeBytes(fd: number, buffer: Uint8Array, length: number): number {
  const count = c.write(fd, buffer, length) as number;
  return count < 0 ? -koffi.errno() : count;
}

/**
 * koffi does not hold on to the buffers of an asynchronous call. Called from its callback, this keeps the buffer that the
 * thread writes to from being collected meanwhile (seen: a heap corrupted by poll's `revents`).
 */
function keepAlive(_buffer: Buffer): void {}

export interface Polling {
  pause(): void;
  resume(): void;
  close(): void;
}

/**
 * Calls `ready` from the event loop whenever `fd` is readable or broken. The descriptor (of the mount or inotify; Node
 * itself polls only sockets and pipes) becomes non-blocking.
 */
export function pollReadable(fd: number, ready: () => void): Polling {
  const wanted = { readable: true };
  const handle = koffi.node.poll(fd, wanted, ready);
  return { pause: () => handle.stop(), resume: () => handle.start(wanted, ready), close: () => handle.close() };
}

const iovec = Buffer.alloc(16);

/**
 * Reads what the page cache holds, without waiting for a disk. Returns the bytes read (short where the cache ends), or
 * -1 when nothing is cached, or the filesystem cannot tell: then the caller reads through the pool.
 */
export function preadCached(fd: number, buffer: Uint8Array, offset: number): number {
  iovec.writeBigUInt64LE(koffi.address(buffer), 0);
  iovec.writeBigUInt64LE(BigInt(buffer.length), 8);
  const count = c.preadv2(fd, iovec, 1, offset, 0x8 /* RWF_NOWAIT */) as number;
  return count < 0 ? -1 : count;
}

export function lseek(fd: number, offset: number, whence: number): number {
  const position = c.lseek(fd, offset, whence) as number | bigint;
  if (typeof position === 'bigint') throw new FsError(errno.EOVERFLOW, 'lseek');
  return check(position, 'lseek');
}

/** Runs on a thread of its own: preallocation may take long. */
export function fallocateAsync(fd: number, mode: number, offset: number, length: number): Promise<void> {
  return new Promise((resolve, reject) => {
    c.fallocate.async(fd, mode, offset, length, (error: Error | null, result: number) => {
      if (error) reject(error);
      else if (result < 0) reject(new FsError(koffi.errno(), 'fallocate'));
      else resolve();
    });
  });
}

/** Bytes copied, which may be fewer than asked for; 0 at the end of the source. */
export function copyFileRangeAsync(
  fdIn: number,
  offsetIn: number,
  fdOut: number,
  offsetOut: number,
  length: number,
): Promise<number> {
  const offsets = Buffer.alloc(16);
  offsets.writeBigInt64LE(BigInt(offsetIn), 0);
  offsets.writeBigInt64LE(BigInt(offsetOut), 8);
  return new Promise((resolve, reject) => {
    const done = (error: Error | null, result: number) => {
      keepAlive(offsets);
      if (error) reject(error);
      else if (result < 0) reject(new FsError(koffi.errno(), 'copy_file_range'));
      else resolve(result);
    };
    c.copyFileRange.async(fdIn, offsets.subarray(0, 8), fdOut, offsets.subarray(8), length, 0, done);
  });
}

const SYNC_FILE_RANGE_WRITE = 2;

/** Has the disk begin with pages of a file that are not on it yet, and does not wait for them. See sync_file_range(2). */
export function startWritebackAsync(fd: number, offset: number, length: number): Promise<void> {
  return new Promise((resolve, reject) => {
    c.sync_file_range.async(fd, offset, length, SYNC_FILE_RANGE_WRITE, (error: Error | null, result: number) => {
      if (error) reject(error);
      else if (result < 0) reject(new FsError(koffi.errno(), 'sync_file_range'));
      else resolve();
    });
  });
}

export function syncfsAsync(fd: number): Promise<void> {
  return new Promise((resolve, reject) => {
    c.syncfs.async(fd, (error: Error | null, result: number) => {
      if (error) reject(error);
      else if (result < 0) reject(new FsError(koffi.errno(), 'syncfs'));
      else resolve();
    });
  });
}

// --- attributes ------------------------------------------------------------------------------------------------------

/*
 * struct statx (include/uapi/linux/stat.h), the part that is read, byte offsets:
 *   0 mask u32   4 blksize u32   8 attributes u64   16 nlink u32   20 uid u32   24 gid u32   28 mode u16
 *  32 ino u64   40 size u64   48 blocks u64   56 attributes_mask u64
 *  64 atime   80 btime   96 ctime   112 mtime   (each: sec s64, nsec u32, pad s32)
 * 128 rdev_major u32   132 rdev_minor u32   136 dev_major u32   140 dev_minor u32   144 mnt_id u64
 */
const STATX_BASIC_AND_BTIME = 0xfff;
const statxBuffer = Buffer.alloc(256);

function timespecAt(offset: number): Timespec {
  const sec = statxBuffer.readInt32LE(offset + 4) * 0x100000000 + statxBuffer.readUInt32LE(offset);
  if (!Number.isSafeInteger(sec)) throw new FsError(errno.EOVERFLOW, 'statx');
  return { sec, nsec: statxBuffer.readUInt32LE(offset + 8) };
}

function exactAt(offset: number): number {
  const value = readU64(statxBuffer, offset);
  if (typeof value === 'bigint') throw new FsError(errno.EOVERFLOW, 'statx');
  return value;
}

/** The kernel's 32-bit device encoding (new_encode_dev). */
function encodeDevice(major: number, minor: number): number {
  return ((minor & 0xff) | (major << 8) | ((minor & ~0xff) << 12)) >>> 0;
}

/** Attributes with the device number of the filesystem, which stays on this machine. */
export interface LocalAttributes extends Attributes {
  readonly device: number;
}

function attributesFromStatx(): LocalAttributes {
  return {
    device: statxBuffer.readUInt32LE(136) * 0x100000000 + statxBuffer.readUInt32LE(140),
    ino: readU64(statxBuffer, 32),
    mode: statxBuffer.readUInt16LE(28),
    nlink: statxBuffer.readUInt32LE(16),
    uid: statxBuffer.readUInt32LE(20),
    gid: statxBuffer.readUInt32LE(24),
    rdev: encodeDevice(statxBuffer.readUInt32LE(128), statxBuffer.readUInt32LE(132)),
    size: exactAt(40),
    blocks: exactAt(48),
    blksize: statxBuffer.readUInt32LE(4),
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

const statvfsBuffer = Buffer.alloc(112);

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

// --- file handles ----------------------------------------------------------------------------------------------------

/*
 * struct file_handle:  0 handle_bytes u32   4 handle_type s32   8 f_handle[handle_bytes]
 */
const MAX_HANDLE_BYTES = 128;
const handleBuffer = Buffer.alloc(8 + MAX_HANDLE_BYTES);
const mountId = Buffer.alloc(4);

/** The kernel's file handle of an open descriptor: type and bytes, as open_by_handle_at takes them (a copy). */
export function handleOf(fd: number): Buffer {
  handleBuffer.writeUInt32LE(MAX_HANDLE_BYTES, 0);
  check(c.nameToHandleAt(fd, empty, handleBuffer, mountId, AT.EMPTY_PATH), 'name_to_handle_at');
  return Buffer.from(handleBuffer.subarray(0, 8 + handleBuffer.readUInt32LE(0)));
}

/** Opens an inode by its handle; ESTALE when it is gone. Needs CAP_DAC_READ_SEARCH. */
export function openByHandle(mountFd: number, handle: Buffer, flags: number): number {
  return check(c.openByHandleAt(mountFd, handle, flags), 'open_by_handle_at');
}

// --- names -----------------------------------------------------------------------------------------------------------

export function mkdirat(dirfd: number, name: Uint8Array, mode: number): void {
  check(c.mkdirat(dirfd, terminated(pathA, name), mode), 'mkdirat');
}

/** `rdev` in the kernel's 32-bit encoding, which is also glibc's for such small numbers. */
export function mknodat(dirfd: number, name: Uint8Array, mode: number, rdev: number): void {
  check(c.mknodat(dirfd, terminated(pathA, name), mode, rdev), 'mknodat');
}

export function symlinkat(target: Uint8Array, dirfd: number, name: Uint8Array): void {
  check(c.symlinkat(terminated(pathB, target), dirfd, terminated(pathA, name)), 'symlinkat');
}

/** Gives the inode behind `fd` one more name. */
export function linkDescriptor(fd: number, dirfd: number, name: Uint8Array): void {
  const flags = AT.SYMLINK_FOLLOW;
  const target = terminated(pathB, name);
  check(c.linkat(AT.FDCWD, descriptorPath(fd), dirfd, target, flags), 'linkat');
}

export function unlinkat(dirfd: number, name: Uint8Array, flags: number): void {
  check(c.unlinkat(dirfd, terminated(pathA, name), flags), 'unlinkat');
}

export function renameat2(dirfd: number, name: Uint8Array, newDirfd: number, newName: Uint8Array, flags: number): void {
  check(c.renameat2(dirfd, terminated(pathA, name), newDirfd, terminated(pathB, newName), flags), 'renameat2');
}

const linkBuffer = Buffer.alloc(PATH_MAX);

/** The target of the symbolic link that an O_PATH descriptor refers to (a copy). */
export function readlink(fd: number): Buffer {
  const length = check(c.readlinkat(fd, empty, linkBuffer, linkBuffer.length), 'readlinkat');
  return Buffer.from(linkBuffer.subarray(0, length));
}

/** Fills `buffer` with struct linux_dirent64 records; the bytes used, 0 at the end. */
export function getdents(fd: number, buffer: Buffer): number {
  return check(c.getdents(fd, buffer, buffer.length), 'getdents64');
}

/** Moves a directory stream to a position that getdents gave. */
export function seekDirectory(fd: number, cookie: U64): void {
  const position = c.lseek(fd, cookie, 0) as number | bigint;
  if (position < 0) throw new FsError(koffi.errno(), 'lseek');
}

// --- extended attributes -----------------------------------------------------------------------------------------------

const XATTR_SIZE_MAX = 65536;
const xattrBuffer = Buffer.alloc(XATTR_SIZE_MAX);

export function getxattr(fd: number, name: Uint8Array): Buffer {
  const nameBytes = terminated(pathB, name);
  const length = check(c.getxattr(descriptorPath(fd), nameBytes, xattrBuffer, XATTR_SIZE_MAX), 'getxattr');
  return Buffer.from(xattrBuffer.subarray(0, length));
}

/** The names, each ended by NUL. */
export function listxattr(fd: number): Buffer {
  const length = check(c.listxattr(descriptorPath(fd), xattrBuffer, XATTR_SIZE_MAX), 'listxattr');
  return Buffer.from(xattrBuffer.subarray(0, length));
}

/** True also where the filesystem cannot tell. */
export function hasXattrs(fd: number): boolean {
  return (c.listxattr(descriptorPath(fd), null, 0) as number) !== 0;
}

export function setxattr(fd: number, name: Uint8Array, value: Uint8Array, flags: number): void {
  const nameBytes = terminated(pathB, name);
  check(c.setxattr(descriptorPath(fd), nameBytes, value, value.length, flags), 'setxattr');
}

export function removexattr(fd: number, name: Uint8Array): void {
  const nameBytes = terminated(pathB, name);
  check(c.removexattr(descriptorPath(fd), nameBytes), 'removexattr');
}

// --- identity and process ----------------------------------------------------------------------------------------------

/** Of this thread. Returns the earlier value; a change that is not permitted changes nothing and is not reported. */
export function setfsuid(uid: number): number {
  return c.setfsuid(uid) as number;
}

export function setfsgid(gid: number): number {
  return c.setfsgid(gid) as number;
}

/** The supplementary groups of this thread only. */
export function setThreadGroups(groups: readonly number[]): void {
  const list = Buffer.alloc(Math.max(4, groups.length * 4));
  for (const [index, gid] of groups.entries()) list.writeUInt32LE(gid, index * 4);
  check(c.syscall(SYS_SETGROUPS, groups.length, list) as number, 'setgroups');
}

/** Of the whole process. Returns the earlier mask. */
export function umask(mask: number): number {
  return c.umask(mask) as number;
}

const RLIMIT_NOFILE = 7;

/** Raises the limit of open descriptors as far as the system permits; the limit then in force. */
export function raiseOpenFileLimit(): number {
  const limit = Buffer.alloc(16);
  check(c.getrlimit(RLIMIT_NOFILE, limit), 'getrlimit');
  limit.writeBigUInt64LE(limit.readBigUInt64LE(8), 0);
  c.setrlimit(RLIMIT_NOFILE, limit);
  check(c.getrlimit(RLIMIT_NOFILE, limit), 'getrlimit');
  const soft = limit.readBigUInt64LE(0);
  return soft > BigInt(Number.MAX_SAFE_INTEGER) ? Number.MAX_SAFE_INTEGER : Number(soft);
}

// --- leases of the kernel ------------------------------------------------------------------------------------------------

const F_SETLEASE = 1024;
const F_GETLEASE = 1025;

/** Returns how many bytes were written: fewer only when the disk is full. 1.3 us where `fs.writeSync` takes 1.8. */
export function pwrite(fd: number, data: Uint8Array, position: number): number {
  return check(c.pwrite(fd, data, data.length, position), 'pwrite');
}

const LOCK_EX = 2;
const LOCK_NB = 4;

/** False: another open file has it locked. As flock(2): given back when the last descriptor of this open file is closed. */
export function tryLockFile(fd: number): boolean {
  if (c.flock(fd, LOCK_EX | LOCK_NB) === 0) return true;
  const code = koffi.errno();
  if (code === errno.EAGAIN) return false;
  throw new FsError(code, 'flock');
}

/** How flock(2) and fcntl(2) say what is wanted. */
const LOCKS = { exclusive: { flock: LOCK_EX, type: F.WRLCK }, none: { flock: 8, type: F.UNLCK } } as const;
const F_OFD_SETLKW = 38;
/** struct flock: type, whence, start, length (0: all of it), process. */
const FLOCK_BYTES = 32;

/** A lock of the open file on all of its bytes, waited for on a thread: of flock(2), or the one of fcntl(2). */
export function lockFileAsync(fd: number, kind: 'flock' | 'fcntl', wanted: keyof typeof LOCKS): Promise<void> {
  const { flock, type } = LOCKS[wanted];
  const lock = Buffer.alloc(FLOCK_BYTES);
  lock.writeInt16LE(type);
  return new Promise((resolve, reject) => {
    const done = (error: Error | null, result: number) => {
      keepAlive(lock);
      if (error) reject(error);
      else if (result < 0) reject(new FsError(koffi.errno(), kind));
      else resolve();
    };
    if (kind === 'flock') c.flock.async(fd, flock, done);
    else c.fcntlLock.async(fd, F_OFD_SETLKW, lock, done);
  });
}

/** As fcntl(2): what a local open must wait for. */
export const lease = { READ: 0, WRITE: 1, NONE: 2 } as const;

/**
 * F_SETLEASE: until it is NONE again, opens of the file by other programs that conflict wait, and this process gets SIGIO
 * (which ends it unless it is handled). False when others have the file open, or this user may not.
 */
export function setLease(fd: number, kind: number): boolean {
  return c.fcntl(fd, F_SETLEASE, kind) === 0;
}

/** The kind that the lease has, or must become because somebody waits. */
export function getLease(fd: number): number {
  return check(c.fcntl(fd, F_GETLEASE, 0), 'fcntl');
}

// --- watching for changes ------------------------------------------------------------------------------------------------

/** A new inotify instance that does not block. */
export function inotifyInit(): number {
  return check(c.inotifyInit(0o4000 | O_CLOEXEC), 'inotify_init1');
}

/** The watch descriptor for the inode behind `fd`, which may be an O_PATH one. */
export function inotifyAddWatch(inotifyFd: number, fd: number, mask: number): number {
  return check(c.inotifyAddWatch(inotifyFd, descriptorPath(fd), mask), 'inotify_add_watch');
}

export function inotifyRemoveWatch(inotifyFd: number, wd: number): void {
  c.inotifyRemoveWatch(inotifyFd, wd);
}

// --- devices, mounts and sockets -----------------------------------------------------------------------------------------

export function ioctl(fd: number, request: number, argument: Uint8Array): number {
  return check(c.ioctl(fd, request, argument), 'ioctl');
}

const F_GETFL = 3;
const F_SETFL = 4;

export function setNonblocking(fd: number): void {
  const flags = check(c.fcntl(fd, F_GETFL, 0), 'fcntl');
  check(c.fcntl(fd, F_SETFL, flags | 0o4000), 'fcntl');
}

export function umount2(target: Uint8Array, flags: number): void {
  check(c.umount2(terminated(pathA, target), flags), 'umount2');
}

/** umount2(2) on a thread of its own: it may have to wait for the client that serves the mount. */
export function umount2Async(target: Uint8Array, flags: number): Promise<void> {
  const path = Buffer.alloc(target.length + 1);
  path.set(target);
  return new Promise((resolve, reject) => {
    c.umount2.async(path, flags, (error: Error | null, result: number) => {
      keepAlive(path);
      if (error) reject(error);
      else if (result < 0) reject(new FsError(koffi.errno(), 'umount2'));
      else resolve();
    });
  });
}

/** A connected pair of stream sockets (AF_UNIX), close-on-exec. */
export function socketpair(): [number, number] {
  const pair = Buffer.alloc(8);
  check(c.socketpair(1, 1 | O_CLOEXEC, 0, pair), 'socketpair');
  return [pair.readInt32LE(0), pair.readInt32LE(4)];
}

const O_CLOEXEC = 0o2000000;
const MSG_CMSG_CLOEXEC = 0x40000000;
const SOL_SOCKET = 1;
const SCM_RIGHTS = 1;

/** Sends one descriptor (SCM_RIGHTS) with one byte of data; the receiver gets its own copy. Layout: see receiveDescriptor. */
export function sendDescriptor(socket: number, fd: number): void {
  const data = Buffer.alloc(1);
  const vector = Buffer.alloc(16);
  vector.writeBigUInt64LE(koffi.address(data), 0);
  vector.writeBigUInt64LE(1n, 8);
  const control = Buffer.alloc(24);
  control.writeBigUInt64LE(20n, 0);
  control.writeInt32LE(SOL_SOCKET, 8);
  control.writeInt32LE(SCM_RIGHTS, 12);
  control.writeInt32LE(fd, 16);
  const message = Buffer.alloc(56);
  message.writeBigUInt64LE(koffi.address(vector), 16);
  message.writeBigUInt64LE(1n, 24);
  message.writeBigUInt64LE(koffi.address(control), 32);
  message.writeBigUInt64LE(BigInt(control.length), 40);
  check(c.sendmsg(socket, message, 0) as number, 'sendmsg');
}

/*
 * Receives one descriptor (SCM_RIGHTS) with one byte of data. Blocks: call it when the sender has ended or answered.
 * struct msghdr (64-bit): name* u64, namelen u32+pad, iov* u64, iovlen u64, control* u64, controllen u64, flags
 * struct cmsghdr: len u64, level s32, type s32, then the descriptor
 */
export function receiveDescriptor(socket: number): number {
  const data = Buffer.alloc(1);
  const vector = Buffer.alloc(16);
  vector.writeBigUInt64LE(koffi.address(data), 0);
  vector.writeBigUInt64LE(1n, 8);
  const control = Buffer.alloc(64);
  const message = Buffer.alloc(56);
  message.writeBigUInt64LE(koffi.address(vector), 16);
  message.writeBigUInt64LE(1n, 24);
  message.writeBigUInt64LE(koffi.address(control), 32);
  message.writeBigUInt64LE(BigInt(control.length), 40);
  const count = check(c.recvmsg(socket, message, MSG_CMSG_CLOEXEC) as number, 'recvmsg');
  if (count === 0 || message.readBigUInt64LE(40) < 20n || control.readInt32LE(12) !== SCM_RIGHTS) {
    throw new FsError(errno.ENOMSG, 'recvmsg');
  }
  return control.readInt32LE(16);
}
