/** When pages of mappings are dropped, and what of them is written back: with a kernel that is pretended. */
import { expect, test } from 'vitest';
import { KernelCaches } from '../../client-fuse/leases/kernel-caches.ts';
import { HeldLocks } from '../../client-fuse/vfs/held-locks.ts';
import { MappedPages } from '../../client-fuse/vfs/mapped-pages.ts';
import type { Node, OpenHandle } from '../../client-fuse/vfs/node.ts';
import { NodeTable } from '../../client-fuse/vfs/node-table.ts';
import { PAGE_BYTES } from '../../client-fuse/vfs/page-twins.ts';
import { errno, FsError } from '../../shared/errno.ts';

/** Notifications wait until the test answers them. */
class World {
  readonly drops: { node: number; answer: () => void; fail: (error: Error) => void }[] = [];
  readonly pages: MappedPages;
  readonly #nodes = new NodeTable(Buffer.from('root'), 0);

  constructor() {
    const kernel = new KernelCaches(() => 0);
    kernel.attach({
      epochs: true,
      hasMountsInside: async () => false,
      notifier: {
        invalidateInode: (node, offset, length) => {
          expect([offset, length]).toEqual([0, 0]);
          return new Promise((answer, fail) => this.drops.push({ node, answer: () => answer(true), fail }));
        },
        invalidateListing: async () => {},
        invalidateEntry: async () => {},
        incrementEpoch: async () => {},
        storePages: async () => {},
      },
    });
    this.pages = new MappedPages(kernel);
  }

  /** Open for writing, and locked through. */
  file(name = 'f'): Node {
    const node = this.#nodes.found(Buffer.from(name));
    node.writers = 1;
    node.locks = new HeldLocks<OpenHandle>();
    return node;
  }

  fault(node: Node, byte: number, page = 0): void {
    const read = this.pages.reads(node, false);
    this.pages.given(node, read, page * PAGE_BYTES, PAGE_BYTES, Buffer.alloc(PAGE_BYTES, byte));
  }

  /** Resolves with what is sent when these bytes are stored in the page, which is filled with `byte`, and it is written back. */
  async stored(node: Node, byte: number, stores: Record<number, number>): Promise<string[]> {
    const data = Buffer.alloc(PAGE_BYTES, byte);
    for (const [at, value] of Object.entries(stores)) data[Number(at)] = value;
    const sent: string[] = [];
    await this.pages.writeBack(node, 0, data, async (at, part) => {
      sent.push(part.length > 4 ? `${at}+${part.length}` : `${at}: ${[...part].join(' ')}`);
      return part.length;
    });
    return sent;
  }
}

const turn = () => new Promise((resolve) => setImmediate(resolve));

/** Whether it has been resolved by now. */
async function isDone(promise: Promise<void> | undefined): Promise<boolean> {
  let done = promise === undefined;
  void promise?.then(() => (done = true));
  await turn();
  return done;
}

test('a file whose pages the kernel never read costs nothing; nor one that a recall takes back', () => {
  const world = new World();
  const node = world.file();
  expect(world.pages.drop(node)).toBeUndefined();
  world.pages.reads(node, true);
  expect(world.pages.drop(node)).toBeUndefined();
});

test('pages are dropped once: who comes meanwhile waits for that, who comes later for nothing', async () => {
  const world = new World();
  const node = world.file();
  world.fault(node, 1);
  const first = world.pages.drop(node);
  const second = world.pages.drop(node);
  expect(await isDone(first)).toBe(false);
  const third = world.pages.drop(node);
  expect(world.drops.length).toBe(1);
  world.drops[0]?.answer();
  await Promise.all([first, second, third]);
  expect(world.pages.drop(node)).toBeUndefined();
  expect(world.drops.length).toBe(1);
});

test('a page that comes in while others are dropped is dropped after them', async () => {
  const world = new World();
  const node = world.file();
  world.fault(node, 1);
  const first = world.pages.drop(node);
  await turn();
  world.fault(node, 2);
  const second = world.pages.drop(node);
  world.drops[0]?.answer();
  await first;
  expect(await isDone(second)).toBe(false);
  expect(world.drops.length).toBe(2);
  world.drops[1]?.answer();
  await second;
  expect(world.pages.drop(node)).toBeUndefined();
});

