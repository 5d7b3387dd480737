/**
 * The replies of one connection that its client has not taken yet, and the requests that wait until it has. A client that
 * does not take what it asked for is not read for more: its replies stay within bounds, whatever it goes on asking for.
 * Reads and the rest are counted apart, so that who does not take data slows down its own reads, before they take memory,
 * and nothing else. Recalls and decisions about locks never wait.
 */
import { limits } from '../../shared/limits.ts';
import type { Transport } from '../../shared/transport/transport.ts';
import type { InFlightRequest } from '../session/in-flight-request.ts';

export interface HeldRequest {
  readonly seq: number;
  readonly request: InFlightRequest;
  readonly start: () => void;
}

export class ReplyQueue {
  readonly #transport: Transport;
  readonly #startLater: (start: () => void) => void;
  /** Data that reads have asked for: being read, or queued in the socket. */
  #readBytes = 0;
  #queuedReadBytes = 0;
  readonly #reads: HeldRequest[] = [];
  readonly #others: HeldRequest[] = [];
  readonly #taken = (): void => this.#startWhatMay();

  /** `startLater` does what a request waited for, and lets no error out. */
  constructor(transport: Transport, startLater: (start: () => void) => void) {
    this.#transport = transport;
    this.#startLater = startLater;
  }

  /** Its client has not taken the replies to requests other than reads. */
  get isBehind(): boolean {
    return this.#otherBytes > limits.maxQueuedReplyBytes;
  }

  get #otherBytes(): number {
    return this.#transport.queuedBytes - this.#queuedReadBytes;
  }

  /** Now, or when the client has taken more. */
  start(request: HeldRequest, isRead: boolean): void {
    if (isRead) {
      if (this.#readBytes > limits.maxQueuedReplyBytes) this.#reads.push(request);
      else request.start();
    } else if (this.isBehind || this.#others.length > 0) this.#others.push(request);
    else request.start();
  }

  /** As many bytes will be read for a reply; negative when they have been. */
  reading(bytes: number): void {
    this.#readBytes += bytes;
  }

  /** Of a read. */
  sendData(head: Uint8Array, bulk: Uint8Array, flushed?: () => void): void {
    const { length } = bulk;
    this.#readBytes += length;
    this.#queuedReadBytes += length;
    this.#transport.send(head, bulk, () => {
      this.#readBytes -= length;
      this.#queuedReadBytes -= length;
      flushed?.();
      this.#startWhatMay();
    });
  }

  /** Of anything else. Half of the limit before there is something to wait for, it is heard when this has left. */
  send(head: Uint8Array, bulk?: Uint8Array, flushed?: () => void): void {
    if (bulk) {
      this.#transport.send(head, bulk, () => {
        flushed?.();
        this.#startWhatMay();
      });
    } else if (this.#otherBytes + head.length > limits.maxQueuedReplyBytes / 2) {
      this.#transport.send(head, undefined, this.#taken);
    } else this.#transport.send(head);
  }

  #startWhatMay(): void {
    while (this.#readBytes <= limits.maxQueuedReplyBytes) {
      const held = this.#reads.shift();
      if (held === undefined) break;
      this.#startLater(held.start);
    }
    while (!this.isBehind) {
      const held = this.#others.shift();
      if (held === undefined) break;
      this.#startLater(held.start);
    }
  }

  /** Those that wait, which wait no more. */
  takeAll(): HeldRequest[] {
    return [...this.#reads.splice(0), ...this.#others.splice(0)];
  }
}
