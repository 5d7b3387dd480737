/** The kernel's file handles: they name an inode, not its name. See open_by_handle_at(2). */
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

/** The kernel's file handle of an open descriptor: type and bytes, as open_by_handle_at takes them (a copy). */
export function handleOf(fd: number): Buffer {
  handleBuffer.writeUInt32LE(MAX_HANDLE_BYTES, 0);
  check(c.nameToHandleAt(fd, empty, handleBuffer, mountId, AT.EMPTY_PATH), 'name_to_handle_at');
  return Buffer.from(handleBuffer.subarray(0, 8 + handleBuffer.readUInt32LE(0)));
}

/** Opens an inode by its handle; ESTALE when it is gone. Needs CAP_DAC_READ_SEARCH. */
export function openByHandle(mountFd: number, handle: Buffer, flags: number): number {
  return check(c.openByHandleAt(mountFd, handle, flags), 'open_by_handle_at');
}
