/**
 * What a file is, as both ends speak of it: the fields of statx(2). Sizes and offsets are bytes and at most 2^53-1;
 * the store refuses what does not fit (EOVERFLOW) instead of rounding it.
 */

/** A point in time: seconds since 1970 (negative before), and nanoseconds 0..999,999,999 after that second. */
export interface Timespec {
  readonly sec: number;
  readonly nsec: number;
}

export function isLater(one: Timespec, other: Timespec): boolean {
  return one.sec > other.sec || (one.sec === other.sec && one.nsec > other.nsec);
}

/** 64-bit values that need not be counted with: a number where it is exact, else a bigint. */
export type U64 = number | bigint;

export interface Attributes {
  /** Inode number on the server's filesystem; shown by `ls -i`, never used as identity. */
  readonly ino: U64;
  /** File type and permission bits, as st_mode. */
  readonly mode: number;
  readonly nlink: number;
  readonly uid: number;
  readonly gid: number;
  /** Device number of a device node in the kernel's 32-bit encoding (12-bit major, 20-bit minor), else 0. */
  readonly rdev: number;
  readonly size: number;
  /** Allocated 512-byte units. */
  readonly blocks: number;
  /** Preferred I/O size in bytes. */
  readonly blksize: number;
  readonly atime: Timespec;
  readonly mtime: Timespec;
  readonly ctime: Timespec;
  /** Time of birth; 0 where the server's filesystem keeps none. */
  readonly btime: Timespec;
}

/** The bits of st_mode (stat.h). */
export const mode = {
  S_IFMT: 0o170000,
  S_IFSOCK: 0o140000,
  S_IFLNK: 0o120000,
  S_IFREG: 0o100000,
  S_IFBLK: 0o060000,
  S_IFDIR: 0o040000,
  S_IFCHR: 0o020000,
  S_IFIFO: 0o010000,
  S_ISUID: 0o4000,
  S_ISGID: 0o2000,
  S_ISVTX: 0o1000,
  S_IXGRP: 0o010,
} as const;

export function isDirectory(attributes: { readonly mode: number }): boolean {
  return (attributes.mode & mode.S_IFMT) === mode.S_IFDIR;
}

export function isRegular(attributes: { readonly mode: number }): boolean {
  return (attributes.mode & mode.S_IFMT) === mode.S_IFREG;
}

/** statvfs(3) of the exported filesystem; blocks are counted in `frsize` bytes. */
export interface FilesystemStatistics {
  readonly blocks: number;
  readonly bfree: number;
  readonly bavail: number;
  readonly files: number;
  readonly ffree: number;
  readonly bsize: number;
  readonly frsize: number;
  readonly namelen: number;
}
