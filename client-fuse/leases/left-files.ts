/**
 * Whether a directory that is given back goes without the files below it whose pages are kept. That is well if another client
 * changes a name or two. One that removes or renames them all, or a whole tree, recalls each of them afterwards: then they
 * had better gone with the names at once. Pure: LeaseCache asks, and tells what it did.
 */
import type { Knowledge, Node } from '../vfs/node.ts';

/** So many files of one directory are recalled by themselves before the others are given back too. */
const RECALLED_ONE_BY_ONE = 3;
/** After so many directories in a row whose files were left in vain, none are left, but for one directory in so many. */
const LEFT_IN_VAIN = 2;
const LEFT_AGAIN_AFTER = 16;

export class LeftFiles {
  /** Directories in a row whose files were left and then recalled after all. */
  #inVain = 0;
  /** Of the directory that was recalled last. */
  #last: Knowledge['left'];
  /** Directories that were given back with their files because leaving them had been in vain. */
  #givenWithFiles = 0;

  /** Asked once for each directory that is given back: its files may stay. */
  mayStay(): boolean {
    if (this.#last?.recalls === 0) this.#inVain = 0;
    this.#last = undefined;
    return this.#inVain < LEFT_IN_VAIN || ++this.#givenWithFiles % LEFT_AGAIN_AFTER === 0;
  }

  /** These stay. */
  stay(directory: Knowledge, files: readonly Node[]): void {
    if (files.length > 0) directory.left = this.#last = { files, recalls: 0 };
  }

  /** `file` is recalled: those that stayed with it and had better go now, itself perhaps among them. */
  with(file: Node): readonly Node[] {
    const known = file.foundIn?.known;
    if (!known?.left?.files.includes(file)) return [];
    if (known.left.recalls === 0) this.#inVain++;
    if (++known.left.recalls < RECALLED_ONE_BY_ONE) return [];
    const { files } = known.left;
    known.left = undefined;
    return files;
  }
}
