/** What was written, and not synchronized, when the server's machine was started anew: each handle that wrote is told. */
import { readFileSync, writeFileSync } from 'node:fs';
import pino from 'pino';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { ServerSession } from '../../client-fuse/transport/server-session.ts';
import { type Caller, ROOT_NODE } from '../../client-fuse/vfs/filesystem.ts';
import { RemoteFilesystem } from '../../client-fuse/vfs/remote-filesystem.ts';
import { errno } from '../../shared/errno.ts';
import { O } from '../../shared/linux/constants.ts';
import { BOOT, FORGETFUL_KERNEL, TemporaryDirectory, TestServer } from '../support/fixture.ts';

const caller: Caller = { uid: 0, gid: 0, pid: 1, groups: [], signal: new AbortController().signal };
const b = (text: string) => Buffer.from(text);
const EIO = { code: errno.EIO };

let directory: TemporaryDirectory;
let server: TestServer;
let session: ServerSession;
let filesystem: RemoteFilesystem;
let logged: string[];
let boots: number;

beforeEach(async () => {
  directory = new TemporaryDirectory();
  writeFileSync(directory.join('f'), 'text');
  server = await TestServer.start(directory.path);
  logged = [];
  boots = 1;
  const log = pino({ level: 'error' }, { write: (line) => logged.push(line) });
  session = await ServerSession.connect(server.address, log);
  filesystem = new RemoteFilesystem(session);
});
afterEach(async () => {
  session.close();
  await server[Symbol.asyncDispose]();
  directory[Symbol.dispose]();
});

async function restart(what: 'process' | 'machine'): Promise<void> {
  const { port } = server.server;
  await server[Symbol.asyncDispose]();
  if (what === 'machine') boots++;
  server = await TestServer.start(directory.path, { port, boot: Buffer.alloc(BOOT.length, boots) });
}

async function open(flags: number = O.RDWR): Promise<number> {
  const { node } = await filesystem.lookup(caller, ROOT_NODE, b('f'));
  return (await filesystem.open(caller, node, flags, false)).handle;
}

const write = (handle: number, text: string, flags: number = O.RDWR) =>
  filesystem.write(caller, handle, 0, b(text), flags, false);
const fsync = (handle: number) => filesystem.fsync(caller, handle, false);
const close = (handle: number) => filesystem.flush(caller, handle, 1);

describe('the machine was started anew', () => {
  test('fsync or close of each handle that wrote says EIO, once; those of others do not', async () => {
    const [one, other, idle, reader] = [await open(), await open(), await open(), await open(O.RDONLY)];
    await write(one, 'one');
    await write(other, 'other');
    await restart('machine');
    await expect(fsync(one)).rejects.toMatchObject(EIO);
    await fsync(one);
    await expect(close(other)).rejects.toMatchObject(EIO);
    await close(other);
    await Promise.all([fsync(idle), close(reader)]);
    expect(logged.map((line) => JSON.parse(line) as unknown)).toMatchObject([{ file: 'f' }]);
    await write(one, 'anew');
    await fsync(one);
  });

  test('what was synchronized before, by whichever handle, or written through, is not lost', async () => {
    const [one, other, through] = [await open(), await open(), await open()];
    await write(one, 'one');
    await fsync(other);
    await write(through, 'sync', O.RDWR | O.DSYNC);
    await restart('machine');
    await Promise.all([fsync(one), fsync(through)]);
    expect(logged).toEqual([]);
  });

  test('an fsync that was under way then says EIO', async () => {
    const handle = await open();
    await write(handle, 'one');
    // It reaches the next server only.
    const ended = restart('machine');
    const synchronized = fsync(handle);
    const told = expect(synchronized).rejects.toMatchObject(EIO);
    await ended;
    await told;
  });

  test('what was gathered and not sent is sent to the new server, and is not lost', async () => {
    filesystem.attachKernel(FORGETFUL_KERNEL);
    const handle = await open();
    await write(handle, 'late');
    await restart('machine');
    await fsync(handle);
    expect(readFileSync(directory.join('f'), 'utf8')).toBe('late');
    expect(logged).toEqual([]);
  });
});

test('the process alone was: nothing is lost', async () => {
  const handle = await open();
  await write(handle, 'one');
  await restart('process');
  await fsync(handle);
  expect(logged).toEqual([]);
});
