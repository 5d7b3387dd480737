/** Which listings the kernel may keep, and that what it must not keep is dropped before it is told, and after it has it. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import type { ServerSession } from '../../client-fuse/transport/server-session.ts';
import { type Caller, type NodeId, ROOT_NODE } from '../../client-fuse/vfs/filesystem.ts';
import { RemoteFilesystem } from '../../client-fuse/vfs/remote-filesystem.ts';
import { deferred, lookUp, ROOT, TemporaryDirectory, TestServer } from '../support/fixture.ts';

const b = (text: string) => Buffer.from(text);
const root: Caller = { uid: 0, gid: 0, pid: 1, groups: [], signal: new AbortController().signal };

let directory: TemporaryDirectory;
let server: TestServer;
let session: ServerSession;
let other: ServerSession;
let filesystem: RemoteFilesystem;
let node: NodeId;
/** Drops of the directory's pages; each waits for `dropped`. */
let drops: number;
let dropped: Promise<void>;

beforeEach(async () => {
  directory = new TemporaryDirectory();
  mkdirSync(directory.join('d'));
  for (const name of ['x', 'y', 'z']) writeFileSync(directory.join('d', name), '');
  server = await TestServer.start(directory.path);
  [session, other] = [await server.connect(), await server.connect()];
  filesystem = new RemoteFilesystem(session);
  [drops, dropped] = [0, Promise.resolve()];
  filesystem.attachKernel({
    epochs: true,
    hasMountsInside: () => Promise.resolve(false),
    notifier: {
      invalidateInode: () => Promise.resolve(true),
      invalidateListing: (id) => {
        expect(id).toBe(node);
        drops++;
        return dropped;
      },
      invalidateEntry: () => Promise.resolve(),
      incrementEpoch: () => Promise.resolve(),
      storePages: () => Promise.resolve(),
    },
  });
  node = (await filesystem.lookup(root, ROOT_NODE, b('d'))).node;
});
afterEach(async () => {
  for (const one of [session, other]) one.close();
  await server[Symbol.asyncDispose]();
  directory[Symbol.dispose]();
});

const opened = async () => await filesystem.opendir(root, node);
const part = async (handle: number, cookie: number | bigint = 0, bytes = 200) =>
  await filesystem.readdir(root, handle, cookie, bytes, true);
const nextCookie = (entries: Awaited<ReturnType<typeof part>>) => entries.at(-1)?.cookie ?? 0;
/** From the beginning to the end, or from a position on. */
async function rest(handle: number, from: number | bigint = 0): Promise<string[]> {
  const names: string[] = [];
  for (let cookie = from; ; ) {
    const entries = await part(handle, cookie, 4096);
    if (entries.length === 0) return names.filter((name) => !name.startsWith('.')).sort();
    names.push(...entries.map(({ name }) => Buffer.from(name).toString()));
    cookie = nextCookie(entries);
  }
}
const removedByOther = async (name: string) => {
  const parent = (await lookUp(other, ROOT, { parent: other.hello.root.inode, name: b('d') })).inode;
  await other.call('unlink', ROOT, { parent, name: b(name) });
};
const removedHere = (name: string) => filesystem.unlink(root, node, b(name));

test('one that was read to its end is kept over the next opening, until something changes', async () => {
  const first = await opened();
  expect([first.cacheDirectory, first.keepCache]).toEqual([true, false]);
  await part(first.handle);
  expect((await opened()).keepCache).toBe(false);
  expect(await rest(first.handle)).toEqual(['x', 'y', 'z']);
  expect((await opened()).keepCache).toBe(true);
  await removedHere('x');
  expect((await opened()).keepCache).toBe(false);
  expect(await rest((await opened()).handle)).toEqual(['y', 'z']);
  expect([(await opened()).keepCache, drops]).toEqual([true, 0]);
  await removedByOther('y');
  expect([(await opened()).keepCache, drops > 0]).toEqual([false, true]);
  expect(await rest((await opened()).handle)).toEqual(['z']);
});

test.each([
  ['another client', removedByOther],
  ['this client', removedHere],
])(
  'one that %s has changed meanwhile goes on as it was, and is dropped before and after each part',
  async (_who, removed) => {
    const { handle } = await opened();
    const begun = await part(handle);
    await removed('y');
    const before = drops;
    const { promise, resolve } = deferred();
    dropped = promise;
    let isTold = false;
    const told = rest(handle, nextCookie(begun)).finally(() => {
      isTold = true;
    });
    await vi.waitFor(() => expect(drops).toBe(before + 1), { interval: 1 });
    for (let round = 0; round < 3; round++) await other.call('statfs', ROOT, { inode: other.hello.root.inode });
    expect([isTold, drops]).toEqual([false, before + 1]);
    resolve();
    const firstNames = begun.map(({ name }) => Buffer.from(name).toString()).filter((name) => !name.startsWith('.'));
    expect([...firstNames, ...(await told)].sort()).toEqual(['x', 'y', 'z']);
    // Two parts, the empty one at the end included; each once more when its caller has taken it in.
    await vi.waitFor(() => expect(drops).toBe(before + 4), { interval: 1 });
    expect((await opened()).keepCache).toBe(false);
    expect(await rest(handle)).toEqual(['x', 'z']);
  },
);

test('a handle that is read for the first time after a change shows it: it may have been rewound', async () => {
  const { handle } = await opened();
  await removedByOther('y');
  expect(await rest(handle)).toEqual(['x', 'z']);
});
