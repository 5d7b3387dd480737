import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { OverlapChecker } from '../../scripts/bench/overlap-checker.ts';
import type { FileInspection } from '../../scripts/bench/overlap-file.ts';
import { finalStates } from '../../scripts/bench/overlap-final.ts';
import { judgeRead, type ReadFault, type ReadRecord } from '../../scripts/bench/serial-order.ts';
import { GARBLED, type UnitRun, type WriteTag } from '../../scripts/bench/tagged-unit.ts';
import { WriteHistory, type WriteRecord } from '../../scripts/bench/write-history.ts';

/** A write of units [start, start + count), issued and acknowledged at these times. */
function write(
  writer: number,
  sequence: number,
  startUnit: number,
  unitCount: number,
  issuedNs = 0,
  acknowledgedNs = 1e9,
): WriteRecord {
  return { writer, sequence, startUnit, unitCount, issuedNs, acknowledgedNs, whole: true };
}

const initial = write(0, 1, 0, 100, -2, -1);

/** A read from unit 0 on, one tag a unit. */
function readOf(units: readonly WriteTag[], issuedNs = 100, returnedNs = 200): ReadRecord {
  const runs = units.map(({ writer, sequence, startUnit, unitCount }, index): UnitRun => {
    return { startUnit: index, unitCount: 1, tag: { writer, sequence, startUnit, unitCount } };
  });
  return { reader: 9, startUnit: 0, unitCount: units.length, issuedNs, returnedNs, runs };
}

function historyOf(writes: readonly WriteRecord[]): WriteHistory {
  const history = new WriteHistory();
  for (const each of [initial, ...writes].sort((a, b) => a.sequence - b.sequence)) history.add(each);
  return history;
}

interface Row {
  readonly name: string;
  readonly writes: readonly WriteRecord[];
  /** Index into writes for each unit; -1 is the initial content. */
  readonly shows: readonly number[];
  readonly fault: ReadFault | null;
}

