/**
 * Calling libc by koffi: what the files beside this one have in common. A wrong signature crashes the process, so all are
 * declared, wrapped and tested in one folder (test/unit/libc.test.ts).
 *
 * Wrappers throw FsError with the call's errno. Names are bytes without NUL; they are copied into one scratch buffer
 * a call, which is safe because nothing else runs between the copy and the call.
 */
import { endianness } from 'node:os';
import koffi from 'koffi';
import { assert } from '../assert.ts';
import type { U64 } from '../attributes.ts';
import { errno, FsError } from '../errno.ts';

assert(endianness() === 'LE', 'structures are read as little endian');

const library = koffi.load('libc.so.6');

export const declare = (signature: string) => library.func(signature);

export const O_CLOEXEC = 0o2000000;
export const PATH_MAX = 4096;
/** For two paths of one call. */
export const pathA = Buffer.alloc(PATH_MAX + 1);
export const pathB = Buffer.alloc(PATH_MAX + 1);
export const empty = Buffer.alloc(1);

export function terminated(scratch: Buffer, path: Uint8Array): Buffer {
  if (path.length >= PATH_MAX) throw new FsError(errno.ENAMETOOLONG, 'path');
  scratch.set(path);
  scratch[path.length] = 0;
  return scratch;
}

export function check(result: number, operation: string): number {
  if (result < 0) throw new FsError(koffi.errno(), operation);
  return result;
}

/** The magic link to an open descriptor: reaches the inode itself, whatever its name has become. */
export function descriptorPath(fd: number): Buffer {
  const length = pathA.write(`/proc/self/fd/${fd}`, 'latin1');
  pathA[length] = 0;
  return pathA;
}

/** A 64-bit value at `offset`, as a number where that is exact. */
export function readU64(buffer: Buffer, offset: number): U64 {
  const high = buffer.readUInt32LE(offset + 4);
  if (high >= 0x200000) return buffer.readBigUInt64LE(offset);
  return high * 0x100000000 + buffer.readUInt32LE(offset);
}

/**
 * koffi does not hold on to the buffers of an asynchronous call. Called from its callback, this keeps the buffer that the
 * thread writes to from being collected meanwhile (seen: a heap corrupted by poll's `revents`).
 */
export function keepAlive(_buffer: Buffer): void {}
