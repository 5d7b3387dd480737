/** A small filesystem of the kernel, mounted in a temporary directory for one test. Needs root, as the end-to-end tests do. */
import { execFileSync, spawnSync } from 'node:child_process';
import { TemporaryDirectory } from './fixture.ts';

export class MountedFilesystem implements Disposable {
  readonly #directory = new TemporaryDirectory();

  constructor(type: 'tmpfs' | 'ramfs', options = 'mode=0755') {
    execFileSync('mount', ['-t', type, '-o', options, 'weft-test', this.#directory.path]);
  }

  get path(): string {
    return this.#directory.path;
  }

  [Symbol.dispose](): void {
    execFileSync('umount', ['--lazy', this.#directory.path]);
    this.#directory[Symbol.dispose]();
  }
}

/** Something mounted on a directory, or a file, that is there: with the arguments of mount(8). */
export class MountedAt implements Disposable {
  readonly path: string;

  constructor(path: string, ...args: readonly string[]) {
    this.path = path;
    execFileSync('mount', [...args, path]);
  }

  [Symbol.dispose](): void {
    spawnSync('umount', ['--lazy', this.path]); // the test may have done it
  }
}
