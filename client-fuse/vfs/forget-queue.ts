/**
 * Tells the server, in batches and without haste, which inodes the kernel dropped. Only servers without kernel handles
 * want to know: they keep every inode they named.
 */
import type { ServerSession } from '../transport/server-session.ts';

const BATCH = 512;
const DELAY_MS = 100;

export class ForgetQueue {
  readonly #session: ServerSession;
  #waiting: { inode: Uint8Array; entries: number }[] = [];
  #timer: NodeJS.Timeout | undefined;

  constructor(session: ServerSession) {
    this.#session = session;
  }

  add(inode: Uint8Array, entries: number): void {
    this.#waiting.push({ inode, entries });
    if (this.#waiting.length >= BATCH) this.#send();
    else this.#timer ??= setTimeout(() => this.#send(), DELAY_MS);
  }

  #send(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const inodes = this.#waiting;
    this.#waiting = [];
    // A server that forgot the session has forgotten these too.
    this.#session.call('forget', [], { inodes }).catch(() => {});
  }
}
