/**
 * An open handle of a session: a descriptor and the inode it keeps in memory. Owned by the session's handle table, and
 * closed by it when the client releases it or the session ends; an operation under way finishes first.
 */
import { read as readPooled, write as writePooled } from 'node:fs';
import { assert } from '../../shared/assert.ts';
import { errno, FsError } from '../../shared/errno.ts';
import { O } from '../../shared/linux/constants.ts';
import { close, preadCached, reopen, startWritebackAsync } from '../../shared/linux/libc.ts';
import { WriteStream } from '../state/write-stream.ts';
import type { Inode } from './inode.ts';
import type { Store } from './store.ts';

export class OpenFile {
  readonly inode: Inode;
  readonly fd: number;
  readonly isDirectory: boolean;
  /** It was opened for writing, with the opener's rights. */
  readonly canWrite: boolean;
  readonly #store: Store;
  /** Its client gathers writes: see ExclusiveLeases, which alone sets it. */
  isExclusive = false;
  /** Called when the descriptor is about to be closed. */
  onClose: (() => void) | undefined;
  readonly #stream = new WriteStream();
  #isWritingBack = false;
  #appendFd = -1;
  #users = 0;
  #released = false;

  /** `fd` is this handle's from now on. */
  constructor(store: Store, inode: Inode, fd: number, kind: { isDirectory: boolean; canWrite: boolean }) {
    this.#store = store;
    this.inode = inode;
    this.fd = fd;
    this.isDirectory = kind.isDirectory;
    this.canWrite = kind.canWrite;
    store.pin(inode);
    inode.opens++;
    if (kind.canWrite) inode.writers++;
  }

  /** Keeps the descriptor open while an operation that awaits uses it. */
  use(): Disposable {
    assert(!this.#released || this.#users > 0, 'a closed handle is not used again');
    this.#users++;
    return {
      [Symbol.dispose]: () => {
        this.#users--;
        if (this.#released && this.#users === 0) this.#close();
      },
    };
  }

  release(): void {
    if (this.#released) return;
    this.#released = true;
    if (this.#users === 0) this.#close();
  }

  #close(): void {
    this.onClose?.();
    this.inode.opens--;
    if (this.canWrite) this.inode.writers--;
    close(this.fd);
    if (this.#appendFd >= 0) close(this.#appendFd);
    this.#store.unpin(this.inode);
  }

  /** `length` bytes were written at `offset`. The disk may begin with what lies behind them; an error is fsync(2)'s to tell. */
  wrote(offset: number, length: number): void {
    this.#stream.wrote(offset, length);
    const due = this.#isWritingBack ? undefined : this.#stream.take();
    if (due === undefined) return;
    this.#isWritingBack = true;
    const use = this.use();
    const done = () => {
      this.#isWritingBack = false;
      use[Symbol.dispose]();
    };
    startWritebackAsync(this.fd, due.offset, due.length).then(done, done);
  }

  /**
   * A descriptor whose writes go to the end of the file in one step of the kernel, so that local programs that append
   * cannot slip in between. Opened with the server's own rights: the handle was opened for writing already.
   */
  appendDescriptor(): number {
    assert(this.canWrite, 'only a handle for writing appends');
    if (this.#appendFd < 0) this.#appendFd = reopen(this.fd, O.WRONLY | O.APPEND | O.CLOEXEC);
    return this.#appendFd;
  }
}

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
