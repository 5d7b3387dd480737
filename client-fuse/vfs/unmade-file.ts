/**
 * A file that a program has made, and the server has not yet: it is made there when it is closed, with what was written to it, by one
 * request; or sooner, when somebody wants to know more of it than that it is there, and after a short time. Owned by its node,
 * which has no inode until then; how the server is asked is FileCreation's business.
 */
import { limits } from '../../shared/limits.ts';
import type { GatheredWrite } from './write-behind.ts';

/** What became of what was gathered. */
export interface Made {
  /** Bytes of it. */
  readonly written: number;
  /** Nothing of it is left to be done. */
  readonly isComplete: boolean;
}

/** Asks the server. `write`: with this in the file. */
export type MakeFile = (write: GatheredWrite | undefined, closes: boolean) => Promise<Made>;

export class UnmadeFile {
  readonly #make: MakeFile;
  readonly #timer: NodeJS.Timeout;
  #made: Promise<void> | undefined;
  /** The thread whose open(2) has not returned yet: see `takeOpening`. */
  #opener: number | undefined;
  hasFailed = false;
  /** The program closes it: when it is made, nobody is to have it open. */
  isClosing = false;

  /** `opener`: the thread that makes it. */
  constructor(opener: number, make: MakeFile) {
    this.#opener = opener;
    this.#make = make;
    this.#timer = setTimeout(() => void this.made().catch(() => {}), limits.unmadeMs);
  }

  /** The server was not asked yet. */
  get isWaiting(): boolean {
    return this.#made === undefined;
  }

  /**
   * True, once: it is the kernel that asks for the attributes, for it looks at the permissions before open(2) returns (may_open() in fs/namei.c); the
   * program is not shown what it is told. Whatever is done to the file first comes from the program, as anything that another thread asks.
   */
  takeOpening(thread: number): boolean {
    const isOpener = this.isWaiting && this.#opener === thread;
    this.#opener = undefined;
    return isOpener;
  }

  /** The program has it open, and uses it. */
  opened(): void {
    this.#opener = undefined;
  }

  /** It may be made with this in it. */
  takes({ data }: GatheredWrite): boolean {
    return this.isWaiting && data.length <= limits.maxUnmadeBytes;
  }

  /** `takes` has said so. Rejects with FsError when it cannot be made. */
  makeWith(write: GatheredWrite): Promise<Made> {
    return this.#begin(write, this.isClosing).made;
  }

  /** Resolves when it is made. Rejects with FsError when it could not be, each time. */
  made(): Promise<void> {
    // What is closed with nothing in it is often about to be written to, through another descriptor (a shell's `>`).
    return this.#made ?? this.#begin(undefined, false).done;
  }

  #begin(write: GatheredWrite | undefined, closes: boolean): { made: Promise<Made>; done: Promise<void> } {
    clearTimeout(this.#timer);
    const made = this.#make(write, closes);
    const done = made.then(() => {});
    this.#made = done;
    // Told to whoever asks.
    done.catch(() => {
      this.hasFailed = true;
    });
    return { made, done };
  }
}
