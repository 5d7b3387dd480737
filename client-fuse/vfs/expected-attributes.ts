/**
 * The attributes of a file that this client has made and gathers for, as they will be when all that was gathered is at the
 * server: type, mode, owner and size, that is; of the times only the server knows. Known for as long as nothing is done to
 * the file but gathering. Owned by the handle.
 */
import type { Attributes } from '../../shared/attributes.ts';

/** What is known of the file under its lease. */
export interface KnownFile {
  readonly attributes: Attributes | undefined;
  /** The clock of the last change or recall. */
  readonly lastChange: number;
  isUndisturbed(since: number): boolean;
}

const NEVER = -1;

export class ExpectedAttributes {
  readonly #file: KnownFile;
  #attributes: Attributes | undefined;
  /** The clock of the last own change that they account for. */
  #mark = NEVER;

  constructor(file: KnownFile) {
    this.#file = file;
  }

  /** `isClean`: all that was gathered is at the server, so that what it said last is what is to be expected. */
  now(isClean: boolean): Attributes | undefined {
    const said = isClean ? this.#file.attributes : undefined;
    if (said || !this.#isKnown) {
      this.#attributes = said;
      this.#mark = this.#file.lastChange;
    }
    return this.#attributes;
  }

  /** Gathered: `length` bytes at `offset`. */
  wrote(offset: number, length: number): void {
    const size = offset + length;
    if (this.#attributes && size > this.#attributes.size) this.#attributes = { ...this.#attributes, size };
  }

  /** Of a file that the server has not made yet. */
  begin(attributes: Attributes): void {
    this.#attributes = attributes;
    this.#mark = this.#file.lastChange;
  }

  /** Gathered: these are expected now. */
  become(attributes: Attributes): void {
    this.#attributes = attributes;
  }

  /** Does `step`, with which the gathering handle voids what is known of the file: what is expected stays so. */
  keep<T>(step: () => T): T {
    const isKnown = this.#isKnown;
    const result = step();
    if (isKnown) this.#mark = this.#file.lastChange;
    return result;
  }

  get #isKnown(): boolean {
    return this.#attributes !== undefined && this.#file.isUndisturbed(this.#mark);
  }
}
