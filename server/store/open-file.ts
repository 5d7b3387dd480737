/**
 * An open handle of a session: a descriptor and the inode it keeps in memory. Owned by the session's handle table, and
 * closed by it when the client releases it or the session ends; an operation under way finishes first.
 */
import { assert } from '../../shared/assert.ts';
import { WriteStream } from '../state/write-stream.ts';
import type { DescriptorCalls } from './descriptor-calls.ts';
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
  /** It did at some time. */
  wasExclusive = false;
  /** Its client has been told the access time that reading has set. */
  saidAccessTime = false;
  /** Called when the descriptor is about to be closed. */
  onClose: (() => void) | undefined;
  #stream: WriteStream | undefined;
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

  /** What is done with the descriptor. */
  get calls(): DescriptorCalls {
    return this.#store.descriptors;
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
    this.calls.close(this.fd);
    if (this.#appendFd >= 0) this.calls.close(this.#appendFd);
    this.#store.unpin(this.inode);
  }

  /** `length` bytes were written at `offset`. The disk may begin with what lies behind them; an error is fsync(2)'s to tell. */
  wrote(offset: number, length: number): void {
    this.#stream ??= new WriteStream();
    this.#stream.wrote(offset, length);
    const due = this.#isWritingBack ? undefined : this.#stream.take();
    if (due === undefined) return;
    this.#isWritingBack = true;
    const use = this.use();
    const done = () => {
      this.#isWritingBack = false;
      use[Symbol.dispose]();
    };
    this.calls.startWriteback(this.fd, due.offset, due.length).then(done, done);
  }

  /**
   * A descriptor whose writes go to the end of the file in one step of the kernel, so that local programs that append
   * cannot slip in between. Opened with the server's own rights: the handle was opened for writing already.
   */
  appendDescriptor(): number {
    assert(this.canWrite, 'only a handle for writing appends');
    if (this.#appendFd < 0) this.#appendFd = this.calls.openToAppend(this.fd);
    return this.#appendFd;
  }
}
