/**
 * Who writes is known again before anybody keeps pages: a reader that opens right after a start of the server, while
 * clients with files open for writing are away, is granted nothing.
 */
import { writeFileSync } from 'node:fs';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { parseServerAddress } from '../../client-fuse/transport/server-address.ts';
import { ServerSession } from '../../client-fuse/transport/server-session.ts';
import { type Caller, ROOT_NODE } from '../../client-fuse/vfs/filesystem.ts';
import { RemoteFilesystem } from '../../client-fuse/vfs/remote-filesystem.ts';
import { statusOf } from '../../server/admin/status.ts';
import { limits } from '../../shared/limits.ts';
import { O } from '../../shared/linux/constants.ts';
import { ALL_BYTES } from '../../shared/range-map.ts';
import { CuttingProxy } from '../support/cutting-proxy.ts';
import { lookUp, ROOT, silent, TemporaryDirectory, TestServer } from '../support/fixture.ts';
import { KeptClients } from '../support/kept-state.ts';

const { minGraceMs, sessionLeaseMs } = limits;
const caller: Caller = { uid: 0, gid: 0, pid: 1, groups: [], signal: new AbortController().signal };
const posix = { kind: 'posix', owner: 1, pid: 1 } as const;

let directory: TemporaryDirectory;
let server: TestServer;
let clients: KeptClients;
let proxy: CuttingProxy;
/** Goes through the proxy. */
let writer: ServerSession;
let reader: ServerSession;

beforeEach(async () => {
  directory = new TemporaryDirectory();
  for (const name of ['f', 'g']) writeFileSync(directory.join(name), 'text');
  clients = new KeptClients();
  server = await TestServer.start(directory.path, { clients });
  const { port } = server.server;
  proxy = await CuttingProxy.open(() => port);
  writer = await ServerSession.connect(parseServerAddress(`ws://127.0.0.1:${proxy.port}/`), silent);
  reader = await server.connect();
});
afterEach(async () => {
  Object.assign(limits, { minGraceMs, sessionLeaseMs });
  for (const session of [writer, reader]) session.close();
  await proxy[Symbol.asyncDispose]();
  await server[Symbol.asyncDispose]();
  directory[Symbol.dispose]();
});

/** Without a word to its clients. The writer stays away. */
async function restart(): Promise<void> {
  const { port } = server.server;
  proxy.refusing = true;
  const ended = server[Symbol.asyncDispose]();
  proxy.cutNow();
  await ended;
  server = await TestServer.start(directory.path, { port, clients });
}

async function openToWrite(name: string) {
  const filesystem = new RemoteFilesystem(writer);
  const { node } = await filesystem.lookup(caller, ROOT_NODE, Buffer.from(name));
  const { handle } = await filesystem.open(caller, node, O.RDWR, false);
  return { filesystem, handle };
}

/** What a reader may keep. */
async function granted(name: string): Promise<string> {
  const { inode } = await lookUp(reader, ROOT, { parent: reader.hello.root.inode, name: Buffer.from(name) });
  const request = { inode, flags: O.RDONLY, killSuidgid: false, wants: 'shared', firstBytes: 100 } as const;
  const { reply, bulk } = await reader.callForBulk('open', ROOT, request);
  expect(bulk.length > 0).toBe(reply.lease === 'shared');
  return reply.lease;
}

const writersAtServer = () => [...server.server.sessions.all].reduce((sum, { openFiles }) => sum + openFiles, 0);

test('a client is in the list from its first lease on, as one that writes from its first such file on: a note each', async () => {
  const id = writer.hello.session.toString('hex');
  await lookUp(writer, ROOT, { parent: writer.hello.root.inode, name: Buffer.from('f') });
  expect([clients.writes, clients.clients]).toMatchObject([1, [{ id, writes: false, locks: false }]]);
  const { filesystem, handle } = await openToWrite('f');
  expect([clients.writes, clients.clients]).toMatchObject([2, [{ id, writes: true, locks: false }]]);
  await openToWrite('g');
  expect(clients.writes).toBe(2);
  await filesystem.lock(caller, handle, { ...posix, ...ALL_BYTES, mode: 'shared' }, false);
  expect([clients.writes, clients.clients[0]?.locks]).toEqual([3, true]);
  await openToWrite('g');
  expect(clients.writes).toBe(3);
  expect(await granted('g')).toBe('none');
  expect([clients.writes, clients.clients[1]]).toMatchObject([4, { writes: false, locks: false }]);
  writer.close();
  await vi.waitFor(() => expect(clients.clients).toMatchObject([{ id: reader.hello.session.toString('hex') }]));
});

test('while it is away nobody keeps pages; it is back with its files as soon as it is connected, unasked', async () => {
  await openToWrite('f');
  expect([await granted('f'), await granted('g')]).toEqual(['none', 'shared']);
  await restart();
  expect([await granted('f'), await granted('g')]).toEqual(['none', 'none']);
  expect([server.server.sessions.grace.isOver, reader.grace]).toEqual([true, undefined]);
  const awaited = { export: '/', isBack: false, heldLocks: false, wrote: true };
  expect(statusOf(server.server).grace).toMatchObject({
    holdsUpLocks: false,
    clients: expect.arrayContaining([expect.objectContaining(awaited)]) as unknown,
  });
  expect(statusOf(server.server).grace?.atMostSeconds).toBeLessThanOrEqual(limits.sessionLeaseMs / 1000);
  proxy.refusing = false;
  await vi.waitFor(() => expect(server.server.sessions.awaitsWriters).toBe(false), { timeout: 5000 });
  // Two of the reader.
  expect(writersAtServer()).toBe(3);
  expect([await granted('f'), await granted('g')]).toEqual(['none', 'shared']);
  // The reader says nothing when it is back: its leases end by themselves.
  expect(statusOf(server.server).grace).toMatchObject({
    holdsUpPages: false,
    clients: [{ isBack: true, wrote: false }],
  });
});

test('one that does not come back is waited for until the grace period is over, and once', async () => {
  Object.assign(limits, { minGraceMs: 300, sessionLeaseMs: 300 });
  await openToWrite('f');
  await restart();
  expect(await granted('f')).toBe('none');
  await vi.waitFor(() => expect(server.server.sessions.awaitsWriters).toBe(false), { timeout: 5000 });
  expect(clients.clients.map(({ writes }) => writes)).toEqual([false]);
  expect(await granted('f')).toBe('shared');
  await restart();
  expect(server.server.sessions.awaitsWriters).toBe(false);
});

test('a list that cannot be written keeps nobody from writing', async () => {
  clients.isFull = true;
  const { filesystem, handle } = await openToWrite('f');
  expect(await filesystem.write(caller, handle, 0, Buffer.from('more'), O.RDWR, false)).toBe(4);
});
