/**
 * Lets callers that wait for the same bytes share one request, without ever showing them bytes that are older than
 * their call: a caller may not join a request that is already on its way (the server may have read before a write that
 * this caller knows of). So at most one request for a range is on its way, and all who came meanwhile share the next.
 */
export class SharedReads {
  readonly #waves = new Map<string, Wave>();

  get size(): number {
    return this.#waves.size;
  }

  /** `fetch` starts a request now. Everyone who shares a result gets the same buffer, and must not change it. */
  read(key: string, fetch: () => Promise<Uint8Array>): Promise<Uint8Array> {
    const wave = this.#waves.get(key);
    if (wave === undefined) return this.#start(key, fetch);
    wave.next ??= wave.current.then(
      () => this.#start(key, fetch),
      () => this.#start(key, fetch),
    );
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

interface Wave {
  readonly current: Promise<Uint8Array>;
  next: Promise<Uint8Array> | undefined;
}
