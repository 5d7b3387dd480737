/** Files that are read here and there are given to the kernel by regions: with a real server and a kernel that is pretended. */
import { randomBytes } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import type { ServerSession } from '../../client-fuse/transport/server-session.ts';
import { type Caller, ROOT_NODE } from '../../client-fuse/vfs/filesystem.ts';
import { REGION_BYTES } from '../../client-fuse/vfs/missed-regions.ts';
import { RemoteFilesystem } from '../../client-fuse/vfs/remote-filesystem.ts';
import { PAGE_SIZE } from '../../shared/limits.ts';
import { O } from '../../shared/linux/constants.ts';
import { deferred, FORGETFUL_KERNEL, lookUp, ROOT, TemporaryDirectory, TestServer } from '../support/fixture.ts';

const root: Caller = { uid: 0, gid: 0, pid: 1, groups: [], signal: new AbortController().signal };
/** Two regions, and a third that ends within a page. */
const content = randomBytes(2 * REGION_BYTES + 5 * PAGE_SIZE + 100);

let directory: TemporaryDirectory;
let server: TestServer;
let session: ServerSession;
let filesystem: RemoteFilesystem;
/** What the kernel is told of pages, in order, and when it is done with a store. */
let told: string[];
let stores: { offset: number; data: Buffer }[];
let taken: Promise<void>;

beforeEach(async () => {
  directory = new TemporaryDirectory();
  writeFileSync(directory.join('f'), content);
  server = await TestServer.start(directory.path);
  session = await server.connect();
  filesystem = new RemoteFilesystem(session);
  [told, stores, taken] = [[], [], Promise.resolve()];
  filesystem.attachKernel({
    ...FORGETFUL_KERNEL,
    notifier: {
      ...FORGETFUL_KERNEL.notifier,
      async invalidateInode(_node, offset) {
        if (offset >= 0) told.push('dropped');
        return true;
      },
      async storePages(_node, offset, data) {
        told.push('store');
        await taken;
        stores.push({ offset, data: Buffer.from(data) });
        told.push('stored');
      },
    },
  });
});
afterEach(async () => {
  vi.restoreAllMocks();
  session.close();
  await server[Symbol.asyncDispose]();
  directory[Symbol.dispose]();
});

async function open(flags = O.RDONLY): Promise<{ node: number; handle: number }> {
  const { node } = await filesystem.lookup(root, ROOT_NODE, Buffer.from('f'));
  await filesystem.getattr(root, node);
  return { node, handle: (await filesystem.open(root, node, flags, false)).handle };
}

/** Pages of the region, backwards, each once. */
async function readPages(handle: number, region: number, count: number): Promise<void> {
  for (let page = count - 1; page >= 0; page--) {
    const offset = region * REGION_BYTES + 2 * page * PAGE_SIZE;
    const data = await filesystem.read(root, handle, offset, PAGE_SIZE);
    expect(Buffer.compare(data, content.subarray(offset, offset + PAGE_SIZE))).toBe(0);
  }
}

test('a region of which much is read is brought whole, once', async () => {
  const { handle } = await open();
  await readPages(handle, 1, 12);
  await vi.waitFor(() => expect(stores.length).toBe(1));
  expect(stores[0]?.offset).toBe(REGION_BYTES);
  expect(Buffer.compare(stores[0]?.data as Buffer, content.subarray(REGION_BYTES, 2 * REGION_BYTES))).toBe(0);
});

test('of the last one whole pages: the kernel would take the rest for zeros, or the end for a new size', async () => {
  const { handle } = await open();
  for (let round = 0; round < 4; round++) await readPages(handle, 2, 3);
  await vi.waitFor(() => expect(stores.length).toBe(1));
  expect(stores[0]).toEqual({ offset: 2 * REGION_BYTES, data: content.subarray(2 * REGION_BYTES, -100) });
});

test('nothing is brought of a file that does not fit into half of the memory, which is looked at once in a while', async () => {
  const memory = vi.spyOn(process, 'availableMemory').mockReturnValue(2 * content.length - 1);
  const { handle } = await open();
  await readPages(handle, 0, 20);
  await session.call('statfs', ROOT, { inode: session.hello.root.inode });
  expect([told, memory.mock.calls.length]).toEqual([[], 1]);
});

test('nothing is brought of a file that is read from front to back, or a little', async () => {
  const { handle } = await open();
  for (let offset = 0; offset < 2 * REGION_BYTES; offset += 32 * PAGE_SIZE) {
    await filesystem.read(root, handle, offset, 32 * PAGE_SIZE);
  }
  await readPages(handle, 0, 3);
  await session.call('statfs', ROOT, { inode: session.hello.root.inode });
  expect(told).toEqual([]);
});

/** What must not be done while the kernel takes in what was there before. */
const changes: [string, (node: number) => Promise<unknown>][] = [
  ['opening to write', (node) => filesystem.open(root, node, O.RDWR, false) as Promise<unknown>],
  ['opening to empty', (node) => filesystem.open(root, node, O.RDONLY | O.TRUNC, false) as Promise<unknown>],
  ['truncation', (node) => filesystem.setattr(root, node, { size: 5 })],
  ['creation of what is there', () => filesystem.create(root, ROOT_NODE, Buffer.from('f'), 0o644, 0, O.RDWR)],
  ['a change on another mount', () => truncateElsewhere()],
];

async function truncateElsewhere(): Promise<void> {
  const other = await server.connect();
  const where = { parent: other.hello.root.inode, name: Buffer.from('f') };
  const { inode } = await lookUp(other, ROOT, where);
  const none = { mode: undefined, uid: undefined, gid: undefined, atime: undefined, mtime: undefined };
  await other.call('setattr', ROOT, { inode, handle: 0, ...none, size: 0, killSuidgid: false });
  other.close();
}

test.each(changes)('%s waits until the kernel has what it is given', async (_what, change) => {
  const kernel = deferred();
  taken = kernel.promise;
  const { node, handle } = await open();
  await readPages(handle, 0, 8);
  await vi.waitFor(() => expect(told).toEqual(['store']));
  const changed = change(node).then(() => told.push('changed'));
  await new Promise((resolve) => setTimeout(resolve, 50));
  expect(told).toEqual(['store']);
  kernel.resolve();
  await changed;
  expect(told.indexOf('stored')).toBeLessThan(told.indexOf('changed'));
  // Nothing is given to the kernel that the file had before.
  expect(told.filter((what) => what === 'store')).toHaveLength(1);
});

test('after a change on another mount the kernel keeps nothing of what it was given', async () => {
  const kernel = deferred();
  taken = kernel.promise;
  const { handle } = await open();
  await readPages(handle, 0, 8);
  await vi.waitFor(() => expect(told).toEqual(['store']));
  const changed = truncateElsewhere();
  kernel.resolve();
  await changed;
  expect(told.lastIndexOf('dropped')).toBeGreaterThan(told.indexOf('stored'));
});
