/**
 * The numbers of the FUSE kernel protocol: operation codes and flag bits, with the kernel's own names without their
 * prefix. Source: include/uapi/linux/fuse.h, protocol 7.45.
 */

export const PROTOCOL_MAJOR = 7;
export const PROTOCOL_MINOR = 45;
/** Linux 5.4: the oldest kernel that weft is made for. */
export const PROTOCOL_MINOR_OLDEST = 31;

export const opcode = {
  LOOKUP: 1,
  FORGET: 2,
  GETATTR: 3,
  SETATTR: 4,
  READLINK: 5,
  SYMLINK: 6,
  MKNOD: 8,
  MKDIR: 9,
  UNLINK: 10,
  RMDIR: 11,
  RENAME: 12,
  LINK: 13,
  OPEN: 14,
  READ: 15,
  WRITE: 16,
  STATFS: 17,
  RELEASE: 18,
  FSYNC: 20,
  SETXATTR: 21,
  GETXATTR: 22,
  LISTXATTR: 23,
  REMOVEXATTR: 24,
  FLUSH: 25,
  INIT: 26,
  OPENDIR: 27,
  READDIR: 28,
  RELEASEDIR: 29,
  FSYNCDIR: 30,
  GETLK: 31,
  SETLK: 32,
  SETLKW: 33,
  ACCESS: 34,
  CREATE: 35,
  INTERRUPT: 36,
  BMAP: 37,
  DESTROY: 38,
  IOCTL: 39,
  POLL: 40,
  NOTIFY_REPLY: 41,
  BATCH_FORGET: 42,
  FALLOCATE: 43,
  READDIRPLUS: 44,
  RENAME2: 45,
  LSEEK: 46,
  COPY_FILE_RANGE: 47,
  SETUPMAPPING: 48,
  REMOVEMAPPING: 49,
  SYNCFS: 50,
  TMPFILE: 51,
  STATX: 52,
  COPY_FILE_RANGE_64: 53,
} as const;

export type OpcodeName = keyof typeof opcode;

const opcodeNames = new Map<number, OpcodeName>(
  Object.entries(opcode).map(([name, code]) => [code, name as OpcodeName]),
);

export function opcodeName(code: number): string {
  return opcodeNames.get(code) ?? `opcode ${code}`;
}

/** Above every known code: the size of tables indexed by opcode. */
export const OPCODE_LIMIT = 64;

/** Bits 0-31 of the INIT flags. */
export const INIT = {
  ASYNC_READ: 1 << 0,
  POSIX_LOCKS: 1 << 1,
  ATOMIC_O_TRUNC: 1 << 3,
  EXPORT_SUPPORT: 1 << 4,
  BIG_WRITES: 1 << 5,
  DONT_MASK: 1 << 6,
  FLOCK_LOCKS: 1 << 10,
  AUTO_INVAL_DATA: 1 << 12,
  DO_READDIRPLUS: 1 << 13,
  READDIRPLUS_AUTO: 1 << 14,
  ASYNC_DIO: 1 << 15,
  WRITEBACK_CACHE: 1 << 16,
  NO_OPEN_SUPPORT: 1 << 17,
  PARALLEL_DIROPS: 1 << 18,
  HANDLE_KILLPRIV: 1 << 19,
  POSIX_ACL: 1 << 20,
  ABORT_ERROR: 1 << 21,
  MAX_PAGES: 1 << 22,
  CACHE_SYMLINKS: 1 << 23,
  NO_OPENDIR_SUPPORT: 1 << 24,
  EXPLICIT_INVAL_DATA: 1 << 25,
  HANDLE_KILLPRIV_V2: 1 << 28,
  SETXATTR_EXT: 1 << 29,
  INIT_EXT: 1 << 30,
} as const;

/** Bits 32-63, as they stand in flags2. */
export const INIT2 = {
  SECURITY_CTX: 1 << 0,
  CREATE_SUPP_GROUP: 1 << 2,
  HAS_EXPIRE_ONLY: 1 << 3,
  DIRECT_IO_ALLOW_MMAP: 1 << 4,
  PASSTHROUGH: 1 << 5,
  NO_EXPORT_SUPPORT: 1 << 6,
  HAS_RESEND: 1 << 7,
  ALLOW_IDMAP: 1 << 8,
  OVER_IO_URING: 1 << 9,
  REQUEST_TIMEOUT: 1 << 10,
} as const;

export const FATTR = {
  MODE: 1 << 0,
  UID: 1 << 1,
  GID: 1 << 2,
  SIZE: 1 << 3,
  ATIME: 1 << 4,
  MTIME: 1 << 5,
  FH: 1 << 6,
  ATIME_NOW: 1 << 7,
  MTIME_NOW: 1 << 8,
  LOCKOWNER: 1 << 9,
  CTIME: 1 << 10,
  KILL_SUIDGID: 1 << 11,
} as const;

export const FOPEN = {
  DIRECT_IO: 1 << 0,
  KEEP_CACHE: 1 << 1,
  NONSEEKABLE: 1 << 2,
  CACHE_DIR: 1 << 3,
  STREAM: 1 << 4,
  NOFLUSH: 1 << 5,
  PARALLEL_DIRECT_WRITES: 1 << 6,
  PASSTHROUGH: 1 << 7,
} as const;

export const GETATTR_FH = 1 << 0;
export const OPEN_KILL_SUIDGID = 1 << 0;
/** fuse_read_in.read_flags: a program's read(2) past the page cache. Reads of pages have no owner (fuse_send_read in fs/fuse/file.c). */
export const READ_LOCKOWNER = 1 << 1;
/** fuse_write_in.write_flags: dirty pages of the page cache, not a program's write(2). */
export const WRITE_CACHE = 1 << 0;
export const WRITE_KILL_SUIDGID = 1 << 2;
export const FSYNC_FDATASYNC = 1 << 0;
/** fuse_lk_in.lk_flags: a lock of flock(2). */
export const LK_FLOCK = 1 << 0;
export const SETXATTR_ACL_KILL_SGID = 1 << 0;

/** fuse_statx.mask: STATX_BASIC_STATS, and STATX_BTIME. */
export const STATX_BASIC_STATS = 0x7ff;
export const STATX_BTIME = 0x800;

export const NOTIFY = {
  INVAL_INODE: 2,
  INVAL_ENTRY: 3,
  STORE: 4,
  DELETE: 6,
  INC_EPOCH: 8,
} as const;

/** notify_inval_entry: let the entry expire instead of unhashing it (7.38). */
export const EXPIRE_ONLY = 1 << 0;
