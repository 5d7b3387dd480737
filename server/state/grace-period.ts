/**
 * The time after a start of the server in which those come first that held something before: locks, which only they are
 * granted, or files open for writing, which nobody else keeps pages of. It is over when all of them have said that they
 * are done. Those that have not come back by its end lose what they held; those that have, and are still at it, have some
 * more time. Pure: no clock, no messages; owned by the SessionTable.
 *
 * Invariants: it never begins anew; nobody reclaims who was not known from the start, nor after having said it is done.
 * Source: RFC 8881, 8.4.2.1 "State Reclaim When Client ID Is Restarted".
 */
export class GracePeriod {
  /** By the id of its session: who has not said yet that it is done, and whether it is back. */
  readonly #awaited = new Map<string, 'away' | 'back'>();
  readonly #endsMs: number;
  readonly #endsForAllMs: number;
  #isOver: boolean;

  /** `ids`: sessions of an earlier run that held something. Whoever is back at `endsMs` has until `endsForAllMs`. */
  constructor(ids: Iterable<string>, endsMs: number, endsForAllMs: number) {
    for (const id of ids) this.#awaited.set(id, 'away');
    this.#endsMs = endsMs;
    this.#endsForAllMs = endsForAllMs;
    this.#isOver = this.#awaited.size === 0;
  }

  get isOver(): boolean {
    return this.#isOver;
  }

  /** Who has not said that it is done. */
  get awaited(): string[] {
    return [...this.#awaited.keys()];
  }

  /** When it is over at the latest, as things are: for those that are back there is more time. */
  get endsMs(): number {
    return [...this.#awaited.values()].includes('back') ? this.#endsForAllMs : this.#endsMs;
  }

  /** Its client may go on under this id. */
  mayReturn(id: string): boolean {
    return !this.#isOver && this.#awaited.get(id) === 'away';
  }

  returned(id: string): void {
    if (this.mayReturn(id)) this.#awaited.set(id, 'back');
  }

  mayReclaim(id: string): boolean {
    return !this.#isOver && this.#awaited.get(id) === 'back';
  }

  /** It has taken again what it wants, or is gone for good. */
  done(id: string): void {
    if (!this.#isOver) this.#awaited.delete(id);
  }

  /** It is to be ended, once it is durable who is not done. */
  isDue(nowMs: number): boolean {
    if (this.#isOver || nowMs >= this.#endsForAllMs) return !this.#isOver;
    const isAnyBack = [...this.#awaited.values()].includes('back');
    return this.#awaited.size === 0 || (nowMs >= this.#endsMs && !isAnyBack);
  }

  end(): void {
    this.#isOver = true;
    this.#awaited.clear();
  }
}
