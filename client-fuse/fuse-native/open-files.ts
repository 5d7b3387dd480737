/**
 * The open files and directories of a mount by the number that libfuse keeps for each (`fuse_file_info.fh`). Each owns its
 * filesystem handle and one lookup count on its node, from open to release, or until the mount has ended.
 */
import { errno, FsError } from '../../shared/errno.ts';
import type { NodeId } from '../vfs/filesystem.ts';
import type { HeldNode } from './path-resolver.ts';

export interface OpenFile {
  readonly handle: number;
  readonly node: NodeId;
}

interface Owned extends OpenFile {
  readonly held: HeldNode;
  readonly release: (handle: number) => void;
}

export class OpenFiles {
  readonly #files = new Map<number, Owned>();
  #last = 0;

  get size(): number {
    return this.#files.size;
  }

  /** Takes over `held` and the handle, which `release` will close. */
  add(handle: number, held: HeldNode, release: (handle: number) => void): number {
    this.#files.set(++this.#last, { handle, node: held.node, held, release });
    return this.#last;
  }

  get(file: number): OpenFile {
    const open = this.#files.get(file);
    if (open === undefined) throw new FsError(errno.EBADF, `file ${file}`);
    return open;
  }

  release(file: number): void {
    const open = this.#files.get(file);
    if (open === undefined) return;
    this.#files.delete(file);
    open.release(open.handle);
    open.held[Symbol.dispose]();
  }

  releaseAll(): void {
    for (const file of [...this.#files.keys()]) this.release(file);
  }
}
