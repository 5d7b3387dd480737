/** What the kernel is given for how long, and by which notifications it is taken back before a recall is acknowledged. */
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { type CacheNotifier, KernelCaches } from '../../client-fuse/leases/kernel-caches.ts';
import type { Node, OpenHandle } from '../../client-fuse/vfs/node.ts';
import { NodeTable } from '../../client-fuse/vfs/node-table.ts';
import { deferred } from '../support/fixture.ts';

const USABLE_MS = 3_000;

/** A kernel that does what it is told at once, unless a test holds it back. */
class Kernel implements CacheNotifier {
  readonly calls: string[] = [];
  /** What INVAL_INODE answers; ENOENT is false. True when there are none left. */
  readonly knows: boolean[] = [];
  /** Calls that start with this wait for `release`. */
  held: string | undefined;
  #waiting: (() => void)[] = [];
  mountsInside = false;

  async #do(call: string): Promise<void> {
    this.calls.push(call);
    if (this.held === undefined || !call.startsWith(this.held)) return;
    const { promise, resolve } = deferred();
    this.#waiting.push(resolve);
    await promise;
  }

  release(): void {
    this.held = undefined;
    for (const resolve of this.#waiting.splice(0)) resolve();
  }

  async invalidateInode(node: number, offset: number, length: number): Promise<boolean> {
    await this.#do(`inode ${node} ${offset} ${length}`);
    return this.knows.shift() ?? true;
  }

  invalidateListing(node: number): Promise<void> {
    return this.#do(`inode ${node} 0 0`);
  }

  invalidateEntry(parent: number, name: Uint8Array, options?: { expireOnly?: boolean }): Promise<void> {
    return this.#do(`${options?.expireOnly ? 'expire' : 'entry'} ${parent} ${Buffer.from(name).toString('latin1')}`);
  }

  incrementEpoch(): Promise<void> {
    return this.#do('epoch');
  }

  storePages(node: number, offset: number, data: Uint8Array): Promise<void> {
    return this.#do(`store ${node} ${offset} ${data.length}`);
  }

  hasMountsInside = (): Promise<boolean> => Promise.resolve(this.mountsInside);
}

let kernel: Kernel;
let usableMs: number;
let caches: KernelCaches;
let table: NodeTable;
let directory: Node;
let file: Node;

const settle = async () => {
  for (let turn = 0; turn < 3_000; turn++) await Promise.resolve();
};
/** Done or not, without waiting for it; "nothing" when there is nothing to wait for. */
function watch(promise: Promise<unknown> | undefined): { state: 'nothing' | 'pending' | 'done' } {
  const seen: { state: 'nothing' | 'pending' | 'done' } = { state: promise ? 'pending' : 'nothing' };
  void promise?.then(() => {
    seen.state = 'done';
  });
  return seen;
}

beforeEach(() => {
  vi.useFakeTimers();
  kernel = new Kernel();
  usableMs = USABLE_MS;
  caches = new KernelCaches(() => usableMs);
  caches.attach({ notifier: kernel, epochs: true, hasMountsInside: kernel.hasMountsInside });
  table = new NodeTable(Buffer.from('root'));
  directory = table.root; // node 1
  file = table.found(Buffer.from('file')); // node 2
});
afterEach(() => {
  vi.useRealTimers();
});

