import { describe, expect, test } from 'vitest';
import { callerIdentity, operationByCode, operationNames, operations } from '../../shared/protocol/messages.ts';
import * as schema from '../../shared/protocol/schema.ts';
import { ProtocolError, type WireType } from '../../shared/protocol/schema.ts';

const bytes = (...values: number[]) => Buffer.from(values);
const text = (value: string) => Buffer.from(value);

interface Row {
  readonly what: string;
  readonly type: WireType<unknown>;
  readonly good: readonly unknown[];
  readonly bad: readonly unknown[];
}

const never = [null, undefined, {}, [], () => 1];
const SAFE = Number.MAX_SAFE_INTEGER;
const rows = [
  { what: 'bool', type: schema.bool, good: [true, false], bad: [...never, 0, 1, 'true'] },
  { what: 'u32', type: schema.u32, good: [0, 0xffffffff], bad: [...never, -1, 2 ** 32, 0.5, NaN, Infinity, 1n, '1'] },
  { what: 'offset', type: schema.offset, good: [0, SAFE], bad: [...never, -1, SAFE + 1, 1.5, 1n, NaN, '0'] },
  { what: 'counter', type: schema.counter, good: [0, SAFE], bad: [...never, -1, SAFE + 1, 5n] },
  {
    what: 'u64',
    type: schema.u64,
    good: [0, SAFE, 0n, 2n ** 53n, 2n ** 64n - 1n],
    bad: [...never, -1, -1n, 2n ** 64n, SAFE + 1, 0.1],
  },
  { what: 'text(3)', type: schema.text(3), good: ['', 'abc', '日本語'], bad: [...never, 'abcd', text('abc'), 3] },
  { what: 'bytes(2)', type: schema.bytes(2), good: [bytes(), bytes(0, 255)], bad: [...never, bytes(1, 2, 3), 'ab'] },
  {
    what: 'name',
    type: schema.name,
    good: [text('a'), text('...'), text('.a'), text('..a'), bytes(0xff, 0xfe), bytes(1), Buffer.alloc(255, 'x')],
    bad: [
      ...never,
      'a',
      text(''),
      text('.'),
      text('..'),
      text('a/b'),
      text('/'),
      bytes(0),
      bytes(97, 0),
      Buffer.alloc(256, 'x'),
    ],
  },
  {
    what: 'linkTarget',
    type: schema.linkTarget,
    good: [text('../..'), text('/etc'), Buffer.alloc(4095, 'x')],
    bad: [...never, text(''), bytes(97, 0), Buffer.alloc(4096, 'x')],
  },
  {
    what: 'xattrName',
    type: schema.xattrName,
    good: [text('user.x'), bytes(0xff)],
    bad: [...never, text(''), bytes(0), Buffer.alloc(256, 'x')],
  },
  { what: 'inodeHandle', type: schema.inodeHandle, good: [bytes()], bad: [...never, Buffer.alloc(193), 'x'] },
  { what: 'word', type: schema.word('a', 'b'), good: ['a', 'b'], bad: [...never, 'c', 'ab', '', 0] },
  {
    what: 'list',
    type: schema.list(schema.u32, 2),
    good: [[], [1], [1, 2]],
    bad: [null, undefined, {}, [1, 2, 3], ['1'], [null]],
  },
] as unknown as Row[];

describe.each(rows)('$what', ({ type, good, bad }) => {
  test.each(good.map((value) => [value]))('takes %o', (value) => {
    expect(type.decode(value)).toEqual(value);
    expect(type.encode(value)).toEqual(value);
  });
  test.each(bad.map((value) => [value]))('refuses %o, both ways', (value) => {
    expect(() => type.decode(value)).toThrow(ProtocolError);
    expect(() => type.encode(value)).toThrow(); // nobody sends what the peer must refuse
  });
});

const times: [unknown, boolean][] = [
  [[0, 0], true],
  [[-1, 999_999_999], true],
  [[-(2 ** 40), 1], true],
  [[0, 1_000_000_000], false],
  [[0, -1], false],
  [[0.5, 0], false],
  [[SAFE + 1, 0], false],
  [[0], false],
  [[0, 0, 0], false],
  [[0n, 0], false],
  ['now', false],
  [null, false],
];

test.each(times)('timespec %o: %s', (wire, fits) => {
  if (fits) expect(schema.timespec.encode(schema.timespec.decode(wire))).toEqual(wire);
  else expect(() => schema.timespec.decode(wire)).toThrow(ProtocolError);
});

test.each([
  { sec: 2 ** 60, nsec: 0 },
  { sec: 0, nsec: 0x3fffffff },
])('a time that the peer would refuse is not sent: %o', (time) => {
  expect(() => schema.timespec.encode(time)).toThrow(ProtocolError);
});

const setattr = operations.setattr.request;
const unchanged = { mode: undefined, uid: undefined, gid: undefined, size: undefined, killSuidgid: false };

test('"now" and a time are told apart, absent stays absent', () => {
  const value = { inode: bytes(1), handle: 0, ...unchanged, atime: 'now' as const, mtime: { sec: -5, nsec: 7 } };
  expect(setattr.encode(value)).toEqual([bytes(1), 0, null, null, null, null, 'now', [-5, 7], false]);
  expect(setattr.decode(setattr.encode(value))).toEqual(value);
  expect(() => setattr.decode([bytes(1), 0, null, null, null, null, 'later', null, false])).toThrow(ProtocolError);
});

test('a record has exactly its fields, and the error names the one that does not fit', () => {
  const { request } = operations.lookup;
  expect(() => request.decode([bytes(1)])).toThrow(ProtocolError);
  expect(() => request.decode([bytes(1), text('a'), 1])).toThrow(ProtocolError);
  expect(() => request.decode({ parent: bytes(1), name: text('a') })).toThrow(ProtocolError);
  expect(() => request.decode([bytes(1), text('..')])).toThrow(/^name: expected name of 1\.\.255 bytes/);
});

test('a caller has a bounded number of groups', () => {
  expect(callerIdentity.decode(new Array(1026).fill(1)).length).toBe(1026);
  expect(() => callerIdentity.decode(new Array(1027).fill(1))).toThrow(ProtocolError);
});

test('operation codes are distinct and found again', () => {
  expect(operationNames.map((name) => operationByCode(operations[name].code))).toEqual(operationNames);
  for (const code of [0, 9999, -1, 1.5, '10', null, undefined, 10n]) expect(operationByCode(code)).toBeUndefined();
});
