/**
 * Closes files at the server that were written under an exclusive lease: several with one request, and without haste. Their
 * data are there, nobody waits for them, and whoever wants one of them meanwhile has the lease recalled, which closes it.
 */
import { limits } from '../../shared/limits.ts';
import type { ServerSession } from '../transport/server-session.ts';
import type { Node, OpenHandle } from './node.ts';

const DELAY_MS = 5;

export class ReleaseQueue {
  readonly #session: ServerSession;
  #waiting: OpenHandle[] = [];
  #timer: NodeJS.Timeout | undefined;

  constructor(session: ServerSession) {
    this.#session = session;
  }

  add(open: OpenHandle): void {
    this.#waiting.push(open);
    if (this.#waiting.length >= limits.maxReleasedAtOnce) this.send();
    else this.#timer ??= setTimeout(() => this.send(), DELAY_MS);
  }

  has(node: Node): boolean {
    return this.#waiting.some((open) => open.node === node);
  }

  send(): void {
    if (this.#waiting.length === 0) return;
    clearTimeout(this.#timer);
    this.#timer = undefined;
    // Those of a session that the server has forgotten are closed already.
    const handles = this.#waiting.filter(({ epoch }) => epoch === this.#session.epoch).map(({ server }) => server);
    this.#waiting = [];
    // It fails only when the session has ended, and then they are closed already.
    if (handles.length > 0) this.#session.call('release', [], { handles }).catch(() => {});
  }
}
