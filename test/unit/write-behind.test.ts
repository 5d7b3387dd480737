/** Gathered writes: which requests they become, in which order they are applied, who is told of an error, and the bound. */
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { UnansweredError } from '../../client-fuse/transport/unanswered-error.ts';
import type { AttributeChanges } from '../../client-fuse/vfs/filesystem.ts';
import { gathered } from '../../client-fuse/vfs/gathered-attributes.ts';
import { DirtyMemory, type GatheredWrite, WriteBehind } from '../../client-fuse/vfs/write-behind.ts';
import type { Attributes } from '../../shared/attributes.ts';
import { errno, FsError } from '../../shared/errno.ts';
import { limits, MiB } from '../../shared/limits.ts';

const { maxDirtyBytes, maxDirtyBytesOfFile, writeBehindMs, maxExtents } = limits;

interface Request extends Pick<GatheredWrite, 'extents' | 'attributes' | 'sync'> {
  /** Of the first byte. */
  readonly offset: number;
  /** A copy of what was sent. */
  readonly data: Buffer;
  /** What the server was given, for what buffer it is in. */
  readonly view: Uint8Array;
  readonly answer: (written: number) => void;
  readonly fail: (error: unknown) => void;
}

let memory: DirtyMemory;
/** Sent and not answered, in the order of sending. */
let requests: Request[];

const gathering = () =>
  new WriteBehind(
    (write) =>
      new Promise((resolve, reject) => {
        const [data, view, offset] = [Buffer.from(write.data), write.data, write.extents[0]?.offset ?? 0];
        expect(write.extents.reduce((sum, { length }) => sum + length, 0)).toBe(data.length);
        requests.push({ ...write, offset, data, view, answer: resolve, fail: reject });
      }),
    memory,
  );
const bytes = (length: number, value = 1) => Buffer.alloc(length, value);
const text = (value: string) => Buffer.from(value);
/** What a request writes where. */
const pieces = ({ extents, data }: Pick<Request, 'extents' | 'data'>): [number, Buffer][] => {
  let at = 0;
  return extents.map(({ offset, length }) => {
    at += length;
    return [offset, data.subarray(at - length, at)];
  });
};
const sent = () =>
  requests.map((request) => {
    const written = pieces(request).map(([offset, data]) => [offset, data.toString()]);
    return written.length === 1 ? written[0] : written;
  });
/** With what is done to the attributes: a time of modification, and a mode. */
const sentWith = () =>
  requests.map(({ offset, data, attributes: { mtime, mode } = {} }) => [offset, data.toString(), mtime?.sec, mode?.to]);
const next = () => requests.shift() as Request;
const settle = async () => {
  for (let turn = 0; turn < 20; turn++) await Promise.resolve();
};
/** Whether it has settled, without waiting for it. */
function watch(promise: Promise<unknown>): { state: 'pending' | 'done' | unknown } {
  const seen: { state: unknown } = { state: 'pending' };
  promise.then(
    () => {
      seen.state = 'done';
    },
    (error: unknown) => {
      seen.state = error;
    },
  );
  return seen;
}

const time = { sec: 0, nsec: 0 };
const FILE = { mode: 0o100600, uid: 0, gid: 0, size: 0, atime: time, mtime: time, ctime: time } as Attributes;
/** Its permissions are added to, or its time set. */
function change(behind: WriteBehind, changes: AttributeChanges, before = FILE): Attributes {
  const after = gathered(before, 0, changes) as Attributes;
  behind.change(before, after, changes);
  return after;
}
const modified = (sec: number): AttributeChanges => ({ mtime: { sec, nsec: 0 } });

beforeEach(() => {
  vi.useFakeTimers();
  memory = new DirtyMemory();
  requests = [];
});
afterEach(() => {
  vi.useRealTimers();
  Object.assign(limits, { maxDirtyBytes, maxDirtyBytesOfFile, writeBehindMs, maxExtents });
});

