/**
 * Request: one request of the kernel, decoded as far as its header, and at the same time the Caller whom the filesystem
 * sees. Owned by the dispatcher from its arrival until its result is there (which may be after it was answered:
 * the caller was killed). Names are copied out of the message, data is a view of it; `view` is only good during the
 * call, for the next request is read into the same memory.
 */
import { errno, FsError } from '../../shared/errno.ts';
import type { Caller } from '../vfs/filesystem.ts';
import type { Message } from './channel.ts';
import { inHeader } from './structures.ts';
import type { TaskInspector } from './task.ts';

const h = inHeader.fields;

/** Where the arguments begin. */
export const BODY = inHeader.bytes;

export class Request implements Caller {
  readonly opcode: number;
  readonly unique: number;
  readonly node: number;
  readonly uid: number;
  readonly gid: number;
  readonly pid: number;
  readonly message: Message;
  readonly view: DataView;
  /** End of the request in the message. */
  readonly end: number;
  /** The kernel has its answer. */
  answered = false;
  /** Who uses data of the message: the operation until its result is there, and whoever has kept them. */
  #users = 0;
  /** The largest reply that the caller has room for (READ, GETXATTR, LISTXATTR). */
  room = 0;
  /** Scans of the caller watch that this request has seen. */
  scans = 0;

  readonly #tasks: TaskInspector;
  readonly #recycle: (message: Message) => void;
  #groups: readonly number[] | undefined;
  #abort: AbortController | undefined;

  /** `recycle` is called when data were kept and nobody uses them any more. */
  constructor(message: Message, tasks: TaskInspector, recycle: (message: Message) => void) {
    const view = message.view;
    this.message = message;
    this.view = view;
    this.end = message.length;
    this.opcode = h.opcode.get(view, 0);
    this.unique = h.unique.get(view, 0);
    this.node = h.nodeid.get(view, 0, errno.ESTALE);
    this.uid = h.uid.get(view, 0);
    this.gid = h.gid.get(view, 0);
    this.pid = h.pid.get(view, 0);
    this.#tasks = tasks;
    this.#recycle = recycle;
  }

  get groups(): readonly number[] {
    this.#groups ??= this.#tasks.groupsOf(this.pid);
    return this.#groups;
  }

  get signal(): AbortSignal {
    this.#abort ??= new AbortController();
    return this.#abort.signal;
  }

  /** The caller wants its request back. */
  abort(): void {
    this.#abort ??= new AbortController();
    this.#abort.abort();
  }

  /** Checks that the fixed part of the arguments is there. */
  expect(bytes: number): void {
    if (this.end < BODY + bytes) throw new FsError(errno.EIO, 'short request');
  }

  /** The NUL-terminated bytes at `offset`, copied: the message is used again while the filesystem may keep the name. */
  string(offset: number): Buffer {
    const bytes = this.message.bytes;
    let nul = offset;
    while (nul < this.end && bytes[nul] !== 0) nul++;
    if (nul >= this.end) throw new FsError(errno.EIO, 'unterminated name');
    const copy = Buffer.allocUnsafe(nul - offset);
    for (let index = offset; index < nul; index++) copy[index - offset] = bytes[index] as number;
    return copy;
  }

  /** `length` bytes at `offset`, copied. */
  copy(offset: number, length: number): Buffer {
    if (offset + length > this.end) throw new FsError(errno.EIO, 'short request');
    return Buffer.from(this.message.bytes.subarray(offset, offset + length));
  }

  get holdsMessage(): boolean {
    return this.#users > 0;
  }

  /** The result is there. True: somebody has kept the data, and gives the message back later. */
  settled(): boolean {
    if (this.#users > 0) this.#users--;
    return this.#users > 0;
  }

  keepData(): () => void {
    this.#users++;
    return () => {
      this.#users--;
      if (this.#users === 0) this.#recycle(this.message);
    };
  }

  /** `length` bytes at `offset` as a view of the message, which stays untouched until the result is there. */
  data(offset: number, length: number): Buffer {
    if (offset + length > this.end) throw new FsError(errno.EIO, 'short request');
    this.#users++;
    return this.message.bytes.subarray(offset, offset + length);
  }
}
