/**
 * The operations that libfuse is told this driver has. Two are left out:
 * - `access`: under default_permissions the kernel answers it from the attributes.
 * - `flush`: for a file that was unlinked while open libfuse 2.9.9 calls it without a path (NULL), of which fuse-native makes an
 *   uninitialized JavaScript value, which may end the process. So close(2) reports nothing, and a filesystem that
 *   delays writes must not be mounted by this driver.
 */
import type { NativeOperationName } from '../binding.ts';
import type { Operation } from '../operation.ts';
import * as attributes from './attributes.ts';
import * as directories from './directories.ts';
import * as files from './files.ts';
import * as names from './names.ts';
import * as xattrs from './xattrs.ts';

export type OperationName = Exclude<NativeOperationName, 'init' | 'access' | 'flush'>;

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
