/**
 * Which names clients have removed, or moved away, since this server was started: one of them may be what an earlier
 * process had made for a request whose end it did not note, so that its absence says nothing. Kept for as long as clients
 * need to come back; afterwards every name may be among them. Owned by the Dispatcher.
 */
import { limits } from '../../shared/limits.ts';
import type { Inode } from '../store/inode.ts';

export class Removals {
  readonly #untilMs = performance.now() + limits.sessionLeaseMs;
  /** Undefined: it is not known any more. */
  #names: Set<string> | undefined = new Set();

  add(directory: Inode, name: Uint8Array): void {
    if (this.#names === undefined) return;
    this.#names.add(keyOf(directory, name));
    if (this.#names.size > limits.maxRemovals || performance.now() > this.#untilMs) this.#names = undefined;
  }

  mayHave(directory: Inode, name: Uint8Array): boolean {
    return this.#names === undefined || this.#names.has(keyOf(directory, name));
  }
}

function keyOf({ key }: Inode, name: Uint8Array): string {
  return `${key}/${Buffer.from(name).toString('latin1')}`;
}