describe('giving', () => {
  const rows: [what: string, prepare: () => void, attributesMs: number, nameMs: number][] = [
    ['under a lease', () => {}, USABLE_MS, USABLE_MS],
    ['without a kernel', () => (caches = new KernelCaches(() => usableMs)), 0, 0],
    [
      'to a kernel without epochs',
      () => caches.attach({ notifier: kernel, epochs: false, hasMountsInside: kernel.hasMountsInside }),
      USABLE_MS,
      0,
    ],
    ['shortly before leases may not be used any more', () => (usableMs = 7), 7, 7],
    ['when they may not', () => (usableMs = 0), 0, 0],
    ['long after that', () => (usableMs = Number.NEGATIVE_INFINITY), 0, 0],
  ];
  test.each(rows)('%s: attributes for %d ms more, names for %d', async (_what, prepare, attributesMs, nameMs) => {
    prepare();
    expect([caches.giveAttributes(file), caches.giveName(directory, 'f', false)]).toEqual([attributesMs, nameMs]);
    // And what was not given is not taken back.
    caches.takeBack([file, directory]);
    await settle();
    const expected = [...(attributesMs > 0 ? ['inode 2 -1 0'] : []), ...(nameMs > 0 ? ['entry 1 f'] : [])];
    expect(kernel.calls).toEqual(expected);
  });

  test('without a kernel no pages are kept, and nothing is to be taken back', () => {
    caches = new KernelCaches(() => usableMs);
    caches.beginRead(file, 0, 4096);
    expect([caches.isAttached, caches.takeBack([file]), caches.dropPages(file, 0, 0)]).toEqual([
      false,
      undefined,
      undefined,
    ]);
  });

  const givenAWhileAgo = (give: () => void) => {
    give();
    vi.advanceTimersByTime(10);
  };
  /** Each of these is given, and held back while it is taken back. */
  const given: [what: string, give: () => unknown, held: string][] = [
    ['attributes', () => caches.giveAttributes(directory), 'inode 1 -1'],
    ['names', () => caches.giveName(directory, 'f', false), 'entry'],
    ['pages', () => caches.beginRead(directory, 0, 4096), 'inode 1 0'],
    ['listings', () => givenAWhileAgo(() => caches.giveListing(directory, true, false)), 'inode 1 0'],
  ];
  test.each(given)(
    'while %s are being taken back nothing is given, and afterwards it is again',
    async (_w, give, held) => {
      give();
      kernel.held = held;
      const taken = watch(caches.takeBack([directory]));
      await settle();
      expect(taken.state).toBe('pending');
      expect(caches.quiet(directory)).toBeInstanceOf(Promise);
      expect([caches.giveAttributes(directory), caches.giveName(directory, 'g', false)]).toEqual([0, 0]);
      // Another node has nothing to do with it.
      expect(caches.giveAttributes(file)).toBe(USABLE_MS);
      // A second recall waits for the same.
      const again = watch(caches.takeBack([directory]));
      const callsBefore = kernel.calls.length;
      await settle();
      expect([again.state, kernel.calls.length]).toEqual(['pending', callsBefore]);
      kernel.release();
      await settle();
      expect([taken.state, again.state, caches.quiet(directory)]).toEqual(['done', 'done', undefined]);
      expect([caches.giveAttributes(directory), caches.giveName(directory, 'g', false)]).toEqual([
        USABLE_MS,
        USABLE_MS,
      ]);
    },
  );
});

