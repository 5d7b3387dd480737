/**
 * KernelChannel: the way between the kernel and the driver. One implementation reads /dev/fuse, a test has its own. The
 * channel owns the descriptor and the message buffers; a message belongs to the driver from `receive` until it gives
 * it back, which is at once unless `receive` returned true.
 */
import type { Reply } from './reply.ts';

/** One request as the kernel wrote it: fuse_in_header, arguments, data. */
export interface Message {
  readonly bytes: Buffer;
  /** Over the same memory as `bytes`. */
  readonly view: DataView;
  /** How much of `bytes` is the request. */
  length: number;
}

/** Takes a request. True: the message is still in use, and will be given back by `recycle`. */
export type Receive = (message: Message) => boolean;

export interface KernelChannel {
  /** Hands every request to `receive` until the filesystem is unmounted or `close` is called; then resolves. */
  serve(receive: Receive): Promise<void>;
  /** Takes back a message that `receive` kept. */
  recycle(message: Message): void;
  /**
   * Writes a reply before it returns: 0, or the errno with which the kernel refused it. ENOENT: nobody waits for it
   * any more, and the kernel took nothing in. Does not throw.
   */
  reply(reply: Reply): number;
  /**
   * Writes a notification from another thread, never from this one: the kernel may wait for a lock that is held until
   * this very process has answered a request. Resolves to 0 or an errno. `data` follows it, and must not change until then.
   */
  notify(notification: Uint8Array, data?: Uint8Array): Promise<number>;
  /** The size of requests is agreed upon: buffers for writes of `maxWriteBytes`. Called once, by INIT. */
  setMaxWrite(maxWriteBytes: number): void;
  /** Ends `serve`. The mount stays until the descriptor is closed or it is unmounted. */
  close(): void;
}
