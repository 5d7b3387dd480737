/** fast-check arbitraries derived from the schema of the messages: whatever the declaration permits, edges included. */
import fc from 'fast-check';
import type { RecordType, WireType } from '../../shared/protocol/schema.ts';
import * as schema from '../../shared/protocol/schema.ts';

const SAFE = Number.MAX_SAFE_INTEGER;
const natural = (max: number) =>
  fc.oneof(fc.nat(300), fc.integer({ min: 0, max }), fc.constantFrom(0, 127, 128, 255, 256, 65535, 65536, max));

const byteString = (maxBytes: number, minBytes = 0) =>
  fc
    .oneof(
      { weight: 20, arbitrary: fc.uint8Array({ minLength: minBytes, maxLength: Math.min(maxBytes, 40) }) },
      { weight: 1, arbitrary: fc.constant(new Uint8Array(maxBytes).fill(0x41)) },
    )
    .map((bytes) => Buffer.from(bytes));

/** Any bytes but NUL and `/`, and not `.` or `..`. */
export const anyName = fc
  .oneof(
    { weight: 9, arbitrary: fc.array(fc.integer({ min: 1, max: 255 }), { minLength: 1, maxLength: 255 }) },
    { weight: 1, arbitrary: fc.constant(new Array<number>(255).fill(0xff)) },
  )
  .map((bytes) => Buffer.from(bytes.map((byte) => (byte === 0x2f ? 0x2e : byte))))
  .filter((name) => !['.', '..'].includes(name.toString('latin1')));

const exact = new Map<WireType<unknown>, fc.Arbitrary<unknown>>([
  [schema.bool, fc.boolean()],
  [schema.u32, natural(0xffffffff)],
  [schema.offset, natural(SAFE)],
  [schema.counter, natural(SAFE)],
  [schema.u64, fc.oneof(natural(SAFE), fc.bigInt({ min: BigInt(SAFE) + 1n, max: (1n << 64n) - 1n }))],
  [schema.name, anyName],
  [schema.linkTarget, fc.array(fc.integer({ min: 1, max: 255 }), { minLength: 1, maxLength: 99 }).map(Buffer.from)],
  [schema.xattrName, fc.array(fc.integer({ min: 1, max: 255 }), { minLength: 1, maxLength: 255 }).map(Buffer.from)],
  [
    schema.timespec,
    fc.record({
      sec: fc.oneof(fc.integer(), fc.constantFrom(0, -1, -(2 ** 31) - 1, 2 ** 32, SAFE, -SAFE)),
      nsec: fc.integer({ min: 0, max: 999_999_999 }),
    }),
  ],
] as [WireType<unknown>, fc.Arbitrary<unknown>][]);

/** Every value that `type` declares (long lists and texts in moderation). */
export function valuesOf(type: WireType<unknown>): fc.Arbitrary<unknown> {
  const known = exact.get(type);
  if (known) return known;
  const { description, parts } = type;
  const fields = (type as Partial<RecordType<schema.Fields>>).fields;
  if (fields) {
    return fc.record(Object.fromEntries(Object.entries(fields).map(([name, field]) => [name, valuesOf(field)])));
  }
  const inner = (parts ?? []).map(valuesOf);
  if (description === `${parts?.[0]?.description}, or nil`) {
    return fc.option(inner[0] as fc.Arbitrary<unknown>, { nil: undefined });
  }
  if (description.startsWith('list')) {
    const most = Number(/^list of at most (\d+)/.exec(description)?.[1]);
    return fc.array(inner[0] as fc.Arbitrary<unknown>, { maxLength: Math.min(12, most) });
  }
  if (inner.length > 0) return fc.oneof(...inner);
  if (/^"/.test(description)) return fc.constantFrom(...description.split(' | ').map((one) => one.slice(1, -1)));
  const bound = Number(/\d+/.exec(description)?.[0]);
  if (/^at most \d+ bytes$/.test(description)) return byteString(bound);
  if (/^text of/.test(description)) return fc.string({ maxLength: Math.min(bound, 200), unit: 'binary' });
  throw new Error(`no arbitrary for ${description}`);
}