describe('taking back', () => {
  const giveAll = () => {
    caches.giveAttributes(directory);
    caches.giveName(directory, 'file', false);
    caches.giveName(directory, 'sub', true);
    caches.giveAttributes(file);
    caches.beginRead(file, 0, 4096);
  };

  test('attributes, pages and names; once', async () => {
    giveAll();
    const taken = watch(caches.takeBack([directory, file]));
    await vi.advanceTimersByTimeAsync(10);
    expect(taken.state).toBe('done');
    expect(kernel.calls.toSorted()).toEqual([
      'entry 1 file',
      'expire 1 sub',
      'expire 1 sub',
      'inode 1 -1 0',
      'inode 2 0 0',
    ]);
    expect(caches.takeBack([directory, file])).toBeUndefined();
    expect([caches.hasPages(file), vi.getTimerCount()]).toEqual([false, 1]); // the patience for the lock
  });

  test('what was never given, or has run out in the kernel, needs nothing; pages do not run out', async () => {
    expect(caches.takeBack([directory, file])).toBeUndefined();
    giveAll();
    await vi.advanceTimersByTimeAsync(USABLE_MS - 1);
    const taken = watch(caches.takeBack([directory]));
    await vi.advanceTimersByTimeAsync(50);
    expect([taken.state, kernel.calls.length]).toEqual(['done', 3]);
    expect(watch(caches.takeBack([file])).state).toBe('pending');
    await settle();
    expect(kernel.calls.slice(3)).toEqual(['inode 2 0 0']);
  });

  test('a directory name is expired again when a caller has taken in its reply', async () => {
    caches.giveName(directory, 'sub', true);
    const taken = watch(caches.takeBack([directory]));
    await vi.advanceTimersByTimeAsync(9);
    expect([taken.state, kernel.calls]).toEqual(['pending', ['expire 1 sub']]);
    await vi.advanceTimersByTimeAsync(1);
    expect([taken.state, kernel.calls]).toEqual(['done', ['expire 1 sub', 'expire 1 sub']]);
  });

  test('a directory name that was given a while ago is expired once', async () => {
    caches.giveName(directory, 'sub', true);
    await vi.advanceTimersByTimeAsync(10);
    const taken = watch(caches.takeBack([directory]));
    await settle();
    expect([taken.state, kernel.calls]).toEqual(['done', ['expire 1 sub']]);
  });

  test('bytes of names arrive as they are', async () => {
    const name = Buffer.from([0xff, 0x20, 0xc3]);
    caches.giveName(directory, name.toString('latin1'), false);
    caches.takeBack([directory]);
    await settle();
    expect(kernel.calls).toEqual([`entry 1 ${name.toString('latin1')}`]);
  });

  test('attributes alone: at once, and they alone', async () => {
    giveAll();
    await caches.takeBackAttributes(file);
    expect(kernel.calls).toEqual(['inode 2 -1 0']);
    expect([caches.takeBackAttributes(file), caches.hasPages(file)]).toEqual([undefined, true]);
  });

  describe('of an inode that the kernel does not know', () => {
    test('it is asked again while a reply that tells of it may be on its way', async () => {
      caches.giveAttributes(file);
      kernel.knows.push(false, false);
      const taken = watch(caches.takeBack([file]));
      for (let asked = 1; asked <= 2; asked++) {
        await settle();
        expect([taken.state, kernel.calls.length]).toEqual(['pending', asked]);
        await vi.advanceTimersByTimeAsync(1);
      }
      expect([taken.state, kernel.calls.length]).toEqual(['done', 3]);
    });

    test('until the kernel has forgotten it', async () => {
      caches.giveAttributes(file);
      kernel.knows.push(...Array<boolean>(100).fill(false));
      const taken = watch(caches.takeBack([file]));
      await vi.advanceTimersByTimeAsync(5);
      expect(taken.state).toBe('pending');
      table.forget(file.id, 1);
      await vi.advanceTimersByTimeAsync(1);
      expect(taken.state).toBe('done');
    });
  });

  describe('names by the epoch', () => {
    const many = (count: number) => {
      for (let name = 0; name < count; name++) caches.giveName(directory, `${name}`, false);
    };
    const rows: [what: string, prepare: () => void, calls: number, epoch: boolean][] = [
      ['256 names', () => many(256), 256, false],
      ['257 names', () => many(257), 1, true],
      [
        'a change that waits for its reply',
        () => {
          many(1);
          caches.beginChange(directory);
        },
        1,
        true,
      ],
      [
        'a change whose reply is there',
        () => {
          many(1);
          caches.beginChange(directory)();
        },
        1,
        false,
      ],
      [
        'the second of two changes',
        () => {
          many(1);
          caches.beginChange(directory);
          caches.beginChange(directory)();
        },
        1,
        true,
      ],
      [
        'a change in another directory',
        () => {
          many(1);
          caches.beginChange(file);
        },
        1,
        false,
      ],
    ];
    test.each(rows)('%s: %d notifications', async (_what, prepare, calls, epoch) => {
      prepare();
      const taken = watch(caches.takeBack([directory]));
      await settle();
      expect([taken.state, kernel.calls.length, kernel.calls.includes('epoch')]).toEqual(['done', calls, epoch]);
    });

    test('when the lock of the directory is not to be had', async () => {
      caches.giveName(directory, 'f', false);
      kernel.held = 'entry';
      const taken = watch(caches.takeBack([directory]));
      await vi.advanceTimersByTimeAsync(29);
      expect([taken.state, kernel.calls]).toEqual(['pending', ['entry 1 f']]);
      await vi.advanceTimersByTimeAsync(1);
      expect([taken.state, kernel.calls]).toEqual(['done', ['entry 1 f', 'epoch']]);
    });

    test('names wait for the lock of the directory one at a time', async () => {
      many(40);
      kernel.held = 'entry';
      const taken = watch(caches.takeBack([directory]));
      await vi.advanceTimersByTimeAsync(30);
      expect([taken.state, kernel.calls]).toEqual(['done', ['entry 1 0', 'epoch']]);
      // Who held the lock lets go of it: the others are void already.
      kernel.release();
      await settle();
      expect(kernel.calls).toEqual(['entry 1 0', 'epoch']);
    });

    test('few directories are waited for at once, and again when one has got its lock', async () => {
      const directories = Array.from({ length: 12 }, (_, index) => table.found(Buffer.from(`directory ${index}`)));
      for (const one of directories) caches.giveName(one, 'f', false);
      kernel.held = 'entry';
      const taken = watch(caches.takeBack(directories));
      await vi.advanceTimersByTimeAsync(30);
      const asked = (what: string) => kernel.calls.filter((call) => call.startsWith(what)).length;
      expect([taken.state, asked('entry'), asked('epoch')]).toEqual(['done', 8, 12]);
      kernel.release();
      await settle();
      caches.giveName(directory, 'f', false);
      caches.takeBack([directory]);
      await settle();
      expect([asked('entry'), asked('epoch')]).toEqual([9, 12]);
    });

    test('not before the epoch is over is it taken back', async () => {
      caches.giveName(directory, 'f', false);
      caches.beginChange(directory);
      kernel.held = 'epoch';
      const taken = watch(caches.takeBack([directory]));
      await vi.advanceTimersByTimeAsync(10 * USABLE_MS);
      expect(taken.state).toBe('pending');
      kernel.release();
      await settle();
      expect(taken.state).toBe('done');
    });

    test('with something mounted inside it is waited until the last name has run out, not more', async () => {
      kernel.mountsInside = true;
      caches.beginChange(directory);
      caches.giveName(directory, 'first', false);
      await vi.advanceTimersByTimeAsync(1_000);
      caches.giveName(directory, 'last', false);
      await vi.advanceTimersByTimeAsync(500);
      const taken = watch(caches.takeBack([directory]));
      await vi.advanceTimersByTimeAsync(USABLE_MS - 501);
      expect(taken.state).toBe('pending');
      await vi.advanceTimersByTimeAsync(1);
      expect([taken.state, kernel.calls]).toEqual(['done', []]);
    });
  });

  test('all of the mount: names by one epoch, and only if there are any', async () => {
    giveAll();
    await caches.takeBackAll([directory, file]);
    expect(kernel.calls.toSorted()).toEqual(['epoch', 'inode 1 -1 0', 'inode 2 -1 0', 'inode 2 0 0']);
    await caches.takeBackAll([directory, file]);
    expect(kernel.calls).toHaveLength(4);
    expect(caches.beginRead(file, 0, 1)).toBeUndefined(); // it has ended
  });

  test('all of the mount: pages that are dirty are not waited for, each read looks at the attributes first', async () => {
    giveAll();
    kernel.held = 'inode 2 0 0';
    const taken = watch(caches.takeBackAll([directory, file]));
    await settle();
    expect([taken.state, kernel.calls]).toEqual(['done', expect.arrayContaining(['inode 2 -1 0', 'inode 2 0 0'])]);
    kernel.release();
  });

  test('all of the mount, twice: what is not taken back yet is waited for', async () => {
    giveAll();
    kernel.held = 'epoch';
    void caches.takeBackAll([directory, file]);
    await settle();
    const again = watch(caches.takeBackAll([directory, file]));
    await settle();
    expect(again.state).toBe('pending');
    kernel.release();
    await settle();
    expect(again.state).toBe('done');
  });
});

