/**
 * What clients answer for under leases of a server that has ended: nobody changes it, whatever it is, before all of them know
 * that there is another server, or may not use their leases any more.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { parseServerAddress } from '../../client-fuse/transport/server-address.ts';
import { ServerSession } from '../../client-fuse/transport/server-session.ts';
import { type Caller, ROOT_NODE } from '../../client-fuse/vfs/filesystem.ts';
import { RemoteFilesystem } from '../../client-fuse/vfs/remote-filesystem.ts';
import { statusOf } from '../../server/admin/status.ts';
import type { ListedClient } from '../../server/session/client-list.ts';
import { limits } from '../../shared/limits.ts';
import { O } from '../../shared/linux/constants.ts';
import { CuttingProxy } from '../support/cutting-proxy.ts';
import { deferred, FORGETFUL_KERNEL, silent, TemporaryDirectory, TestServer } from '../support/fixture.ts';
import { KeptClients } from '../support/kept-state.ts';

const { leaseUseMs } = limits;
const root: Caller = { uid: 0, gid: 0, pid: 1, groups: [], signal: new AbortController().signal };
const b = (text: string) => Buffer.from(text);
/** One that will not come back. */
const gone: ListedClient = {
  id: '00112233445566778899aabbccddeeff',
  export: '/',
  client: 'gone:1',
  credential: 'anyone',
  writes: false,
  locks: false,
};

let directory: TemporaryDirectory;
let clients: KeptClients;
let server: TestServer;
let proxy: CuttingProxy;
/** Goes through the proxy. */
let looking: RemoteFilesystem;
let lookingSession: ServerSession;
let changing: RemoteFilesystem;
let changingSession: ServerSession;

beforeEach(async () => {
  directory = new TemporaryDirectory();
  for (const name of ['f', 'g', 'other']) writeFileSync(directory.join(name), 'text');
  mkdirSync(directory.join('d'));
  clients = new KeptClients();
  server = await TestServer.start(directory.path, { clients });
  const { port } = server.server;
  proxy = await CuttingProxy.open(() => port);
  lookingSession = await ServerSession.connect(parseServerAddress(`ws://127.0.0.1:${proxy.port}/`), silent);
  looking = new RemoteFilesystem(lookingSession);
  changingSession = await server.connect();
  changing = new RemoteFilesystem(changingSession);
});
afterEach(async () => {
  Object.assign(limits, { leaseUseMs });
  for (const session of [lookingSession, changingSession]) session.close();
  await proxy[Symbol.asyncDispose]();
  await server[Symbol.asyncDispose]();
  directory[Symbol.dispose]();
});

/** Without a word to its clients; whoever goes through the proxy stays away. */
async function restart(alsoGone: readonly ListedClient[] = []): Promise<void> {
  const { port } = server.server;
  proxy.refusing = true;
  const ended = server[Symbol.asyncDispose]();
  proxy.cutNow();
  await ended;
  clients.clients = [...clients.clients, ...alsoGone];
  server = await TestServer.start(directory.path, { port, clients });
}

async function node(filesystem: RemoteFilesystem, name: string): Promise<number> {
  const found = await filesystem.lookup(root, ROOT_NODE, b(name));
  if (!('attributes' in found)) throw new Error(`${name} is there`);
  return found.node;
}

async function open(filesystem: RemoteFilesystem, name: string, flags: number): Promise<number> {
  return (await filesystem.open(root, await node(filesystem, name), flags, false)).handle;
}

/** Whether it is done; and it is not when what was asked after it is. */
async function isHeldUp(work: Promise<unknown>, session = changingSession): Promise<boolean> {
  let isDone = false;
  work.then(
    () => (isDone = true),
    () => (isDone = true),
  );
  for (let turn = 0; turn < 3; turn++) await session.call('renew', [], {});
  return !isDone;
}

const requests = (operation: string) => server.server.dispatcher.counts.get(operation) ?? 0;