describe('joining', () => {
  type Sent = [number, string];
  const rows: [what: string, writes: Sent[], requests: (Sent | Sent[])[]][] = [
    ['one write', [[5, 'a']], [[5, 'a']]],
    [
      'each at the end of the one before',
      [
        [0, 'ab'],
        [2, 'cd'],
        [4, 'e'],
      ],
      [[0, 'abcde']],
    ],
    [
      'over what is gathered',
      [
        [0, 'abcd'],
        [1, 'XY'],
      ],
      [[0, 'aXYd']],
    ],
    [
      'over its end',
      [
        [0, 'abcd'],
        [3, 'XYZ'],
      ],
      [[0, 'abcXYZ']],
    ],
    [
      'the same place again',
      [
        [7, 'ab'],
        [7, 'cd'],
      ],
      [[7, 'cd']],
    ],
    [
      'with a hole',
      [
        [0, 'ab'],
        [3, 'cd'],
      ],
      [
        [
          [0, 'ab'],
          [3, 'cd'],
        ],
      ],
    ],
    [
      'backwards',
      [
        [2, 'cd'],
        [0, 'ab'],
      ],
      [
        [
          [2, 'cd'],
          [0, 'ab'],
        ],
      ],
    ],
    [
      'on from an earlier one',
      [
        [0, 'ab'],
        [9, 'x'],
        [2, 'cd'],
      ],
      [
        [
          [0, 'ab'],
          [9, 'x'],
          [2, 'cd'],
        ],
      ],
    ],
    [
      'over an earlier one',
      [
        [0, 'abcd'],
        [9, 'x'],
        [1, 'YZ'],
      ],
      [
        [
          [0, 'aYZd'],
          [9, 'x'],
        ],
      ],
    ],
    [
      'between two, and up to the second',
      [
        [0, 'ab'],
        [4, 'xy'],
        [2, 'cd'],
      ],
      [
        [
          [0, 'ab'],
          [4, 'xy'],
          [2, 'cd'],
        ],
      ],
    ],
    [
      'over the end of an earlier one',
      [
        [0, 'ab'],
        [9, 'x'],
        [1, 'cd'],
      ],
      [
        [
          [0, 'ab'],
          [9, 'x'],
        ],
        [1, 'cd'],
      ],
    ],
    [
      'over the beginning of one',
      [
        [5, 'ab'],
        [4, 'cd'],
      ],
      [
        [5, 'ab'],
        [4, 'cd'],
      ],
    ],
    [
      'over the end of the last one into the next',
      [
        [4, 'xy'],
        [0, 'ab'],
        [1, 'cdef'],
      ],
      [
        [
          [4, 'xy'],
          [0, 'ab'],
        ],
        [1, 'cdef'],
      ],
    ],
    ['nothing', [[0, '']], []],
  ];
  test.each(rows)('%s', async (_what, writes, expected) => {
    const behind = gathering();
    for (const [offset, data] of writes) expect(behind.write(offset, text(data))).toBe(data.length);
    const flushed = behind.flush();
    const seen = [];
    while (requests.length > 0) {
      seen.push(...sent());
      for (const { data, answer } of requests.splice(0)) answer(data.length);
      await settle();
    }
    expect(seen).toEqual(expected);
    await flushed;
    expect([behind.isClean, memory.budget.used, vi.getTimerCount()]).toEqual([true, 0, 0]);
  });

  test('what a caller does with its buffer afterwards changes nothing', () => {
    const behind = gathering();
    const data = text('before');
    behind.write(0, data);
    data.fill('x');
    void behind.drain();
    expect(sent()).toEqual([[0, 'before']]);
  });

  test('a full megabyte goes at once, and the next byte starts anew; a larger write stays whole', () => {
    const behind = gathering();
    for (let quarter = 0; quarter < 4; quarter++) behind.write((quarter * MiB) / 4, bytes(MiB / 4, quarter));
    expect(requests.map(({ offset, data }) => [offset, data.length])).toEqual([[0, MiB]]);
    behind.write(MiB, bytes(1));
    behind.write(MiB + 1, bytes(3 * MiB));
    void behind.drain();
    expect(requests.map(({ offset, data }) => [offset, data.length])).toEqual([
      [0, MiB],
      [MiB, 1],
      [MiB + 1, 3 * MiB],
    ]);
  });
});

