/**
 * Counters: what the driver has done since it started, for `weft status`. Owned by the dispatcher; reading them is free.
 */
import { OPCODE_LIMIT, opcodeName } from './constants.ts';

export class Counters {
  readonly #requests = new Float64Array(OPCODE_LIMIT);
  /** Bytes of read replies and of write requests. */
  bytesRead = 0;
  bytesWritten = 0;
  /** Requests answered with an errno, those with an unexpected error among them. */
  errors = 0;
  unexpectedErrors = 0;
  /** INTERRUPT requests, and callers that were answered EINTR because they were being killed. */
  interrupts = 0;
  killedCallers = 0;
  /** Replies that nobody took any more. */
  undelivered = 0;

  count(opcode: number): void {
    if (opcode < OPCODE_LIMIT) this.#requests[opcode] = (this.#requests[opcode] as number) + 1;
  }

  /** Requests by the name of their operation; only those that occurred. */
  get requests(): Record<string, number> {
    const result: Record<string, number> = {};
    this.#requests.forEach((count, code) => {
      if (count > 0) result[opcodeName(code)] = count;
    });
    return result;
  }
}