// Unless a row says otherwise all writes overlap in time with the read and with each other: only tags count.
const rows: readonly Row[] = [
  { name: 'one write', writes: [write(1, 1, 0, 2)], shows: [0, 0], fault: null },
  { name: 'only the initial content', writes: [write(1, 1, 0, 2)], shows: [-1, -1], fault: null },
  { name: 'two writes of one range', writes: [write(1, 1, 0, 2), write(2, 1, 0, 2)], shows: [0, 1], fault: 'torn' },
  { name: 'a later write covers the tail', writes: [write(1, 1, 0, 2), write(2, 1, 1, 2)], shows: [0, 1], fault: null },
  {
    name: 'the earlier write shows in the middle of the later',
    writes: [write(1, 1, 1, 1), write(2, 1, 0, 3)],
    shows: [1, 0, 1],
    fault: null,
  },
  {
    name: 'head, tail and head again',
    writes: [write(1, 1, 0, 3), write(2, 1, 1, 2)],
    shows: [0, 1, 0],
    fault: 'torn',
  },
  { name: 'initial content under one whole write', writes: [write(1, 1, 0, 2)], shows: [-1, 0], fault: 'torn' },
  { name: 'initial content beside a write', writes: [write(1, 1, 1, 1)], shows: [-1, 0], fault: null },
  {
    name: 'three staggered, in order',
    writes: [write(1, 1, 0, 2), write(2, 1, 1, 2), write(3, 1, 2, 2)],
    shows: [0, 1, 2, 2],
    fault: null,
  },
  {
    name: 'a cycle of three, no two of which contradict each other',
    // 1#1 before 1#2 (program), 1#2 before 2#1 (it covers unit 1), 2#1 before 1#1 (it covers unit 0).
    writes: [write(1, 1, 0, 1), write(1, 2, 1, 2), write(2, 1, 0, 2)],
    shows: [0, 2, 1],
    fault: 'torn',
  },
  { name: 'own order kept', writes: [write(1, 1, 0, 2), write(1, 2, 0, 1)], shows: [1, 0], fault: null },
  { name: 'own order broken', writes: [write(1, 1, 0, 1), write(1, 2, 0, 2)], shows: [0, 1], fault: 'torn' },
  {
    name: 'own order broken through a write that does not show',
    // 1#2 covers unit 1 and lies between 1#1 and 1#3: whoever shows in unit 1 came after it, so after 1#1, but 2#1 covers unit 0.
    writes: [write(1, 1, 0, 1), write(1, 2, 1, 1), write(1, 3, 2, 1), write(2, 1, 0, 2)],
    shows: [0, 3, 2],
    fault: 'torn',
  },
  {
    name: 'a write that does not show, but may come after the read',
    writes: [write(1, 1, 0, 1), write(1, 2, 1, 1), write(2, 1, 0, 2)],
    shows: [0, 2],
    fault: null,
  },
  {
    name: 'a write older than one acknowledged before the read',
    writes: [write(1, 1, 0, 1, 10, 20), write(2, 1, 0, 1, 30, 40)],
    shows: [0],
    fault: 'stale',
  },
  {
    name: 'the initial content after a write was acknowledged',
    writes: [write(1, 1, 0, 1, 10, 20)],
    shows: [-1],
    fault: 'stale',
  },
  {
    name: 'an acknowledged write may be overwritten by one that was under way beside it',
    writes: [write(1, 1, 0, 1, 10, 35), write(2, 1, 0, 1, 30, 40)],
    shows: [0],
    fault: null,
  },
  {
    name: 'a write acknowledged after the read began may be missing',
    writes: [write(1, 1, 0, 1, 10, 20), write(2, 1, 0, 1, 30, 101)],
    shows: [0],
    fault: null,
  },
  {
    name: 'a unit misses a write that was over before another that shows was issued',
    writes: [write(1, 1, 1, 1, 10, 110), write(2, 1, 0, 1, 120, 130)],
    shows: [1, -1],
    fault: 'torn',
  },
];

describe('one read', () => {
  test.each(rows)('$name: $fault', ({ writes, shows, fault }) => {
    const read = readOf(shows.map((index) => writes[index] ?? initial));
    const verdict = judgeRead(read, historyOf(writes));
    expect(verdict.fault).toBe(fault);
    expect(verdict.cycle.length > 0).toBe(fault !== null);
  });

  test('a failed write may have done anything, at any time', () => {
    const failed = { ...write(1, 1, 0, 2, 10, 20), whole: false };
    const other = write(2, 1, 0, 2, 30, 40);
    expect(judgeRead(readOf([failed, other]), historyOf([failed, other])).fault).toBe(null);
    expect(judgeRead(readOf([other, initial]), historyOf([failed, other])).fault).toBe('torn');
  });

  test('a write that was never reported is taken as its tag says', () => {
    const [a, b] = [write(1, 1, 0, 2), write(2, 1, 0, 2)];
    expect(judgeRead(readOf([a, b]), historyOf([])).fault).toBe('torn');
    expect(judgeRead(readOf([a, a]), historyOf([])).fault).toBe(null);
  });

  test('a write that the history has forgotten is still known to be old', () => {
    const history = new WriteHistory(4);
    history.add(initial);
    for (let sequence = 1; sequence <= 20; sequence++)
      history.add(write(1, sequence, 0, 1, 2 * sequence, 2 * sequence + 1));
    expect(judgeRead(readOf([write(1, 1, 0, 1)]), history).fault).toBe('stale');
    expect(judgeRead(readOf([write(1, 20, 0, 1)]), history).fault).toBe(null);
  });
});

