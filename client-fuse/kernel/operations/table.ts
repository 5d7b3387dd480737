/**
 * The table of operations by opcode. What is not in it, and is no business of the dispatcher itself (INIT, FORGET,
 * INTERRUPT, DESTROY), is answered ENOSYS, after which the kernel does without.
 */
import { OPCODE_LIMIT, type OpcodeName, opcode } from '../constants.ts';
import type { Operation } from '../operation.ts';
import { access, getattr, readlink, setattr, statfs, statx } from './attributes.ts';
import { copyFileRange, copyFileRange64, fallocate, lseek, read, write } from './data.ts';
import { fsyncdir, opendir, readdir, readdirplus, releasedir } from './directories.ts';
import { create, flush, fsync, open, release, syncfs, tmpfile } from './files.ts';
import { getlk, setlk, setlkw } from './locks.ts';
import { link, lookup, mkdir, mknod, rename, rename2, rmdir, symlink, unlink } from './names.ts';
import { getxattr, listxattr, removexattr, setxattr } from './xattrs.ts';

const byName: Partial<Record<OpcodeName, Operation<unknown>>> = {
  LOOKUP: lookup,
  GETATTR: getattr,
  SETATTR: setattr,
  READLINK: readlink,
  SYMLINK: symlink,
  MKNOD: mknod,
  MKDIR: mkdir,
  UNLINK: unlink,
  RMDIR: rmdir,
  RENAME: rename,
  RENAME2: rename2,
  LINK: link,
  OPEN: open,
  CREATE: create,
  TMPFILE: tmpfile,
  READ: read,
  WRITE: write,
  FLUSH: flush,
  RELEASE: release,
  FSYNC: fsync,
  GETLK: getlk,
  SETLK: setlk,
  SETLKW: setlkw,
  FALLOCATE: fallocate,
  LSEEK: lseek,
  COPY_FILE_RANGE: copyFileRange,
  COPY_FILE_RANGE_64: copyFileRange64,
  OPENDIR: opendir,
  READDIR: readdir,
  READDIRPLUS: readdirplus,
  RELEASEDIR: releasedir,
  FSYNCDIR: fsyncdir,
  STATFS: statfs,
  STATX: statx,
  ACCESS: access,
  SETXATTR: setxattr,
  GETXATTR: getxattr,
  LISTXATTR: listxattr,
  REMOVEXATTR: removexattr,
  SYNCFS: syncfs,
};

/** Indexed by opcode. */
export const operations: readonly (Operation<unknown> | undefined)[] = Array.from(
  { length: OPCODE_LIMIT },
  (_, code) => Object.entries(byName).find(([name]) => opcode[name as OpcodeName] === code)?.[1],
);