describe('many places', () => {
  const offsets = () => requests.map(({ extents }) => extents.map(({ offset }) => offset));

  test('go when they are as many as one request may write to', () => {
    Object.assign(limits, { maxExtents: 3 });
    const behind = gathering();
    for (const offset of [40, 0, 20, 60, 10]) behind.write(offset, bytes(1));
    expect(offsets()).toEqual([[40, 0, 20]]);
    void behind.drain();
    expect(offsets()).toEqual([
      [40, 0, 20],
      [60, 10],
    ]);
  });

  test('two requests wait for each other only where they have bytes in common', async () => {
    Object.assign(limits, { maxExtents: 2 });
    const behind = gathering();
    for (const offset of [0, 100, 50, 150]) behind.write(offset, bytes(10));
    // Between those of the two before, and into one of the second.
    for (const offset of [20, 145]) behind.write(offset, bytes(10));
    expect(offsets()).toEqual([
      [0, 100],
      [50, 150],
    ]);
    requests[1]?.answer(20);
    await settle();
    expect(offsets().at(-1)).toEqual([20, 145]);
  });

  test('what was not taken is sent again, from the byte on', async () => {
    const behind = gathering();
    for (const [offset, data] of [
      [10, 'abc'],
      [0, 'de'],
      [20, 'f'],
    ] as const)
      behind.write(offset, text(data));
    void behind.drain();
    next().answer(4);
    await settle();
    expect(sent()).toEqual([
      [
        [1, 'e'],
        [20, 'f'],
      ],
    ]);
    next().answer(1);
    await settle();
    expect(sent()).toEqual([[20, 'f']]);
  });

  test('whoever reads somewhere waits for what was written there', async () => {
    const behind = gathering();
    behind.write(0, bytes(10));
    behind.write(100, bytes(10));
    await behind.drainRange({ offset: 10, length: 90 });
    expect(requests).toEqual([]);
    const drained = watch(behind.drainRange({ offset: 109, length: 1 }));
    expect(offsets()).toEqual([[0, 100]]);
    await settle();
    expect(drained.state).toBe('pending');
    next().answer(20);
    await settle();
    expect(drained.state).toBe('done');
  });
});

describe('synchronizing', () => {
  test('goes with the last request', async () => {
    const behind = gathering();
    behind.write(0, text('a'));
    behind.write(5, text('b'));
    const synchronized = behind.synchronize('data');
    expect(requests.map(({ sync }) => sync)).toEqual(['data']);
    next().answer(2);
    expect(await synchronized).toBe(true);
    behind.write(0, text('a'));
    void behind.drain();
    expect(requests.map(({ sync }) => sync)).toEqual(['none']);
  });

  test('does not when others are on their way, or nothing is to be written', async () => {
    const behind = gathering();
    expect(await behind.synchronize('all')).toBe(false);
    behind.write(0, text('a'));
    void behind.drain();
    behind.write(5, text('b'));
    const synchronized = behind.synchronize('all');
    expect(requests.map(({ sync }) => sync)).toEqual(['none', 'none']);
    for (const { answer } of requests.splice(0)) answer(1);
    expect(await synchronized).toBe(false);
  });

  test('what a full disk did not take is synchronized too, and its error told', async () => {
    const behind = gathering();
    behind.write(0, text('abc'));
    const synchronized = watch(behind.synchronize('all'));
    next().answer(2);
    await settle();
    expect(requests.map(({ sync }) => sync)).toEqual(['all']);
    const full = new FsError(errno.ENOSPC, 'write');
    next().fail(full);
    await settle();
    expect(synchronized.state).toBe(full);
  });
});

