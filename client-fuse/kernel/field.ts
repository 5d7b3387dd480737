/**
 * Fields and structures: a C structure described as data becomes one accessor object a field, with its offset computed once
 * by the rules of C (natural alignment, little endian). Accessors are used directly on the hot paths; nothing walks a
 * schema for a request. Source: the layout rules of the x86-64 and arm64 ABIs, on which fuse.h relies.
 */
import type { U64 } from '../../shared/attributes.ts';
import { errno, FsError } from '../../shared/errno.ts';

const TWO_32 = 0x100000000;
/** High words from here on make a 64-bit value that a double cannot hold exactly. */
const HIGH_WORD_LIMIT = 0x200000;

export class U16Field {
  static readonly bytes = 2;
  readonly offset: number;
  constructor(offset: number) {
    this.offset = offset;
  }
  get(view: DataView, base: number): number {
    return view.getUint16(base + this.offset, true);
  }
  set(view: DataView, base: number, value: number): void {
    view.setUint16(base + this.offset, value, true);
  }
}

export class U32Field {
  static readonly bytes = 4;
  readonly offset: number;
  constructor(offset: number) {
    this.offset = offset;
  }
  get(view: DataView, base: number): number {
    return view.getUint32(base + this.offset, true);
  }
  set(view: DataView, base: number, value: number): void {
    view.setUint32(base + this.offset, value, true);
  }
}

export class I32Field {
  static readonly bytes = 4;
  readonly offset: number;
  constructor(offset: number) {
    this.offset = offset;
  }
  get(view: DataView, base: number): number {
    return view.getInt32(base + this.offset, true);
  }
  set(view: DataView, base: number, value: number): void {
    view.setInt32(base + this.offset, value, true);
  }
}

/** A 64-bit value that is counted with: an exact number, or refused. */
export class U64Field {
  static readonly bytes = 8;
  readonly offset: number;
  constructor(offset: number) {
    this.offset = offset;
  }
  /** Throws FsError(tooLarge) from 2^53 on: which errno fits depends on the operation. */
  get(view: DataView, base: number, tooLarge: number = errno.EOVERFLOW): number {
    const high = view.getUint32(base + this.offset + 4, true);
    if (high >= HIGH_WORD_LIMIT) throw new FsError(tooLarge, 'value beyond 2^53');
    return high * TWO_32 + view.getUint32(base + this.offset, true);
  }
  /** `value` is an exact integer, 0 <= value < 2^53. */
  set(view: DataView, base: number, value: number): void {
    view.setUint32(base + this.offset, value, true);
    view.setUint32(base + this.offset + 4, value < TWO_32 ? 0 : value / TWO_32, true);
  }
}

/** A 64-bit value that is only passed on (inode numbers, directory cookies): a bigint where a number is not exact. */
export class U64PassedField {
  static readonly bytes = 8;
  readonly offset: number;
  constructor(offset: number) {
    this.offset = offset;
  }
  get(view: DataView, base: number): U64 {
    const high = view.getUint32(base + this.offset + 4, true);
    if (high >= HIGH_WORD_LIMIT) return view.getBigUint64(base + this.offset, true);
    return high * TWO_32 + view.getUint32(base + this.offset, true);
  }
  set(view: DataView, base: number, value: U64): void {
    if (typeof value === 'bigint') {
      view.setBigUint64(base + this.offset, value, true);
      return;
    }
    view.setUint32(base + this.offset, value, true);
    view.setUint32(base + this.offset + 4, value < TWO_32 ? 0 : value / TWO_32, true);
  }
}

/** Signed seconds and offsets: times before 1970 are negative. */
export class I64Field {
  static readonly bytes = 8;
  readonly offset: number;
  constructor(offset: number) {
    this.offset = offset;
  }
  get(view: DataView, base: number): number {
    const high = view.getInt32(base + this.offset + 4, true);
    const value = high * TWO_32 + view.getUint32(base + this.offset, true);
    if (!Number.isSafeInteger(value)) throw new FsError(errno.EOVERFLOW, 'value beyond 2^53');
    return value;
  }
  set(view: DataView, base: number, value: number): void {
    // Both conversions are modulo 2^32, hence two's complement for negative values too.
    view.setUint32(base + this.offset, value, true);
    view.setInt32(base + this.offset + 4, Math.floor(value / TWO_32), true);
  }
}

const kinds = {
  u16: U16Field,
  u32: U32Field,
  i32: I32Field,
  u64: U64Field,
  'u64 passed': U64PassedField,
  i64: I64Field,
} as const;

type Kind = keyof typeof kinds;
type Accessors = { readonly [K in Kind]: InstanceType<(typeof kinds)[K]> };

/** A structure within another, or bytes that nobody reads: only their place is known. */
export interface Inner {
  readonly bytes: number;
  readonly alignment: number;
}

export interface Place {
  readonly offset: number;
}

type Description = Readonly<Record<string, Kind | Inner>>;

type Fields<D extends Description> = {
  readonly [K in keyof D]: D[K] extends Kind ? Accessors[D[K]] : Place;
};

export interface Structure<D extends Description> extends Inner {
  /** As the kernel's header calls it. */
  readonly name: string;
  readonly fields: Fields<D>;
}

/** Room that is only kept: `spare(4, 6)` is `uint32_t spare[6]`. */
export function spare(elementBytes: number, count: number): Inner {
  return { bytes: elementBytes * count, alignment: elementBytes };
}

/** Lays a structure out: fields in order, each at a multiple of its own size, the whole padded to the largest. */
export function structure<const D extends Description>(name: string, description: D): Structure<D> {
  const fields: Record<string, Place> = {};
  let end = 0;
  let alignment = 1;
  for (const [field, what] of Object.entries(description)) {
    const size = typeof what === 'string' ? kinds[what].bytes : what.bytes;
    const align = typeof what === 'string' ? size : what.alignment;
    const offset = Math.ceil(end / align) * align;
    fields[field] = typeof what === 'string' ? new kinds[what](offset) : { offset };
    end = offset + size;
    alignment = Math.max(alignment, align);
  }
  const bytes = Math.ceil(end / alignment) * alignment;
  return { name, bytes, alignment, fields: fields as Fields<D> };
}