describe('several reads', () => {
  test('a later read shows less than an earlier one: backward', () => {
    const checker = new OverlapChecker();
    const young = write(1, 1, 0, 1, 10, 1000);
    for (const each of [initial, young]) checker.addWrite(each);
    checker.addRead(readOf([young], 100, 200));
    checker.addRead(readOf([initial], 300, 400));
    checker.finish();
    expect(checker.counts).toEqual({ torn: 0, stale: 0, backward: 1, mixedPages: 0, mixedReads: 0 });
  });

  test('reads at the same time may see a write in either order', () => {
    const checker = new OverlapChecker();
    const young = write(1, 1, 0, 1, 10, 1000);
    for (const each of [initial, young]) checker.addWrite(each);
    checker.addRead(readOf([young], 100, 350));
    checker.addRead(readOf([initial], 300, 400));
    checker.finish();
    expect(checker.counts.backward).toBe(0);
  });

  test('reads are judged in the order of their ends, however they are reported', () => {
    const checker = new OverlapChecker();
    const young = write(1, 1, 0, 1, 10, 1000);
    for (const each of [initial, young]) checker.addWrite(each);
    checker.addRead(readOf([initial], 300, 400));
    checker.addRead(readOf([young], 100, 200));
    checker.finish();
    expect(checker.counts.backward).toBe(1);
  });

  test('a read waits for every caller to have reported', () => {
    const checker = new OverlapChecker();
    checker.addWrite(initial);
    for (const caller of [1, 9]) checker.expect(caller);
    checker.addRead(readOf([initial], 100, 200));
    checker.advance(9, Infinity);
    expect(checker.judgedReads).toBe(0);
    checker.addWrite(write(1, 1, 0, 1, 10, 20));
    checker.advance(1, 201);
    expect(checker.counts.stale).toBe(1);
  });
});

describe('mixed pages', () => {
  const inPage = (tags: readonly WriteTag[]) => readOf(tags);

  test('units of two writes that contradict each other within a page', () => {
    const checker = new OverlapChecker();
    const [a, b] = [write(1, 1, 0, 4), write(2, 1, 0, 4)];
    for (const each of [initial, a, b]) checker.addWrite(each);
    checker.judge(inPage([a, b, a, b]));
    expect(checker.counts).toMatchObject({ torn: 1, mixedPages: 1 });
  });

  test('torn between pages, but each page whole', () => {
    const checker = new OverlapChecker();
    const [a, b] = [write(1, 1, 0, 256), write(2, 1, 0, 256)];
    for (const each of [write(0, 1, 0, 256, -2, -1), a, b]) checker.addWrite(each);
    const runs = [
      { startUnit: 0, unitCount: 128, tag: a },
      { startUnit: 128, unitCount: 128, tag: b },
    ];
    checker.judge({ reader: 9, startUnit: 0, unitCount: 256, issuedNs: 100, returnedNs: 200, runs });
    expect(checker.counts).toMatchObject({ torn: 1, mixedPages: 0 });
  });

  test('a garbled unit is a mixed page, and says nothing of the order', () => {
    const checker = new OverlapChecker();
    const a = write(1, 1, 0, 4);
    for (const each of [initial, a]) checker.addWrite(each);
    checker.judge(inPage([a, { ...a, writer: GARBLED }, a, a]));
    expect(checker.counts).toMatchObject({ torn: 0, mixedPages: 1, mixedReads: 1 });
  });

  test('a tag with another range than its write had is garbled', () => {
    const checker = new OverlapChecker();
    const a = write(1, 1, 0, 4);
    for (const each of [initial, a]) checker.addWrite(each);
    checker.judge(inPage([{ ...a, unitCount: 3 }]));
    expect(checker.counts.mixedPages).toBe(1);
  });
});