describe('data that can be kept', () => {
  /** How often they were kept, and given back. */
  let [kept, released] = [0, 0];
  const caller = {
    keepData: () => {
      kept++;
      return () => {
        released++;
      };
    },
  };
  beforeEach(() => {
    [kept, released] = [0, 0];
  });

  test('a whole megabyte is sent from where it is, and given back when it was written', async () => {
    const behind = gathering();
    const data = bytes(MiB, 3);
    expect(behind.write(0, data, caller)).toBe(MiB);
    expect([requests.length, kept, released]).toEqual([1, 1, 0]);
    expect(requests[0]?.view.buffer).toBe(data.buffer);
    next().answer(MiB - 10);
    await settle();
    expect([requests.map(({ offset }) => offset), released]).toEqual([[MiB - 10], 0]);
    next().answer(10);
    await settle();
    expect([released, behind.isClean, memory.budget.used]).toEqual([1, true, 0]);
  });

  test('also when that failed', async () => {
    const behind = gathering();
    behind.write(0, bytes(MiB), caller);
    next().fail(new FsError(errno.ENOSPC, 'write'));
    await expect(behind.flush()).rejects.toMatchObject({ code: errno.ENOSPC });
    expect([kept, released]).toEqual([1, 1]);
  });

  test('but not what nobody has answered: its message may be on its way yet', async () => {
    const behind = gathering();
    behind.write(0, bytes(MiB), caller);
    next().fail(new UnansweredError(errno.ETIMEDOUT, 'write'));
    await expect(behind.flush()).rejects.toMatchObject({ code: errno.ETIMEDOUT });
    expect([kept, released, behind.isClean, memory.budget.used]).toEqual([1, 0, true, 0]);
  });

  test('less is copied, and so is what goes on with what is gathered', () => {
    const behind = gathering();
    behind.write(0, bytes(MiB - 1), caller);
    behind.write(MiB - 1, bytes(1), caller);
    expect([requests.length, kept]).toEqual([1, 0]);
  });

  test('what it is written over goes before it', async () => {
    const behind = gathering();
    behind.write(10, text('old'), caller);
    behind.write(0, bytes(MiB, 7), caller);
    expect(requests.map(({ offset, data }) => [offset, data.length])).toEqual([[10, 3]]);
    next().answer(3);
    await settle();
    expect(requests.map(({ offset, data }) => [offset, data.length])).toEqual([[0, MiB]]);
    behind.write(5, text('new'), caller);
    void behind.drain();
    expect(requests).toHaveLength(1);
    next().answer(MiB);
    await settle();
    expect([sent(), kept, released]).toEqual([[[5, 'new']], 1, 1]);
  });

  test('without room it waits, and is not kept when gathering has stopped meanwhile', async () => {
    Object.assign(limits, { maxDirtyBytesOfFile: MiB });
    const behind = gathering();
    behind.write(0, bytes(MiB), caller);
    const second = behind.write(MiB, bytes(MiB), caller) as Promise<number>;
    const third = behind.write(2 * MiB, bytes(MiB), caller) as Promise<number | undefined>;
    expect(kept).toBe(1);
    next().answer(MiB);
    expect(await second).toBe(MiB);
    expect(kept).toBe(2);
    behind.isStopped = true;
    next().answer(MiB);
    expect(await third).toBe(undefined);
    expect([kept, released]).toEqual([2, 2]);
  });
});

