/**
 * Large payloads of a WebSocket are read where they stay. Node reads a socket into fresh buffers of 64 KiB, and `ws` puts a
 * payload together from them, in one more: a copy, two allocations, and sixteen rounds through two streams for a MiB. A
 * PayloadReader says instead where the socket's next bytes go (`onread` of node:net), and while a large payload is awaited that
 * is the payload's own buffer. One a connection; with TLS there is none, for Node's servers have no `onread` there.
 */
import { connect, type OnReadOpts, Socket, type SocketConstructorOpts } from 'node:net';
import type { WebSocket } from 'ws';
import { BufferPool } from '../buffer-pool.ts';
import { KiB, limits, MiB } from '../limits.ts';

/** Where heads and small payloads go, one behind the other. Each connection keeps one, however idle it is. */
const SLAB_BYTES = 16 * KiB;
const LEAST_ROOM_BYTES = 2 * KiB;
/** Before there is a WebSocket: who asks for one may never have it. */
const FIRST_SLAB_BYTES = 4 * KiB;
/** Of a payload that lacks less, the rest comes with what follows it. */
const LARGE_BYTES = 16 * KiB;
/** Memory for what is only announced: so much, and so many times what has come of it. */
const AHEAD_BYTES = 2 * MiB;
const AHEAD_TIMES = 16;

/** What this uses of the Receiver of `ws`: the parts that have come, and what it waits for. */
interface Receiver {
  readonly _buffers: readonly Buffer[];
  readonly _bufferedBytes: number;
  readonly _payloadLength: number;
  readonly _state: number;
  consume(bytes: number): Buffer;
}
/** Of `_state`: the payload is awaited. */
const GET_DATA = 4;

export class PayloadReader {
  readonly #onread: OnReadOpts = { buffer: () => this.#room(), callback: (bytes) => this.#arrived(bytes) };
  readonly #allocate: (bytes: number) => Buffer;
  #socket: Socket | undefined;
  #receiver: Receiver | undefined;
  #slab: Buffer = Buffer.allocUnsafeSlow(FIRST_SLAB_BYTES);
  /** What the socket was told to fill. */
  #offered: Buffer = this.#slab;
  /** The payload that is awaited, if it is large. */
  #payload: Buffer | undefined;

  /** `allocate` gives buffers of exactly so many bytes, each of its own memory. */
  constructor(allocate: (bytes: number) => Buffer = Buffer.allocUnsafeSlow) {
    this.#allocate = allocate;
  }

  /** The connection to a server. */
  connect(host: string, port: number): Socket {
    this.#socket = connect({ host, port, onread: this.#onread });
    return this.#socket;
  }

  /** A connection that was accepted, as an HTTP server has it. The descriptor is the socket's from now on. */
  accept(fd: number): Socket {
    const options: SocketConstructorOpts & { onread: OnReadOpts } = { fd, allowHalfOpen: true, onread: this.#onread };
    this.#socket = new Socket({ ...options, readable: true, writable: true });
    return this.#socket;
  }

  /** Its WebSocket. With a `ws` that is made otherwise payloads are put together as ever. */
  follow(webSocket: WebSocket): void {
    const receiver = (webSocket as unknown as { _receiver?: Partial<Receiver> })._receiver;
    if (typeof receiver?.consume !== 'function' || !Array.isArray(receiver._buffers)) return;
    this.#receiver = receiver as Receiver;
    const consume = receiver.consume.bind(receiver);
    receiver.consume = (bytes) => (bytes === this.#payload?.length ? this.#whole(consume) : consume(bytes));
  }

  #arrived(bytes: number): boolean {
    const arrived = this.#offered.subarray(0, bytes);
    if (this.#payload === undefined) this.#slab = this.#slab.subarray(bytes);
    // As a socket does that reads by itself; `ws` listens to it.
    this.#socket?.emit('data', arrived);
    return true;
  }

  #room(): Buffer {
    this.#offered = this.#roomOfPayload() ?? this.#roomInSlab();
    return this.#offered;
  }

  #roomInSlab(): Buffer {
    if (this.#slab.length < LEAST_ROOM_BYTES)
      this.#slab = Buffer.allocUnsafeSlow(this.#receiver ? SLAB_BYTES : FIRST_SLAB_BYTES);
    return this.#slab;
  }

  #roomOfPayload(): Buffer | undefined {
    const receiver = this.#receiver;
    if (receiver?._state !== GET_DATA) return undefined;
    const { _payloadLength: length, _bufferedBytes: arrived } = receiver;
    if (this.#payload === undefined) {
      const isWorthIt = length - arrived >= LARGE_BYTES && length <= AHEAD_BYTES + AHEAD_TIMES * arrived;
      if (!isWorthIt) return undefined;
      this.#payload = this.#allocate(length);
    }
    return this.#payload.subarray(arrived, length);
  }

  /** All of it has come; what came before there was a buffer for it is in front. */
  #whole(consume: (bytes: number) => Buffer): Buffer {
    const payload = this.#payload as Buffer;
    const { _buffers: parts } = this.#receiver as Receiver;
    this.#payload = undefined;
    for (let at = 0; at < payload.length; ) {
      const part = consume((parts[0] as Buffer).length);
      if (part.buffer !== payload.buffer) payload.set(part, at);
      at += part.length;
    }
    return payload;
  }
}

// --- memory that is used again

const pool = new BufferPool(2 * limits.maxBytesInFlight);
/** What was taken from it and not given back. */
const lent = new WeakSet<Uint8Array>();
/** Only these: payloads of streams, which are whole chunks. */
const POOLED_BYTES = MiB;

/** For a PayloadReader whose payloads are given back: fresh memory costs its page faults. */
export function pooledPayload(bytes: number): Buffer {
  if (bytes !== POOLED_BYTES) return Buffer.allocUnsafeSlow(bytes);
  const payload = pool.take(bytes);
  lent.add(payload);
  return payload;
}

/** Nobody uses the payload any more. Does nothing for one that did not come from the pool. */
export function recyclePayload(payload: Uint8Array): void {
  if (lent.delete(payload)) pool.giveBack(payload as Buffer);
}
