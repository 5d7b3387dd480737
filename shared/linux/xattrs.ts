/** Extended attributes of the inode that a descriptor refers to, an O_PATH one too. */
import { check, declare, descriptorPath, pathB, terminated } from './call.ts';

const c = {
  getxattr: declare('long getxattr(void *path, void *name, void *value, ulong size)'),
  listxattr: declare('long listxattr(void *path, void *list, ulong size)'),
  setxattr: declare('int setxattr(void *path, void *name, void *value, ulong size, int flags)'),
  removexattr: declare('int removexattr(void *path, void *name)'),
} as const;

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
