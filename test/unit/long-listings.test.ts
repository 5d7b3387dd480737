/** Directories that are too long to be listed when they are opened: read in parts, ahead of the kernel, with what is in them. */
import { mkdirSync, readdirSync, unlinkSync, writeFileSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import type { ServerSession } from '../../client-fuse/transport/server-session.ts';
import { type Caller, type DirectoryEntry, type NodeId, ROOT_NODE } from '../../client-fuse/vfs/filesystem.ts';
import { type ListedName, ListingParts } from '../../client-fuse/vfs/listing-parts.ts';
import type { RemoteFilesystem } from '../../client-fuse/vfs/remote-filesystem.ts';
import { LeaseManager } from '../../server/leases/lease-manager.ts';
import { DirectoryStore } from '../../server/store/directory-store.ts';
import type { U64 } from '../../shared/attributes.ts';
import { limits } from '../../shared/limits.ts';
import { AskingClient } from '../support/asking-client.ts';
import { lookUp, ROOT, TemporaryDirectory } from '../support/fixture.ts';

const b = (text: string) => Buffer.from(text);
const root: Caller = { uid: 0, gid: 0, pid: 1, groups: [], signal: new AbortController().signal };
const FILES = Array.from({ length: 900 }, (_, index) => `file-${index}`);
/** What the kernel asks for. */
const CHUNK = 32_768;

let directory: TemporaryDirectory;
let client: AskingClient;
let session: ServerSession;
let other: ServerSession;
let filesystem: RemoteFilesystem;

beforeEach(async () => {
  directory = new TemporaryDirectory();
  mkdirSync(directory.join('d'));
  for (const name of FILES) writeFileSync(directory.join('d', name), '');
  client = await AskingClient.start(directory);
  ({ session, other, filesystem } = client);
});
afterEach(async () => {
  await client[Symbol.asyncDispose]();
  directory[Symbol.dispose]();
});

function requestsOf(): () => string[] {
  client.asked = [];
  return () => client.asked.splice(0);
}

async function opened(): Promise<{ node: NodeId; handle: number }> {
  const { node } = await filesystem.lookup(root, ROOT_NODE, b('d'));
  return { node, handle: (await filesystem.opendir(root, node)).handle };
}

const take = async (handle: number, cookie: U64 = 0, plus = true) =>
  filesystem.readdir(root, handle, cookie, CHUNK, plus);
const namesOf = (entries: readonly DirectoryEntry[]) => entries.map(({ name }) => String(name));
const lastOf = (entries: readonly DirectoryEntry[]) => entries.at(-1)?.cookie ?? 0;

async function rest(handle: number, from: U64 = 0, plus = true): Promise<DirectoryEntry[]> {
  const all: DirectoryEntry[] = [];
  for (let cookie = from; ; cookie = lastOf(all)) {
    const entries = await take(handle, cookie, plus);
    if (entries.length === 0) return all;
    all.push(...entries);
  }
}

const inodeOf = async (name: string) =>
  (await lookUp(other, ROOT, { parent: other.hello.root.inode, name: b(name) })).inode;

describe('a long directory', () => {
  test('is looked up with its listing, each name once, and nothing is asked about it any more', async () => {
    const lookups = vi.spyOn(DirectoryStore.prototype, 'lookup');
    const requests = requestsOf();
    const { node, handle } = await opened();
    const entries = await rest(handle);
    expect(namesOf(entries).sort()).toEqual(['.', '..', ...FILES].sort());
    expect(entries.filter(({ entry }) => entry !== undefined)).toHaveLength(FILES.length);
    expect(lookups.mock.calls).toHaveLength(1 + FILES.length);
    const asked = requests();
    expect(asked.slice(0, 2)).toEqual(['lookup', 'opendir']);
    expect(new Set(asked.slice(2))).toEqual(new Set(['readdir']));
    expect(asked.length).toBeLessThan(2 + FILES.length / 250);
    for (const name of FILES) await filesystem.lookup(root, node, b(name));
    await expect((async () => filesystem.lookup(root, node, b('none')))()).resolves.toMatchObject({ node: 0 });
    filesystem.releasedir(handle);
    expect((await rest((await opened()).handle)).length).toBe(FILES.length + 2);
    expect(requests()).toEqual(['release']);
  });

  test('is read ahead of the kernel, but only once it is read', async () => {
    const requests = requestsOf();
    const { handle } = await opened();
    expect(requests()).toEqual(['lookup', 'opendir']);
    await take(handle);
    expect(requests()).toEqual(['readdir', 'readdir']);
    filesystem.releasedir(handle);
  });

  test('goes on from any position, as far as the kernel had room', async () => {
    const { handle } = await opened();
    const first = await take(handle);
    const second = await take(handle, lastOf(first));
    for (const at of [0, 7, first.length - 1]) {
      const again = await take(handle, first[at]?.cookie);
      expect(namesOf(again).slice(0, 50)).toEqual(namesOf([...first, ...second]).slice(at + 1, at + 51));
    }
    const all = await rest(handle);
    const middle = all[600]?.cookie as U64;
    filesystem.releasedir(handle);
    // By a handle that has not read what is before.
    writeFileSync(directory.join('d', 'new'), '');
    const fresh = await opened();
    const behind = namesOf(await rest(fresh.handle, middle)).filter((name) => name !== 'new');
    expect(behind).toEqual(namesOf(all.slice(601)));
  });

  test('that another client changes meanwhile neither repeats nor hides the rest, and is listed anew the next time', async () => {
    const { handle } = await opened();
    const first = await take(handle);
    const d = await inodeOf('d');
    const [gone] = namesOf(first).filter((name) => name.startsWith('file'));
    const later = FILES.filter((name) => !namesOf(first).includes(name));
    await other.call('unlink', ROOT, { parent: d, name: b(gone as string) });
    await other.call('mkdir', ROOT, { parent: d, name: b('new'), mode: 0o755, umask: 0, wantsAlone: false });
    const behind = namesOf(await rest(handle, lastOf(first)));
    expect(behind.filter((name) => name !== 'new').sort()).toEqual(later.sort());
    filesystem.releasedir(handle);
    const now = namesOf(await rest((await opened()).handle)).sort();
    expect(now).toEqual(['.', '..', ...readdirSync(directory.join('d'))].sort());
  });

  test('rewound, is listed as it is', async () => {
    const { handle } = await opened();
    const [gone] = namesOf(await take(handle)).filter((name) => name.startsWith('file'));
    await other.call('unlink', ROOT, { parent: await inodeOf('d'), name: b(gone as string) });
    expect(namesOf(await rest(handle))).not.toContain(gone);
  });

  test('whose lease is not granted is not looked up further, nor asked about before its time', async () => {
    vi.spyOn(LeaseManager.prototype, 'grantNames').mockReturnValue(false);
    const calls = vi.spyOn(session, 'callForBulk');
    const { handle } = await opened();
    const first = await take(handle);
    const asked = () => calls.mock.calls.filter(([name]) => name === 'readdir').map(([, , request]) => request);
    expect(asked()).toMatchObject([{ plus: true }]);
    expect(namesOf([...first, ...(await rest(handle, lastOf(first)))])).toHaveLength(FILES.length + 2);
    expect(
      new Set(
        asked()
          .slice(1)
          .map((request) => (request as { plus: boolean }).plus),
      ),
    ).toEqual(new Set([false]));
  });

  test('of which only the names are listed is looked up whole after a few of them', async () => {
    const { node, handle } = await opened();
    await rest(handle, 0, false);
    const requests = requestsOf();
    for (const name of FILES.slice(0, limits.lookupsBeforeNamesAhead)) await filesystem.lookup(root, node, b(name));
    await vi.waitFor(() => expect(filesystem.counts.leases).toBeGreaterThan(FILES.length), { timeout: 20_000 });
    for (const name of FILES) await filesystem.lookup(root, node, b(name));
    expect(requests()).toEqual([...Array(limits.lookupsBeforeNamesAhead).fill('lookup'), 'readNames']);
  });

  test('whose files go while it is listed shows the others', async () => {
    const { lookup } = DirectoryStore.prototype;
    let calls = 0;
    let gone = '';
    vi.spyOn(DirectoryStore.prototype, 'lookup').mockImplementation(function (this: DirectoryStore, as, parent, name) {
      if (calls++ === 100) {
        gone = String(name);
        unlinkSync(directory.join('d', gone));
      }
      return lookup.call(this, as, parent, name);
    });
    const entries = await rest((await opened()).handle);
    expect(entries).toHaveLength(FILES.length + 2);
    const without = entries.filter(({ name, entry }) => String(name).startsWith('file') && entry === undefined);
    expect(namesOf(without)).toContain(gone);
  });
});

describe('parts of a listing', () => {
  const name = (cookie: U64): ListedName => ({ name: b(`n${cookie}`), ino: 1, type: 8, cookie });
  const range = (from: number, to: number) => Array.from({ length: to - from }, (_, index) => name(from + index));
  const cookies = (names: readonly ListedName[]) => names.map(({ cookie }) => cookie);
  const most = (count: number) => {
    let left = count;
    return () => left-- > 0;
  };

  test('are taken in pieces, from wherever the kernel goes on', () => {
    const parts = new ListingParts(0, 1);
    expect([parts.has(0), parts.end, parts.take(0, most(9))]).toEqual([true, 0, []]);
    parts.add(range(1, 6), false, true);
    expect(cookies(parts.take(0, most(2)))).toEqual([1, 2]);
    expect(parts.left).toBe(3);
    expect(cookies(parts.take(2, most(9)))).toEqual([3, 4, 5]);
    expect([parts.end, parts.left, parts.take(5, most(9))]).toEqual([5, 0, []]);
    expect(cookies(parts.take(1, most(2)))).toEqual([2, 3]);
    expect([parts.has(6), parts.whole]).toEqual([false, undefined]);
    parts.add(range(6, 8), true, true);
    expect(cookies(parts.whole ?? [])).toEqual([1, 2, 3, 4, 5, 6, 7]);
  });

  test('are the whole only from the beginning, and under one lease', () => {
    const late = new ListingParts(5, 1);
    late.add(range(6, 8), true, true);
    const unleased = new ListingParts(0, 1);
    unleased.add(range(1, 3), false, false);
    unleased.add(range(3, 5), true, true);
    const empty = new ListingParts(0, 1);
    empty.add([], true, true);
    expect([late.whole, unleased.whole, unleased.isLeased, empty.whole]).toEqual([undefined, undefined, false, []]);
  });

  test('of a directory that is too long to be kept are dropped when they are given', () => {
    const parts = new ListingParts(0, 1);
    const total = limits.maxKnownListing + 1;
    parts.add(range(1, total + 1), false, true);
    parts.take(0, most(10));
    parts.add(range(total + 1, total + 3), true, true);
    expect([parts.has(9), parts.has(10), parts.count, parts.left]).toEqual([false, true, total + 2, total - 8]);
    expect(cookies(parts.take(10, most(2)))).toEqual([11, 12]);
    expect([parts.whole, parts.end]).toEqual([undefined, total + 2]);
  });

  test('know positions of 64 bits', () => {
    const parts = new ListingParts(0, 1);
    parts.add([name(2n ** 62n + 1n), name(2n ** 62n + 2n)], false, true);
    expect(cookies(parts.take(2n ** 62n + 1n, most(9)))).toEqual([2n ** 62n + 2n]);
  });
});
