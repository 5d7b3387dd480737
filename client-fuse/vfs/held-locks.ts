/**
 * What the programs of this mount hold locked of one file, as far as the server has said so: to know which owners have
 * something to give back at close, and to take it again from a server that was started anew. Owned by the node. An owner is
 * here from its first request on, so that a close does not overlook a lock whose reply is on its way.
 */
import { ALL_BYTES, RangeMap } from '../../shared/range-map.ts';
import type { Lock, LockOwner, LockRange } from './filesystem.ts';

export interface OwnerLocks<H> extends LockOwner {
  readonly ranges: RangeMap<Lock['mode']>;
  /** Through which it asked. */
  readonly handles: Set<H>;
}

export class HeldLocks<H> {
  readonly #owners = new Map<string, OwnerLocks<H>>();

  get all(): Iterable<OwnerLocks<H>> {
    return this.#owners.values();
  }

  get isEmpty(): boolean {
    return this.#owners.size === 0;
  }

  /** flock gives up what it has when it asks for another kind. */
  asked(lock: Lock, handle: H): void {
    const owner = this.#owner(lock, handle);
    if (lock.kind === 'flock' && owner.ranges.ranges[0]?.value !== lock.mode) owner.ranges.clear(ALL_BYTES);
  }

  granted(lock: Lock, handle: H): void {
    this.#owner(lock, handle).ranges.set(lock, lock.mode);
  }

  unlocked({ kind, owner }: Pick<LockOwner, 'kind' | 'owner'>, range: LockRange): void {
    this.#owners.get(keyOf(kind, owner))?.ranges.clear(range);
  }

  /** It has, or had, something to do with this file, and has no longer. */
  forget({ kind, owner }: Pick<LockOwner, 'kind' | 'owner'>): boolean {
    return this.#owners.delete(keyOf(kind, owner));
  }

  through(handle: H): OwnerLocks<H>[] {
    return [...this.#owners.values()].filter(({ handles }) => handles.has(handle));
  }

  #owner({ kind, owner, pid }: LockOwner, handle: H): OwnerLocks<H> {
    const key = keyOf(kind, owner);
    const known: OwnerLocks<H> = this.#owners.get(key) ?? {
      kind,
      owner,
      pid,
      ranges: new RangeMap<Lock['mode']>(),
      handles: new Set<H>(),
    };
    this.#owners.set(key, known);
    known.handles.add(handle);
    return known;
  }
}

function keyOf(kind: LockOwner['kind'], owner: LockOwner['owner']): string {
  return `${kind} ${owner}`;
}
