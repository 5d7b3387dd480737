/**
 * A request from its arrival to its reply. Its abort signal is made when somebody first asks for it: most requests never
 * wait, and an AbortSignal costs more than the rest of the bookkeeping.
 */
import { errno, FsError } from '../../shared/errno.ts';
import type { InterruptedWrite } from './interrupted-writes.ts';
import type { Outcome } from './outcome.ts';
import type { EarlierRequest, SessionJournal, WritePlace } from './request-journal.ts';

export class InFlightRequest {
  readonly #slot: number;
  readonly #seq: number;
  readonly #journal: SessionJournal | undefined;
  #controller: AbortController | undefined;
  #cancelled = false;
  #isSessionOver = false;
  /** It changes something, or has. */
  #hasBegun = false;
  /** What an earlier process of the server noted of it. */
  earlier: EarlierRequest | undefined;
  /** A write that an earlier process had begun: its pages are this request's until it ends. */
  interrupted: InterruptedWrite | undefined;
  /** What is to be noted of its end: nothing, how it is, or only how it failed, since success is noted already. */
  #noted: 'nothing' | 'end' | 'failure' = 'nothing';
  /** It has left nothing behind: its reply is not kept, since it can be made again. */
  isRepeatable = false;
  /** For the journal: the inode that it made, and the bytes that it wrote. */
  made: Uint8Array | undefined;
  count = 0;
  /** The connection that brought the request, and those that brought it again meanwhile: all want its outcome. */
  readonly answers: ((outcome: Outcome) => void)[] = [];

  /** `journal`: undefined where none is kept. */
  constructor(slot: number, seq: number, journal: SessionJournal | undefined, interrupted?: InterruptedWrite) {
    this.#slot = slot;
    this.#seq = seq;
    this.#journal = journal;
    const earlier = journal?.earlier.get(slot);
    this.earlier = earlier?.seq === seq ? earlier : undefined;
    this.interrupted = interrupted;
    if (interrupted) this.#noted = 'end';
  }

  /** Aborted when the caller gave up, or the session ended. */
  get signal(): AbortSignal {
    if (this.#controller === undefined) {
      this.#controller = new AbortController();
      if (this.#cancelled) this.#controller.abort();
    }
    return this.#controller.signal;
  }

  /**
   * Called right before a change that must not be made twice: if the server is killed from now on, it may have been made.
   * Of a second attempt the note of the first one stays, since it may have been made then. `where`: a write, which the next
   * process finishes before anybody looks there. Throws FsError when its session ended while it waited.
   */
  applying(where?: WritePlace): void {
    this.applyingAgain();
    if (this.earlier === undefined) this.#journal?.begun(this.#slot, this.#seq, Date.now(), where);
  }

  /** It is made, and `made` and `count` say what. As soon as possible: a server that is killed before does not know. */
  applied(): void {
    this.#noted = 'failure';
    this.#noteEnd(0);
  }

  /** Before a change that may be made again, as long as nobody has seen it: once it is done, others may change it further. Throws the same. */
  applyingAgain(): void {
    if (this.#isSessionOver && !this.#hasBegun) throw new FsError(errno.ESHUTDOWN, 'session');
    this.#hasBegun = true;
    this.#noted = 'end';
  }

  ended(code: number): void {
    // What was waiting then has not been tried: the next process is to carry it out when it is sent again.
    if (this.#isSessionOver && !this.#hasBegun) this.#noted = 'nothing';
    if (this.#noted === 'end' || (this.#noted === 'failure' && code !== 0)) this.#noteEnd(code);
    this.#noted = 'nothing';
    this.interrupted?.[Symbol.dispose]();
    this.interrupted = undefined;
  }

  #noteEnd(code: number): void {
    this.#journal?.done(this.#slot, this.#seq, code, this.made, this.count);
  }

  /** It changes nothing any more, if it has not begun to. */
  sessionEnded(): void {
    this.#isSessionOver = true;
    this.cancel();
  }

  cancel(): void {
    this.#cancelled = true;
    this.#controller?.abort();
  }
}
