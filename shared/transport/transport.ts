/**
 * A connection that carries messages both ways, in order, each of one or two fragments. Implemented by a WebSocket, and
 * by whatever a test puts in its place. Owned by one Connection (server) or Link (client), which closes it.
 */
export interface TransportEvents {
  /** One whole message. The buffers are the receiver's to keep. */
  message(fragments: readonly Buffer[]): void;
  /** Once, whoever closed it. Nothing arrives or leaves after it. `silentMs`: it had been silent for so long at least. */
  closed(reason: string, silentMs?: number): void;
}

export interface Transport {
  /** Sends `head` and `bulk` as one message. `bulk` must stay untouched until `flushed` is called (on failure too). */
  send(head: Uint8Array, bulk?: Uint8Array, flushed?: () => void): void;
  /** Bytes given to send() that the network has not taken yet. */
  readonly queuedBytes: number;
  /** Stops and resumes the arrival of messages: the sender at the other end is slowed down. */
  pause(): void;
  resume(): void;
  /** Ends the connection after what was sent; `reason` is at most 120 bytes and shown to the peer. */
  close(reason: string): void;
  /** Ends the connection at once. */
  terminate(): void;
}
