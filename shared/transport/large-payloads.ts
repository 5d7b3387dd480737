/**
 * Large payloads of a WebSocket, put together in memory that is used again. `ws` takes fresh memory for each, which costs
 * its page faults: half a write's processor time at the server while its memory grows. Whoever is done with such a buffer
 * says so; one that is not given back is left to the garbage collector.
 */
import type { WebSocket } from 'ws';
import { BufferPool } from '../buffer-pool.ts';
import { limits, MiB } from '../limits.ts';

const pool = new BufferPool(2 * limits.maxBytesInFlight);
/** What was taken from it and not given back. */
const lent = new WeakSet<Uint8Array>();
/** Only these: payloads of streams, which are whole chunks. */
const PAYLOAD_BYTES = MiB;

/** What this uses of the Receiver of `ws`: parts of a frame that has come whole. */
interface Receiver {
  readonly _buffers: readonly Buffer[];
  consume(bytes: number): Buffer;
}

/** From now on the socket's payloads of one MiB come in buffers of the pool. A `ws` that is made otherwise goes on as it does. */
export function poolLargePayloads(socket: WebSocket): void {
  const receiver = (socket as unknown as { _receiver?: Partial<Receiver> })._receiver;
  if (typeof receiver?.consume !== 'function' || !Array.isArray(receiver._buffers)) return;
  const { _buffers: parts } = receiver as Receiver;
  const consume = receiver.consume.bind(receiver);
  receiver.consume = (bytes) => {
    // One that came in one part is a view of it.
    if (bytes !== PAYLOAD_BYTES || (parts[0]?.length ?? bytes) >= bytes) return consume(bytes);
    const payload = pool.take(bytes);
    for (let at = 0; at < bytes; ) {
      const part = consume(Math.min(bytes - at, (parts[0] as Buffer).length));
      payload.set(part, at);
      at += part.length;
    }
    lent.add(payload);
    return payload;
  };
}

/** Nobody uses the payload any more. Does nothing for one that did not come from here. */
export function recyclePayload(payload: Uint8Array): void {
  if (lent.delete(payload)) pool.giveBack(payload as Buffer);
}
