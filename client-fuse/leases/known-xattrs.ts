/** What is known of inodes' extended attributes of the system: values, and how the server says that there is none. Owned by the LeaseCache. */
import { limits } from '../../shared/limits.ts';
import type { Knowledge } from '../vfs/node.ts';

/** What the kernel asks for before each change of an owner. */
export const CAPABILITY = 'security.capability';

export class KnownXattrs {
  /** The same for all inodes of the server's filesystem. */
  readonly #absent = new Map<string, number>();

  /** A value, or the errno that the server answered with. */
  value(known: Knowledge | undefined, key: string): Uint8Array | number | undefined {
    return known?.xattrs?.get(key) ?? (isAbsent(known, key) ? this.#absent.get(key) : undefined);
  }

  learn(known: Knowledge, key: string, value: Uint8Array | number): void {
    if (isAbsent(known, key) && typeof value === 'number' && this.#absent.size < limits.maxAbsentXattrs) {
      this.#absent.set(key, value);
    }
    if (key === CAPABILITY) known.hasNoCapability = typeof value === 'number';
    known.xattrs ??= new Map();
    if (known.xattrs.size < limits.maxKnownXattrs) known.xattrs.set(key, value);
  }
}

function isAbsent(known: Knowledge | undefined, key: string): boolean {
  return known?.hasNoXattrs === true || (known?.hasNoCapability === true && key === CAPABILITY);
}
