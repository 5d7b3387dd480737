/** A program reads one small file after the other: they are here before it opens them. How slow the line is is said. */
import { chmodSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { afterEach, beforeEach, expect, type MockInstance, test, vi } from 'vitest';
import { ServerSession } from '../../client-fuse/transport/server-session.ts';
import type { Caller } from '../../client-fuse/vfs/filesystem.ts';
import { KiB } from '../../shared/limits.ts';
import { DT, O } from '../../shared/linux/constants.ts';
import { AskingClient } from '../support/asking-client.ts';
import { ROOT, TemporaryDirectory } from '../support/fixture.ts';

const b = (text: string) => Buffer.from(text);
const root: Caller = { uid: 0, gid: 0, pid: 1, groups: [], signal: new AbortController().signal };
const stranger: Caller = { uid: 1000, gid: 1000, pid: 1, groups: [], signal: new AbortController().signal };
const FILES = 40;

let directory: TemporaryDirectory;
let client: AskingClient;
let lineMs: MockInstance<() => number>;

beforeEach(async () => {
  directory = new TemporaryDirectory();
  mkdirSync(directory.join('d'));
  for (let index = 0; index < FILES; index++) writeFileSync(directory.join('d', `f${index}`), `content ${index}`);
  client = await AskingClient.start(directory);
  lineMs = client.slow(10);
});
afterEach(async () => {
  await client[Symbol.asyncDispose]();
  directory[Symbol.dispose]();
});

const opens = () => client.count('open');

/** Names in the order in which they are listed, without directories. */
async function listed(...path: string[]): Promise<string[]> {
  const { handle } = await client.filesystem.opendir(root, await client.nodeOf(root, path));
  const entries = await client.filesystem.readdir(root, handle, 0, 32_768, true);
  await client.filesystem.releasedir(handle);
  return entries.filter(({ type }) => type === DT.REG).map(({ name }) => String(name));
}

async function contentOf(caller: Caller, ...path: string[]): Promise<string> {
  const { handle } = await client.filesystem.open(caller, await client.nodeOf(root, path), O.RDONLY, false);
  const data = await client.filesystem.read(caller, handle, 0, 128 * KiB, true);
  const text = Buffer.from(data).toString();
  client.filesystem.release(handle);
  return text;
}

/** Enough of them to be a walk. */
async function readFour(names: readonly string[], caller = root): Promise<void> {
  for (const name of names.slice(0, 4)) await contentOf(caller, 'd', name);
  await client.quiet();
}

test('after four that are listed in a row all others are asked for, and reading them asks for nothing', async () => {
  const names = await listed('d');
  expect(names).toHaveLength(FILES);
  await readFour(names);
  expect(opens()).toBe(FILES);
  client.asked = [];
  for (const name of names.slice(4)) expect(await contentOf(root, 'd', name)).toBe(`content ${name.slice(1)}`);
  expect(client.asked).toEqual([]);
});

test('the files of a directory that a walk comes to are asked for before the first is opened', async () => {
  mkdirSync(directory.join('e'));
  for (let index = 0; index < 5; index++) writeFileSync(directory.join('e', `g${index}`), `another ${index}`);
  await readFour(await listed('d'));
  client.asked = [];
  await listed('e');
  await client.quiet();
  expect(opens()).toBe(5);
  for (let index = 0; index < 5; index++) expect(await contentOf(root, 'e', `g${index}`)).toBe(`another ${index}`);
  expect(opens()).toBe(5);
});

test('who opens one that is being asked for waits for that answer', async () => {
  const names = await listed('d');
  for (const name of names.slice(0, 4)) await contentOf(root, 'd', name);
  expect(client.session.inFlight).toBeGreaterThan(0);
  expect(await contentOf(root, 'd', names[4] as string)).toBe(`content ${names[4]?.slice(1)}`);
  await client.quiet();
  expect(opens()).toBe(FILES);
});

test('what another client has changed meanwhile is shown as it is', async () => {
  const names = await listed('d');
  await readFour(names);
  const name = names[20] as string;
  const { found: d } = await client.other.call('lookup', ROOT, { parent: client.other.hello.root.inode, name: b('d') });
  const { found } = await client.other.call('lookup', ROOT, { parent: d?.inode as Uint8Array, name: b(name) });
  const none = { mode: undefined, uid: undefined, gid: undefined, atime: undefined, mtime: undefined };
  const inode = found?.inode as Uint8Array;
  await client.other.call('setattr', ROOT, { inode, handle: 0, ...none, size: 3, killSuidgid: false });
  expect(await contentOf(root, 'd', name)).toBe('con');
});

test('what this mount has changed meanwhile, too', async () => {
  const names = await listed('d');
  await readFour(names);
  const name = names[20] as string;
  const { handle } = await client.filesystem.open(root, await client.nodeOf(root, ['d', name]), O.WRONLY, false);
  await client.filesystem.write(root, handle, 0, b('CONTENT'), O.WRONLY, false);
  expect(await contentOf(root, 'd', name)).toBe(`CONTENT ${name.slice(1)}`);
  await client.filesystem.flush(root, handle, 1);
  client.filesystem.release(handle);
  await client.quiet();
  // The first asks, and brings a lease; the second is on the credit of that.
  for (let reads = 0; reads < 2; reads++) expect(await contentOf(root, 'd', name)).toBe(`CONTENT ${name.slice(1)}`);
  expect(readFileSync(directory.join('d', name), 'latin1')).toBe(`CONTENT ${name.slice(1)}`);
});

test('what one user may read says nothing for another', async () => {
  for (let index = 0; index < FILES; index++) chmodSync(directory.join('d', `f${index}`), 0o600);
  const names = await listed('d');
  await readFour(names);
  await expect(contentOf(stranger, 'd', names[10] as string)).rejects.toThrow('EACCES');
});

test('one that may not be read is refused to whoever opens it', async () => {
  chmodSync(directory.path, 0o755);
  const names = await listed('d');
  chmodSync(directory.join('d', names[10] as string), 0o600);
  await listed('d'); // what was local is seen
  await readFour(await listed('d'), stranger);
  await expect(contentOf(stranger, 'd', names[10] as string)).rejects.toThrow('EACCES');
  expect(await contentOf(stranger, 'd', names[11] as string)).toBe(`content ${names[11]?.slice(1)}`);
});

test('large and empty ones are not asked for', async () => {
  writeFileSync(directory.join('d', 'large'), Buffer.alloc(65 * KiB));
  writeFileSync(directory.join('d', 'empty'), '');
  const small = (await listed('d')).filter((name) => name.startsWith('f'));
  await readFour(small);
  expect(opens()).toBe(FILES);
});

test('one that the server has opened all the same is closed there, and read as ever', async () => {
  const names = await listed('d');
  const call = ServerSession.prototype.callForBulk.bind(client.session);
  // As if it had grown meanwhile: too large to come with the reply.
  vi.mocked(client.session.callForBulk).mockImplementation((operation, opener, request, options) => {
    client.asked.push(operation);
    return call(operation, opener, operation === 'open' ? { ...request, firstBytes: 0 } : request, options);
  });
  await readFour(names);
  expect(client.count('release')).toBeGreaterThanOrEqual(FILES - 4);
  await vi.waitFor(() =>
    expect([...client.server.server.sessions.all].map(({ openFiles }) => openFiles)).toEqual([0, 0]),
  );
  expect(await contentOf(root, 'd', names[20] as string)).toBe(`content ${names[20]?.slice(1)}`);
});

test('of a large directory no more than 128 files are here and not opened', async () => {
  for (let index = 0; index < 300; index++) writeFileSync(directory.join('d', `f${index}`), `content ${index}`);
  const names = await listed('d');
  await readFour(names);
  expect(opens()).toBe(4 + 128);
  for (const name of names.slice(4, 14)) await contentOf(root, 'd', name);
  await client.quiet();
  expect(opens()).toBe(4 + 128 + 10);
});

test('what a walk that is over has left makes room for the next one', async () => {
  for (let index = 0; index < 300; index++) writeFileSync(directory.join('d', `f${index}`), `content ${index}`);
  const names = await listed('d');
  await readFour(names);
  await new Promise((resolve) => setTimeout(resolve, 2_100));
  client.asked = [];
  await listed('d');
  for (const name of names.slice(160, 164)) await contentOf(root, 'd', name);
  await client.quiet();
  expect(opens()).toBe(4 + 128);
});

test.each([
  ['a line that answers at once', 0.2, 8],
  ['a slow line', 10, 32],
])('on %s so many are asked for at once', async (_line, ms, most) => {
  lineMs.mockReturnValue(ms);
  const names = await listed('d');
  for (const name of names.slice(0, 3)) await contentOf(root, 'd', name);
  // From now on nothing is answered.
  vi.mocked(client.session.callForBulk).mockImplementation((operation) => {
    client.asked.push(operation);
    return new Promise(() => {});
  });
  client.asked = [];
  void contentOf(root, 'd', names[3] as string);
  await vi.waitFor(() => expect(opens()).toBe(most));
});

test('for who reads one file again and again nothing is asked ahead', async () => {
  const [name = ''] = await listed('d');
  for (let count = 0; count < 8; count++) await contentOf(root, 'd', name);
  await client.quiet();
  // Of what the pretended kernel does not keep each reading asks again.
  expect(opens()).toBe(8);
});

test('nor where files are opened by names that nobody has listed', async () => {
  for (let index = 0; index < 8; index++) await contentOf(root, 'd', `f${index}`);
  await client.quiet();
  expect(opens()).toBe(8);
});
