/**
 * A seeded generator (xorshift128 of Marsaglia 2003, state filled by splitmix32), so that `--seed` repeats a workload.
 */

export class Random {
  readonly #state = new Uint32Array(4);

  constructor(seed: number, stream = 0) {
    let mixed = (seed ^ Math.imul(stream + 1, 0x9e3779b9)) >>> 0;
    for (let i = 0; i < 4; i++) {
      mixed = (mixed + 0x9e3779b9) >>> 0;
      let z = mixed;
      z = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
      z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
      this.#state[i] = (z ^ (z >>> 15)) >>> 0;
    }
    // An all-zero state would stay zero for ever.
    this.#state[0] = (this.#state[0] as number) | 1;
  }

  /** An integer in [0, 2^32). */
  next(): number {
    const state = this.#state;
    let t = state[3] as number;
    const s = state[0] as number;
    state[3] = state[2] as number;
    state[2] = state[1] as number;
    state[1] = s;
    t ^= t << 11;
    t ^= t >>> 8;
    state[0] = t ^ s ^ (s >>> 19);
    return state[0] as number;
  }

  /** An integer in [0, bound), for bounds far below 2^32. */
  below(bound: number): number {
    return Math.floor((this.next() / 0x1_0000_0000) * bound);
  }

  pick<T>(items: readonly T[]): T {
    return items[this.below(items.length)] as T;
  }
}
