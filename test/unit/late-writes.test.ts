/** What a client has gathered when the server is started anew: sent late, and never over what others have written since. */
import { readFileSync, writeFileSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { parseServerAddress } from '../../client-fuse/transport/server-address.ts';
import { ServerSession } from '../../client-fuse/transport/server-session.ts';
import { type Caller, ROOT_NODE } from '../../client-fuse/vfs/filesystem.ts';
import { RemoteFilesystem } from '../../client-fuse/vfs/remote-filesystem.ts';
import { SinceStart } from '../../server/dispatch/since-start.ts';
import type { Session } from '../../server/session/session.ts';
import type { Inode } from '../../server/store/inode.ts';
import { errno } from '../../shared/errno.ts';
import { limits } from '../../shared/limits.ts';
import { O } from '../../shared/linux/constants.ts';
import { CuttingProxy } from '../support/cutting-proxy.ts';
import { FORGETFUL_KERNEL, silent, TemporaryDirectory, TestServer } from '../support/fixture.ts';
import { KeptChangesInMemory, KeptClients } from '../support/kept-state.ts';

const { maxKnownSinceStart, recallMs } = limits;
const caller: Caller = { uid: 0, gid: 0, pid: 1, groups: [], signal: new AbortController().signal };
const b = (text: string) => Buffer.from(text);

let directory: TemporaryDirectory;
let server: TestServer;
let proxy: CuttingProxy;
let sessions: ServerSession[];

interface Writer {
  readonly filesystem: RemoteFilesystem;
  readonly inode: Uint8Array;
  readonly handle: number;
}

beforeEach(async () => {
  directory = new TemporaryDirectory();
  writeFileSync(directory.join('f'), 'before');
  server = await TestServer.start(directory.path);
  const { port } = server.server;
  proxy = await CuttingProxy.open(() => port);
  sessions = [];
});
afterEach(async () => {
  Object.assign(limits, { maxKnownSinceStart, recallMs });
  for (const session of sessions) session.close();
  await proxy[Symbol.asyncDispose]();
  await server[Symbol.asyncDispose]();
  directory[Symbol.dispose]();
});

/** Has gathered `late`, and is away while the server is started anew. */
async function away(): Promise<Writer> {
  const late = await opened(parseServerAddress(`ws://127.0.0.1:${proxy.port}/`));
  await late.filesystem.write(caller, late.handle, 0, b('late'), O.RDWR, false);
  const { port } = server.server;
  proxy.refusing = true;
  const ended = server[Symbol.asyncDispose]();
  proxy.cutNow();
  await ended;
  server = await TestServer.start(directory.path, { port });
  expect(readFileSync(directory.join('f'), 'utf8')).toBe('before');
  return late;
}

async function opened(address = server.address): Promise<Writer> {
  const session = await ServerSession.connect(address, silent);
  sessions.push(session);
  const filesystem = new RemoteFilesystem(session);
  filesystem.attachKernel(FORGETFUL_KERNEL);
  const { node } = await filesystem.lookup(caller, ROOT_NODE, b('f'));
  const { handle } = await filesystem.open(caller, node, O.RDWR, false);
  const { found } = await session.call('lookup', [0, 0], { parent: session.hello.root.inode, name: b('f') });
  return { filesystem, inode: found?.inode as Buffer, handle };
}

const fsync = ({ filesystem, handle }: Writer) => filesystem.fsync(caller, handle, false);

test('nobody has changed the file: it is written', async () => {
  const late = await away();
  await opened();
  proxy.refusing = false;
  await fsync(late);
  expect(readFileSync(directory.join('f'), 'utf8')).toBe('latere');
});

const changes: [what: string, change: (by: Writer) => Promise<unknown>, content: string][] = [
  ['written', async (by) => by.filesystem.write(caller, by.handle, 0, b('newer!'), O.RDWR | O.SYNC, false), 'newer!'],
  // It is on its way when the first one is back.
  ['gathered', async (by) => by.filesystem.write(caller, by.handle, 0, b('newer!'), O.RDWR, false), 'newer!'],
  ['truncated', async (by) => by.filesystem.setattr(caller, 2, { size: 1 }), 'b'],
];
test.each(changes)('another client has %s it: refused, as its fsync says once', async (_what, change, content) => {
  const late = await away();
  const other = await opened();
  await change(other);
  proxy.refusing = false;
  await expect(fsync(late)).rejects.toMatchObject({ code: errno.ESTALE });
  await fsync(late);
  expect(readFileSync(directory.join('f'), 'utf8')).toBe(content);
  // Its handle is as good as any other.
  await late.filesystem.write(caller, late.handle, 0, b('MY'), O.RDWR, false);
  await fsync(late);
  expect(readFileSync(directory.join('f'), 'utf8').startsWith('MY')).toBe(true);
});

test('the server does not know any more who changed what: refused', async () => {
  const late = await away();
  Object.assign(limits, { maxKnownSinceStart: -1 });
  proxy.refusing = false;
  await expect(fsync(late)).rejects.toMatchObject({ code: errno.ESTALE });
  expect(readFileSync(directory.join('f'), 'utf8')).toBe('before');
});

test('its writer was killed, and the server has ended the session: not over what others have written since', async () => {
  const late = await opened(parseServerAddress(`ws://127.0.0.1:${proxy.port}/`));
  const [atServer] = [...server.server.sessions.all];
  await late.filesystem.write(caller, late.handle, 0, b('late'), O.RDWR, false);
  proxy.refusing = true;
  proxy.cutNow();
  late.filesystem.release(late.handle);
  if (atServer) server.server.sessions.end(atServer);
  const other = await opened();
  await other.filesystem.write(caller, other.handle, 0, b('newer!'), O.RDWR | O.SYNC, false);
  proxy.refusing = false;
  await late.filesystem.drain();
  expect(readFileSync(directory.join('f'), 'utf8')).toBe('newer!');
});

describe('what the server keeps for its next start', () => {
  let clients: KeptClients;
  let changes: KeptChangesInMemory;

  /** With what the last process kept. */
  async function restart(): Promise<void> {
    const { port } = server.server;
    const ended = server[Symbol.asyncDispose]();
    changes = changes.ofNextProcess();
    await ended;
    server = await TestServer.start(directory.path, { port, clients, changes });
  }

  /** Has gathered `late`, and does not hear of what comes then. */
  async function cutOff(): Promise<Writer> {
    const late = await opened(parseServerAddress(`ws://127.0.0.1:${proxy.port}/`));
    await late.filesystem.write(caller, late.handle, 0, b('late'), O.RDWR, false);
    proxy.refusing = true;
    proxy.cutNow();
    return late;
  }

  const change = async () => {
    const other = await opened();
    await other.filesystem.write(caller, other.handle, 0, b('newer!'), O.RDWR | O.SYNC, false);
  };
  const content = () => readFileSync(directory.join('f'), 'utf8');

  beforeEach(async () => {
    Object.assign(limits, { recallMs: 200 });
    clients = new KeptClients();
    changes = new KeptChangesInMemory();
    await restart();
  });

  test('a start that the client has missed: nobody has changed the file, and it is written', async () => {
    const late = await cutOff();
    await restart();
    await restart();
    proxy.refusing = false;
    await fsync(late);
    expect(content()).toBe('latere');
  });

  test('a start that the client has missed, in which another has written: refused', async () => {
    const late = await cutOff();
    await restart();
    await change();
    await restart();
    proxy.refusing = false;
    await expect(fsync(late)).rejects.toMatchObject({ code: errno.ESTALE });
    expect(content()).toBe('newer!');
  });

  test('a lease that was revoked while the client was away, and another has written then: refused', async () => {
    const late = await cutOff();
    await change();
    await restart();
    proxy.refusing = false;
    await expect(fsync(late)).rejects.toMatchObject({ code: errno.ESTALE });
    expect(content()).toBe('newer!');
  });

  test('a lease that was revoked, as the client knows: what it gathers from then on is not refused', async () => {
    const late = await opened(parseServerAddress(`ws://127.0.0.1:${proxy.port}/`));
    const [atServer] = [...server.server.sessions.all];
    await late.filesystem.write(caller, late.handle, 0, b('late'), O.RDWR, false);
    const speak = proxy.silence();
    await opened();
    const inode = server.server.exports.get('/')?.store.resolve(late.inode) as Inode;
    const isRefused = () => new SinceStart(changes).mayBeChangedByOthers(inode, atServer as Session);
    expect(isRefused()).toBe(true);
    speak();
    await expect(fsync(late)).rejects.toMatchObject({ code: errno.ESTALE });
    expect(isRefused()).toBe(false);
  });

  test('a client that the server has given up before: refused', async () => {
    const late = await cutOff();
    clients.clients = [];
    await restart();
    proxy.refusing = false;
    await expect(fsync(late)).rejects.toMatchObject({ code: errno.ESTALE });
    expect(content()).toBe('before');
  });
});
