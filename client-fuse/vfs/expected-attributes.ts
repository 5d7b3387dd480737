/**
 * The attributes of a file that this client has made and gathers for, as they will be when all that was gathered is at the
 * server: type, mode, owner and size, that is; of the times only the server knows. Known for as long as nothing is done to
 * the file but gathering. Owned by the handle.
 */
import type { Attributes } from '../../shared/attributes.ts';
import type { LeaseCache } from '../leases/lease-cache.ts';
import type { Node } from './node.ts';

const NEVER = -1;

export class ExpectedAttributes {
  readonly #leases: LeaseCache;
  readonly #node: Node;
  #attributes: Attributes | undefined;
  /** The clock of the last own change that they account for. */
  #mark = NEVER;

  constructor(leases: LeaseCache, node: Node) {
    this.#leases = leases;
    this.#node = node;
  }

  /** `isClean`: all that was gathered is at the server, so that what it said last is what is to be expected. */
  now(isClean: boolean): Attributes | undefined {
    if (!this.#isKnown) {
      this.#attributes = isClean ? this.#leases.knownAttributes(this.#node) : undefined;
      this.#mark = this.#node.known?.changedAt ?? NEVER;
    }
    return this.#attributes;
  }

  /** Gathered: `length` bytes at `offset`. */
  wrote(offset: number, length: number): void {
    const size = offset + length;
    if (this.#attributes && size > this.#attributes.size) this.#attributes = { ...this.#attributes, size };
  }

  /** Gathered: these are expected now. */
  become(attributes: Attributes): void {
    this.#attributes = attributes;
  }

  /** Does `step`, which tells the leases of gathering: what is expected stays so. */
  keep<T>(step: () => T): T {
    const isKnown = this.#isKnown;
    const result = step();
    if (isKnown) this.#mark = this.#node.known?.changedAt ?? NEVER;
    return result;
  }

  get #isKnown(): boolean {
    return this.#attributes !== undefined && this.#leases.isUndisturbed(this.#node, this.#mark);
  }
}
