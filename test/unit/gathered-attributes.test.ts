/** Which changes of attributes may be gathered, what several come to, and what of the file is expected meanwhile. */
import { describe, expect, test } from 'vitest';
import { ExpectedAttributes } from '../../client-fuse/vfs/expected-attributes.ts';
import type { AttributeChanges } from '../../client-fuse/vfs/filesystem.ts';
import { GatheredAttributes, gathered } from '../../client-fuse/vfs/gathered-attributes.ts';
import type { Attributes } from '../../shared/attributes.ts';

const at = (sec: number) => ({ sec, nsec: 5 });
const file = (mode: number, of: Partial<Attributes> = {}): Attributes => ({
  ino: 7,
  mode: 0o100000 | mode,
  nlink: 1,
  uid: 1000,
  gid: 100,
  rdev: 0,
  size: 3,
  blocks: 8,
  blksize: 4096,
  atime: at(1),
  mtime: at(2),
  ctime: at(3),
  btime: at(4),
  ...of,
});

describe('what may be gathered of a file of mode 0640, by its owner', () => {
  const rows: [what: string, changes: AttributeChanges, after: Partial<Attributes> | undefined][] = [
    ['both times', { atime: at(8), mtime: at(9) }, { atime: at(8), mtime: at(9) }],
    ['one of them', { mtime: at(9) }, { mtime: at(9) }],
    ['before 1970', { mtime: at(-9) }, { mtime: at(-9) }],
    ['now', { atime: 'now', mtime: 'now' }, undefined],
    ['one of them now', { atime: at(8), mtime: 'now' }, undefined],
    ['added permissions', { mode: 0o755 }, { mode: 0o100755 }],
    ['the same mode', { mode: 0o640 }, { mode: 0o100640 }],
    ['the same mode, with its type', { mode: 0o100640 }, { mode: 0o100640 }],
    ['permissions taken away', { mode: 0o600 }, undefined],
    ['some added, some taken away', { mode: 0o604 }, undefined],
    ['none left', { mode: 0 }, undefined],
    ['set-user-ID', { mode: 0o4755 }, undefined],
    ['set-group-ID', { mode: 0o2755 }, undefined],
    ['sticky', { mode: 0o1755 }, undefined],
    ['the same owner', { uid: 1000 }, {}],
    ['the same group', { gid: 100 }, {}],
    ['both, as the kernel says it', { uid: 1000, gid: 100, killSuidgid: true }, {}],
    ['another owner', { uid: 1001 }, undefined],
    ['another group', { uid: 1000, gid: 101 }, undefined],
    ['another size', { size: 3 }, undefined],
    ['a size among others', { mtime: at(9), size: 0 }, undefined],
    ['set-ID bits cleared', { killSuidgid: true }, undefined],
    ['times, and set-ID bits cleared', { mtime: at(9), killSuidgid: true }, undefined],
    ['nothing', {}, undefined],
    ['all that may be', { mode: 0o660, uid: 1000, mtime: at(9) }, { mode: 0o100660, mtime: at(9) }],
    ['times with a mode that may not be', { mode: 0o600, mtime: at(9) }, undefined],
  ];
  test.each(rows)('%s', (_what, changes, after) => {
    expect(gathered(file(0o640), 1000, changes)).toEqual(after && { ...file(0o640), ...after });
  });

  test('nothing by anybody else', () => {
    for (const owner of [0, 1001, 65534]) expect(gathered(file(0o640), owner, { mtime: at(9) })).toBeUndefined();
  });

  test('times of a file with set-ID bits, but neither mode nor owner', () => {
    for (const special of [0o4000, 0o2000, 0o1000]) {
      const is = file(special | 0o755);
      expect(gathered(is, 1000, { mtime: at(9) })).toEqual({ ...is, mtime: at(9) });
      expect(gathered(is, 1000, { mode: 0o755 })).toBeUndefined();
      expect(gathered(is, 1000, { uid: 1000 })).toBeUndefined();
    }
  });
});

/** Each change is gathered; 'w' is a write. */
function together(start: number, steps: readonly (AttributeChanges | 'w')[], hasData: boolean) {
  const all = new GatheredAttributes();
  let is = file(start);
  for (const changes of steps) {
    if (changes === 'w') {
      all.wrote();
      continue;
    }
    const after = gathered(is, 1000, changes) as Attributes;
    all.add(is, after, changes);
    is = after;
  }
  const taken = all.take(hasData);
  expect([all.isEmpty, all.take(true)]).toEqual([true, undefined]);
  return taken;
}

