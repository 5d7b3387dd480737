/** The connection is cut at every message of a workload of all changing operations: the tree is that of a local run. */
import * as fs from 'node:fs';
import { describe, expect, test } from 'vitest';
import { parseServerAddress } from '../../client-fuse/transport/server-address.ts';
import { ServerSession } from '../../client-fuse/transport/server-session.ts';
import { type Direction, type Fault, FaultProxy, type Plan } from '../../scripts/faults/fault-proxy.ts';
import { ROOT, silent, TemporaryDirectory, TestServer } from '../support/fixture.ts';
import { PLAIN_WRITE } from '../support/requests.ts';

const LARGE = Buffer.alloc(100_000, 'L');
const pass: Plan = () => 'pass';

/** Each of these, applied twice, fails or leaves a trace. */
async function workload(session: ServerSession): Promise<void> {
  const parent = session.hello.root.inode;
  const at = (name: string) => ({ parent, name: Buffer.from(name) });
  const made = await session.call('mkdir', ROOT, { ...at('dir'), mode: 0o755, umask: 0, wantsAlone: false });
  await session.call('mkdir', ROOT, { ...at('gone'), mode: 0o755, umask: 0, wantsAlone: false });
  await session.call('rmdir', ROOT, at('gone'));
  const exclusive = { mode: 0o644, umask: 0, flags: 2 | 0o200, wants: 'none' } as const;
  const { handle, entry } = await session.call('create', ROOT, { ...at('file'), ...exclusive });
  const write = { handle, offset: 0, ...PLAIN_WRITE, append: true } as const;
  await session.call('write', ROOT, write, { bulk: Buffer.from('small ') });
  await session.call('write', ROOT, write, { bulk: LARGE });
  await session.call('link', ROOT, { inode: entry.inode, ...at('second') });
  await session.call('symlink', ROOT, { ...at('symbolic'), target: Buffer.from('dir/moved') });
  await session.call('mknod', ROOT, { ...at('fifo'), mode: 0o010600, rdev: 0, umask: 0 });
  const moved = { newParent: made.entry.inode, newName: Buffer.from('moved'), flags: 1 };
  await session.call('rename', ROOT, { ...at('second'), ...moved });
  const other = await session.call('create', ROOT, { ...at('other'), ...exclusive });
  await session.call('fallocate', ROOT, { handle: other.handle, mode: 0, offset: 0, length: 8192 });
  const copy = { handleIn: handle, offsetIn: 0, handleOut: other.handle, offsetOut: 4096, length: 6 };
  expect(await session.call('copyFileRange', ROOT, copy)).toEqual({ copied: 6 });
  const change = { uid: undefined, gid: undefined, atime: undefined, mtime: undefined, killSuidgid: false };
  const { inode } = other.entry;
  await session.call('setattr', ROOT, { inode, handle: 0, mode: 0o600, size: 5000, ...change });
  const name = Buffer.from('user.weft');
  await session.call('setxattr', ROOT, { inode, name, value: Buffer.from('v'), flags: 1, killSgid: false });
  await session.call('removexattr', ROOT, { inode, name });
  await session.call('setxattr', ROOT, { inode, name, value: Buffer.from('w'), flags: 1, killSgid: false });
  await session.call('create', ROOT, { ...at('short'), ...exclusive });
  await session.call('unlink', ROOT, at('short'));
  const read = { handle, offset: 0, size: 1 << 20, knownVersion: undefined, wantsLease: false, wantsBlock: false };
  expect((await session.callForBulk('read', ROOT, read)).bulk.length).toBe(6 + LARGE.length);
  await session.call('release', ROOT, { handles: [handle] });
  await session.call('release', ROOT, { handles: [other.handle] });
}

function localRun(path: (name: string) => string): void {
  fs.mkdirSync(path('dir'));
  fs.chmodSync(path('dir'), 0o755); // whatever this process' umask is
  fs.writeFileSync(path('file'), Buffer.concat([Buffer.from('small '), LARGE]), { mode: 0o644 });
  fs.linkSync(path('file'), path('dir/moved'));
  fs.symlinkSync('dir/moved', path('symbolic'));
  const copied = Buffer.alloc(5000);
  copied.write('small ', 4096);
  fs.writeFileSync(path('other'), copied, { mode: 0o600 });
}

/** Name, mode, links, size, content or target of everything but the fifo, which node cannot make. */
function tree(root: string): unknown[] {
  const names = (fs.readdirSync(root, { recursive: true }) as string[]).sort().filter((name) => name !== 'fifo');
  return names.map((name) => {
    const path = `${root}/${name}`;
    const status = fs.lstatSync(path);
    const content = status.isSymbolicLink()
      ? fs.readlinkSync(path)
      : status.isFile()
        ? fs.readFileSync(path, 'latin1')
        : '';
    return [name, status.mode, status.nlink, content];
  });
}

async function run(plan: Plan) {
  using directory = new TemporaryDirectory();
  await using server = await TestServer.start(directory.path);
  await using proxy = await FaultProxy.open(() => server.server.port, plan);
  const session = await ServerSession.connect(parseServerAddress(`ws://127.0.0.1:${proxy.port}/`), silent);
  await workload(session);
  const [only] = server.server.sessions.all;
  const left = { openFiles: only?.openFiles, inFlight: only?.inFlight, epoch: session.epoch };
  session.close();
  expect(fs.lstatSync(directory.join('fifo')).isFIFO()).toBe(true);
  return { tree: tree(directory.path), left, messages: { ...proxy.messages }, cuts: proxy.cuts };
}

/** The hello of both lanes: without it there is no session that could go on. */
const FIRST = 2;

describe.each<Direction>(['to server', 'to client'])('every message %s', (direction) => {
  test.each<Fault & string>(['cut before', 'cut inside', 'cut after'])('%s', { timeout: 60_000 }, async (fault) => {
    using local = new TemporaryDirectory();
    localRun((name) => local.join(name));
    const expected = tree(local.path);
    const whole = await run(pass);
    expect(whole.tree).toEqual(expected);
    const count = whole.messages[direction];
    expect(count).toBeGreaterThan(20);
    for (let at = FIRST; at < count; at++) {
      const one = await run((which, index) => (which === direction && index === at ? fault : 'pass'));
      expect([at, one.cuts], `message ${at}`).toEqual([at, 1]);
      expect([one.tree, one.left], `message ${at}`).toEqual([expected, { ...whole.left, epoch: 0 }]);
    }
  });
});