test('a drop that fails is told, and made again', async () => {
  const world = new World();
  const node = world.file();
  world.fault(node, 1);
  const failing = expect(world.pages.drop(node)).rejects.toThrow('no memory');
  await turn();
  world.drops[0]?.fail(new Error('no memory'));
  await failing;
  const again = world.pages.drop(node);
  await turn();
  world.drops[1]?.answer();
  await again;
});

test('of many files a few at a time, so that threads are left', async () => {
  const world = new World();
  const nodes = Array.from({ length: 20 }, (_, number) => world.file(`f${number}`));
  for (const node of nodes) world.fault(node, 1);
  const all = nodes.map((node) => world.pages.drop(node));
  await turn();
  const atOnce = world.drops.length;
  expect(atOnce).toBeLessThan(10);
  for (let answered = 0; answered < nodes.length; await turn()) {
    expect(world.drops.length).toBe(Math.min(nodes.length, answered + atOnce));
    world.drops[answered++]?.answer();
  }
  await Promise.all(all);
});

test('what is sent is what was stored, and once', async () => {
  const world = new World();
  const node = world.file();
  world.fault(node, 1);
  expect(await world.stored(node, 1, { 0: 5, 7: 6, 8: 7 })).toEqual(['0: 5', '7: 6 7']);
  expect(await world.stored(node, 1, { 0: 5, 7: 6, 8: 9 })).toEqual(['8: 9']);
  expect(await world.stored(node, 1, { 0: 5, 7: 6, 8: 9 })).toEqual([]);
});

test('what the server refused is sent again, what it took is not', async () => {
  const world = new World();
  const node = world.file();
  world.fault(node, 1);
  const data = Buffer.alloc(PAGE_BYTES, 1);
  for (const at of [0, 10, 11, 20]) data[at] = 2;
  const refusing = world.pages.writeBack(node, 0, data, async (at, part) => {
    if (at === 0) return part.length;
    if (at === 10) return 1; // a full disk gives a short count first
    throw new FsError(errno.ENOSPC, 'write');
  });
  await expect(refusing).rejects.toMatchObject({ code: errno.ENOSPC });
  expect(await world.stored(node, 1, { 0: 2, 10: 2, 11: 2, 20: 2 })).toEqual(['11: 2', '20: 2']);
});

test('a page stored all over is sent in parts, each once', async () => {
  const world = new World();
  const node = world.file();
  world.fault(node, 0);
  const stores = Object.fromEntries(Array.from({ length: PAGE_BYTES / 2 }, (_, number) => [2 * number, 3]));
  expect(await world.stored(node, 0, stores)).toEqual(Object.keys(stores).map((at) => `${at}: 3`));
});

test('no twins: without locks, without a writer, and of what came in before the first lock', async () => {
  const world = new World();
  const node = world.file();
  const { locks } = node;
  node.locks = undefined;
  world.fault(node, 1);
  node.locks = locks;
  expect(await world.stored(node, 1, { 0: 2 })).toEqual([`0+${PAGE_BYTES}`]);
  node.writers = 0;
  world.fault(node, 1);
  expect(await world.stored(node, 1, { 0: 2 })).toEqual([`0+${PAGE_BYTES}`]);
  node.writers = 1;
  world.fault(node, 1);
  expect(await world.stored(node, 1, { 0: 2 })).toEqual(['0: 2']);
  // Once there are any, every read is remembered: a twin from before it would be wrong.
  node.locks = undefined;
  world.fault(node, 3);
  expect(await world.stored(node, 3, { 1: 4 })).toEqual(['1: 4']);
  world.pages.hasNoWriters(node);
  expect(await world.stored(node, 3, { 1: 4 })).toEqual([`0+${PAGE_BYTES}`]);
});

test('pages that were gathered, cut or punched are what the kernel has', async () => {
  const world = new World();
  const node = world.file();
  world.fault(node, 1);
  world.pages.gathered(node, 0, Buffer.alloc(PAGE_BYTES, 2));
  expect(await world.stored(node, 2, { 0: 3 })).toEqual(['0: 3']);
  world.pages.zeroed(node, 4, 8);
  expect(await world.stored(node, 2, { 0: 3, 4: 0, 5: 0, 6: 0, 7: 0 })).toEqual([]);
});
