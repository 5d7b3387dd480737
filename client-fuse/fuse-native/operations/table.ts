/**
 * The operations that libfuse is told this driver has. `access` is none of them: under default_permissions the
 * kernel answers it from the attributes.
 */
import type { NativeOperationName } from '../binding.ts';
import type { Operation } from '../operation.ts';
import * as attributes from './attributes.ts';
import * as directories from './directories.ts';
import * as files from './files.ts';
import * as names from './names.ts';
import * as xattrs from './xattrs.ts';

export type OperationName = Exclude<NativeOperationName, 'init' | 'access'>;

export const operations: { readonly [N in OperationName]: Operation } = {
  getattr: attributes.getattr,
  fgetattr: attributes.fgetattr,
  chmod: attributes.chmod,
  chown: attributes.chown,
  utimens: attributes.utimens,
  truncate: attributes.truncate,
  ftruncate: attributes.ftruncate,
  readlink: attributes.readlink,
  statfs: attributes.statfs,
  mknod: names.mknod,
  mkdir: names.mkdir,
  symlink: names.symlink,
  link: names.link,
  unlink: names.unlink,
  rmdir: names.rmdir,
  rename: names.rename,
  open: files.open,
  create: files.create,
  read: files.read,
  write: files.write,
  flush: files.flush,
  release: files.release,
  fsync: files.fsync,
  opendir: directories.opendir,
  readdir: directories.readdir,
  releasedir: files.release,
  fsyncdir: files.fsyncdir,
  getxattr: xattrs.getxattr,
  listxattr: xattrs.listxattr,
  setxattr: xattrs.setxattr,
  removexattr: xattrs.removexattr,
};
