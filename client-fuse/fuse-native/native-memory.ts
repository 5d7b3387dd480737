/**
 * The few libc calls with which the driver reads and writes the memory of a waiting libfuse thread.
 * Apart from shared/linux because every one of them takes an address: a wrong one ends the process. Addresses come
 * from a NativeRequest only, and are good until its request is answered.
 */
import koffi from 'koffi';
import { assert } from '../../shared/assert.ts';
import { errno, FsError } from '../../shared/errno.ts';

export type Address = bigint;

const library = koffi.load('libc.so.6');
const c = {
  memcpy: library.func('void *memcpy(void *to, void *from, size_t bytes)'),
  memccpy: library.func('void *memccpy(void *to, void *from, int last, size_t bytes)'),
  fcntl: library.func('int fcntl(int fd, int command, long argument)'),
  poll: library.func('int poll(void *descriptors, ulong count, int timeout)'),
  close: library.func('int close(int fd)'),
} as const;

/** Of a path: as deep as directories may nest below a mount in practice. Longer ones are refused. */
const scratch = Buffer.alloc(64 * 1024);

export function addressOf(buffer: Buffer): Address {
  return koffi.address(buffer);
}

/** Fills `into` with the bytes at `address`. */
export function readMemory(address: Address, into: Buffer): void {
  assert(address !== 0n, 'libfuse gave no address to read');
  c.memcpy(into, address, into.length);
}

export function writeMemory(address: Address, bytes: Uint8Array): void {
  assert(address !== 0n, 'libfuse gave no address to write');
  c.memcpy(address, bytes, bytes.length);
}

/** The bytes at `address` up to the first NUL (a copy). */
export function readString(address: Address): Buffer {
  assert(address !== 0n, 'libfuse gave no string');
  if (c.memccpy(scratch, address, 0, scratch.length) === null) throw new FsError(errno.ENAMETOOLONG, 'path');
  return Buffer.from(scratch.subarray(0, scratch.indexOf(0)));
}

/** fuse_fill_dir_t of libfuse 2: takes one directory entry; not 0 when it has no memory for it. */
const fillDir = koffi.proto('int fuse_fill_dir_t(void *list, void *name, void *stat, int64 offset)');

export function callFiller(filler: Address, list: Address, name: Buffer, stat: Buffer): number {
  assert(filler !== 0n, 'libfuse gave no filler');
  return koffi.call(filler, fillDir, list, name, stat, 0) as number;
}

const F_SETFD = 2;
const F_DUPFD_CLOEXEC = 1030;
const FD_CLOEXEC = 1;

export function setCloseOnExec(fd: number): void {
  c.fcntl(fd, F_SETFD, FD_CLOEXEC);
}

/** A second descriptor of the same open file; the caller closes it. */
export function duplicate(fd: number): number {
  const copy = c.fcntl(fd, F_DUPFD_CLOEXEC, 3) as number;
  if (copy < 0) throw new FsError(koffi.errno(), 'fcntl');
  return copy;
}

export function closeDescriptor(fd: number): void {
  c.close(fd);
}

const POLLERR = 0x8;
/* struct pollfd: 0 fd s32   4 events s16   6 revents s16 */
const pollDescriptor = Buffer.alloc(8);

/** A device or socket that has nothing more to give. Does not wait. */
export function isBroken(fd: number): boolean {
  pollDescriptor.fill(0);
  pollDescriptor.writeInt32LE(fd, 0);
  c.poll(pollDescriptor, 1, 0);
  return (pollDescriptor.readInt16LE(6) & POLLERR) !== 0;
}