describe('what a directory lists', () => {
  const giveWhole = () => {
    caches.giveListing(directory, true, false);
    caches.giveListing(directory, false, true);
  };
  const may = () => [caches.mayGiveListing(directory), caches.hasListing(directory)];

  test('is kept by the kernel when it has seen the end of it, as long as the names that came with it', async () => {
    expect(may()).toEqual([true, false]);
    caches.giveListing(directory, true, false);
    expect(may()).toEqual([true, false]);
    await vi.advanceTimersByTimeAsync(100);
    caches.giveListing(directory, false, true);
    expect(may()).toEqual([true, true]);
    await vi.advanceTimersByTimeAsync(USABLE_MS - 101);
    expect(may()).toEqual([true, true]);
    await vi.advanceTimersByTimeAsync(1);
    expect(may()).toEqual([true, false]);
  });

  test.each<[string, () => unknown]>([
    ['without a kernel', () => (caches = new KernelCaches(() => usableMs))],
    ['when leases may not be used', () => (usableMs = 0)],
    ['while it is taken back', () => caches.takeBack([directory])],
  ])('is not given %s', async (_what, prepare) => {
    giveWhole();
    prepare();
    expect(caches.mayGiveListing(directory)).toBe(false);
  });

  test.each<[string, () => unknown, boolean]>([
    ['a recall', () => caches.takeBack([directory]), false],
    ['a change by this mount, from its beginning', () => caches.beginChange(directory), false],
    ['a change that began before it was read', () => changes(giveWhole), false],
    ['a recall of something else', () => caches.takeBack([file]), true],
  ])('after %s', async (_what, happens, isLeft) => {
    giveWhole();
    happens();
    await vi.advanceTimersByTimeAsync(50);
    expect(may()).toEqual([true, isLeft]);
  });
  const changes = (during: () => void) => {
    const end = caches.beginChange(directory);
    during();
    end();
  };

  test('does not count as whole when its first part was read before a recall', async () => {
    caches.giveListing(directory, true, false);
    caches.takeBack([directory]);
    await vi.advanceTimersByTimeAsync(50);
    caches.giveListing(directory, false, false);
    caches.giveListing(directory, false, true);
    expect(may()).toEqual([true, false]);
    // It is in the kernel's pages all the same.
    const before = kernel.calls.length;
    caches.takeBack([directory]);
    await settle();
    expect(kernel.calls.slice(before)).toEqual(['inode 1 0 0']);
  });

  test('goes with the attributes, and once more when a caller has taken in its reply', async () => {
    giveWhole();
    caches.giveAttributes(directory);
    const taken = watch(caches.takeBack([directory]));
    await vi.advanceTimersByTimeAsync(9);
    expect([taken.state, kernel.calls]).toEqual(['pending', ['inode 1 0 0']]);
    await vi.advanceTimersByTimeAsync(1);
    expect([taken.state, kernel.calls]).toEqual(['done', ['inode 1 0 0', 'inode 1 0 0']]);
  });

  test('goes once when it was given a while ago', async () => {
    giveWhole();
    await vi.advanceTimersByTimeAsync(10);
    const taken = watch(caches.takeBack([directory]));
    await settle();
    expect([taken.state, kernel.calls]).toEqual(['done', ['inode 1 0 0']]);
  });
});