describe('the final content', () => {
  const [a, b] = [write(1, 1, 0, 2, 10, 50), write(2, 1, 0, 2, 20, 60)];
  const inspect = (tags: readonly WriteTag[], sha256: string) => ({
    read: readOf(tags, 900, 910),
    sizeBytes: 64,
    sha256,
  });
  const states = (...found: FileInspection[]) => {
    const driver = {
      labels: found.map((_, index) => `place ${index}`),
      inspect: async (target: number) => found[target] as FileInspection,
    };
    return finalStates(driver, historyOf([a, b]), new Set()).then((all) => all.map((state) => state.fault));
  };

  test.each([
    [
      'either of two writes at the same time, the same everywhere',
      [
        [a, a],
        [a, a],
      ],
      [null, null],
    ],
    [
      'each explained, but not the same',
      [
        [a, a],
        [b, b],
      ],
      [null, 'differs'],
    ],
    ['nothing of either', [[initial, initial]], ['lost']],
    ['a half of each', [[a, b]], ['unexplained']],
    ['the end is missing', [[a]], ['lost']],
  ] as const)('%s', async (_, shown, faults) => {
    const whole = shown.map((tags) => {
      const found = inspect(tags, tags.map((tag) => tag.writer).join());
      return { ...found, read: { ...found.read, unitCount: 2 } };
    });
    expect(await states(...whole)).toEqual(faults);
  });
});

const UNITS = 5;

/**
 * A history in which every write and read takes effect at one moment between its issue and its end, callers in any
 * interleaving: each draw moves one caller one step (issue, take effect, end).
 */
function simulate(draws: readonly { caller: number; start: number; count: number; reads: boolean }[]) {
  const content: WriteTag[] = Array.from({ length: UNITS }, () => ({ ...initial, unitCount: UNITS }));
  const writes: WriteRecord[] = [{ ...initial, unitCount: UNITS }];
  const reads: ReadRecord[] = [];
  const callers = Array.from({ length: 3 }, () => ({
    sequence: 0,
    step: 0,
    issuedNs: 0,
    op: null as WriteTag | null,
    range: [0, 0],
    seen: [] as WriteTag[],
  }));
  draws.forEach(({ caller: number, start, count, reads: isRead }, nowNs) => {
    const caller = callers[number] as (typeof callers)[number];
    if (caller.step === 0) {
      const startUnit = Math.min(start, UNITS - 1);
      const unitCount = Math.min(count, UNITS - startUnit);
      caller.op = isRead ? null : { writer: number + 1, sequence: ++caller.sequence, startUnit, unitCount };
      caller.range = [startUnit, startUnit + unitCount];
      caller.issuedNs = nowNs;
    } else if (caller.step === 1) {
      const [from, to] = caller.range as [number, number];
      caller.seen = content.slice(from, to);
      if (caller.op) content.fill(caller.op, from, to);
    } else if (caller.op) {
      writes.push({ ...caller.op, issuedNs: caller.issuedNs, acknowledgedNs: nowNs, whole: true });
    } else {
      const [from, to] = caller.range as [number, number];
      const runs = caller.seen.map((tag, index) => ({ startUnit: from + index, unitCount: 1, tag }));
      reads.push({
        reader: number + 1,
        startUnit: from,
        unitCount: to - from,
        issuedNs: caller.issuedNs,
        returnedNs: nowNs,
        runs,
      });
    }
    caller.step = (caller.step + 1) % 3;
  });
  return { writes, reads, content };
}

const drawsArbitrary = (maxLength: number) =>
  fc.array(
    fc.record({
      caller: fc.nat(2),
      start: fc.nat(UNITS - 1),
      count: fc.integer({ min: 1, max: UNITS }),
      reads: fc.boolean(),
    }),
    { maxLength, size: 'max' },
  );

function checkAll(writes: readonly WriteRecord[], reads: readonly ReadRecord[]): OverlapChecker {
  const checker = new OverlapChecker();
  for (const each of writes) checker.addWrite(each);
  for (const each of reads) checker.addRead(each);
  checker.finish();
  return checker;
}

const nothing = { torn: 0, stale: 0, backward: 0, mixedPages: 0, mixedReads: 0 };