describe('while one in the list is not back', () => {
  beforeEach(async () => {
    Object.assign(limits, { leaseUseMs: 60_000 });
    await restart([gone]);
  });

  const rows: [what: string, change: () => Promise<unknown>][] = [
    ['mknod', () => changing.mknod(root, ROOT_NODE, b('new'), 0o100644, 0, 0)],
    ['mkdir', () => changing.mkdir(root, ROOT_NODE, b('new'), 0o755, 0)],
    ['symlink', () => changing.symlink(root, ROOT_NODE, b('new'), b('f'))],
    ['link', async () => changing.link(root, await node(changing, 'f'), ROOT_NODE, b('new'))],
    ['unlink', () => changing.unlink(root, ROOT_NODE, b('f'))],
    ['rmdir', () => changing.rmdir(root, ROOT_NODE, b('d'))],
    ['rename', () => changing.rename(root, ROOT_NODE, b('f'), ROOT_NODE, b('g'), 0)],
    ['create', () => changing.create(root, ROOT_NODE, b('new'), 0o644, 0, O.RDWR)],
    ['chmod', async () => changing.setattr(root, await node(changing, 'f'), { mode: 0o600 })],
    ['truncate', async () => changing.setattr(root, await node(changing, 'f'), { size: 1 })],
    ['setxattr', async () => changing.setxattr(root, await node(changing, 'f'), b('user.a'), b('1'), 0, false)],
    ['open to truncate', () => open(changing, 'f', O.WRONLY | O.TRUNC)],
    ['open to write', () => open(changing, 'f', O.RDWR)],
  ];
  test.each(rows)('%s waits', async (_what, change) => {
    await changing.getattr(root, await node(changing, 'f'));
    const changed = change();
    expect(await isHeldUp(changed)).toBe(true);
    server.server.sessions.endEarlierLeases();
    await changed;
  });

  test('what changes nothing does not, nor does it cost another client its leases', async () => {
    const chmod = changing.setattr(root, await node(changing, 'other'), { mode: 0o600 });
    expect(await isHeldUp(chmod)).toBe(true);
    const handle = await open(changing, 'f', O.RDONLY);
    expect(Buffer.from(await changing.read(root, handle, 0, 9))).toEqual(b('text'));
    const { handle: listing } = await changing.opendir(root, ROOT_NODE);
    expect(await changing.readdir(root, listing, 0, 4096, true)).toHaveLength(6);
    const before = requests('getattr');
    for (let times = 0; times < 3; times++) await changing.getattr(root, await node(changing, 'f'));
    expect(requests('getattr')).toBe(before);
    server.server.sessions.endEarlierLeases();
    await chmod;
  });

  test('a server that is stopped then lets nothing through, and does not wait for it', async () => {
    const made = changing.mkdir(root, ROOT_NODE, b('new'), 0o755, 0);
    expect(await isHeldUp(made)).toBe(true);
    await restart([gone]);
    expect(await isHeldUp(made)).toBe(true);
    server.server.sessions.endEarlierLeases();
    await made;
  });

  test('it is told, and the client is not waited for by the next start, once its leases have ended', async () => {
    const { grace } = statusOf(server.server);
    expect(grace).toMatchObject({ holdsUpChanges: true, holdsUpLocks: false, holdsUpPages: false, atMostSeconds: 60 });
    expect(grace?.clients).toMatchObject([{ client: 'gone:1', isBack: false, heldLocks: false, wrote: false }]);
    server.server.sessions.endEarlierLeases();
    expect(statusOf(server.server).grace).toBe(null);
    expect(clients.clients).toEqual([]);
  });
});

test('leases of one that stays away have ended after 3 s, or how long clients use them', async () => {
  Object.assign(limits, { leaseUseMs: 200 });
  await restart([gone]);
  const startMs = performance.now();
  await changing.mkdir(root, ROOT_NODE, b('new'), 0o755, 0);
  // Less: the server was there before.
  expect(performance.now() - startMs).toBeGreaterThan(50);
  expect(clients.clients).toMatchObject([{ id: changingSession.hello.session.toString('hex') }]);
});

