/**
 * Numbers of the Linux system call interface that are the same on every architecture weft runs on; those that differ
 * (O_DIRECTORY, O_NOFOLLOW, O_DIRECT) come from Node's own table. Source: include/uapi of the kernel.
 */
import { constants as node } from 'node:fs';

export const O = {
  RDONLY: 0,
  WRONLY: 1,
  RDWR: 2,
  ACCMODE: 3,
  /** Set by the kernel in OPEN when a file is opened to be executed (FMODE_EXEC). */
  EXEC: 0x20,
  CREAT: 0o100,
  EXCL: 0o200,
  TRUNC: 0o1000,
  APPEND: 0o2000,
  NONBLOCK: 0o4000,
  DSYNC: 0o10000,
  SYNC: 0o4010000,
  NOATIME: 0o1000000,
  CLOEXEC: 0o2000000,
  PATH: 0o10000000,
  TMPFILE: 0o20000000 | node.O_DIRECTORY,
  DIRECTORY: node.O_DIRECTORY,
  NOFOLLOW: node.O_NOFOLLOW,
  /** Absent from the types of Node outside of Linux. */
  DIRECT: node.O_DIRECT as number,
} as const;

export const AT = {
  FDCWD: -100,
  SYMLINK_NOFOLLOW: 0x100,
  REMOVEDIR: 0x200,
  EACCESS: 0x200,
  SYMLINK_FOLLOW: 0x400,
  EMPTY_PATH: 0x1000,
  STATX_DONT_SYNC: 0x4000,
} as const;

export const RENAME = { NOREPLACE: 1, EXCHANGE: 2, WHITEOUT: 4 } as const;

export const FALLOC = {
  KEEP_SIZE: 0x01,
  PUNCH_HOLE: 0x02,
  COLLAPSE_RANGE: 0x08,
  ZERO_RANGE: 0x10,
  INSERT_RANGE: 0x20,
  UNSHARE_RANGE: 0x40,
} as const;

export const SEEK = { SET: 0, CUR: 1, END: 2, DATA: 3, HOLE: 4 } as const;

/** Values of tv_nsec that utimensat(2) gives a meaning. */
export const UTIME = { NOW: 0x3fffffff, OMIT: 0x3ffffffe } as const;

export const DT = { UNKNOWN: 0, FIFO: 1, CHR: 2, DIR: 4, BLK: 6, REG: 8, LNK: 10, SOCK: 12 } as const;

/** Types of a lock: fcntl(2). */
export const F = { RDLCK: 0, WRLCK: 1, UNLCK: 2 } as const;

export const RWF = { NOWAIT: 0x8 } as const;

export const MNT = { FORCE: 1, DETACH: 2, EXPIRE: 4 } as const;
