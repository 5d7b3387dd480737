/**
 * The language in which messages are declared (messages.ts): a WireType checks and converts one value between its form
 * in the program and its form in msgpack. Records become fixed arrays: no field names travel. Every decode checks type,
 * length and range and throws ProtocolError, so that a handler sees only what its message's declaration permits.
 */
import type { Timespec, U64 } from '../attributes.ts';
import { limits } from '../limits.ts';

const MAX_MESSAGE = 200;

/** The peer sent what the protocol does not permit. Ends that connection with this reason, nothing else. */
export class ProtocolError extends Error {
  override readonly name = 'ProtocolError';

  /** Cut: it may quote what the peer sent, and is logged. */
  constructor(message: string) {
    super(message.length > MAX_MESSAGE ? `${message.slice(0, MAX_MESSAGE)}...` : message);
  }
}

export interface WireType<T> {
  /** For docs/PROTOCOL.md and error messages: shape, unit and bound. */
  readonly description: string;
  /** What a list, an optional or an alternative is made of. */
  readonly parts?: readonly WireType<unknown>[];
  /** Throws ProtocolError for a value that the peer would refuse: it is told here, where the value comes from. */
  encode(value: T): unknown;
  decode(wire: unknown): T;
}

export type ValueOf<W> = W extends WireType<infer T> ? T : never;

function expected(description: string, wire: unknown): never {
  const got = wire instanceof Uint8Array ? `${wire.length} bytes` : Array.isArray(wire) ? 'array' : typeof wire;
  throw new ProtocolError(`expected ${description}, got ${got}`);
}

function plain<T>(description: string, fits: (wire: unknown) => boolean): WireType<T> {
  return {
    description,
    encode: (value) => (fits(value) ? value : expected(description, value)),
    decode: (wire) => (fits(wire) ? (wire as T) : expected(description, wire)),
  };
}

const isInteger = (wire: unknown, min: number, max: number): boolean =>
  typeof wire === 'number' && Number.isSafeInteger(wire) && wire >= min && wire <= max;

export const bool = plain<boolean>('boolean', (wire) => typeof wire === 'boolean');

export const u32 = plain<number>('u32', (wire) => isInteger(wire, 0, 0xffffffff));

/** A file offset or size in bytes: exact, so at most 2^53-1. */
export const offset = plain<number>('offset in bytes', (wire) => isInteger(wire, 0, Number.MAX_SAFE_INTEGER));

/** A counter or id that the sender allocates. */
export const counter = plain<number>('counter', (wire) => isInteger(wire, 0, Number.MAX_SAFE_INTEGER));

/** 64 bits that are only passed on (inode numbers, directory cookies). */
export const u64: WireType<U64> = plain<U64>(
  'u64',
  (wire) => isInteger(wire, 0, Number.MAX_SAFE_INTEGER) || (typeof wire === 'bigint' && wire >= 0n && wire < 1n << 64n),
);

export const text = (maxLength: number): WireType<string> =>
  plain<string>(
    `text of at most ${maxLength} characters`,
    (wire) => typeof wire === 'string' && wire.length <= maxLength,
  );

export const bytes = (maxBytes: number): WireType<Uint8Array> =>
  plain<Uint8Array>(`at most ${maxBytes} bytes`, (wire) => wire instanceof Uint8Array && wire.length <= maxBytes);

/** Without NUL, at least one byte: what a system call takes as a string. */
const pathBytes = (description: string, maxBytes: number, forbidden: (wire: Uint8Array) => boolean) =>
  plain<Uint8Array>(
    description,
    (wire) =>
      wire instanceof Uint8Array &&
      wire.length > 0 &&
      wire.length <= maxBytes &&
      wire.indexOf(0) < 0 &&
      !forbidden(wire),
  );

const SLASH = 0x2f;
const DOT = 0x2e;

/** One name in a directory: any bytes but `/` and NUL; never `.` or `..`, which could lead out of the export. */
export const name = pathBytes(
  `name of 1..${limits.maxNameBytes} bytes`,
  limits.maxNameBytes,
  (wire) =>
    wire.indexOf(SLASH) >= 0 || (wire[0] === DOT && (wire.length === 1 || (wire.length === 2 && wire[1] === DOT))),
);

