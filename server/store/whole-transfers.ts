/** Reads and writes of a whole buffer, however many system calls it takes. */
import { read as readPooled, write as writePooled, writeSync } from 'node:fs';
import { errno, FsError } from '../../shared/errno.ts';
import { KiB } from '../../shared/limits.ts';
import { preadCached, threadWaits } from '../../shared/linux/libc.ts';
import { WriterWaits } from '../state/writer-waits.ts';

/**
 * Fills `buffer` from `offset` on; the bytes read are fewer only at the end of the file. What the page cache holds is
 * read at once (a trip to the pool costs more than the copy), the rest through the pool.
 */
export function readFully(fd: number, buffer: Buffer, offset: number): number | Promise<number> {
  const cached = preadCached(fd, buffer, offset);
  if (cached === buffer.length || cached === 0) return cached;
  return readRest(fd, buffer, offset, Math.max(cached, 0));
}

function readRest(fd: number, buffer: Buffer, offset: number, done: number): Promise<number> {
  return new Promise((resolve, reject) => {
    const step = (have: number): void => {
      readPooled(fd, buffer, have, buffer.length - have, offset + have, (error, count) => {
        if (error) reject(new FsError(errnoOfNode(error), 'read', { cause: error }));
        else if (count === 0 || have + count === buffer.length) resolve(have + count);
        else step(have + count);
      });
    };
    step(done);
  });
}

/** So much is written at once: the page cache takes it in less time than a trip to the pool. */
export const INLINE_BYTES = 16 * KiB;
/** Unless the kernel makes writers wait for the disk: then the pool has them for a while. */
const waits = new WriterWaits();

/**
 * Writes all of `data` at `offset` (null: where the descriptor appends). Returns or resolves to the bytes written: fewer
 * when the disk fills up in the middle, as write(2) would say; an error when nothing was written. `inTurn`: at once, if it is
 * small and the disk takes it.
 */
export function writeFully(
  fd: number,
  data: Uint8Array,
  offset: number | null,
  inTurn = false,
): number | Promise<number> {
  const nowMs = performance.now();
  const isPooled = data.length > INLINE_BYTES || (inTurn ? waits.areLong(nowMs) : waits.areLikely(nowMs));
  if (isPooled) return writePooledFully(fd, data, offset);
  const before = waits.areSuspected(nowMs) ? threadWaits() : undefined;
  let written: number;
  try {
    written = writeSync(fd, data, 0, data.length, offset);
  } catch (error) {
    throw new FsError(errnoOfNode(error as NodeJS.ErrnoException), 'write', { cause: error });
  }
  waits.took(nowMs, performance.now(), before === undefined ? undefined : () => threadWaits() > before);
  // The pool says why the rest cannot be written.
  return written === data.length ? written : writePooledFully(fd, data, offset, written);
}

/** Descriptors with a write in the pool, and what waits for each. */
const queues = new Map<number, (() => void)[]>();

/** One at a time through a descriptor: the kernel lets one into a file, and threads that wait for that keep a processor busy. */
async function writePooledFully(fd: number, data: Uint8Array, offset: number | null, from = 0): Promise<number> {
  const queue = queues.get(fd);
  if (queue) await new Promise<void>((resolve) => queue.push(resolve));
  else queues.set(fd, []);
  try {
    return await writeRest(fd, data, offset, from);
  } finally {
    const next = queues.get(fd)?.shift();
    if (next) next();
    else queues.delete(fd);
  }
}

function writeRest(fd: number, data: Uint8Array, offset: number | null, from: number): Promise<number> {
  return new Promise((resolve, reject) => {
    const step = (done: number): void => {
      const position = offset === null ? null : offset + done;
      writePooled(fd, data, done, data.length - done, position, (error, count) => {
        if (error && done > 0) resolve(done);
        else if (error) reject(new FsError(errnoOfNode(error), 'write', { cause: error }));
        else if (count === 0 || done + count === data.length) resolve(done + count);
        else step(done + count);
      });
    };
    step(from);
  });
}

function errnoOfNode(error: NodeJS.ErrnoException): number {
  return error.errno === undefined ? errno.EIO : -error.errno;
}
