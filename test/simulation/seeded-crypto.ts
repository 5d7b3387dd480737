/**
 * Random bytes and numbers of node:crypto, from the seed: ids of sessions and servers, first handles. As the clock, they
 * are replaced for the whole process while a run lasts, so whatever asks for chance gets the run's. (Hashes and
 * signatures stay.)
 */
import crypto from 'node:crypto';
import { syncBuiltinESMExports } from 'node:module';
import { Random } from './random.ts';

export class SeededCrypto implements Disposable {
  readonly #real = { randomBytes: crypto.randomBytes, randomInt: crypto.randomInt };

  constructor(seed: number) {
    const random = new Random(seed ^ 0xc0de);
    const randomBytes = (size: number) => Buffer.from(Array.from({ length: size }, () => random.below(256)));
    const randomInt = (below: number) => random.below(below);
    Object.assign(crypto, { randomBytes, randomInt });
    syncBuiltinESMExports();
  }

  [Symbol.dispose](): void {
    Object.assign(crypto, this.#real);
    syncBuiltinESMExports();
  }
}
