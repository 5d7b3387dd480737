/** Reads and writes of a whole buffer, however many system calls it takes. */
import { read as readPooled, write as writePooled } from 'node:fs';
import { errno, FsError } from '../../shared/errno.ts';
import { preadCached } from '../../shared/linux/libc.ts';

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

/**
 * Writes all of `data` at `offset` (null: where the descriptor appends). Resolves to the bytes written: fewer when the
 * disk fills up in the middle, as write(2) would say; an error when nothing was written.
 */
export function writeFully(fd: number, data: Uint8Array, offset: number | null): Promise<number> {
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
    step(0);
  });
}

function errnoOfNode(error: NodeJS.ErrnoException): number {
  return error.errno === undefined ? errno.EIO : -error.errno;
}
