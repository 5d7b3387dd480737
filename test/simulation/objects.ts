/** What the files and directories of a run are to the checker: objects whose calls come one after the other. */
import type { SequentialObject } from './linearizability.ts';

/** What a listing shows: inode numbers, 0 for a name that is not in it. */
export type Listing = Readonly<Record<string, number>>;

export type NameCall =
  | { readonly kind: 'list'; readonly name: '/'; seen?: Listing }
  | { readonly kind: 'lookup' | 'make' | 'remove'; readonly name: string }
  | { readonly kind: 'rename'; readonly name: string; readonly newName: string };
/** Inode numbers, 0: absent; of `make` 0: it was there; of `list` 1, and `seen`; of the others 1: done. */
export type NameResult = number;

/** Made by a call whose reply nobody saw. */
const SOME_INODE = -1;
type Names = Readonly<Record<string, number>>;

export const directoryObject: SequentialObject<Names, NameCall, NameResult> = {
  initial: {},
  keyOf: (names) =>
    JSON.stringify(
      Object.entries(names)
        .filter(([, ino]) => ino !== 0)
        .sort(),
    ),
  apply: (names, call, result) => {
    if (call.kind === 'list') return result === undefined ? names : listed(names, call.seen ?? {});
    const is = names[call.name] ?? 0;
    switch (call.kind) {
      case 'lookup':
        if (is === SOME_INODE && result) return { ...names, [call.name]: result };
        return result === undefined || result === is ? names : undefined;
      case 'make':
        if (is !== 0) return result ? undefined : names;
        return result === 0 ? undefined : { ...names, [call.name]: result ?? SOME_INODE };
      case 'remove':
        if (is === 0) return result ? undefined : names;
        return result === 0 ? undefined : { ...names, [call.name]: 0 };
      case 'rename':
        if (is === 0) return result ? undefined : names;
        return result === 0 ? undefined : { ...names, [call.name]: 0, [call.newName]: is };
    }
  },
};

/** What is there, if it can be what was seen. */
function listed(names: Names, seen: Listing): Names | undefined {
  const known = { ...names };
  for (const [name, ino] of Object.entries(seen)) {
    if (known[name] === SOME_INODE && ino !== 0) known[name] = ino;
    if ((known[name] ?? 0) !== ino) return undefined;
  }
  return known;
}

export interface DataCall {
  readonly file: string;
  /** Absent: a read. */
  readonly tag?: number;
  /** A write that its server did not come to the end of. */
  readonly tears?: boolean;
}
/** What was read: all the range's words are one tag; or they are not. */
export type DataResult = number | 'torn' | 'written';

export const rangeObject: SequentialObject<number | 'torn', DataCall, DataResult> = {
  initial: 0,
  keyOf: String,
  apply: (held, { tag, tears }, result) => {
    if (tag !== undefined) return tears ? 'torn' : tag;
    return result === undefined || result === held ? held : undefined;
  },
};

export interface ModeCall {
  readonly file: string;
  /** Absent: a look. */
  readonly mode?: number;
}

/** The permissions of a file. */
export const modeObject: SequentialObject<number, ModeCall, number> = {
  initial: 0o644,
  keyOf: String,
  apply: (is, { mode }, result) => mode ?? (result === undefined || result === is ? is : undefined),
};

export interface CounterCall {
  readonly kind: 'increment' | 'look' | 'set';
  /** What an `increment` has read, as far as it came; what a `set` puts there. */
  value: number | undefined;
}

/** A number that is incremented under a lock: read, and written as one more, with nobody in between. */
export const counterObject: SequentialObject<number, CounterCall, number> = {
  initial: 0,
  keyOf: String,
  apply: (held, { kind, value }) => {
    if (kind === 'set') return value;
    if (value !== held) return undefined;
    return kind === 'increment' ? held + 1 : held;
  },
};