describe('the clock', () => {
  test('gathered bytes go after a while, counted from the first', async () => {
    const behind = gathering();
    behind.write(0, text('a'));
    await vi.advanceTimersByTimeAsync(limits.writeBehindMs - 1);
    behind.write(1, text('b'));
    expect(sent()).toEqual([]);
    await vi.advanceTimersByTimeAsync(1);
    expect(sent()).toEqual([[0, 'ab']]);
    // And once more for what comes after it.
    behind.write(2, text('c'));
    await vi.advanceTimersByTimeAsync(limits.writeBehindMs - 1);
    expect(sent()).toHaveLength(1);
    await vi.advanceTimersByTimeAsync(1);
    expect(sent()[1]).toEqual([2, 'c']);
  });

  test('when they were sent before, the timer sends nothing', async () => {
    const behind = gathering();
    behind.write(0, text('a'));
    const flushed = behind.flush();
    next().answer(1);
    await flushed;
    await vi.advanceTimersByTimeAsync(10 * limits.writeBehindMs);
    expect([sent(), vi.getTimerCount()]).toEqual([[], 0]);
  });
});

describe('attributes', () => {
  test('go with what was written before them, in one request', async () => {
    const behind = gathering();
    behind.write(0, text('ab'));
    change(behind, modified(7));
    change(behind, { mode: 0o644 });
    expect([sent(), behind.isClean]).toEqual([[], false]);
    const flushed = watch(behind.flush());
    expect(sentWith()).toEqual([[0, 'ab', 7, 0o644]]);
    next().answer(2);
    await settle();
    expect([flushed.state, behind.isClean, vi.getTimerCount()]).toEqual(['done', true, 0]);
  });

  test('go alone where nothing was written', async () => {
    const behind = gathering();
    change(behind, modified(7));
    const flushed = watch(behind.flush());
    expect(sentWith()).toEqual([[0, '', 7, undefined]]);
    next().answer(0);
    await settle();
    expect([flushed.state, behind.isClean]).toEqual(['done', true]);
  });

  test('go when they have waited for a while', async () => {
    const behind = gathering();
    change(behind, modified(7));
    await vi.advanceTimersByTimeAsync(limits.writeBehindMs);
    expect(sentWith()).toEqual([[0, '', 7, undefined]]);
    next().answer(0);
    await settle();
    expect(vi.getTimerCount()).toBe(0);
  });

  // The chunk that is full goes without them, and takes no timer with it that they need.
  test('wait on when bytes are sent because they are many', async () => {
    const behind = gathering();
    change(behind, { mode: 0o644 });
    behind.write(0, bytes(MiB));
    expect(requests.map(({ data, attributes }) => [data.length, attributes])).toEqual([[MiB, undefined]]);
    await vi.advanceTimersByTimeAsync(limits.writeBehindMs);
    expect(requests).toHaveLength(1);
    next().answer(MiB);
    await settle();
    expect(sentWith()).toEqual([[0, '', undefined, 0o644]]);
  });

  test('come after all that is on its way; what is gathered goes at once', async () => {
    const behind = gathering();
    behind.write(0, bytes(MiB));
    behind.write(2 * MiB, text('end'));
    change(behind, modified(7));
    const flushed = watch(behind.flush());
    expect(requests.map(({ data }) => data.length)).toEqual([MiB, 3]);
    requests[1]?.answer(3);
    await settle();
    expect(requests).toHaveLength(2);
    requests[0]?.answer(MiB);
    await settle();
    requests.splice(0, 2);
    expect([sentWith(), flushed.state]).toEqual([[[0, '', 7, undefined]], 'pending']);
    next().answer(0);
    await settle();
    expect(flushed.state).toBe('done');
  });

  test('what is written after them waits for them on their way, wherever it is', async () => {
    const behind = gathering();
    behind.write(0, text('ab'));
    change(behind, modified(7));
    void behind.drain();
    behind.write(100, text('later'));
    void behind.drain();
    expect(sentWith()).toEqual([[0, 'ab', 7, undefined]]);
    next().answer(2);
    await settle();
    expect(sentWith()).toEqual([[100, 'later', undefined, undefined]]);
  });

  test('a time of modification is void when the file is written after it', async () => {
    const behind = gathering();
    change(behind, { ...modified(7), mode: 0o644 });
    behind.write(0, text('ab'));
    void behind.drain();
    expect(sentWith()).toEqual([[0, 'ab', undefined, 0o644]]);
  });

  test('are changed all the same when the data cannot be written, and the error is that of the data', async () => {
    const behind = gathering();
    const full = new FsError(errno.ENOSPC, 'write');
    behind.write(0, text('abcd'));
    change(behind, { mode: 0o644 });
    const flushed = watch(behind.flush());
    next().answer(2);
    await settle();
    expect(sentWith()).toEqual([[2, 'cd', undefined, 0o644]]);
    next().fail(full);
    await settle();
    expect(sentWith()).toEqual([[0, '', undefined, 0o644]]);
    next().answer(0);
    await settle();
    expect(flushed.state).toBe(full);
  });

  test('tell an error to the next flush', async () => {
    const behind = gathering();
    const error = new FsError(errno.EPERM, 'chmod');
    change(behind, { mode: 0o644 });
    const drained = behind.drain();
    next().fail(error);
    await drained;
    await expect(behind.flush()).rejects.toBe(error);
    await behind.flush();
  });

  test('are not sent any more when the lease was revoked', async () => {
    const behind = gathering();
    behind.write(0, text('ab'));
    change(behind, modified(7));
    behind.isStopped = true;
    behind.isFenced = true;
    await expect(behind.flush()).rejects.toMatchObject({ code: errno.ESTALE });
    expect([requests, behind.isClean]).toEqual([[], true]);
  });
});

