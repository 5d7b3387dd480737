/**
 * A request from its arrival to its reply. Its abort signal is made when somebody first asks for it: most requests never
 * wait, and an AbortSignal costs more than the rest of the bookkeeping.
 */
import type { Outcome } from './outcome.ts';

export class InFlightRequest {
  #controller: AbortController | undefined;
  #cancelled = false;
  /** The connection that brought the request, and those that brought it again meanwhile: all want its outcome. */
  readonly answers: ((outcome: Outcome) => void)[] = [];

  /** Aborted when the caller gave up, or the session ended. */
  get signal(): AbortSignal {
    if (this.#controller === undefined) {
      this.#controller = new AbortController();
      if (this.#cancelled) this.#controller.abort();
    }
    return this.#controller.signal;
  }

  cancel(): void {
    this.#cancelled = true;
    this.#controller?.abort();
  }
}