describe('any execution of whole writes', () => {
  test('is never reported', () => {
    let judged = 0;
    fc.assert(
      fc.property(drawsArbitrary(300), (draws) => {
        const { writes, reads } = simulate(draws);
        judged += reads.length;
        expect(checkAll(writes, reads).counts).toEqual(nothing);
      }),
      { numRuns: 500 },
    );
    expect(judged).toBeGreaterThan(1000);
  });

  test('is reported when two units of one read show two writes that both cover both', () => {
    let planted = 0;
    fc.assert(
      fc.property(drawsArbitrary(200), fc.nat(), fc.nat(), (draws, readDraw, pairDraw) => {
        const { writes, reads } = simulate(draws);
        const wide = reads.filter((read) => read.unitCount > 1);
        const read = wide[readDraw % Math.max(1, wide.length)];
        if (!read) return;
        const covering = writes.filter(
          (each) => each.startUnit <= read.startUnit && each.startUnit + each.unitCount >= read.startUnit + 2,
        );
        const [a, b] = [covering[pairDraw % covering.length], covering[(pairDraw + 1) % covering.length]];
        if (!a || !b || a === b) return;
        planted++;
        const [first, second, ...rest] = read.runs as [UnitRun, UnitRun, ...UnitRun[]];
        const forged = { ...read, runs: [{ ...first, tag: a }, { ...second, tag: b }, ...rest] };
        const { counts } = checkAll(
          writes,
          reads.map((each) => (each === read ? forged : each)),
        );
        expect(counts.torn + counts.stale).toBeGreaterThan(0);
      }),
      { numRuns: 500 },
    );
    expect(planted).toBeGreaterThan(100);
  });
});

/** All orders of the writes that keep "acknowledged before issued", the read put in anywhere that time permits. */
function explainedByBruteForce(writes: readonly WriteRecord[], read: ReadRecord): boolean {
  const content = new Map<number, WriteTag>();
  const matches = () =>
    read.runs.every(
      (run) =>
        content.get(run.startUnit)?.writer === run.tag.writer &&
        content.get(run.startUnit)?.sequence === run.tag.sequence,
    );
  const search = (left: readonly WriteRecord[]): boolean => {
    // The read may take place now: nothing that is left had been acknowledged before it was issued.
    if (left.every((each) => each.acknowledgedNs >= read.issuedNs) && matches()) return true;
    return left.some((next) => {
      if (next.issuedNs > read.returnedNs || left.some((other) => other.acknowledgedNs < next.issuedNs)) return false;
      const before = new Map(content);
      for (let unit = next.startUnit; unit < next.startUnit + next.unitCount; unit++) content.set(unit, next);
      if (search(left.filter((each) => each !== next))) return true;
      content.clear();
      for (const [unit, tag] of before) content.set(unit, tag);
      return false;
    });
  };
  return search(writes);
}

test('the judge agrees with trying every order, on reads that show anything', () => {
  const outcomes = { explained: 0, contradicted: 0 };
  fc.assert(
    fc.property(
      drawsArbitrary(24),
      fc.nat(24),
      fc.nat(12),
      fc.array(fc.nat(), { minLength: UNITS, maxLength: UNITS }),
      (draws, at, length, picks) => {
        const { writes } = simulate(draws.map((draw) => ({ ...draw, reads: false })));
        const issuedNs = at - 0.5;
        const returnedNs = issuedNs + length;
        const shown = picks.map((pick, unit) => {
          const possible = writes.filter(
            (each) => each.startUnit <= unit && unit < each.startUnit + each.unitCount && each.issuedNs < returnedNs,
          );
          return possible[pick % possible.length] as WriteRecord;
        });
        const read = readOf(shown, issuedNs, returnedNs);
        const history = new WriteHistory();
        for (const each of writes) history.add(each);
        const explained = explainedByBruteForce(writes, read);
        outcomes[explained ? 'explained' : 'contradicted']++;
        expect(judgeRead(read, history).fault === null).toBe(explained);
      },
    ),
    { numRuns: 3000 },
  );
  expect(Math.min(outcomes.explained, outcomes.contradicted)).toBeGreaterThan(200);
});