describe('errors and short writes', () => {
  const full = new FsError(errno.ENOSPC, 'write');

  test('flush tells an error once; drain keeps it', async () => {
    const behind = gathering();
    behind.write(0, text('a'));
    const drained = behind.drain();
    next().fail(full);
    await drained;
    await expect(behind.flush()).rejects.toBe(full);
    await behind.flush();
    expect([behind.isClean, memory.budget.used]).toEqual([true, 0]);
  });

  test('of several errors the first is told, and the writes beside it are made all the same', async () => {
    const behind = gathering();
    for (const [index, value] of ['a', 'b', 'c'].entries()) {
      behind.write(10 * index, text(value));
      void behind.drain();
    }
    const flushed = watch(behind.flush());
    const [a, b, c] = requests as [Request, Request, Request];
    b.fail(full);
    await settle();
    c.fail(new FsError(errno.EIO, 'write'));
    await settle();
    expect(flushed.state).toBe('pending');
    a.answer(1);
    await settle();
    expect(flushed.state).toBe(full);
    await behind.flush();
  });

  test('a flush also waits for what is written while it waits', async () => {
    const behind = gathering();
    behind.write(0, text('a'));
    const flushed = watch(behind.flush());
    behind.write(5, text('b'));
    await vi.advanceTimersByTimeAsync(limits.writeBehindMs);
    next().answer(1);
    await settle();
    expect(flushed.state).toBe('pending');
    next().answer(1);
    await settle();
    expect(flushed.state).toBe('done');
  });

  test('what was not taken is sent again, and the error is that of the rest', async () => {
    const behind = gathering();
    behind.write(100, text('abcdef'));
    const flushed = watch(behind.flush());
    next().answer(2);
    await settle();
    expect(sent()).toEqual([[102, 'cdef']]);
    next().answer(3);
    await settle();
    expect([sent(), flushed.state]).toEqual([[[105, 'f']], 'pending']);
    next().fail(full);
    await settle();
    expect([sent(), flushed.state, memory.budget.used]).toEqual([[], full, 0]);
  });

  test('a server that takes nothing, and no error, is not asked for ever', async () => {
    const behind = gathering();
    behind.write(0, text('ab'));
    const flushed = watch(behind.flush());
    next().answer(0);
    await settle();
    expect([sent(), flushed.state]).toEqual([[], expect.objectContaining({ code: errno.EIO })]);
  });
});

