/**
 * The structures of the FUSE kernel protocol, described once. Names and order are those of include/uapi/linux/fuse.h
 * (protocol 7.45); offsets follow from the order (test/unit/kernel-structures.test.ts draws some of them).
 * `u64` is refused from 2^53 on, `u64 passed` is handed on as it is, `i64` holds seconds before 1970.
 */
import { spare, structure } from './field.ts';

// --- frames ----------------------------------------------------------------------------------------------------------

/*
 *  0        4        8                16               24     28     32     36      38      40
 *  | len u32 | opcode | unique u64     | nodeid u64     | uid  | gid  | pid  | extlen | pad   | body ...
 */
export const inHeader = structure('fuse_in_header', {
  len: 'u32',
  opcode: 'u32',
  unique: 'u64',
  nodeid: 'u64',
  uid: 'u32',
  gid: 'u32',
  pid: 'u32',
  totalExtlen: 'u16',
  padding: 'u16',
});

/*
 *  0        4        8                16
 *  | len u32 | error  | unique u64     | body ...        error: 0 or -errno; a notification: unique 0, error its code
 */
export const outHeader = structure('fuse_out_header', { len: 'u32', error: 'i32', unique: 'u64' });

// --- attributes ------------------------------------------------------------------------------------------------------

export const attr = structure('fuse_attr', {
  ino: 'u64 passed',
  size: 'u64',
  blocks: 'u64',
  atime: 'i64',
  mtime: 'i64',
  ctime: 'i64',
  atimensec: 'u32',
  mtimensec: 'u32',
  ctimensec: 'u32',
  mode: 'u32',
  nlink: 'u32',
  uid: 'u32',
  gid: 'u32',
  rdev: 'u32',
  blksize: 'u32',
  flags: 'u32',
});

export const sxTime = structure('fuse_sx_time', { sec: 'i64', nsec: 'u32', reserved: 'i32' });

export const statx = structure('fuse_statx', {
  mask: 'u32',
  blksize: 'u32',
  attributes: 'u64',
  nlink: 'u32',
  uid: 'u32',
  gid: 'u32',
  mode: 'u16',
  spare0: 'u16',
  ino: 'u64 passed',
  size: 'u64',
  blocks: 'u64',
  attributesMask: 'u64',
  atime: sxTime,
  btime: sxTime,
  ctime: sxTime,
  mtime: sxTime,
  rdevMajor: 'u32',
  rdevMinor: 'u32',
  devMajor: 'u32',
  devMinor: 'u32',
  spare2: spare(8, 14),
});

export const kstatfs = structure('fuse_kstatfs', {
  blocks: 'u64',
  bfree: 'u64',
  bavail: 'u64',
  files: 'u64',
  ffree: 'u64',
  bsize: 'u32',
  namelen: 'u32',
  frsize: 'u32',
  padding: 'u32',
  spare: spare(4, 6),
});

export const entryOut = structure('fuse_entry_out', {
  nodeid: 'u64',
  generation: 'u64',
  entryValid: 'u64',
  attrValid: 'u64',
  entryValidNsec: 'u32',
  attrValidNsec: 'u32',
  attr,
});

export const getattrIn = structure('fuse_getattr_in', { getattrFlags: 'u32', dummy: 'u32', fh: 'u64' });
export const attrOut = structure('fuse_attr_out', { attrValid: 'u64', attrValidNsec: 'u32', dummy: 'u32', attr });

export const statxIn = structure('fuse_statx_in', {
  getattrFlags: 'u32',
  reserved: 'u32',
  fh: 'u64',
  sxFlags: 'u32',
  sxMask: 'u32',
});

export const statxOut = structure('fuse_statx_out', {
  attrValid: 'u64',
  attrValidNsec: 'u32',
  flags: 'u32',
  spare: spare(8, 2),
  stat: statx,
});

export const setattrIn = structure('fuse_setattr_in', {
  valid: 'u32',
  padding: 'u32',
  fh: 'u64',
  size: 'u64',
  lockOwner: 'u64 passed',
  atime: 'i64',
  mtime: 'i64',
  ctime: 'i64',
  atimensec: 'u32',
  mtimensec: 'u32',
  ctimensec: 'u32',
  mode: 'u32',
  unused4: 'u32',
  uid: 'u32',
  gid: 'u32',
  unused5: 'u32',
});

export const accessIn = structure('fuse_access_in', { mask: 'u32', padding: 'u32' });

// --- names -----------------------------------------------------------------------------------------------------------

export const forgetIn = structure('fuse_forget_in', { nlookup: 'u64' });
export const forgetOne = structure('fuse_forget_one', { nodeid: 'u64', nlookup: 'u64' });
export const batchForgetIn = structure('fuse_batch_forget_in', { count: 'u32', dummy: 'u32' });
export const mknodIn = structure('fuse_mknod_in', { mode: 'u32', rdev: 'u32', umask: 'u32', padding: 'u32' });
export const mkdirIn = structure('fuse_mkdir_in', { mode: 'u32', umask: 'u32' });
export const renameIn = structure('fuse_rename_in', { newdir: 'u64' });
export const rename2In = structure('fuse_rename2_in', { newdir: 'u64', flags: 'u32', padding: 'u32' });
export const linkIn = structure('fuse_link_in', { oldnodeid: 'u64' });

// --- handles and data --------------------------------------------------------------------------------------------------

export const openIn = structure('fuse_open_in', { flags: 'u32', openFlags: 'u32' });
export const createIn = structure('fuse_create_in', { flags: 'u32', mode: 'u32', umask: 'u32', openFlags: 'u32' });
export const openOut = structure('fuse_open_out', { fh: 'u64', openFlags: 'u32', backingId: 'i32' });

