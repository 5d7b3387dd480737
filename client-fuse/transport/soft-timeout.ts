/**
 * A soft mount's patience: callers that waited for `timeoutMs`, while the server said nothing at all, get ETIMEDOUT. What they
 * asked for may have been done, or be done yet. A server that is there may let a caller wait (for a lock) as long as it
 * likes; so one that says nothing is asked. Silence is counted in checks: between two of them what has come is read, however
 * long this process was held up. Owned by the ServerSession.
 */
import { errno } from '../../shared/errno.ts';
import { UnansweredError } from './unanswered-error.ts';

/** How often it is looked whether callers wait too long. */
const CHECKS_PER_TIMEOUT = 8;

export interface Waiting {
  readonly calledMs: number;
  readonly operation: string;
  readonly reject: (error: unknown) => void;
}

export interface Silenced<W extends Waiting> {
  /** Requests without a reply. */
  waiting(): readonly W[];
  askWhetherThere(): void;
  /** Its caller is about to be told. */
  abandon(late: W): void;
}

export class SoftTimeout<W extends Waiting> {
  readonly #timeoutMs: number;
  readonly #session: Silenced<W>;
  readonly #timer: NodeJS.Timeout;
  /** Who waits for what the server says unasked. */
  readonly #expecting = new Set<Waiting>();
  #silentChecks = 0;

  constructor(timeoutMs: number, session: Silenced<W>) {
    this.#timeoutMs = timeoutMs;
    this.#session = session;
    this.#timer = setInterval(() => this.#check(), timeoutMs / CHECKS_PER_TIMEOUT).unref();
  }

  /** The server said something. */
  heard(): void {
    this.#silentChecks = 0;
  }

  /** Waits for something that the server says unasked: as long as it says anything at all. */
  expect<T>(said: Promise<T>, operation: string): Promise<T> {
    return new Promise((resolve, reject) => {
      const expecting = { calledMs: performance.now(), operation, reject };
      this.#expecting.add(expecting);
      void said.then(resolve, reject).finally(() => this.#expecting.delete(expecting));
    });
  }

  close(): void {
    clearInterval(this.#timer);
  }

  #check(): void {
    this.#silentChecks++;
    const waiting = this.#session.waiting();
    if (waiting.length + this.#expecting.size === 0 || this.#silentChecks < CHECKS_PER_TIMEOUT / 2) return;
    this.#session.askWhetherThere();
    if (this.#silentChecks < CHECKS_PER_TIMEOUT) return;
    const isLate = this.#isLate(performance.now());
    for (const late of waiting.filter(isLate)) {
      this.#session.abandon(late);
      tell(late);
    }
    for (const late of [...this.#expecting].filter(isLate)) {
      this.#expecting.delete(late);
      tell(late);
    }
  }

  #isLate(nowMs: number): (one: Waiting) => boolean {
    return ({ calledMs }) => nowMs - calledMs >= this.#timeoutMs;
  }
}

function tell({ operation, reject }: Waiting): void {
  reject(new UnansweredError(errno.ETIMEDOUT, operation));
}
