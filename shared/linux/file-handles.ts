/** The kernel's file handles: they name an inode, not its name. See open_by_handle_at(2). */
import koffi from 'koffi';
import { errno, FsError } from '../errno.ts';
import { check, declare, empty } from './call.ts';
import { AT } from './constants.ts';

const c = {
  nameToHandleAt: declare('int name_to_handle_at(int dirfd, void *path, void *handle, void *mountId, int flags)'),
  openByHandleAt: declare('int open_by_handle_at(int mountFd, void *handle, int flags)'),
} as const;

/*
 * struct file_handle:  0 handle_bytes u32   4 handle_type s32   8 f_handle[handle_bytes]
 */
const MAX_HANDLE_BYTES = 128;
const handleBuffer = Buffer.alloc(8 + MAX_HANDLE_BYTES);
const mountId = Buffer.alloc(4);

export interface KernelHandle {
  /** Type and bytes, as open_by_handle_at takes them (a copy). */
  readonly bytes: Buffer;
  /** Of the mount in which the descriptor was opened. Used again when that mount is gone. */
  readonly mountId: number;
}

/** The kernel's file handle of an open descriptor; undefined where the filesystem has none. No FUSE client is asked. */
export function handleOf(fd: number): KernelHandle | undefined {
  handleBuffer.writeUInt32LE(MAX_HANDLE_BYTES, 0);
  if (c.nameToHandleAt(fd, empty, handleBuffer, mountId, AT.EMPTY_PATH) < 0) {
    const code = koffi.errno();
    if (code === errno.EOPNOTSUPP) return undefined;
    throw new FsError(code, 'name_to_handle_at');
  }
  const bytes = Buffer.from(handleBuffer.subarray(0, 8 + handleBuffer.readUInt32LE(0)));
  return { bytes, mountId: mountId.readInt32LE(0) };
}

/** Opens an inode by its handle; ESTALE when it is gone. Needs CAP_DAC_READ_SEARCH. */
export function openByHandle(mountFd: number, handle: Buffer, flags: number): number {
  return check(c.openByHandleAt(mountFd, handle, flags), 'open_by_handle_at');
}