describe('the budget', () => {
  test('bounds the bytes of all handles, and wakes whoever waits when some are answered', async () => {
    Object.assign(limits, { maxDirtyBytes: 10 });
    const [one, two] = [gathering(), gathering()];
    expect(one.write(0, bytes(6))).toBe(6);
    expect(two.write(0, bytes(4))).toBe(4);
    const third = two.write(4, bytes(5)) as Promise<number>;
    expect(third).toBeInstanceOf(Promise);
    const seen = watch(third);
    // To make room its own handle sends at once; the other one when its time has come.
    expect(sent()).toEqual([[0, bytes(4).toString()]]);
    next().answer(4);
    await settle();
    expect([seen.state, memory.budget.used]).toEqual(['pending', 6]);
    await vi.advanceTimersByTimeAsync(limits.writeBehindMs);
    next().answer(6);
    await settle();
    expect([seen.state, memory.budget.used]).toEqual(['done', 5]);
    await expect(third).resolves.toBe(5);
    await vi.advanceTimersByTimeAsync(limits.writeBehindMs);
    expect(requests.map(({ offset, data }) => [offset, data.length])).toEqual([[4, 5]]);
  });

  test('bounds the bytes of one file: another has room meanwhile', async () => {
    Object.assign(limits, { maxDirtyBytes: 20, maxDirtyBytesOfFile: 10 });
    const [one, other] = [gathering(), gathering()];
    one.write(0, bytes(8));
    const second = watch(one.write(8, bytes(8)) as Promise<number>);
    expect(other.write(0, bytes(8))).toBe(8);
    await settle();
    expect([second.state, memory.budget.used]).toEqual(['pending', 16]);
    next().answer(8);
    await settle();
    expect([second.state, memory.budget.used]).toEqual(['done', 16]);
  });

  test('a write larger than all of it is made when nothing else is written', async () => {
    Object.assign(limits, { maxDirtyBytes: 10 });
    const behind = gathering();
    behind.write(0, bytes(1));
    const large = watch(behind.write(1, bytes(100)) as Promise<number>);
    next().answer(1);
    await settle();
    expect([large.state, memory.budget.used]).toEqual(['done', 100]);
  });

  test('bytes that are written over count once, and an error frees them', async () => {
    Object.assign(limits, { maxDirtyBytes: 10 });
    const behind = gathering();
    for (let round = 0; round < 5; round++) expect(behind.write(0, bytes(5))).toBe(5);
    expect(behind.write(3, bytes(5))).toBe(5);
    expect(memory.budget.used).toBe(8);
    const drained = behind.drain();
    next().fail(new FsError(errno.EIO, 'write'));
    await drained;
    expect(memory.budget.used).toBe(0);
  });

  test('buffers are used again, not before their request is answered', async () => {
    const behind = gathering();
    behind.write(0, bytes(1));
    void behind.drain();
    behind.write(10, bytes(1));
    const drained = behind.drain();
    const [first, second] = [next(), next()];
    expect(first.view.buffer).not.toBe(second.view.buffer);
    first.answer(1);
    second.answer(1);
    await drained;
    const used = new Set([first.view.buffer, second.view.buffer]);
    const other = gathering(); // the next file
    for (const offset of [0, 10]) {
      other.write(offset, bytes(1));
      void other.drain();
    }
    expect(new Set(requests.map(({ view }) => view.buffer)).size).toBe(2);
    expect(requests.every(({ view }) => used.has(view.buffer))).toBe(true);
  });

  // It would be sent under a lease that is gone by then.
  test('a write that waits for room when the lease is given back is not gathered afterwards', async () => {
    Object.assign(limits, { maxDirtyBytes: 10 });
    const [one, other] = [gathering(), gathering()];
    other.write(0, bytes(10));
    const waiting = one.write(0, bytes(5)) as Promise<number>;
    waiting.catch(() => {});
    one.isStopped = true;
    const drained = watch(one.drain());
    await settle();
    const wasDrainedWithoutIt = drained.state === 'done';
    void other.drain();
    next().answer(10);
    await vi.advanceTimersByTimeAsync(limits.writeBehindMs);
    expect(wasDrainedWithoutIt && requests.length > 0).toBe(false);
  });
});

