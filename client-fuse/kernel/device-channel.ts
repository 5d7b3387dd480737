/**
 * DeviceChannel: the KernelChannel over a mounted /dev/fuse descriptor, which it owns and closes at its end. The event loop
 * polls the descriptor, requests are drained by reads that do not block, and for some time after the last one the loop is
 * kept awake (LoopPoll). An idle mount uses no CPU. Not in a blocking read on a thread of the pool, as first measured: such
 * a thread cannot be woken, and a process whose pool does not come back cannot exit (tried: not even by an uncaught
 * exception), so a broken client would leave its mount hanging; and each request would have to wake two threads.
 */
import { closeSync, write, writev, writevSync } from 'node:fs';
import { assert } from '../../shared/assert.ts';
import { errno, errnoOf, FsError } from '../../shared/errno.ts';
import { type Polling, pollReadable, readNonblocking, setNonblocking, writeBytes } from '../../shared/linux/libc.ts';
import type { LoopPoll } from '../../shared/loop-poll.ts';
import type { KernelChannel, Message, Receive } from './channel.ts';
import type { Reply } from './reply.ts';

/** Requests taken at one go, before timers and sockets have their turn. */
const BATCH = 64;
/** fuse_in_header, fuse_write_in, and room for the arguments of other requests. */
const HEADER_ROOM = 4096;
/** Until INIT has agreed upon a size the kernel wants at least 8 KiB (FUSE_MIN_READ_BUFFER). */
const INITIAL_MAX_WRITE = 128 * 1024;
/** Message buffers kept for reuse; more are made when more writes wait at once, and dropped afterwards. */
const IDLE_BYTES = 32 * 1024 * 1024;
/** Payloads up to here are copied behind the header: cheaper than a writev of two parts. */
const COPIED_PAYLOAD_BYTES = 16 * 1024;

/** What read(2) on /dev/fuse says besides data. Source: fuse_dev_do_read(). */
const TRY_AGAIN: ReadonlySet<number> = new Set([errno.EINTR, errno.ENOENT]);
const UNMOUNTED: ReadonlySet<number> = new Set([errno.ENODEV, errno.ECONNABORTED]);

export class DeviceChannel implements KernelChannel {
  readonly #fd: number;
  readonly #loop: LoopPoll;
  readonly #idle: Message[] = [];
  #messageBytes = INITIAL_MAX_WRITE + HEADER_ROOM;
  #current = makeMessage(this.#messageBytes);
  #receive: Receive | undefined;
  #polling: Polling | undefined;
  #resolve: () => void = () => {};
  #reject: (error: unknown) => void = () => {};
  #isOpen = true;

  /** `loop` is the process', shared with its connection to the server. */
  constructor(fd: number, loop: LoopPoll) {
    this.#fd = fd;
    this.#loop = loop;
    setNonblocking(fd);
  }

  serve(receive: Receive): Promise<void> {
    assert(this.#receive === undefined, 'a channel serves once');
    this.#receive = receive;
    return new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
      this.#polling = pollReadable(this.#fd, () => this.#drain());
    });
  }

  setMaxWrite(maxWriteBytes: number): void {
    // The message that holds INIT is still being read: it is replaced when it has been dealt with.
    this.#messageBytes = maxWriteBytes + HEADER_ROOM;
  }

  recycle(message: Message): void {
    if (message.bytes.length !== this.#messageBytes) return;
    if ((this.#idle.length + 1) * this.#messageBytes <= Math.max(IDLE_BYTES, 2 * this.#messageBytes)) {
      this.#idle.push(message);
    }
  }

  close(): void {
    this.#end();
  }

  // --- receiving -----------------------------------------------------------------------------------------------------------

  /** Takes in what is there; what is left makes the descriptor readable again. */
  #drain(): void {
    const receive = this.#receive as Receive;
    this.#loop.active();
    for (let count = 0; count < BATCH && this.#isOpen; count++) {
      const message = this.#current;
      const length = readNonblocking(this.#fd, message.bytes);
      if (length > 0) {
        message.length = length;
        const kept = receive(message);
        if (kept || message.bytes.length !== this.#messageBytes) this.#current = this.#takeMessage();
        continue;
      }
      if (length === -errno.EAGAIN) return;
      if (TRY_AGAIN.has(-length)) continue;
      this.#end(UNMOUNTED.has(-length) ? undefined : new FsError(-length, 'read of /dev/fuse'));
    }
  }

  #takeMessage(): Message {
    return this.#idle.pop() ?? makeMessage(this.#messageBytes);
  }

  #end(failure?: FsError): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    this.#polling?.close();
    closeSync(this.#fd);
    if (failure) this.#reject(failure);
    else this.#resolve();
  }

  // --- sending -------------------------------------------------------------------------------------------------------------

  reply(reply: Reply): number {
    if (!this.#isOpen) return errno.ENODEV;
    return this.#write(reply);
  }

  #write(reply: Reply): number {
    const { payload } = reply;
    if (payload === undefined || payload.length <= COPIED_PAYLOAD_BYTES) {
      if (payload !== undefined) {
        const at = reply.claim(payload.length); // may move reply.bytes
        reply.bytes.set(payload, at);
      }
      const written = writeBytes(this.#fd, reply.bytes, reply.length);
      return written < 0 ? -written : 0;
    }
    try {
      writevSync(this.#fd, [reply.bytes.subarray(0, reply.length), payload]);
      return 0;
    } catch (error) {
      return errnoOf(error);
    }
  }

  notify(notification: Uint8Array, data?: Uint8Array): Promise<number> {
    if (!this.#isOpen) return Promise.resolve(errno.ENODEV);
    return new Promise((resolve) => {
      const done = (error: Error | null) => resolve(error ? errnoOf(error) : 0);
      if (data === undefined) write(this.#fd, notification, done);
      else writev(this.#fd, [notification, data], done);
    });
  }
}

function makeMessage(size: number): Message {
  const bytes = Buffer.allocUnsafeSlow(size);
  return { bytes, view: new DataView(bytes.buffer, bytes.byteOffset, size), length: 0 };
}
