/** What a client has of a file when its connection is lost: not an answer any more, since nobody can recall it. */
import { writeFileSync } from 'node:fs';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { parseServerAddress } from '../../client-fuse/transport/server-address.ts';
import { ServerSession } from '../../client-fuse/transport/server-session.ts';
import { type Caller, ROOT_NODE } from '../../client-fuse/vfs/filesystem.ts';
import { RemoteFilesystem } from '../../client-fuse/vfs/remote-filesystem.ts';
import { limits } from '../../shared/limits.ts';
import { O } from '../../shared/linux/constants.ts';
import { CuttingProxy } from '../support/cutting-proxy.ts';
import { FORGETFUL_KERNEL, silent, TemporaryDirectory, TestServer } from '../support/fixture.ts';

const { recallMs } = limits;
const caller: Caller = { uid: 0, gid: 0, pid: 1, groups: [], signal: new AbortController().signal };
const b = (text: string) => Buffer.from(text);

let directory: TemporaryDirectory;
let server: TestServer;
let proxy: CuttingProxy;
let sessions: ServerSession[];

interface Client {
  readonly filesystem: RemoteFilesystem;
  readonly handle: number;
  read(): Promise<string>;
}

beforeEach(async () => {
  Object.assign(limits, { recallMs: 200 });
  directory = new TemporaryDirectory();
  writeFileSync(directory.join('f'), 'before');
  server = await TestServer.start(directory.path);
  const { port } = server.server;
  proxy = await CuttingProxy.open(() => port);
  sessions = [];
});
afterEach(async () => {
  Object.assign(limits, { recallMs });
  for (const session of sessions) session.close();
  await proxy[Symbol.asyncDispose]();
  await server[Symbol.asyncDispose]();
  directory[Symbol.dispose]();
});

async function opened(flags: number, address = server.address): Promise<Client> {
  const session = await ServerSession.connect(address, silent);
  sessions.push(session);
  const filesystem = new RemoteFilesystem(session);
  filesystem.attachKernel(FORGETFUL_KERNEL);
  const { node } = await filesystem.lookup(caller, ROOT_NODE, b('f'));
  const { handle, directIo } = await filesystem.open(caller, node, flags, false);
  const read = async () => Buffer.from(await filesystem.read(caller, handle, 0, 100, !directIo)).toString();
  return { filesystem, handle, read };
}

const answers: [what: string, flags: number][] = [
  ['blocks of a file that it has exclusively', O.RDWR],
  ['what came with the opening', O.RDONLY],
];
test.each(answers)('%s', async (_what, flags) => {
  // Otherwise nothing is tested: it does answer by itself, as long as it may.
  const there = await opened(flags);
  if (flags === O.RDWR) await there.read();
  const { requests } = sessions[0] as ServerSession;
  expect([await there.read(), sessions[0]?.requests]).toEqual(['before', requests]);
  there.filesystem.release(there.handle);
  sessions[0]?.close();

  const away = await opened(flags, parseServerAddress(`ws://127.0.0.1:${proxy.port}/`));
  if (flags === O.RDWR) await away.read();
  proxy.refusing = true;
  proxy.cutNow();
  const other = await opened(O.RDWR);
  await other.filesystem.write(caller, other.handle, 0, b('after!'), O.RDWR | O.SYNC, false);
  let isAnswered = false;
  const reading = away.read().finally(() => {
    isAnswered = true;
  });
  await new Promise((done) => setTimeout(done, 50));
  expect(isAnswered).toBe(false);
  proxy.refusing = false;
  expect(await reading).toBe('after!');
});
