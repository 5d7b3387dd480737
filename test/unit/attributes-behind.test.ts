/**
 * Attributes of a new file that its client gathers, with a real server on real files: what they cost, who sees them when,
 * what is asked at once instead, and what becomes of them when something goes wrong. Needs root.
 */
import { chmodSync, chownSync, readFileSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { parseServerAddress } from '../../client-fuse/transport/server-address.ts';
import { ServerSession } from '../../client-fuse/transport/server-session.ts';
import { type AttributeChanges, type Caller, ROOT_NODE } from '../../client-fuse/vfs/filesystem.ts';
import { RemoteFilesystem } from '../../client-fuse/vfs/remote-filesystem.ts';
import type { Export } from '../../server/export.ts';
import { errno, FsError } from '../../shared/errno.ts';
import { limits } from '../../shared/limits.ts';
import { O } from '../../shared/linux/constants.ts';
import { CuttingProxy } from '../support/cutting-proxy.ts';
import { FORGETFUL_KERNEL, silent, TemporaryDirectory, TestServer } from '../support/fixture.ts';

const { recallMs } = limits;
const callerOf = (uid: number): Caller => ({
  uid,
  gid: uid,
  pid: 1,
  groups: [],
  signal: new AbortController().signal,
});
const root = callerOf(0);
const b = (text: string) => Buffer.from(text);
const CAPABILITY = b('security.capability');
/** cap_net_raw=ep, as setcap(8) writes it. */
const SOME_CAPABILITY = Buffer.from('0100000200200000000000000000000000000000', 'hex');
const THEN = { sec: 1_000_000_000, nsec: 123_456_789 };
const modified: AttributeChanges = { mtime: THEN };

let directory: TemporaryDirectory;
let server: TestServer;
let sessions: ServerSession[];

beforeEach(async () => {
  directory = new TemporaryDirectory();
  chmodSync(directory.path, 0o777);
  server = await TestServer.start(directory.path);
  sessions = [];
});
afterEach(async () => {
  vi.restoreAllMocks();
  Object.assign(limits, { recallMs });
  for (const session of sessions) session.close();
  await server[Symbol.asyncDispose]();
  directory[Symbol.dispose]();
});

async function connect(address = server.address): Promise<RemoteFilesystem> {
  const session = await ServerSession.connect(address, silent);
  sessions.push(session);
  const filesystem = new RemoteFilesystem(session);
  filesystem.attachKernel(FORGETFUL_KERNEL);
  return filesystem;
}

/** A new file, and what is done with it. */
async function make(filesystem: RemoteFilesystem, name = 'f', caller = root, mode = 0o600) {
  const { entry, opened } = await filesystem.create(caller, ROOT_NODE, b(name), mode, 0, O.RDWR | O.EXCL);
  return {
    node: entry.node,
    handle: opened.handle,
    write: (text: string, offset = 0) => filesystem.write(caller, opened.handle, offset, b(text), O.RDWR, false),
    change: (changes: AttributeChanges, by = caller) => filesystem.setattr(by, entry.node, changes),
    truncate: (size: number) => filesystem.setattr(caller, entry.node, { size }, opened.handle),
    flush: () => filesystem.flush(caller, opened.handle, 1),
    release: () => filesystem.release(opened.handle),
    getxattr: (attribute: Buffer) => filesystem.getxattr(caller, entry.node, attribute),
  };
}

const exported = () => server.server.exports.get('/') as Export;

function requests(): Record<string, number> {
  return Object.fromEntries(server.server.dispatcher.counts);
}

const there = (name = 'f') => {
  const { mode, mtimeMs, uid, size } = statSync(directory.join(name));
  return { mode: mode & 0o7777, mtime: Math.floor(mtimeMs / 1000), uid, size };
};
const look = async (filesystem: RemoteFilesystem, caller = root, name = 'f') => {
  const entry = await filesystem.lookup(caller, ROOT_NODE, b(name));
  if (!('attributes' in entry)) throw new Error(`${name} is absent`);
  const { mode, mtime, uid, size } = (await filesystem.getattr(caller, entry.node)).attributes;
  return { mode: mode & 0o7777, mtime: mtime.sec, uid, size };
};

/** As `tar x` does by root, and the kernel for it. */
async function extract(filesystem: RemoteFilesystem, name: string, caller = root) {
  const file = await make(filesystem, name, caller);
  await file.write('what is in it');
  await file.change(modified);
  await Promise.resolve()
    .then(() => file.getxattr(CAPABILITY))
    .catch((error: unknown) => expect(error).toMatchObject({ code: errno.ENODATA }));
  await file.change({ uid: caller.uid, gid: caller.uid, killSuidgid: true });
  const { attributes, attributesMs } = await file.change({ mode: 0o644 });
  expect([attributes.mode, attributes.size, attributesMs]).toEqual([0o100644, 13, 0]);
  await file.flush();
  file.release();
}

describe('what it costs', () => {
  test.each([0, 1000])('a file that tar extracts as user %d: two requests, and its release', async (uid) => {
    const filesystem = await connect();
    await extract(filesystem, 'first', callerOf(uid));
    const before = requests();
    for (const name of ['second', 'third']) await extract(filesystem, name, callerOf(uid));
    const after = requests();
    const cost = Object.entries(after).map(([operation, count]) => [operation, count - (before[operation] ?? 0)]);
    const { release, ...rest } = Object.fromEntries(cost.filter(([, count]) => count !== 0));
    expect(rest).toEqual({ create: 2, write: 2 });
    expect(release ?? 0).toBeLessThanOrEqual(2);
    // Until then the kernel would hold off this very process, which is the server's.
    await vi.waitFor(() => expect(exported().leases.counts.exclusive).toBe(0));
    for (const name of ['first', 'second', 'third']) {
      expect(there(name)).toEqual({ mode: 0o644, mtime: THEN.sec, uid, size: 13 });
      expect(readFileSync(directory.join(name), 'utf8')).toBe('what is in it');
      expect(statSync(directory.join(name), { bigint: true }).mtimeNs).toBe(1_000_000_000_123_456_789n);
    }
  });

  test('what is known of the file afterwards is what the server said', async () => {
    const filesystem = await connect();
    const file = await make(filesystem);
    await file.write('abc');
    await file.change(modified);
    await file.flush();
    const { getattr = 0 } = requests();
    const { attributes } = await filesystem.getattr(root, file.node);
    expect([attributes.mtime, attributes.size, requests().getattr ?? 0]).toEqual([THEN, 3, getattr]);
  });
});

describe('the order', () => {
  test('written after the time was set: that is when it was modified', async () => {
    const file = await make(await connect());
    await file.change(modified);
    await file.write('abc');
    await file.flush();
    expect(there().mtime).toBeGreaterThan(THEN.sec);
  });

  test('and the time set once more', async () => {
    const file = await make(await connect());
    await file.change(modified);
    await file.write('abc');
    await file.change({ mtime: { sec: 7, nsec: 0 } });
    await file.flush();
    expect(there()).toMatchObject({ mtime: 7, size: 3 });
  });

  test('what is asked at once comes after what was gathered', async () => {
    const file = await make(await connect());
    await file.write('abc');
    await file.change({ ...modified, mode: 0o644 });
    await file.truncate(2);
    expect(there()).toMatchObject({ mode: 0o644, size: 2 });
    expect(there().mtime).toBeGreaterThan(THEN.sec);
    // And gathering goes on from there.
    const { attributes } = await file.change({ mode: 0o664 });
    expect([attributes.size, there().mode]).toEqual([2, 0o644]);
    await file.flush();
    expect(there().mode).toBe(0o664);
  });
});

describe('who sees it', () => {
  test('the same mount, at its next question', async () => {
    const filesystem = await connect();
    const file = await make(filesystem);
    await file.write('abc');
    await file.change({ ...modified, mode: 0o644 });
    expect(await look(filesystem)).toEqual({ mode: 0o644, mtime: THEN.sec, uid: 0, size: 3 });
  });

  test('another client, which may open the file now', async () => {
    const [one, other] = [await connect(), await connect()];
    const user = callerOf(1000);
    const file = await make(one);
    await file.write('abc');
    await file.change({ mode: 0o644 });
    expect(there().mode).toBe(0o600);
    const { node } = await other.lookup(user, ROOT_NODE, b('f'));
    const { handle } = await other.open(user, node, O.RDONLY, false);
    expect(Buffer.from(await other.read(user, handle, 0, 10))).toEqual(b('abc'));
    other.release(handle);
  });

  // It may be opened by that name now, which is decided before the server's kernel waits for the client.
  test('a local program, once the file is renamed', async () => {
    const filesystem = await connect();
    await expect(filesystem.lookup(root, ROOT_NODE, b('f'))).resolves.toMatchObject({ node: 0 }); // as the kernel does
    const file = await make(filesystem);
    await file.write('abc');
    await file.change({ mode: 0o644 });
    await filesystem.rename(root, ROOT_NODE, b('f'), ROOT_NODE, b('g'), 0);
    expect(there('g')).toMatchObject({ mode: 0o644, size: 3 });
  });

  test('a listing of the same mount does not show what was before', async () => {
    const filesystem = await connect();
    const file = await make(filesystem);
    await file.write('abc');
    await file.change({ ...modified, mode: 0o644 });
    const { handle } = await filesystem.opendir(root, ROOT_NODE);
    for (const { entry } of await filesystem.readdir(root, handle, 0, 65536, true)) {
      if (entry?.node === file.node) expect([entry.attributes.mode, entry.attributes.mtime]).toEqual([0o100644, THEN]);
    }
    filesystem.releasedir(handle);
    await filesystem.access(callerOf(1000), file.node, 4);
  });

  test('the recall that another client causes takes all of it along', async () => {
    const [one, other] = [await connect(), await connect()];
    const file = await make(one);
    await file.write('abc');
    await file.change({ ...modified, mode: 0o644 });
    expect(await look(other)).toEqual({ mode: 0o644, mtime: THEN.sec, uid: 0, size: 3 });
    // From now on each change is a request.
    await file.change({ mtime: { sec: 7, nsec: 0 } });
    expect(there().mtime).toBe(7);
  });
});

describe('asked at once', () => {
  const rows: [what: string, changes: AttributeChanges, after: Partial<ReturnType<typeof there>>][] = [
    ['permissions taken away', { mode: 0o400 }, { mode: 0o400 }],
    ['a set-ID bit', { mode: 0o4700 }, { mode: 0o4700 }],
    ['another owner', { uid: 1000 }, { uid: 1000 }],
    ['a size', { size: 1 }, { size: 1 }],
  ];
  test.each(rows)(
    '%s: at the server when the call returns, with all that came before',
    async (_what, changes, after) => {
      const file = await make(await connect());
      await file.write('abc');
      await file.change({ atime: THEN });
      await file.change(changes);
      expect(there()).toMatchObject(after);
      expect(requests().setattr).toBe(1);
    },
  );

  test('now is the time of the call', async () => {
    const file = await make(await connect());
    await file.change({ atime: 'now', mtime: 'now' });
    expect(requests().setattr).toBe(1);
  });

  test('what another user changes, and what was opened, not made', async () => {
    const filesystem = await connect();
    const file = await make(filesystem, 'f', callerOf(1000));
    await file.change({ mode: 0o644 }, root);
    expect([requests().setattr, there().mode]).toEqual([1, 0o644]);
    await expect(file.change(modified, callerOf(1001))).rejects.toMatchObject({ code: errno.EPERM });
    writeFileSync(directory.join('old'), '');
    const { node } = await filesystem.lookup(root, ROOT_NODE, b('old'));
    await filesystem.open(root, node, O.RDWR, false);
    await filesystem.setattr(root, node, modified);
    expect(there('old').mtime).toBe(THEN.sec);
  });

  test('what the server takes for somebody else', async () => {
    await server[Symbol.asyncDispose]();
    server = await TestServer.start(directory.path, { squash: 'root' });
    const filesystem = await connect();
    const file = await make(filesystem);
    expect(there().uid).toBe(65534);
    await file.change({ mode: 0o644 });
    expect(there().mode).toBe(0o644);
    await expect(file.change({ uid: 0 })).rejects.toMatchObject({ code: errno.EPERM });
    const own = await make(filesystem, 'own', callerOf(1000));
    await own.change({ mode: 0o644 });
    expect(there('own').mode).toBe(0o600);
    await own.flush();
    expect(there('own').mode).toBe(0o644);
  });

  test('whom the server takes for somebody else, of a file that was given to him since', async () => {
    const { store } = exported();
    const create = store.create.bind(store);
    vi.spyOn(store, 'create').mockImplementation((...of) => {
      const made = create(...of);
      if (made === undefined) return undefined;
      chownSync(directory.join('f'), 2000, 2000);
      return { ...made, attributes: store.attributes(made.inode) };
    });
    const file = await make(await connect(), 'f', callerOf(1000));
    await file.change({ uid: 1000, gid: 1000 }, root);
    await file.change({ mode: 0o644 });
    expect(there()).toMatchObject({ mode: 0o644, uid: 1000 });
  });

  test('a change of owner that takes a capability away', async () => {
    const filesystem = await connect();
    const file = await make(filesystem);
    await expect(filesystem.getxattr(root, file.node, CAPABILITY)).rejects.toMatchObject({ code: errno.ENODATA });
    await filesystem.setxattr(root, file.node, CAPABILITY, SOME_CAPABILITY, 0, false);
    expect(Buffer.from(await file.getxattr(CAPABILITY))).toEqual(SOME_CAPABILITY);
    await filesystem.getattr(root, file.node); // its attributes are known again
    await file.change({ uid: 0, gid: 0 });
    await expect(filesystem.getxattr(root, file.node, CAPABILITY)).rejects.toMatchObject({ code: errno.ENODATA });
  });
});

describe('what goes wrong', () => {
  test('the server refuses it: close says so, once, and the data are there', async () => {
    const file = await make(await connect());
    const { store } = exported();
    await file.write('abc');
    await file.change({ mode: 0o644 });
    vi.spyOn(store, 'change').mockImplementation(() => {
      throw new FsError(errno.EPERM, 'chmod');
    });
    await expect(file.flush()).rejects.toMatchObject({ code: errno.EPERM });
    await file.flush();
    expect(there()).toMatchObject({ mode: 0o600, size: 3 });
  });

  test('a local program takes a permission away meanwhile: that came later, and stays', async () => {
    const file = await make(await connect(), 'f', root, 0o640);
    await file.write('abc');
    await file.change({ mode: 0o644 });
    chmodSync(directory.join('f'), 0o600);
    await file.flush();
    expect(there()).toMatchObject({ mode: 0o600, size: 3 });
  });

  test('its only name is removed: the open file gets them all the same', async () => {
    const filesystem = await connect();
    const file = await make(filesystem);
    await file.write('abc');
    await file.change({ ...modified, mode: 0o644 });
    await filesystem.unlink(root, ROOT_NODE, b('f'));
    await file.flush();
    const { attributes } = await filesystem.getattr(root, file.node, file.handle);
    expect([attributes.mode, attributes.mtime, attributes.nlink, attributes.size]).toEqual([0o100644, THEN, 0, 3]);
  });

  test('the lease is revoked while the client is away: refused, and what others have done stays', async () => {
    Object.assign(limits, { recallMs: 200 });
    const { port } = server.server;
    await using proxy = await CuttingProxy.open(() => port);
    const file = await make(await connect(parseServerAddress(`ws://127.0.0.1:${proxy.port}/`)));
    await file.write('late');
    await file.change({ ...modified, mode: 0o644 });
    proxy.refusing = true;
    proxy.cutNow();
    const other = await connect();
    const { node } = await other.lookup(root, ROOT_NODE, b('f'));
    await other.setattr(root, node, { mode: 0o400 });
    proxy.refusing = false;
    await expect(file.flush()).rejects.toMatchObject({ code: errno.ESTALE });
    expect(there()).toMatchObject({ mode: 0o400, size: 0 });
    expect(there().mtime).toBeGreaterThan(THEN.sec);
  });
});

describe('the server is started anew before it has what was gathered', () => {
  async function away(change: (other: RemoteFilesystem, node: number) => Promise<unknown>) {
    const { port } = server.server;
    await using proxy = await CuttingProxy.open(() => port);
    const file = await make(await connect(parseServerAddress(`ws://127.0.0.1:${proxy.port}/`)));
    await file.write('late');
    await file.change({ ...modified, mode: 0o644 });
    proxy.refusing = true;
    const ended = server[Symbol.asyncDispose]();
    proxy.cutNow();
    await ended;
    server = await TestServer.start(directory.path, { port });
    expect(there()).toMatchObject({ mode: 0o600, size: 0 });
    const other = await connect();
    const { node } = await other.lookup(root, ROOT_NODE, b('f'));
    await change(other, node);
    proxy.refusing = false;
    return await file.flush().then(
      () => 0,
      (error: FsError) => error.code,
    );
  }

  test('nobody has changed the file: it gets all of it', async () => {
    expect(await away(async () => {})).toBe(0);
    expect(there()).toEqual({ mode: 0o644, mtime: THEN.sec, uid: 0, size: 4 });
  });

  const changes: [what: string, changes: AttributeChanges, after: object][] = [
    ['taken permissions away', { mode: 0o400 }, { mode: 0o400 }],
    ['set the time', { mtime: { sec: 7, nsec: 0 } }, { mode: 0o600 }],
  ];
  test.each(changes)(
    'another client has %s: the data are written, the rest is refused',
    async (_what, change, after) => {
      expect(await away((other, node) => other.setattr(root, node, change))).toBe(errno.ESTALE);
      expect(there()).toMatchObject({ ...after, size: 4 });
      expect(there().mtime).not.toBe(THEN.sec);
    },
  );

  test('a program on its machine has: its mode stays, as the later one', async () => {
    expect(await away(async () => chmodSync(directory.join('f'), 0o400))).toBe(0);
    expect(there()).toMatchObject({ mode: 0o400, mtime: THEN.sec });
    utimesSync(directory.join('f'), 1, 1);
  });
});