export const releaseIn = structure('fuse_release_in', {
  fh: 'u64',
  flags: 'u32',
  releaseFlags: 'u32',
  lockOwner: 'u64 passed',
});

export const flushIn = structure('fuse_flush_in', {
  fh: 'u64',
  unused: 'u32',
  padding: 'u32',
  lockOwner: 'u64 passed',
});

/** `end` is the last byte, and OFFSET_MAX to the end of the file. */
const fileLock = { start: 'u64 passed', end: 'u64 passed', type: 'u32', pid: 'u32' } as const;

/** GETLK, SETLK and SETLKW; a fuse_file_lock stands in it. */
export const lkIn = structure('fuse_lk_in', {
  fh: 'u64',
  owner: 'u64 passed',
  ...fileLock,
  lkFlags: 'u32',
  padding: 'u32',
});
export const lkOut = structure('fuse_lk_out', fileLock);

/** READ, READDIR and READDIRPLUS; for the last two `offset` is a cookie. */
export const readIn = structure('fuse_read_in', {
  fh: 'u64',
  offset: 'u64',
  size: 'u32',
  readFlags: 'u32',
  lockOwner: 'u64 passed',
  flags: 'u32',
  padding: 'u32',
});

/** The same bytes as fuse_read_in, read as a directory request: a cookie may use all 64 bits. */
export const readdirIn = structure('fuse_read_in', { fh: 'u64', cookie: 'u64 passed', size: 'u32', rest: spare(4, 5) });

/*
 *  0       8          16      20            24            32      36     40
 *  | fh    | offset   | size  | write_flags | lock_owner  | flags | pad  | data ...
 */
export const writeIn = structure('fuse_write_in', {
  fh: 'u64',
  offset: 'u64',
  size: 'u32',
  writeFlags: 'u32',
  lockOwner: 'u64 passed',
  flags: 'u32',
  padding: 'u32',
});

export const writeOut = structure('fuse_write_out', { size: 'u32', padding: 'u32' });
export const fsyncIn = structure('fuse_fsync_in', { fh: 'u64', fsyncFlags: 'u32', padding: 'u32' });

export const fallocateIn = structure('fuse_fallocate_in', {
  fh: 'u64',
  offset: 'u64',
  length: 'u64',
  mode: 'u32',
  padding: 'u32',
});

export const lseekIn = structure('fuse_lseek_in', { fh: 'u64', offset: 'u64', whence: 'u32', padding: 'u32' });
export const lseekOut = structure('fuse_lseek_out', { offset: 'u64' });

export const copyFileRangeIn = structure('fuse_copy_file_range_in', {
  fhIn: 'u64',
  offIn: 'u64',
  nodeidOut: 'u64',
  fhOut: 'u64',
  offOut: 'u64',
  len: 'u64 passed',
  flags: 'u64 passed',
});

export const copyFileRangeOut = structure('fuse_copy_file_range_out', { bytesCopied: 'u64' });

/** Followed by the name, padded to 8 bytes. With READDIRPLUS a fuse_entry_out stands before each. */
export const dirent = structure('fuse_dirent', {
  ino: 'u64 passed',
  off: 'u64 passed',
  namelen: 'u32',
  type: 'u32',
});

// --- extended attributes -----------------------------------------------------------------------------------------------

/** With FUSE_SETXATTR_EXT; without it only the first 8 bytes are there. */
export const setxattrIn = structure('fuse_setxattr_in', {
  size: 'u32',
  flags: 'u32',
  setxattrFlags: 'u32',
  padding: 'u32',
});
export const setxattrCompatIn = structure('fuse_setxattr_in (compat)', { size: 'u32', flags: 'u32' });
export const getxattrIn = structure('fuse_getxattr_in', { size: 'u32', padding: 'u32' });
export const getxattrOut = structure('fuse_getxattr_out', { size: 'u32', padding: 'u32' });

// --- the connection ----------------------------------------------------------------------------------------------------

/** Kernels before 7.36 send only the first 16 bytes. */
export const initIn = structure('fuse_init_in', {
  major: 'u32',
  minor: 'u32',
  maxReadahead: 'u32',
  flags: 'u32',
  flags2: 'u32',
  unused: spare(4, 11),
});

export const initOut = structure('fuse_init_out', {
  major: 'u32',
  minor: 'u32',
  maxReadahead: 'u32',
  flags: 'u32',
  maxBackground: 'u16',
  congestionThreshold: 'u16',
  maxWrite: 'u32',
  timeGran: 'u32',
  maxPages: 'u16',
  mapAlignment: 'u16',
  flags2: 'u32',
  maxStackDepth: 'u32',
  requestTimeout: 'u16',
  unused: spare(2, 11),
});

export const interruptIn = structure('fuse_interrupt_in', { unique: 'u64' });

// --- notifications -----------------------------------------------------------------------------------------------------

export const notifyInvalInodeOut = structure('fuse_notify_inval_inode_out', { ino: 'u64', off: 'i64', len: 'i64' });
export const notifyInvalEntryOut = structure('fuse_notify_inval_entry_out', {
  parent: 'u64',
  namelen: 'u32',
  flags: 'u32',
});
export const notifyStoreOut = structure('fuse_notify_store_out', {
  nodeid: 'u64',
  offset: 'u64',
  size: 'u32',
  padding: 'u32',
});
export const notifyDeleteOut = structure('fuse_notify_delete_out', {
  parent: 'u64',
  child: 'u64',
  namelen: 'u32',
  padding: 'u32',
});