describe('a name that the kernel moved itself', () => {
  const isHeld = () => true;
  let other: Node;
  beforeEach(() => {
    other = table.found(Buffer.from('other')); // node 3
  });
  const taken = async (...nodes: Node[]) => {
    caches.takeBack(nodes);
    await settle();
    return kernel.calls.toSorted();
  };

  test('is taken back where it is now', async () => {
    caches.giveName(directory, 'a', false);
    caches.movedName(directory, 'a', other, 'b', isHeld);
    expect(await taken(other)).toEqual(['entry 3 b']);
  });

  test('for as long as it was given, not longer', async () => {
    caches.giveName(directory, 'a', false);
    await vi.advanceTimersByTimeAsync(USABLE_MS - 1);
    caches.movedName(directory, 'a', other, 'b', isHeld);
    await vi.advanceTimersByTimeAsync(1);
    expect(await taken(other)).toEqual([]);
  });

  test('what was not given is not given by that', async () => {
    caches.movedName(directory, 'a', other, 'b', isHeld);
    expect(await taken(directory, other)).toEqual([]);
  });

  test('the name that it took the place of, or changed it with, is taken back too', async () => {
    caches.giveName(directory, 'a', false);
    caches.giveName(other, 'b', true);
    caches.movedName(directory, 'a', other, 'b', isHeld);
    expect(await taken(directory, other)).toEqual(['entry 3 b', 'expire 1 a']);
  });

  test.each([
    ['done', 'the moved one, to where nobody would call it back', 'a', 'to', ['epoch']],
    ['done', 'the one that takes its place, likewise', 'b', 'from', ['epoch']],
    ['nothing', 'the moved one, to where it is called back', 'a', 'from', []],
    ['nothing', 'none that the kernel may keep', 'c', 'to', []],
  ] as const)('%s has to be awaited: %s', async (state, _what, given, unheld, calls) => {
    const without = unheld === 'to' ? other : directory;
    caches.giveName(given === 'b' ? other : directory, given, false);
    const moved = watch(caches.movedName(directory, 'a', other, 'b', (one) => one !== without));
    await settle();
    expect([moved.state, kernel.calls]).toEqual([state, calls]);
  });

  test('within one directory', async () => {
    caches.giveName(directory, 'a', false);
    caches.movedName(directory, 'a', directory, 'b', isHeld);
    expect(await taken(directory)).toContain('entry 1 b');
  });
});

