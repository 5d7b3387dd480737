/**
 * What the server has sent so far of a directory that is too long to be listed when it is opened. The server sends it in
 * parts, and the kernel takes it in smaller ones. Owned by the open handle; rewinddir(3) and a seekdir(3) to where these
 * parts do not lead begin anew. Pure: RemoteDirectories asks and answers.
 */
import type { U64 } from '../../shared/attributes.ts';
import { limits } from '../../shared/limits.ts';

export interface ListedName {
  readonly name: Uint8Array;
  readonly ino: U64;
  readonly type: number;
  readonly cookie: U64;
}

export class ListingParts {
  /** Since when nothing must have happened to the directory for the whole to be kept. */
  readonly asOf: number;
  /** The position before the first name that is here. */
  #start: U64;
  #names: ListedName[] = [];
  /** So many of them were given to the kernel. */
  #given = 0;
  #isWhole: boolean;
  /** So many names came, here or not any more. */
  count = 0;
  isAtEnd = false;
  /** The directory's lease came with each of the parts. */
  isLeased = true;
  /** The next part is on its way. */
  asking: Promise<void> | undefined;

  constructor(start: U64, asOf: number) {
    this.#start = start;
    this.#isWhole = start === 0;
    this.asOf = asOf;
  }

  /** Where the next part begins. */
  get end(): U64 {
    return this.#names.at(-1)?.cookie ?? this.#start;
  }

  /** So many names are here and were not given to the kernel. */
  get left(): number {
    return this.#names.length - this.#given;
  }

  /** All that the directory lists; undefined: not all of it came, or not under one lease. */
  get whole(): readonly ListedName[] | undefined {
    return this.#isWhole && this.isLeased && this.isAtEnd ? this.#names : undefined;
  }

  /** These positions are of this listing. */
  has(cookie: U64): boolean {
    return this.#after(cookie) !== undefined;
  }

  /** As many of the names after `cookie` as `fits` says when it is given one after the other. */
  take(cookie: U64, fits: (name: ListedName) => boolean): readonly ListedName[] {
    const from = this.#after(cookie) ?? this.#names.length;
    let to = from;
    for (let name = this.#names[to]; name && fits(name); name = this.#names[to]) to++;
    this.#given = to;
    return this.#names.slice(from, to);
  }

  add(names: readonly ListedName[], isEnd: boolean, isLeased: boolean): void {
    // Longer than what is kept: the kernel does not come back for what it has, or begins anew.
    if (this.#names.length > limits.maxKnownListing) {
      this.#isWhole = false;
      this.#start = this.#names[this.#given - 1]?.cookie ?? this.#start;
      this.#names = this.#names.slice(this.#given);
      this.#given = 0;
    }
    this.#names.push(...names);
    this.count += names.length;
    this.isAtEnd = isEnd;
    this.isLeased &&= isLeased;
  }

  #after(cookie: U64): number | undefined {
    if (this.#given > 0 && this.#names[this.#given - 1]?.cookie === cookie) return this.#given;
    if (cookie === this.#start) return 0;
    const at = this.#names.findLastIndex((one) => one.cookie === cookie);
    return at < 0 ? undefined : at + 1;
  }
}
