/** The codec: whatever a message may hold arrives as it was sent; whatever is no message is a ProtocolError, at once. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { decodeFrame, encodeFrame } from '../../shared/protocol/frame.ts';
import { frameKind, operationNames, operations } from '../../shared/protocol/messages.ts';
import { guardMsgpack } from '../../shared/protocol/msgpack-guard.ts';
import { ProtocolError, type WireType } from '../../shared/protocol/schema.ts';
import { valuesOf } from '../support/arbitraries.ts';

const bulkData = fc.option(
  fc.oneof(
    { weight: 1, arbitrary: fc.constant(Buffer.alloc(0)) },
    { weight: 4, arbitrary: fc.uint8Array({ maxLength: 300 }).map(Buffer.from) },
  ),
  { nil: undefined },
);
const delivery = fc.constantFrom('fragments' as const, 'joined' as const, 'cut at random' as const);

/** The ways in which a message may arrive; `ws` leaves empty fragments out. */
function deliver(head: Uint8Array, bulk: Uint8Array | undefined, way: string, cut: number): Buffer[] {
  const fragments = [Buffer.from(head), ...(bulk && bulk.length > 0 ? [Buffer.from(bulk)] : [])];
  if (way === 'fragments') return fragments;
  const whole = Buffer.concat(fragments);
  if (way === 'joined') return [whole];
  const at = cut % whole.length;
  return at === 0 ? [whole] : [whole.subarray(0, at), whole.subarray(at)];
}

describe.each(operationNames)('%s', (name) => {
  const sides = [
    ['request', operations[name].request],
    ['reply', operations[name].reply],
  ] as unknown as [string, WireType<unknown>][];

  test.each(sides)('%s: what is sent arrives', (_side, type) => {
    fc.assert(
      fc.property(valuesOf(type), bulkData, delivery, fc.nat(), (value, bulk, way, cut) => {
        const { head } = encodeFrame([frameKind.REPLY, 7, 0, type.encode(value)], bulk);
        const frame = decodeFrame(deliver(head, bulk, way, cut));
        expect(frame.slice(0, 3)).toEqual([frameKind.REPLY, 7, 0]);
        expect(frame.length).toBe(bulk ? 5 : 4);
        expect(type.decode(frame[3])).toEqual(value);
        if (bulk) expect(Buffer.from(frame[4] as Uint8Array).equals(bulk)).toBe(true);
      }),
      { numRuns: 40 },
    );
  });

  test.each(sides)('%s: cut short or changed by a bit, it is a message or a ProtocolError', (_side, type) => {
    fc.assert(
      fc.property(valuesOf(type), bulkData, fc.nat(), fc.nat(7), (value, bulk, at, bit) => {
        const { head } = encodeFrame([frameKind.REQUEST, 1, 0, 10, [], type.encode(value)], bulk);
        const whole = Buffer.concat(bulk ? [head, bulk] : [head]);
        expect(() => decodeFrame([whole.subarray(0, at % whole.length)])).toThrow(ProtocolError);
        const flipped = Buffer.from(whole);
        flipped[at % whole.length] = (flipped[at % whole.length] as number) ^ (1 << bit);
        expectMessageOrProtocolError(() => type.decode(decodeFrame([flipped])[5]));
      }),
      { numRuns: 40 },
    );
  });
});

function expectMessageOrProtocolError(read: () => unknown): void {
  try {
    read();
  } catch (error) {
    expect(error).toBeInstanceOf(ProtocolError);
  }
}

test('arbitrary bytes are a message or a ProtocolError, in one piece or two', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 64 }), fc.uint8Array({ maxLength: 16 }), (first, second) => {
      expectMessageOrProtocolError(() => decodeFrame([Buffer.from(first)]));
      expectMessageOrProtocolError(() => decodeFrame([Buffer.from(first), Buffer.from(second)]));
      // The way of bulk data, taken by force.
      const head = Buffer.concat([Buffer.from([0x93]), first, Buffer.from([0xc6, 0, 0, 0, second.length])]);
      expectMessageOrProtocolError(() => decodeFrame([head, Buffer.from(second)]));
    }),
    { numRuns: 5000 },
  );
});

const hostile: [string, Buffer][] = [
  ['array32 of 4 billion', Buffer.from('dd' + 'ffffffff', 'hex')],
  ['array16 of 65535 in 3 bytes', Buffer.from('dcffff', 'hex')],
  ['bin32 of 4 GiB', Buffer.from('92' + '01' + 'c6ffffffff', 'hex')],
  ['str32 of 4 GiB', Buffer.from('92' + '01' + 'dbffffffff', 'hex')],
  ['map32 of 4 billion', Buffer.from('92' + '01' + 'dfffffffff', 'hex')],
  ['an empty map', Buffer.from('920180', 'hex')],
  ['ext32', Buffer.from('9201' + 'c900000001' + '0100', 'hex')],
  ['fixext1: a record definition of msgpackr', Buffer.from('9201' + 'd4' + '7240', 'hex')],
  ['timestamp', Buffer.from('9201' + 'd6ff' + '00000000', 'hex')],
  ['the reserved byte', Buffer.from('9201c1', 'hex')],
  ['nested a thousand times', Buffer.concat([Buffer.alloc(1000, 0x91), Buffer.from([0xc0])])],
  ['nothing', Buffer.alloc(0)],
  ['no array', Buffer.from('07', 'hex')],
  ['an array of one', Buffer.from('9107', 'hex')],
  ['one byte too many', Buffer.from('92010200', 'hex')],
  ['bin8 without a length', Buffer.from('9201c4', 'hex')],
];

test.each(hostile)('refused: %s', (_what, bytes) => {
  expect(() => decodeFrame([bytes])).toThrow(ProtocolError);
});

test('a message of millions of values is refused before it is built', () => {
  // 16 MiB of empty arrays would become more than half a gigabyte of objects.
  const count = 1 << 24;
  const head = Buffer.from([0x92, 0x01, 0xdd, 0, 0, 0, 0]);
  head.writeUInt32BE(count, 3);
  expect(() => guardMsgpack(Buffer.concat([head, Buffer.alloc(count, 0x90)]))).toThrow(/too many values/);
});

test('the largest directory listing is accepted', () => {
  // 256 KiB of the shortest records of getdents64, each with its entry.
  const time = { sec: 1_700_000_000, nsec: 1 };
  const sizes = { mode: 0o100644, nlink: 1, uid: 0, gid: 0, rdev: 0, size: 0, blocks: 0, blksize: 4096 };
  const attributes = { ino: 2n ** 63n, ...sizes, atime: time, mtime: time, ctime: time, btime: time };
  const entry = { inode: Buffer.alloc(64), attributes, leased: true };
  const one = { name: Buffer.from('a'), ino: 2n ** 63n, type: 8, cookie: 2n ** 63n - 1n, entry, mayHaveXattrs: true };
  const reply = { entries: new Array(Math.ceil((256 * 1024) / 24)).fill(one), end: false, leased: true, atime: time };
  const { head } = encodeFrame([frameKind.REPLY, 1, 0, operations.readdir.reply.encode(reply)]);
  const frame = decodeFrame([Buffer.from(head)]);
  expect(operations.readdir.reply.decode(frame[3]).entries.length).toBe(reply.entries.length);
});
