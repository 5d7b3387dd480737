/**
 * Lets callers that wait for the same bytes share one request, without ever showing them bytes that are older than
 * their call: a caller may not join a request that is already on its way (the server may have read before a write that
 * this caller knows of). So at most one request for a range is on its way, and all who came meanwhile share the next.
 */
import { errno, errnoOf } from '../../shared/errno.ts';

export class SharedReads {
  readonly #waves = new Map<string, Wave>();

  get size(): number {
    return this.#waves.size;
  }

  /** `fetch` starts a request now. Everyone who shares a result gets the same buffer, and must not change it. */
  read(key: string, fetch: () => Promise<Uint8Array>): Promise<Uint8Array> {
    const wave = this.#waves.get(key);
    if (wave === undefined) return this.#start(key, fetch);
    if (wave.next) return wave.next.catch((error: unknown) => readOneself(error, fetch));
    const start = () => this.#start(key, fetch);
    wave.next = wave.current.then(start, start);
    return wave.next;
  }

  #start(key: string, fetch: () => Promise<Uint8Array>): Promise<Uint8Array> {
    const current = fetch();
    const wave: Wave = { current, next: undefined };
    this.#waves.set(key, wave);
    const done = () => {
      if (this.#waves.get(key) === wave && wave.next === undefined) this.#waves.delete(key);
    };
    current.then(done, done);
    return current;
  }
}

/** The first of those who waited reads for all, through a handle that its program may have closed meanwhile. */
function readOneself(error: unknown, fetch: () => Promise<Uint8Array>): Promise<Uint8Array> {
  if (errnoOf(error) !== errno.EBADF) throw error;
  return fetch();
}

interface Wave {
  readonly current: Promise<Uint8Array>;
  next: Promise<Uint8Array> | undefined;
}
