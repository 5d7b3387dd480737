/** Files that were written under an exclusive lease: they are closed at the server together, or when somebody wants one. */
import { expect, test, vi } from 'vitest';
import { type Caller, ROOT_NODE } from '../../client-fuse/vfs/filesystem.ts';
import { RemoteFilesystem } from '../../client-fuse/vfs/remote-filesystem.ts';
import { O } from '../../shared/linux/constants.ts';
import { FORGETFUL_KERNEL, lookUp, ROOT, TemporaryDirectory, TestServer } from '../support/fixture.ts';

const caller: Caller = { uid: 0, gid: 0, pid: 1, groups: [], signal: new AbortController().signal };
const b = (text: string) => Buffer.from(text);

async function world() {
  const directory = new TemporaryDirectory();
  const server = await TestServer.start(directory.path);
  const session = await server.connect();
  const filesystem = new RemoteFilesystem(session);
  filesystem.attachKernel(FORGETFUL_KERNEL);
  const asked = vi.spyOn(session, 'callForBulk');
  const write = async (name: string, flags: number = O.CREAT | O.EXCL | O.WRONLY) => {
    const isNew = (flags & O.CREAT) !== 0;
    const opened = isNew
      ? (await filesystem.create(caller, ROOT_NODE, b(name), 0o644, 0, flags)).opened
      : await filesystem.open(caller, (await filesystem.lookup(caller, ROOT_NODE, b(name))).node, flags, false);
    await filesystem.write(caller, opened.handle, 0, b(name), 0, false);
    await filesystem.flush(caller, opened.handle, 1);
    filesystem.release(opened.handle);
  };
  return {
    directory,
    server,
    asked,
    write,
    released: () => asked.mock.calls.filter(([name]) => name === 'release').map(([, , request]) => request),
    async [Symbol.asyncDispose]() {
      session.close();
      await server[Symbol.asyncDispose]();
      directory[Symbol.dispose]();
    },
  };
}

test('are closed together', async () => {
  await using one = await world();
  const names = Array.from({ length: 40 }, (_, index) => `f${index}`);
  for (const name of names) await one.write(name);
  await vi.waitFor(() => {
    const handles = one.released().flatMap((request) => (request as { handles: number[] }).handles);
    expect(new Set(handles).size).toBe(names.length);
    expect(one.released().length).toBeLessThan(names.length);
  });
});

test('are closed when another client opens one, which may then keep what it reads', async () => {
  await using one = await world();
  const other = await one.server.connect();
  for (let round = 0; round < 20; round++) {
    const name = `f${round}`;
    await one.write(name);
    const { inode } = await lookUp(other, ROOT, { parent: other.hello.root.inode, name: b(name) });
    const request = { inode, flags: O.RDONLY, killSuidgid: false, wants: 'shared', firstBytes: 0 } as const;
    const { lease } = await other.call('open', ROOT, request);
    expect(lease).toBe('shared');
  }
  other.close();
});

test('are closed before the same client opens one again, which then gathers again', async () => {
  await using one = await world();
  await one.write('f');
  await one.write('f', O.WRONLY);
  const at = one.asked.mock.calls.findIndex(([name]) => name === 'open');
  expect(await one.asked.mock.results[at]?.value).toMatchObject({ reply: { lease: 'exclusive' } });
  // Without having to be asked for it.
  expect(one.server.server.exports.get('/')?.leases.counts.recallsSent).toBe(0);
});