describe('when all are back', () => {
  beforeEach(async () => {
    Object.assign(limits, { leaseUseMs: 60_000 });
    for (const filesystem of [looking, changing]) await node(filesystem, 'f');
    expect(clients.clients).toHaveLength(2);
  });

  test('changes go on, at once, and what was known is asked anew', async () => {
    await restart();
    const changed = changing.rename(root, ROOT_NODE, b('f'), ROOT_NODE, b('moved'), 0);
    expect(await isHeldUp(changed)).toBe(true);
    proxy.refusing = false;
    await changed;
    await expect(looking.lookup(root, ROOT_NODE, b('f'))).rejects.toThrow('ENOENT');
    expect(server.server.sessions.earlierLeases).toBe(undefined);
  });

  test('one that is alone in the list holds nobody up', async () => {
    lookingSession.close();
    await vi.waitFor(() => expect(clients.clients).toHaveLength(1));
    await restart();
    await changing.mkdir(root, ROOT_NODE, b('new'), 0o755, 0);
  });

  test('files that are open to write are opened again meanwhile, which nobody waits for', async () => {
    const handle = await open(looking, 'f', O.RDWR);
    const other = await open(changing, 'f', O.RDWR);
    await restart();
    const written = changing.write(root, other, 0, b('TEXT'), O.RDWR, false);
    expect(await isHeldUp(written)).toBe(true);
    proxy.refusing = false;
    expect(await written).toBe(4);
    expect(Buffer.from(await looking.read(root, handle, 0, 9))).toEqual(b('TEXT'));
  });

  test('twice in a row: who was back at the first start only is waited for at the second', async () => {
    await restart();
    const made = changing.mkdir(root, ROOT_NODE, b('new'), 0o755, 0);
    expect(await isHeldUp(made)).toBe(true);
    proxy.refusing = false;
    await made;
    await restart();
    const removed = changing.rmdir(root, ROOT_NODE, b('new'));
    expect(await isHeldUp(removed)).toBe(true);
    proxy.refusing = false;
    await removed;
  });

  test('a kernel that has not forgotten yet is waited for', async () => {
    const { promise: forgotten, resolve: forget } = deferred();
    const notifier = { ...FORGETFUL_KERNEL.notifier, incrementEpoch: () => forgotten };
    looking.attachKernel({ ...FORGETFUL_KERNEL, notifier });
    await node(looking, 'f');
    await restart();
    proxy.refusing = false;
    const made = changing.mkdir(root, ROOT_NODE, b('new'), 0o755, 0);
    await vi.waitFor(() => expect(server.server.sessions.size).toBe(2));
    await lookingSession.call('renew', [], {});
    expect(await isHeldUp(made)).toBe(true);
    forget();
    await made;
  });
});

describe('the list of clients', () => {
  test('costs a session that is granted nothing nothing, and any other one note', async () => {
    await changing.statfs(root, ROOT_NODE);
    expect(clients.writes).toBe(0);
    for (const name of ['f', 'g', 'd']) await node(changing, name);
    await changing.opendir(root, ROOT_NODE);
    expect(clients.writes).toBe(1);
    changingSession.close();
    await vi.waitFor(() => expect(clients.clients).toEqual([]));
  });

  test('has no client that has been away for the lease time, unless it writes or has locks', async () => {
    const ino = await node(looking, 'f');
    const writing = await open(changing, 'f', O.RDWR);
    expect(clients.clients).toHaveLength(2);
    const lost = [lookingSession, changingSession].map(({ hello }) => hello.session.toString('hex'));
    const sessions = [...server.server.sessions.all].filter(({ key }) => lost.includes(key));
    const { sessionLeaseMs } = limits;
    proxy.refusing = true;
    proxy.cutNow();
    await vi.waitFor(() => expect(sessions[0]?.absentSinceMs).toBeDefined());
    // The other one is away, too, as far as the server can tell.
    for (const session of sessions) session.absentSinceMs = performance.now() - sessionLeaseMs;
    server.server.sessions.expire(performance.now());
    expect(clients.clients).toMatchObject([{ id: lost[1], writes: true }]);
    expect(sessions.map(({ leaseCount }) => leaseCount > 0)).toEqual([false, true]);
    proxy.refusing = false;
    await looking.getattr(root, ino);
    expect(clients.clients).toHaveLength(2);
    changing.release(writing);
  });

  test('cannot be written: nothing is leased, and nothing fails; it is tried again later', async () => {
    clients.isFull = true;
    const ino = await node(changing, 'f');
    const asked = async () => {
      const before = requests('getattr');
      await changing.getattr(root, ino);
      return requests('getattr') - before;
    };
    expect([await asked(), await asked()]).toEqual([1, 1]);
    const handle = await open(changing, 'f', O.RDONLY);
    expect(Buffer.from(await changing.read(root, handle, 0, 9))).toEqual(b('text'));
    await changing.create(root, ROOT_NODE, b('new'), 0o644, 0, O.RDWR);
    expect([...server.server.sessions.all].map(({ leaseCount }) => leaseCount)).toEqual([0, 0]);
    clients.isFull = false;
    server.server.sessions.expire(performance.now());
    expect([await asked(), await asked()]).toEqual([1, 0]);
  });
});
