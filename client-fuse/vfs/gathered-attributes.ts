/**
 * Changes of a new file's attributes that are gathered as its writes are: which may be, what they come to together, and
 * what is left of them when the file is written after them. Pure; owned by the WriteBehind of the handle that made the file.
 *
 * Gathered is only what the server is certain to accept, and what nobody is harmed by who sees it late: times that were
 * named, added permissions, and an owner that stays the same. Permissions that are taken away must be gone when chmod(2)
 * returns: a program on the server's machine could open the file meanwhile.
 */
import type { Attributes, Timespec } from '../../shared/attributes.ts';
import type { RequestOf } from '../../shared/protocol/messages.ts';
import type { AttributeChanges } from './filesystem.ts';

/** As they are sent with a write, or alone. */
export type GatheredChanges = NonNullable<RequestOf<'write'>['attributes']>;

const PERMISSIONS = 0o777;
/** Set-user-ID, set-group-ID, sticky: what becomes of them is the server's to say. */
const SPECIAL = 0o7000;

/** The attributes after the changes; undefined: the server must be asked. `is`: before, all that is gathered included. */
export function gathered(is: Attributes, owner: number, changes: AttributeChanges): Attributes | undefined {
  const { mode, uid, gid, size, atime, mtime, killSuidgid } = changes;
  const isOwner = uid !== undefined || gid !== undefined;
  // A change of owner clears set-ID bits, of which there are none here.
  if (is.uid !== owner || size !== undefined || (killSuidgid && !isOwner)) return undefined;
  // "Now" is the server's clock, at the time of the call.
  if (atime === 'now' || mtime === 'now') return undefined;
  if ((uid ?? is.uid) !== is.uid || (gid ?? is.gid) !== is.gid) return undefined;
  const isMode = mode !== undefined || isOwner;
  if (isMode && !onlyAdds(is.mode, mode ?? is.mode & ~SPECIAL)) return undefined;
  if (!isMode && atime === undefined && mtime === undefined) return undefined;
  return {
    ...is,
    mode: mode === undefined ? is.mode : (is.mode & ~PERMISSIONS) | (mode & PERMISSIONS),
    atime: atime ?? is.atime,
    mtime: mtime ?? is.mtime,
  };
}

function onlyAdds(before: number, after: number): boolean {
  return ((before | after) & SPECIAL) === 0 && (before & PERMISSIONS & ~after) === 0;
}

export class GatheredAttributes {
  #mode: { readonly from: number; readonly to: number } | undefined;
  #atime: Timespec | undefined;
  #mtime: Timespec | undefined;

  get isEmpty(): boolean {
    return this.#mode === undefined && this.#atime === undefined && this.#mtime === undefined;
  }

  /** `gathered` has said that `after` follows on `before`. */
  add(before: Attributes, after: Attributes, { mode, uid, gid, atime, mtime }: AttributeChanges): void {
    // An owner that stays the same sets the change time, as a mode that stays the same does.
    if (mode !== undefined || uid !== undefined || gid !== undefined) {
      this.#mode = { from: this.#mode?.from ?? before.mode & PERMISSIONS, to: after.mode & PERMISSIONS };
    }
    if (typeof atime === 'object') this.#atime = atime;
    if (typeof mtime === 'object') this.#mtime = mtime;
  }

  /** The file is written after it: that is when it was modified. */
  wrote(): void {
    this.#mtime = undefined;
  }

  /** To be sent now. `hasData`: with data, which set the change time by themselves. */
  take(hasData: boolean): GatheredChanges | undefined {
    const [atime, mtime] = [this.#atime, this.#mtime];
    const changesMode = this.#mode !== undefined && this.#mode.from !== this.#mode.to;
    const setsTime = hasData || atime !== undefined || mtime !== undefined;
    const mode = changesMode || !setsTime ? this.#mode : undefined;
    this.#mode = this.#atime = this.#mtime = undefined;
    return mode === undefined && atime === undefined && mtime === undefined ? undefined : { mode, atime, mtime };
  }
}