describe('what several come to', () => {
  const nothing = { mode: undefined, atime: undefined, mtime: undefined };
  const mode = (from: number, to: number) => ({ ...nothing, mode: { from, to } });
  const rows: [what: string, steps: (AttributeChanges | 'w')[], alone: unknown, withData: unknown][] = [
    ['nothing', [], undefined, undefined],
    ['a write only', ['w'], undefined, undefined],
    [
      'what tar does',
      [{ mtime: at(9) }, { uid: 1000, gid: 100 }, { mode: 0o644 }],
      { ...mode(0o600, 0o644), mtime: at(9) },
      { ...mode(0o600, 0o644), mtime: at(9) },
    ],
    [
      'the last of each',
      [{ mtime: at(9) }, { atime: at(8), mtime: at(10) }],
      ...twice({ atime: at(8), mtime: at(10) }),
    ],
    ['from the first mode to the last', [{ mode: 0o640 }, { mode: 0o644 }], ...twice(mode(0o600, 0o644))],
    ['a write after the times', [{ atime: at(8), mtime: at(9) }, 'w'], ...twice({ atime: at(8) })],
    ['a write after the time of modification alone', [{ mtime: at(9) }, 'w'], undefined, undefined],
    ['times after a write', ['w', { mtime: at(9) }], ...twice({ mtime: at(9) })],
    ['and again', [{ mtime: at(9) }, 'w', { mtime: at(10) }], ...twice({ mtime: at(10) })],
    ['a write after the mode', [{ mode: 0o644 }, 'w'], ...twice(mode(0o600, 0o644))],
    // It sets the change time, which data do too.
    ['an owner that stays', [{ uid: 1000 }], mode(0o600, 0o600), undefined],
    ['an owner that stays, and times', [{ gid: 100 }, { mtime: at(9) }], ...twice({ mtime: at(9) })],
  ];
  function twice(of: object): [unknown, unknown] {
    return [
      { ...nothing, ...of },
      { ...nothing, ...of },
    ];
  }
  test.each(rows)('%s', (_what, steps, alone, withData) => {
    expect(together(0o600, steps, false)).toEqual(alone);
    expect(together(0o600, steps, true)).toEqual(withData);
  });
});

describe('what is expected', () => {
  const known = { attributes: undefined as Attributes | undefined, lastChange: 5 };
  const expecting = () => {
    known.lastChange = 5;
    known.attributes = file(0o600, { size: 0 });
    const view = {
      get attributes() {
        return known.attributes;
      },
      get lastChange() {
        return known.lastChange;
      },
      isUndisturbed: (since: number) => known.lastChange === since,
    };
    return new ExpectedAttributes(view);
  };
  /** As gathering does. */
  const gather = (expected: ExpectedAttributes, step: () => void) => {
    step();
    expected.keep(() => {
      known.lastChange++;
      known.attributes = undefined;
    });
  };

  test('grows with what is written, and becomes what it is changed to', () => {
    const expected = expecting();
    expect(expected.now(true)?.size).toBe(0);
    gather(expected, () => expected.wrote(10, 5));
    gather(expected, () => expected.wrote(0, 5));
    expect(expected.now(false)).toEqual(file(0o600, { size: 15 }));
    gather(expected, () => expected.become(file(0o644, { size: 15 })));
    expect(expected.now(false)).toEqual(file(0o644, { size: 15 }));
  });

  test('is void when anything else happens, until all is at the server and that has said what is', () => {
    const expected = expecting();
    expected.now(true);
    gather(expected, () => expected.wrote(0, 5));
    known.lastChange++; // somebody truncates it
    known.attributes = file(0o600, { size: 1 }); // said before what was gathered was there
    expect(expected.now(false)).toBeUndefined();
    gather(expected, () => expected.wrote(0, 7));
    expect(expected.now(false)).toBeUndefined();
    expect(expected.now(true)).toBeUndefined();
    known.attributes = file(0o600, { size: 9 });
    expect(expected.now(true)?.size).toBe(9);
    gather(expected, () => expected.wrote(0, 10));
    expect(expected.now(false)?.size).toBe(10);
  });

  test('nothing before the server has said it', () => {
    const expected = expecting();
    known.attributes = undefined;
    expect(expected.now(true)).toBeUndefined();
    gather(expected, () => expected.wrote(0, 5));
    expect(expected.now(false)).toBeUndefined();
  });
});
