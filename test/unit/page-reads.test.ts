/** Reads of one file's pages against a recall: which go on, which wait, and that no page of before stays in the kernel. */
import fc from 'fast-check';
import { beforeEach, describe, expect, test } from 'vitest';
import { PageReads } from '../../client-fuse/leases/page-reads.ts';
import { deferred } from '../support/fixture.ts';

/** Whatever follows from what has happened, without the clock. */
async function settle(): Promise<void> {
  for (let turn = 0; turn < 12; turn++) await Promise.resolve();
}

describe('one recall', () => {
  let reads: PageReads;
  let invalidations: { start: number; end: number; done: () => void }[];
  let isTakenBack: boolean;

  beforeEach(() => {
    reads = new PageReads();
    invalidations = [];
    isTakenBack = false;
  });

  const takeBack = () => {
    void reads
      .takeBack((start, end) => {
        const { promise, resolve } = deferred();
        invalidations.push({ start, end, done: resolve });
        return promise;
      })
      .then(() => {
        isTakenBack = true;
      });
  };
  const ranges = () => invalidations.map(({ start, end }) => [start, end]);
  const finishLast = async () => {
    invalidations.at(-1)?.done();
    await settle();
  };

  test('before it nothing waits, nor afterwards', async () => {
    expect(reads.begin(0, 10)).toBeUndefined();
    takeBack();
    await finishLast();
    reads.end();
    expect(reads.begin(0, 10)).toBeUndefined();
    expect(ranges()).toEqual([[0, Number.POSITIVE_INFINITY]]);
  });

  test('it is over after one invalidation of the whole file when no read came in between', async () => {
    takeBack();
    await settle();
    expect([ranges(), isTakenBack]).toEqual([[[0, Number.POSITIVE_INFINITY]], false]);
    await finishLast();
    expect([invalidations.length, isTakenBack]).toEqual([1, true]);
  });

  /** Reads during the first invalidation, and what is invalidated once more: one range that covers them. */
  const late: [reads: [offset: number, size: number][], again: [start: number, end: number]][] = [
    [[[8, 4]], [8, 12]],
    [[[0, 1]], [0, 1]],
    [
      [
        [8, 4],
        [12, 4],
      ],
      [8, 16],
    ],
    [
      [
        [40, 4],
        [8, 4],
      ],
      [8, 44],
    ],
  ];
  test.each(late)('reads of %j in the meantime go on; %j is invalidated once more', async (those, again) => {
    takeBack();
    for (const [offset, size] of those) expect(reads.begin(offset, size)).toBeUndefined();
    await finishLast();
    expect([ranges().slice(1), isTakenBack]).toEqual([[again], false]);
    await finishLast();
    expect([invalidations.length, isTakenBack]).toEqual([2, true]);
  });

  /** While [8, 12) is invalidated once more. */
  const second: [what: string, offset: number, size: number, goesOn: boolean][] = [
    ['the same range', 8, 4, true],
    ['a part of it', 9, 1, true],
    ['its first byte and some before', 4, 5, true],
    ['its last byte and some behind', 11, 9, true],
    ['all around it', 0, 40, true],
    ['up to its start', 4, 4, false],
    ['from its end on', 12, 4, false],
    ['far away', 400, 4, false],
  ];
  test.each(second)('then a read of %s (%i, %i) goes on: %s', async (_what, offset, size, goesOn) => {
    takeBack();
    reads.begin(8, 4);
    await finishLast();
    let isAwake = false;
    const wait = reads.begin(offset, size);
    void wait?.then(() => {
      isAwake = true;
    });
    expect(wait === undefined).toBe(goesOn);
    await finishLast();
    if (goesOn) {
      expect(ranges().at(-1)).toEqual([offset, offset + size]);
      await finishLast();
    }
    expect([invalidations.length, isTakenBack, isAwake]).toEqual([goesOn ? 3 : 2, true, false]);
    reads.end();
    await settle();
    expect(isAwake).toBe(!goesOn);
  });

  test('between the last invalidation and the acknowledgement every read waits; all are woken once', async () => {
    takeBack();
    await finishLast();
    const woken: number[] = [];
    for (const offset of [0, 8, 1e9]) void reads.begin(offset, 4)?.then(() => woken.push(offset));
    await settle();
    expect(woken).toEqual([]);
    reads.end();
    reads.end();
    await settle();
    expect(woken).toEqual([0, 8, 1e9]);
  });

  test('the next recall starts with the whole file again', async () => {
    takeBack();
    reads.begin(8, 4);
    await finishLast();
    await finishLast();
    reads.end();
    takeBack();
    await finishLast();
    const whole = [0, Number.POSITIVE_INFINITY];
    expect(ranges()).toEqual([whole, [8, 12], whole]);
  });
});

const FILE_PAGES = 8;

/** A page is locked from the read that brings it to its reply; `version` is of what the server had when it was read. */
interface Page {
  isLocked: boolean;
  version: number;
}

interface Read {
  readonly pages: readonly number[];
  /** It has passed `begin`: its reply may come. */
  isSent: boolean;
}

/** A kernel's page cache of one file, its client and the server: 40 lines that do what invalidate_inode_pages2() does. */
class World {
  readonly reads = new PageReads();
  readonly pages = new Map<number, Page>();
  readonly underWay: Read[] = [];
  /** The invalidation under way: the page that it looks at next. */
  walk: { at: number; end: number; done: () => void } | undefined;
  recall: 'none' | 'taking back' | 'taken back' = 'none';
  version = 0;