export const linkTarget = pathBytes('target of a symbolic link', limits.maxLinkTargetBytes, () => false);

export const xattrName = pathBytes('name of an extended attribute', limits.maxXattrNameBytes, () => false);

/** What names an inode on the server; opaque to the client. */
export const inodeHandle = bytes(limits.maxHandleBytes);

const NSEC_PER_SEC = 1_000_000_000;

export const timespec: WireType<Timespec> = {
  description: '[seconds s64, nanoseconds 0..999999999]',
  encode: ({ sec, nsec }) => {
    checkTime(sec, nsec);
    return [sec, nsec];
  },
  decode: (wire) => {
    if (!Array.isArray(wire) || wire.length !== 2) return expected(timespec.description, wire);
    const [sec, nsec] = wire;
    checkTime(sec, nsec);
    return { sec, nsec };
  },
};

function checkTime(sec: unknown, nsec: unknown): void {
  if (isInteger(sec, Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER) && isInteger(nsec, 0, NSEC_PER_SEC - 1)) return;
  expected(timespec.description, [sec, nsec]);
}

/** One of a closed set of words. */
export const word = <const T extends string>(...words: T[]): WireType<T> =>
  plain<T>(words.map((one) => `"${one}"`).join(' | '), (wire) => words.includes(wire as T));

/** The value, or nil for "none". */
export function optional<T>(type: WireType<T>): WireType<T | undefined> {
  return {
    description: `${type.description}, or nil`,
    parts: [type as WireType<unknown>],
    encode: (value) => (value === undefined ? null : type.encode(value)),
    decode: (wire) => (wire === null || wire === undefined ? undefined : type.decode(wire)),
  };
}

export function either<A, B>(
  first: WireType<A>,
  accepts: (wire: unknown) => boolean,
  second: WireType<B>,
): WireType<A | B> {
  return {
    description: `${first.description} | ${second.description}`,
    parts: [first as WireType<unknown>, second as WireType<unknown>],
    encode: (value) => (accepts(value) ? first.encode(value as A) : second.encode(value as B)),
    decode: (wire) => (accepts(wire) ? first.decode(wire) : second.decode(wire)),
  };
}

export function list<T>(type: WireType<T>, maxLength: number): WireType<readonly T[]> {
  const description = `list of at most ${maxLength}: ${type.description}`;
  return {
    description,
    parts: [type as WireType<unknown>],
    encode: (values) => {
      if (values.length > maxLength) return expected(description, values);
      return values.map((value) => type.encode(value));
    },
    decode: (wire) => {
      if (!Array.isArray(wire) || wire.length > maxLength) return expected(description, wire);
      return wire.map((value) => type.decode(value));
    },
  };
}

export type Fields = Readonly<Record<string, WireType<unknown>>>;
export type RecordOf<F extends Fields> = { readonly [K in keyof F]: ValueOf<F[K]> };

export interface RecordType<F extends Fields> extends WireType<RecordOf<F>> {
  readonly fields: F;
  encode(value: RecordOf<F>): unknown[];
}

/** A fixed array of the fields in the order of their declaration. */
export function record<const F extends Fields>(fields: F): RecordType<F> {
  const names = Object.keys(fields) as (keyof F & string)[];
  const types = Object.values(fields) as WireType<unknown>[];
  const description = `[${names.join(', ')}]`;
  return {
    description,
    fields,
    encode(value) {
      const wire = new Array<unknown>(names.length);
      for (let index = 0; index < names.length; index++) {
        wire[index] = (types[index] as WireType<unknown>).encode(value[names[index] as keyof F]);
      }
      return wire;
    },
    decode(wire) {
      if (!Array.isArray(wire) || wire.length !== names.length) return expected(description, wire);
      const value: Record<string, unknown> = {};
      for (let index = 0; index < names.length; index++) {
        const field = names[index] as string;
        try {
          value[field] = (types[index] as WireType<unknown>).decode(wire[index]);
        } catch (error) {
          throw error instanceof ProtocolError ? new ProtocolError(`${field}: ${error.message}`) : error;
        }
      }
      return value as RecordOf<F>;
    },
  };
}