const FILE_BYTES = 256;
const step = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      kind: fc.constant('write' as const),
      offset: fc.nat(FILE_BYTES - 16),
      length: fc.integer({ min: 1, max: 16 }),
    }),
  },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('next' as const), length: fc.integer({ min: 1, max: 8 }) }) },
  { weight: 6, arbitrary: fc.record({ kind: fc.constant('send' as const) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('touch' as const) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('chmod' as const), bits: fc.nat(0o777) }) },
  {
    weight: 2,
    arbitrary: fc.record({ kind: fc.constant('answer' as const), pick: fc.nat(), isShort: fc.boolean() }),
  },
);

test.each([1, 3, maxExtents])(
  'whatever the order in which requests of up to %i extents are applied, the file is what was written, and its attributes what they became',
  async (extents) => {
    Object.assign(limits, { maxExtents: extents });
    let most = 0;
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 100 }), async (steps) => {
        requests = [];
        memory = new DirtyMemory();
        const behind = gathering();
        const expected = Buffer.alloc(FILE_BYTES);
        const file = Buffer.alloc(FILE_BYTES);
        let value = 0;
        let at = 0;
        /** The time of modification that was set, 0 when the file was written since; and the mode. */
        const is = { modified: 0, mode: 0 };
        let attributes = { ...FILE, mode: 0o100000 };
        const touched = (changes: AttributeChanges) => {
          attributes = change(behind, changes, attributes);
        };
        const write = (offset: number, length: number) => {
          at = offset + length;
          const data = bytes(length, ++value);
          expected.set(data, offset);
          attributes = { ...attributes, mtime: time };
          expect(behind.write(offset, data)).toBe(length);
        };
        /** The server applies it when it answers, not when it is sent. */
        const answer = async (pick: number, isShort: boolean) => {
          const [request] = requests.splice(pick % Math.max(1, requests.length), 1);
          if (request === undefined) return;
          const written = isShort ? Math.ceil(request.data.length / 2) : request.data.length;
          // The buffer was not touched while it was on its way.
          expect(request.data.equals(request.view)).toBe(true);
          pieces({ ...request, data: request.data.subarray(0, written) }).forEach(([offset, data]) => {
            file.set(data, offset);
          });
          if (written > 0) is.modified = 0;
          const { mtime, mode } = (written === request.data.length && request.attributes) || {};
          if (mtime) is.modified = mtime.sec;
          if (mode) {
            expect(is.mode).toBe(mode.from);
            is.mode = mode.to;
          }
          request.answer(written);
          await settle();
        };
        for (const one of steps) {
          if (one.kind === 'write') write(one.offset, one.length);
          else if (one.kind === 'next' && at + one.length <= FILE_BYTES) write(at, one.length);
          else if (one.kind === 'touch') touched(modified(++value));
          else if (one.kind === 'chmod') touched({ mode: (attributes.mode & 0o777) | one.bits });
          else if (one.kind === 'send') vi.advanceTimersByTime(limits.writeBehindMs);
          else if (one.kind === 'answer') await answer(one.pick, one.isShort);
          most = Math.max(most, requests.length);
          for (const [index, a] of requests.entries()) {
            for (const b of requests.slice(index + 1)) {
              const isApart = a.extents.every((one) =>
                b.extents.every(
                  (other) => one.offset + one.length <= other.offset || other.offset + other.length <= one.offset,
                ),
              );
              expect(isApart && !a.attributes && !b.attributes).toBe(true);
            }
          }
        }
        const flushed = watch(behind.flush());
        while (requests.length > 0) await answer(value, false);
        await settle();
        expect([flushed.state, behind.isClean, memory.budget.used]).toEqual(['done', true, 0]);
        expect(file.equals(expected)).toBe(true);
        expect(is).toEqual({ modified: attributes.mtime.sec, mode: attributes.mode & 0o777 });
      }),
      { numRuns: 1000 },
    );
    expect(most).toBeGreaterThan(2);
  },
);