  /** As readahead does: only absent pages, in one piece, each locked until the reply. */
  read(start: number, count: number): void {
    const pages: number[] = [];
    for (let page = start; page < start + count && page < FILE_PAGES && !this.pages.has(page); page++) pages.push(page);
    if (pages.length === 0) return;
    for (const page of pages) this.pages.set(page, { isLocked: true, version: -1 });
    const read: Read = { pages, isSent: false };
    this.underWay.push(read);
    void this.#send(read);
  }

  async #send(read: Read): Promise<void> {
    const [start] = read.pages;
    // As KernelCaches.beginRead: whoever waited asks again.
    for (let wait = this.reads.begin(start as number, read.pages.length); wait; ) {
      await wait;
      wait = this.reads.begin(start as number, read.pages.length);
    }
    read.isSent = true;
    for (const page of read.pages) (this.pages.get(page) as Page).version = this.version;
  }

  reply(pick: number): void {
    const sent = this.underWay.filter(({ isSent }) => isSent);
    const read = sent[pick % Math.max(1, sent.length)];
    if (read === undefined) return;
    this.underWay.splice(this.underWay.indexOf(read), 1);
    for (const page of read.pages) (this.pages.get(page) as Page).isLocked = false;
  }

  beginRecall(): void {
    if (this.recall !== 'none') return;
    this.recall = 'taking back';
    const invalidate = (start: number, end: number) => {
      const { promise, resolve } = deferred();
      this.walk = { at: start, end: Math.min(end, FILE_PAGES), done: resolve };
      return promise;
    };
    void this.reads.takeBack(invalidate).then(() => {
      this.recall = 'taken back';
    });
  }

  /** One page: it waits for a locked one, and does not come back to what comes in behind it. */
  step(): void {
    const { walk } = this;
    if (walk === undefined || this.pages.get(walk.at)?.isLocked) return;
    this.pages.delete(walk.at);
    walk.at++;
    if (walk.at < walk.end) return;
    this.walk = undefined;
    walk.done();
  }

  /** The server changes the file as soon as it hears. */
  acknowledge(): void {
    if (this.recall !== 'taken back') return;
    this.version++;
    this.recall = 'none';
    this.reads.end();
  }

  /** A page that nobody uses goes when memory is short, or by posix_fadvise(2). */
  reclaim(page: number): void {
    if (this.pages.get(page)?.isLocked === false) this.pages.delete(page);
  }

  /** Pages that are cached, or will be, and are of before the last acknowledged recall. */
  get old(): number[] {
    const isOld = ({ version }: Page) => version >= 0 && version < this.version;
    return [...this.pages].filter(([, page]) => isOld(page)).map(([index]) => index);
  }
}

const step = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({
      kind: fc.constant('read' as const),
      start: fc.nat(FILE_PAGES - 1),
      count: fc.integer({ min: 1, max: 4 }),
    }),
  },
  { weight: 4, arbitrary: fc.record({ kind: fc.constant('reply' as const), pick: fc.nat() }) },
  { weight: 6, arbitrary: fc.record({ kind: fc.constant('step' as const) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('recall' as const) }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('acknowledge' as const) }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('reclaim' as const), page: fc.nat(FILE_PAGES - 1) }) },
);

function interleavings(reclaims: boolean) {
  return fc.asyncProperty(fc.array(step, { maxLength: 60 }), async (steps) => {
    const world = new World();
    for (const one of steps) {
      if (one.kind === 'read') world.read(one.start, one.count);
      else if (one.kind === 'reply') world.reply(one.pick);
      else if (one.kind === 'step') world.step();
      else if (one.kind === 'recall') world.beginRecall();
      else if (one.kind === 'acknowledge') world.acknowledge();
      else if (reclaims) world.reclaim(one.page);
      await settle();
      expect(world.old).toEqual([]);
    }
    // Nothing waits for ever: replies come, the invalidation goes on, and the recall is acknowledged.
    for (let round = 0; round < 100 && (world.underWay.length > 0 || world.recall !== 'none'); round++) {
      world.reply(0);
      world.step();
      await settle();
      world.acknowledge();
      await settle();
      expect(world.old).toEqual([]);
    }
    expect([world.underWay.length, world.recall]).toEqual([0, 'none']);
  });
}

describe('against the page cache of a kernel, in any order', () => {
  test('no page of before an acknowledged recall is cached after it, and nothing waits for ever', async () => {
    await fc.assert(interleavings(false), { numRuns: 400 });
  });

  // It would wait for the recall with its page locked, and the next invalidation for that page.
  test('a page that will be invalidated once more may be reclaimed, and read again', async () => {
    const world = new World();
    const walk = async () => {
      for (let page = 0; page < FILE_PAGES; page++) world.step();
      await settle();
    };
    world.beginRecall();
    world.step();
    world.read(0, 1); // behind the invalidation: [0, 1) is invalidated once more
    world.reply(0);
    await walk();
    expect(world.walk).toMatchObject({ at: 0, end: 1 });
    world.reclaim(0);
    world.read(0, 4); // in that range: [0, 4) will be invalidated once more
    world.reply(0);
    world.reclaim(2);
    world.read(2, 1);
    await walk();
    expect(world.walk).toMatchObject({ end: 4 });
    world.reply(0); // the read of page 2, if it did not wait
    await walk();
    world.reply(0);
    await walk();
    expect(world.recall).toBe('taken back');
  });
});
