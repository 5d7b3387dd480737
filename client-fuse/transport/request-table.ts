/**
 * Requests without a reply, in the order in which they were made: those in flight, each in its slot from its first sending
 * until it ends, and those that wait for a slot. The server keeps one reply a slot, and takes the next request there as the
 * word that nobody waits for the one before. Pure; owned by the ServerSession.
 */
import { limits } from '../../shared/limits.ts';

export interface SlottedRequest {
  readonly seq: number;
  slot: number;
}

export class RequestTable<R extends SlottedRequest> {
  readonly #inFlight = new Map<number, R>();
  readonly #queued: R[] = [];
  readonly #freeSlots = Array.from(
    { length: limits.maxRequestsInFlight },
    (_, index) => limits.maxRequestsInFlight - 1 - index,
  );

  get size(): number {
    return this.#inFlight.size + this.#queued.length;
  }

  get inFlight(): Iterable<R> {
    return this.#inFlight.values();
  }

  /** A copy: whoever goes over it may end them. */
  get all(): readonly R[] {
    return [...this.#inFlight.values(), ...this.#queued];
  }

  find(seq: number): R | undefined {
    return this.#inFlight.get(seq);
  }

  /** True: it is in flight. False: its turn comes when others have ended. */
  add(request: R): boolean {
    const slot = this.#freeSlots.pop();
    if (slot === undefined) this.#queued.push(request);
    else this.#start(request, slot);
    return slot !== undefined;
  }

  /** True: it was waiting for a slot, and is gone. */
  withdraw(request: R): boolean {
    const index = this.#queued.indexOf(request);
    if (index >= 0) this.#queued.splice(index, 1);
    return index >= 0;
  }

  /** Returns the one whose turn it is then: it is in flight. */
  end(request: R): R | undefined {
    this.#inFlight.delete(request.seq);
    const next = this.#queued.shift();
    if (next) this.#start(next, request.slot);
    else this.#freeSlots.push(request.slot);
    return next;
  }

  /** Returns all, which have ended. */
  clear(): readonly R[] {
    const { all } = this;
    this.#queued.length = 0;
    for (const request of this.#inFlight.values()) this.#freeSlots.push(request.slot);
    this.#inFlight.clear();
    return all;
  }

  #start(request: R, slot: number): void {
    request.slot = slot;
    this.#inFlight.set(request.seq, request);
  }
}