describe('pages', () => {
  test('of a range are dropped when the kernel may have some', async () => {
    expect(caches.dropPages(file, 0, 10)).toBeUndefined();
    caches.beginRead(file, 0, 4096);
    expect(caches.hasPages(file)).toBe(true);
    await caches.dropPages(file, 10, 20);
    await caches.dropPages(file, 7, 0);
    expect(kernel.calls).toEqual(['inode 2 10 20', 'inode 2 7 0']);
    expect(caches.hasPages(file)).toBe(true); // those outside the range
  });

  test('that are covered by nothing are not counted on', () => {
    caches.beginRead(file, 0, 4096);
    caches.distrustPages(file);
    expect(caches.hasPages(file)).toBe(false);
  });

  test('read while they are taken back are invalidated once more; others wait for the acknowledgement', async () => {
    caches.beginRead(file, 0, 4096);
    kernel.held = 'inode 2 0 0';
    const taken = watch(caches.takeBack([file]));
    await settle();
    expect(caches.beginRead(file, 4096, 8192)).toBeUndefined();
    kernel.release();
    kernel.held = 'inode 2 4096';
    await settle();
    expect(kernel.calls).toEqual(['inode 2 0 0', 'inode 2 4096 8192']);
    const outside = watch(caches.beginRead(file, 0, 4096));
    kernel.release();
    await settle();
    expect([taken.state, outside.state]).toEqual(['done', 'pending']);
    caches.tookBack([file]);
    await settle();
    expect(outside.state).toBe('done');
    expect(caches.hasPages(file)).toBe(true);
  });

  test('are not let in by the acknowledgement of another recall, while they are being taken back', async () => {
    caches.beginRead(file, 0, 4096);
    kernel.held = 'inode 2 0 0';
    const taken = watch(caches.takeBack([file]));
    await settle();
    caches.tookBack([file]);
    caches.beginRead(file, 0, 4096); // in the range: once more
    kernel.release();
    await settle();
    expect([taken.state, kernel.calls.filter((call) => call === 'inode 2 0 4096')]).toEqual([
      'done',
      ['inode 2 0 4096'],
    ]);
    expect(watch(caches.beginRead(file, 0, 1)).state).toBe('pending');
  });

  describe('that are given unasked', () => {
    const data = Buffer.alloc(8192);
    let isCovered: boolean;
    beforeEach(() => {
      isCovered = true;
    });
    const store = () => caches.storePages(file, 4096, data, () => isCovered);

    test('are there when the kernel has them, and taken back as others are', async () => {
      await store();
      expect([caches.stored(file), caches.hasPages(file)]).toEqual([undefined, true]);
      await caches.takeBack([file]);
      expect(kernel.calls).toEqual(['store 2 4096 8192', 'inode 2 0 0']);
    });

    test('come in before a recall invalidates them; what the kernel asks for meanwhile does not wait', async () => {
      kernel.held = 'store';
      void store();
      const taken = watch(caches.takeBack([file]));
      await settle();
      // A page that the store waits for may be locked by this read.
      expect([caches.beginRead(file, 4096, 4096), kernel.calls]).toEqual([undefined, ['store 2 4096 8192']]);
      kernel.release();
      await settle();
      expect([taken.state, kernel.calls.slice(1)]).toEqual(['done', ['inode 2 0 0', 'inode 2 4096 4096']]);
    });

    test('are waited for by whoever asks, all of them', async () => {
      kernel.held = 'store';
      void store();
      void store();
      const stored = watch(caches.stored(file));
      await settle();
      expect(stored.state).toBe('pending');
      kernel.release();
      await settle();
      expect([stored.state, caches.stored(file)]).toEqual(['done', undefined]);
    });

    test('are dropped when the lease has ended meanwhile', async () => {
      kernel.held = 'store';
      const stored = store();
      isCovered = false;
      kernel.release();
      await stored;
      expect(kernel.calls).toEqual(['store 2 4096 8192', 'inode 2 4096 8192']);
    });

    const refused: [string, () => unknown][] = [
      ['no lease covers them', () => (isCovered = false)],
      ['leases may not be used', () => (usableMs = 0)],
      ['there is no kernel', () => (caches = new KernelCaches(() => usableMs))],
    ];
    test.each(refused)('are not given when %s', async (_when, prepare) => {
      prepare();
      await store();
      expect([kernel.calls, caches.hasPages(file)]).toEqual([[], false]);
    });

    test('are not given while pages are being taken back', async () => {
      caches.beginRead(file, 0, 4096);
      kernel.held = 'inode 2';
      void caches.takeBack([file]);
      await store();
      expect(kernel.calls).toEqual(['inode 2 0 0']);
    });
  });

  test('that come in while only attributes are taken back are taken back too, or wait', async () => {
    file.cached = new Set([{} as OpenHandle]);
    caches.giveAttributes(file);
    kernel.held = 'inode 2 -1';
    const taken = watch(caches.takeBack([file]));
    await settle();
    const read = watch(caches.beginRead(file, 0, 4096));
    kernel.release();
    await settle();
    expect(taken.state).toBe('done');
    const isInvalidated = kernel.calls.some((call) => call.startsWith('inode 2 0'));
    expect(read.state === 'pending' || isInvalidated).toBe(true);
  });
});
