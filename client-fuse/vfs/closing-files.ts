/**
 * Files that programs have closed, on their way to being closed at the server: what a killed program wrote is written first, then locks
 * that went with the handle are given back, then the handle is released, several with one request. Owned by RemoteFiles.
 */
import type { Node, OpenHandle } from './node.ts';
import { pathOf } from './node-path.ts';
import { ReleaseQueue } from './release-queue.ts';
import type { RemoteContext } from './remote-context.ts';
import type { RemoteLocks } from './remote-locks.ts';
import type { UnmadeFile } from './unmade-file.ts';

export class ClosingFiles {
  readonly #context: RemoteContext;
  readonly #locks: RemoteLocks;
  readonly #releases: ReleaseQueue;
  /** What they wrote is still on its way: their writer was killed. */
  readonly #unfinished = new Map<OpenHandle, Promise<void>>();

  constructor(context: RemoteContext, locks: RemoteLocks) {
    this.#context = context;
    this.#locks = locks;
    this.#releases = new ReleaseQueue(context.session);
  }

  /** Nobody has the handle any more. `written` resolves when all that was gathered is at the server; `mayWait`: nobody is kept waiting by it. */
  close(open: OpenHandle, written: Promise<void> | undefined, mayWait: boolean): void {
    // At once when nothing is to be written: the next request may be for a lock that goes with this handle.
    if (written === undefined || open.behind?.isClean) this.#release(open, mayWait);
    else this.#unfinished.set(open, this.#finish(open, written, mayWait));
  }

  /** The same of a file that the server has not made yet. */
  closeUnmade(open: OpenHandle, unmade: UnmadeFile, written: Promise<void> | undefined): void {
    const { node } = open;
    const made = async () => {
      await written;
      await unmade.made().catch(() => {}); // or else it could not be written
      node.unopened?.delete(open);
      if (!node.unopened?.size) this.#context.withUnopened.delete(node);
    };
    this.#unfinished.set(open, this.#finish(open, made(), false));
  }

  get unfinished(): Iterable<OpenHandle> {
    return this.#unfinished.keys();
  }

  async finished(): Promise<void> {
    await Promise.all(this.#unfinished.values());
  }

  /** One of the node waits to be released. */
  has(node: Node): boolean {
    return this.#releases.has(node);
  }

  releaseNow(): void {
    this.#releases.send();
  }

  async #finish(open: OpenHandle, written: Promise<void>, mayWait: boolean): Promise<void> {
    await written;
    this.#unfinished.delete(open);
    const { untold } = open.behind ?? {};
    if (untold !== undefined) {
      const what = { file: pathOf(open.node), reason: String(untold) };
      this.#context.session.log.error(what, 'what was written could not be stored, and its writer is gone');
    }
    this.#release(open, mayWait);
  }

  #release(open: OpenHandle, mayWait: boolean): void {
    if (open.reopening) {
      const again = () => this.#release(open, mayWait);
      void open.reopening.then(again, again);
      return;
    }
    this.#context.unsynced.released(open);
    this.#locks.released(open);
    if (open.epoch !== this.#context.session.epoch) return;
    this.#releases.add(open);
    if (!mayWait) this.#releases.send();
  }
}
