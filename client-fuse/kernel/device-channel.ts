/**
 * DeviceChannel: the KernelChannel over a mounted /dev/fuse descriptor, which it owns and closes at its end. Requests are
 * drained by reads that do not block; after the last one it looks again for some tens of microseconds (setImmediate),
 * and only then sleeps in poll(2) on a thread of the pool. An idle mount uses no CPU. Not in a blocking read, as first
 * measured: a thread in read(2) cannot be woken, and a process whose pool does not come back cannot exit (tried: not
 * even by an uncaught exception), so a broken client would leave its mount hanging.
 */
import { closeSync, write, writeSync, writevSync } from 'node:fs';
import { assert } from '../../shared/assert.ts';
import { errno, errnoOf, FsError } from '../../shared/errno.ts';
import { close, pollAsync, readNonblocking, setNonblocking, socketpair, writeBytes } from '../../shared/linux/libc.ts';
import type { KernelChannel, Message, Receive } from './channel.ts';
import type { Reply } from './reply.ts';

export interface DeviceChannelOptions {
  /**
   * How long to look for the next request before sleeping, after one came in or was answered. 0 switches it off. While
   * requests wait for the server it is five times that: a reply that has to wake this process first comes 100 us later.
   */
  readonly spinMs?: number;
}

const DEFAULT_SPIN_MS = 0.06;
const WAITING_FACTOR = 5;
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
  readonly #spinMs: number;
  /** Writing to [1] wakes the poll on [0]. */
  readonly #wake = socketpair();
  readonly #idle: Message[] = [];
  #messageBytes = INITIAL_MAX_WRITE + HEADER_ROOM;
  #current = makeMessage(this.#messageBytes);
  #receive: Receive | undefined;
  #inFlight: () => number = () => 0;
  #resolve: () => void = () => {};
  #reject: (error: unknown) => void = () => {};
  #state: 'serving' | 'ending' | 'ended' = 'serving';
  #failure: FsError | undefined;
  #sleeping = false;
  #spinning = false;
  #lastActivityMs = 0;
  /** A thread of the pool that still sleeps would keep the process from exiting. */
  readonly #onExit = () => this.#wakeUp();

  constructor(fd: number, options: DeviceChannelOptions = {}) {
    this.#fd = fd;
    this.#spinMs = options.spinMs ?? DEFAULT_SPIN_MS;
    setNonblocking(fd);
  }

  serve(receive: Receive, inFlight: () => number): Promise<void> {
    assert(this.#receive === undefined, 'a channel serves once');
    this.#receive = receive;
    this.#inFlight = inFlight;
    process.on('exit', this.#onExit);
    return new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
      this.#spin();
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
    if (this.#state !== 'serving') return;
    this.#state = 'ending';
    this.#wakeUp();
    if (!this.#sleeping && !this.#spinning) this.#end();
  }

  // --- receiving -----------------------------------------------------------------------------------------------------------

  /** One turn of the loop. `#spinning` holds from the time a turn is due until it has ended. */
  readonly #spin = (): void => {
    this.#spinning = true;
    if (this.#state === 'serving' && this.#drain()) this.#lastActivityMs = performance.now();
    const spinMs = this.#inFlight() > 0 ? this.#spinMs * WAITING_FACTOR : this.#spinMs;
    if (this.#state === 'serving' && performance.now() - this.#lastActivityMs < spinMs) {
      setImmediate(this.#spin);
      return;
    }
    this.#spinning = false;
    if (this.#state === 'serving') this.#sleep();
    else this.#end();
  };

  #spinOn(): void {
    if (this.#spinning) return;
    this.#spinning = true;
    setImmediate(this.#spin);
  }

  #sleep(): void {
    if (this.#sleeping) return;
    this.#sleeping = true;
    pollAsync([this.#fd, this.#wake[0]], this.#woken);
  }

  readonly #woken = (): void => {
    this.#sleeping = false;
    this.#lastActivityMs = performance.now();
    if (!this.#spinning) this.#spin();
  };

  /** Takes in what is there. True when there was something. */
  #drain(): boolean {
    const receive = this.#receive as Receive;
    for (let count = 0; count < BATCH && this.#state === 'serving'; count++) {
      const message = this.#current;
      const length = readNonblocking(this.#fd, message.bytes);
      if (length > 0) {
        message.length = length;
        const kept = receive(message);
        if (kept || message.bytes.length !== this.#messageBytes) this.#current = this.#takeMessage();
        continue;
      }
      if (length === -errno.EAGAIN) return count > 0;
      if (TRY_AGAIN.has(-length)) continue;
      if (!UNMOUNTED.has(-length)) this.#failure = new FsError(-length, 'read of /dev/fuse');
      this.#state = 'ending';
      return true;
    }
    return true;
  }

  #takeMessage(): Message {
    return this.#idle.pop() ?? makeMessage(this.#messageBytes);
  }

  #wakeUp(): void {
    if (this.#sleeping) writeSync(this.#wake[1], 'x');
  }

  #end(): void {
    if (this.#state === 'ended') return;
    // The descriptor may be closed only when no thread polls it any more.
    if (this.#sleeping) {
      this.#wakeUp();
      return;
    }
    this.#state = 'ended';
    process.off('exit', this.#onExit);
    close(this.#wake[0]);
    close(this.#wake[1]);
    closeSync(this.#fd);
    if (this.#failure) this.#reject(this.#failure);
    else this.#resolve();
  }

  // --- sending -------------------------------------------------------------------------------------------------------------

  reply(reply: Reply): number {
    if (this.#state === 'ended') return errno.ENODEV;
    const refused = this.#write(reply);
    // Whoever got an answer is likely to ask again soon.
    this.#lastActivityMs = performance.now();
    if (this.#spinMs > 0) this.#spinOn();
    return refused;
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

  notify(notification: Uint8Array): Promise<number> {
    if (this.#state === 'ended') return Promise.resolve(errno.ENODEV);
    return new Promise((resolve) => {
      write(this.#fd, notification, (error) => resolve(error ? errnoOf(error) : 0));
    });
  }
}

function makeMessage(size: number): Message {
  const bytes = Buffer.allocUnsafeSlow(size);
  return { bytes, view: new DataView(bytes.buffer, bytes.byteOffset, size), length: 0 };
}
