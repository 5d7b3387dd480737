/** Names in a directory: making, removing, listing them. */
import koffi from 'koffi';
import type { U64 } from '../attributes.ts';
import { FsError } from '../errno.ts';
import { check, declare, descriptorPath, empty, PATH_MAX, pathA, pathB, terminated } from './call.ts';
import { AT } from './constants.ts';

const c = {
  mkdirat: declare('int mkdirat(int dirfd, void *path, uint mode)'),
  mknodat: declare('int mknodat(int dirfd, void *path, uint mode, uint64 dev)'),
  symlinkat: declare('int symlinkat(void *target, int dirfd, void *path)'),
  linkat: declare('int linkat(int oldDirfd, void *oldPath, int newDirfd, void *newPath, int flags)'),
  unlinkat: declare('int unlinkat(int dirfd, void *path, int flags)'),
  renameat2: declare('int renameat2(int oldDirfd, void *oldPath, int newDirfd, void *newPath, uint flags)'),
  readlinkat: declare('long readlinkat(int dirfd, void *path, void *buffer, ulong size)'),
  getdents: declare('long getdents64(int fd, void *buffer, ulong count)'),
  lseek: declare('int64 lseek64(int fd, int64 offset, int whence)'),
} as const;

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
