/** A program walks a tree: directories are asked for before it opens them. The server is real, how slow the line is is said. */
import { chmodSync, mkdirSync, writeFileSync } from 'node:fs';
import { afterEach, beforeEach, expect, type MockInstance, test, vi } from 'vitest';
import type { Caller } from '../../client-fuse/vfs/filesystem.ts';
import { AskingClient } from '../support/asking-client.ts';
import { ROOT, TemporaryDirectory } from '../support/fixture.ts';

const b = (text: string) => Buffer.from(text);
const root: Caller = { uid: 0, gid: 0, pid: 1, groups: [], signal: new AbortController().signal };
const stranger: Caller = { uid: 1000, gid: 1000, pid: 1, groups: [], signal: new AbortController().signal };
/** More than are asked for ahead in one directory. */
const DIRECTORIES = Array.from({ length: 40 }, (_, index) => `d${index}`);
const MANY_NAMES = 200;

let directory: TemporaryDirectory;
let client: AskingClient;
/** What the line takes. */
let lineMs: MockInstance<() => number>;

beforeEach(async () => {
  directory = new TemporaryDirectory();
  for (const name of DIRECTORIES) {
    mkdirSync(directory.join('t', name, 'below'), { recursive: true });
    writeFileSync(directory.join('t', name, 'file'), name);
  }
  client = await AskingClient.start(directory);
  lineMs = client.slow(10);
});
afterEach(async () => {
  await client[Symbol.asyncDispose]();
  directory[Symbol.dispose]();
});

async function listed(caller: Caller, ...path: string[]): Promise<string[]> {
  const { handle } = await client.filesystem.opendir(caller, await client.nodeOf(root, path));
  const entries = await client.filesystem.readdir(caller, handle, 0, 32_768, true);
  await client.filesystem.releasedir(handle);
  return entries.map(({ name }) => String(name)).filter((name) => !name.startsWith('.'));
}

test('what is next to the directory that was opened, and below it, is asked for, some at a time', async () => {
  const names = await listed(root, 't');
  expect(client.count('opendir')).toBe(1);
  const [first = '', second = ''] = names;
  expect(await listed(root, 't', first)).toEqual(expect.arrayContaining(['below', 'file']));
  await client.quiet();
  // The first one and 16 more, with what is below each.
  expect(client.count('opendir')).toBe(1 + 2 * (1 + 16));
  client.asked = [];
  await listed(root, 't', first, 'below');
  await listed(root, 't', second);
  await client.quiet();
  // Nothing was waited for; one more is ahead, and what is below it.
  expect(client.asked).toEqual(['opendir', 'opendir']);
});

test('each directory of a walk is asked for once', async () => {
  for (const name of await listed(root, 't')) {
    expect((await listed(root, 't', name)).toSorted()).toEqual(['below', 'file']);
    expect(await listed(root, 't', name, 'below')).toEqual([]);
  }
  await client.quiet();
  expect(client.count('opendir')).toBe(1 + 2 * DIRECTORIES.length);
});

test('a way down is gone ahead to its end', async () => {
  mkdirSync(directory.join('down', '1', '2', '3', '4', '5', '6'), { recursive: true });
  await listed(root, 'down');
  await listed(root, 'down', '1');
  await client.quiet();
  expect(client.count('opendir')).toBe(7);
});

test('of a wide tree no more than 64 are asked for and not opened', async () => {
  for (let index = 0; index < 16 * 16; index++) {
    mkdirSync(directory.join('w', `${index % 16}`, `${index >> 4}`, 'a'), { recursive: true });
  }
  const [first = ''] = await listed(root, 'w');
  await listed(root, 'w', first);
  await client.quiet();
  expect(client.count('opendir')).toBe(2 + 64);
  client.asked = [];
  const [, second = ''] = await listed(root, 'w');
  await listed(root, 'w', second);
  await client.quiet();
  expect(client.asked).toEqual(['opendir']);
});

test('who opens one that is being asked for waits for that answer', async () => {
  const [first = '', second = ''] = await listed(root, 't');
  await listed(root, 't', first);
  expect(client.session.inFlight).toBeGreaterThan(0);
  expect((await listed(root, 't', second)).toSorted()).toEqual(['below', 'file']);
  await client.quiet();
  const [top, ahead] = [1, 16];
  expect(client.count('opendir')).toBe(top + 2 * (1 + ahead + 1)); // and not once more for the second
});

test('a directory that was changed meanwhile is shown as it is', async () => {
  const [first = '', second = ''] = await listed(root, 't');
  await listed(root, 't', first);
  await client.quiet();
  const where = { parent: client.other.hello.root.inode, name: b('t') };
  const { found: top } = await client.other.call('lookup', ROOT, where);
  const { found } = await client.other.call('lookup', ROOT, { parent: top?.inode as Uint8Array, name: b(second) });
  await client.other.call('mkdir', ROOT, {
    parent: found?.inode as Uint8Array,
    name: b('new'),
    mode: 0o755,
    umask: 0,
    wantsAlone: false,
  });
  expect(await listed(root, 't', second)).toContain('new');
});

test('one that is too long to be listed at once is closed at the server', async () => {
  const [first = '', second = ''] = await listed(root, 't');
  for (let index = 0; index < MANY_NAMES; index++) writeFileSync(directory.join('t', second, `file-${index}`), '');
  await listed(root, 't', first);
  await vi.waitFor(() => expect(client.count('release')).toBe(1));
  await client.quiet();
  expect([...client.server.server.sessions.all].map(({ openFiles }) => openFiles)).toEqual([0, 0]);
});

test('what one user may open says nothing for another', async () => {
  const names = await listed(root, 't');
  mkdirSync(directory.join('t', 'zz-private'), { mode: 0o700 });
  const [first = ''] = names;
  await listed(root, 't', first);
  await client.quiet();
  await expect(listed(stranger, 't', 'zz-private')).rejects.toThrow('EACCES');
});

test('directories that may not be opened do not take the places of others', async () => {
  const [first = '', ...others] = await listed(stranger, 't');
  for (const name of others) chmodSync(directory.join('t', name), 0o711);
  await listed(root, 't'); // what was local is seen
  client.asked = [];
  await listed(stranger, 't', first);
  await client.quiet();
  const before = client.count('opendir');
  await listed(stranger, 't', first);
  await client.quiet();
  expect([before, client.count('opendir')]).toEqual([1 + 1 + 16, 1 + 1 + 16 + 16]);
});

test.each([
  ['a line that answers at once', 0.2, 8],
  ['a slow line', 10, 17], // all of them: 16 next to it, and one below
])('on %s so many are asked for at once', async (_line, ms, most) => {
  lineMs.mockReturnValue(ms);
  const [first = ''] = await listed(root, 't');
  await listed(root, 't', first);
  expect(client.session.inFlight).toBe(most);
});

test('on a line that answers at once each directory of a walk is asked for once, too', async () => {
  lineMs.mockReturnValue(0.2);
  for (const name of await listed(root, 't')) {
    await listed(root, 't', name);
    await listed(root, 't', name, 'below');
  }
  await client.quiet();
  expect(client.count('opendir')).toBe(1 + 2 * DIRECTORIES.length);
});
