/** Leases of a real server over sockets: who is sent a recall, who waits for it, and for how long. */
import { linkSync, mkdirSync, statSync, unlinkSync, writeFileSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { parseServerAddress } from '../../client-fuse/transport/server-address.ts';
import { ServerSession } from '../../client-fuse/transport/server-session.ts';
import { type Caller, ROOT_NODE } from '../../client-fuse/vfs/filesystem.ts';
import { RemoteFilesystem } from '../../client-fuse/vfs/remote-filesystem.ts';
import type { Export } from '../../server/export.ts';
import type { Inode } from '../../server/store/inode.ts';
import { limits } from '../../shared/limits.ts';
import { encodeFrame } from '../../shared/protocol/frame.ts';
import { frameKind, operations } from '../../shared/protocol/messages.ts';
import { CuttingProxy } from '../support/cutting-proxy.ts';
import { RawClient, ROOT, silent, TemporaryDirectory, TestServer } from '../support/fixture.ts';
import { PLAIN_WRITE } from '../support/requests.ts';

const b = (text: string) => Buffer.from(text);
const root: Caller = { uid: 0, gid: 0, pid: 1, groups: [], signal: new AbortController().signal };
const { recallMs, maxRecallPeriods, maxLeases } = limits;

let directory: TemporaryDirectory;
let server: TestServer;
let exported: Export;

beforeEach(async () => {
  directory = new TemporaryDirectory();
  mkdirSync(directory.join('d'));
  mkdirSync(directory.join('e'));
  writeFileSync(directory.join('d', 'f'), '');
  server = await TestServer.start(directory.path);
  exported = server.server.exports.get('/') as Export;
});
afterEach(async () => {
  Object.assign(limits, { recallMs, maxRecallPeriods, maxLeases });
  await server[Symbol.asyncDispose]();
  directory[Symbol.dispose]();
});

/** The inode of a path in the export. */
function inodeAt(path: string): Inode {
  return path.split('/').reduce((parent, name) => exported.store.find(parent, b(name)) as Inode, exported.store.root);
}
const holdersOf = (name: string) => inodeAt(name).leases.holders.size;

/** A client of which the test answers each recall, or does not. */
class Holder implements Disposable {
  readonly raw: RawClient;
  readonly root: Uint8Array;
  readonly session: Uint8Array;
  /** Of all: several may speak for one session. */
  static #seq = 0;

  private constructor(raw: RawClient, hello: { root: { inode: Uint8Array }; session: Uint8Array }) {
    this.raw = raw;
    this.root = hello.root.inode;
    this.session = hello.session;
  }

  static async open(session?: Uint8Array): Promise<Holder> {
    const { client, hello } = await RawClient.greeted(server.server.port, session);
    return new Holder(client, hello);
  }

  frame<N extends 'lookup' | 'getattr'>(
    operation: N,
    request: Parameters<(typeof operations)[N]['request']['encode']>[0],
  ): unknown[] {
    const { encode } = operations[operation].request as { encode(value: unknown): unknown };
    return [frameKind.REQUEST, ++Holder.#seq, 0, operations[operation].code, ROOT, encode(request)];
  }

  async lookUp(parent: Uint8Array, name: string) {
    this.raw.send(this.frame('lookup', { parent, name: b(name) }));
    const [kind, , , result] = await this.raw.next();
    expect(kind).toBe(frameKind.REPLY);
    return operations.lookup.reply.decode(result);
  }

  /** The lease on `d` and what is in it. */
  async holdAll() {
    const d = (await this.lookUp(this.root, 'd')).found?.inode as Uint8Array;
    const { found, leased } = await this.lookUp(d, 'f');
    expect([leased, found?.leased]).toEqual([true, true]);
    return { d, f: found?.inode as Uint8Array };
  }

  async nextRecall(): Promise<{ id: number; inodes: Uint8Array[] | null }> {
    const [kind, id, inodes] = await this.raw.next();
    expect(kind).toBe(frameKind.RECALL);
    return { id: id as number, inodes: inodes as Uint8Array[] | null };
  }

  answer(id: number): void {
    this.raw.send([frameKind.RECALLED, id, []]);
  }

  [Symbol.dispose](): void {
    this.raw[Symbol.dispose]();
  }
}

/** Settled or not, after whatever the server does without waiting for anybody. */
async function isSettled(promise: Promise<unknown>, other: ServerSession): Promise<boolean> {
  let settled = false;
  void promise.finally(() => (settled = true));
  for (let round = 0; round < 3; round++)
    await other.call('getattr', ROOT, { inode: other.hello.root.inode, handle: 0 });
  return settled;
}

describe('changes by another client', () => {
  type Change = (session: ServerSession, d: Uint8Array, f: Uint8Array) => Promise<unknown>;
  const where = (d: Uint8Array, name: string) => ({ parent: d, name: b(name) });
  /** `recalls`: what each message asks for. */
  const changes: [what: string, recalls: readonly ('d' | 'f' | 'd f')[], change: Change][] = [
    [
      'mkdir',
      ['d'],
      (session, d) => session.call('mkdir', ROOT, { ...where(d, 'new'), mode: 0o755, umask: 0, wantsAlone: false }),
    ],
    [
      'mknod',
      ['d'],
      (session, d) => session.call('mknod', ROOT, { ...where(d, 'new'), mode: 0o100644, rdev: 0, umask: 0 }),
    ],
    ['symlink', ['d'], (session, d) => session.call('symlink', ROOT, { ...where(d, 'new'), target: b('x') })],
    [
      'create',
      ['d'],
      (session, d) =>
        session.call('create', ROOT, { ...where(d, 'new'), mode: 0o644, umask: 0, flags: 2, wants: 'none' }),
    ],
    ['link', ['d f'], (session, d, f) => session.call('link', ROOT, { ...where(d, 'new'), inode: f })],
    ['unlink', ['d f'], (session, d) => session.call('unlink', ROOT, where(d, 'f'))],
    [
      'rename',
      ['d f'],
      (session, d) => session.call('rename', ROOT, { ...where(d, 'f'), newParent: d, newName: b('g'), flags: 0 }),
    ],
    [
      'rename away',
      ['d f'],
      (session, d) =>
        session.call('rename', ROOT, {
          ...where(d, 'f'),
          newParent: inodeAt('e').handle,
          newName: b('g'),
          flags: 0,
        }),
    ],
    [
      'setattr',
      ['f'],
      (session, _d, f) =>
        session.call('setattr', ROOT, {
          inode: f,
          handle: 0,
          mode: 0o600,
          uid: undefined,
          gid: undefined,
          size: undefined,
          atime: undefined,
          mtime: undefined,
          killSuidgid: false,
        }),
    ],
    [
      'truncate',
      ['f'],
      (session, _d, f) =>
        session.call('setattr', ROOT, {
          inode: f,
          handle: 0,
          mode: undefined,
          uid: undefined,
          gid: undefined,
          size: 3,
          atime: undefined,
          mtime: undefined,
          killSuidgid: false,
        }),
    ],
    [
      'setxattr',
      ['f'],
      (session, _d, f) =>
        session.call('setxattr', ROOT, { inode: f, name: b('user.x'), value: b('1'), flags: 0, killSgid: false }),
    ],
    [
      'open with O_TRUNC',
      ['f'],
      (session, _d, f) =>
        session.call('open', ROOT, { inode: f, flags: 0o1001, killSuidgid: false, wants: 'none', firstBytes: 0 }),
    ],
    [
      'create of what is there, with O_TRUNC',
      ['d', 'f'],
      (session, d) =>
        session.call('create', ROOT, { ...where(d, 'f'), mode: 0o644, umask: 0, flags: 0o1002, wants: 'none' }),
    ],
    [
      'write',
      ['f'],
      async (session, _d, f) => {
        const { handle } = await session.call('open', ROOT, {
          inode: f,
          flags: 1,
          killSuidgid: false,
          wants: 'none',
          firstBytes: 0,
        });
        const write = { handle, offset: 0, ...PLAIN_WRITE } as const;
        return session.call('write', ROOT, write, { bulk: b('x') });
      },
    ],
    [
      'lookup and read',
      [],
      async (session, d, f) => {
        await session.call('lookup', ROOT, where(d, 'f'));
        const { handle } = await session.call('open', ROOT, {
          inode: f,
          flags: 0,
          killSuidgid: false,
          wants: 'none',
          firstBytes: 0,
        });
        await session.callForBulk('read', ROOT, {
          handle,
          offset: 0,
          size: 10,
          knownVersion: undefined,
          wantsLease: false,
          wantsBlock: false,
        });
      },
    ],
  ];

  test.each(changes)('%s recalls %j before it is done', async (_what, recalls, change) => {
    using holder = await Holder.open();
    const inodes = await holder.holdAll();
    const other = await server.connect();
    const before = statSync(directory.join('d', 'f'), { bigint: true }).ctimeNs;
    const changed = change(other, inodes.d, inodes.f);
    for (const recall of recalls) {
      const { id, inodes: asked } = await holder.nextRecall();
      const names = asked?.map((inode) => (Buffer.compare(inode, inodes.d) === 0 ? 'd' : 'f'));
      expect(names?.join(' ')).toBe(recall);
      expect(await isSettled(changed, other)).toBe(false);
      expect(statSync(directory.join('d', 'f'), { bigint: true }).ctimeNs).toBe(before);
      holder.answer(id);
    }
    await changed;
    expect(exported.leases.counts.recallsSent).toBe(recalls.length);
    expect(exported.leases.counts.revocations).toBe(0);
    other.close();
  });

  test.each(changes)('%s recalls nothing when only its author holds leases', async (_what, _recalls, change) => {
    const author = await server.connect();
    const parent = author.hello.root.inode;
    const d = (await author.call('lookup', ROOT, { parent, name: b('d') })).found?.inode as Uint8Array;
    const f = (await author.call('lookup', ROOT, { parent: d, name: b('f') })).found?.inode as Uint8Array;
    expect(holdersOf('d/f')).toBe(1);
    await change(author, d, f);
    expect(exported.leases.counts.recallsSent).toBe(0);
    author.close();
  });
});

test('one recall for all who wait, none is granted meanwhile, and afterwards the author is first', async () => {
  using holder = await Holder.open();
  const { d } = await holder.holdAll();
  const others = [await server.connect(), await server.connect()] as const;
  const made = others.map((session, index) =>
    session.call('mkdir', ROOT, { parent: d, name: b(`${index}`), mode: 0o755, umask: 0, wantsAlone: false }),
  );
  const { id } = await holder.nextRecall();
  const look = { parent: d, name: b('f') };
  expect((await others[0].call('lookup', ROOT, look)).leased).toBe(false);
  holder.answer(id);
  await Promise.all(made);
  expect(exported.leases.counts.recallsSent).toBe(1);
  const leased = await Promise.all(others.map(async (session) => (await session.call('lookup', ROOT, look)).leased));
  expect(leased.filter(Boolean)).toHaveLength(1);
  for (const session of others) session.close();
});

test('what a client has given back unasked is not recalled', async () => {
  using holder = await Holder.open();
  const { d, f } = await holder.holdAll();
  const other = await server.connect();
  holder.raw.send([frameKind.GIVEN_BACK, [d, b('of nothing'), f]]);
  await vi.waitFor(() => expect([holdersOf('d'), holdersOf('d/f')]).toEqual([0, 0]));
  await other.call('unlink', ROOT, { parent: d, name: b('f') });
  expect(exported.leases.counts.recallsSent).toBe(0);
  expect((await holder.lookUp(holder.root, 'd')).leased).toBe(true);
  other.close();
});

describe('a client that does not answer', () => {
  test('delays a change by the recall time, once, and nothing elsewhere', async () => {
    Object.assign(limits, { recallMs: 400 });
    using holder = await Holder.open();
    const { d } = await holder.holdAll();
    const other = await server.connect();
    const mkdir = (parent: Uint8Array, name: string) =>
      other.call('mkdir', ROOT, { parent, name: b(name), mode: 0o755, umask: 0, wantsAlone: false });
    const startMs = performance.now();
    const delayed = mkdir(d, 'late');
    await holder.nextRecall();
    const e = (await other.call('lookup', ROOT, { parent: other.hello.root.inode, name: b('e') })).found?.inode;
    for (let index = 0; index < 20; index++) await mkdir(e as Uint8Array, `${index}`);
    expect((await other.call('lookup', ROOT, { parent: d, name: b('f') })).found).toBeDefined();
    expect(await isSettled(delayed, other)).toBe(false);
    await delayed;
    expect(performance.now() - startMs).toBeGreaterThan(390);
    expect((await holder.nextRecall()).inodes).toBeNull(); // all are taken
    expect(exported.leases.counts.revocations).toBe(1);
    await mkdir(d, 'soon');
    await other.call('unlink', ROOT, { parent: d, name: b('f') });
    expect(performance.now() - startMs).toBeLessThan(800);
    expect(exported.leases.counts.recallsSent).toBe(1);
    other.close();
  });

  test.each([
    ['answers in the end, and keeps its leases', true],
    ['never answers, and loses them', false],
  ])('but goes on speaking is given more time: it %s', async (_what, answers) => {
    Object.assign(limits, { recallMs: 300, maxRecallPeriods: 4 });
    using holder = await Holder.open();
    const { d } = await holder.holdAll();
    await holder.lookUp(holder.root, 'e');
    const other = await server.connect();
    const startMs = performance.now();
    let isDone = false;
    const made = other.call('mkdir', ROOT, { parent: d, name: b('late'), mode: 0o755, umask: 0, wantsAlone: false });
    void made.then(() => (isDone = true));
    const recall = await holder.nextRecall();
    const speaking = setInterval(
      () => holder.raw.send(holder.frame('lookup', { parent: holder.root, name: b('e') })),
      20,
    );
    while (!isDone && performance.now() - startMs < 700) await new Promise((done) => setTimeout(done, 10));
    expect([isDone, exported.leases.counts.revocations]).toEqual([false, 0]);
    if (answers) holder.answer(recall.id);
    await made;
    clearInterval(speaking);
    expect(exported.leases.counts.revocations).toBe(answers ? 0 : 1);
    if (!answers) expect(performance.now() - startMs).toBeGreaterThan(4 * 300 - 10);
    other.close();
  });

  test('for one file delays nobody who wants others of the same directory', async () => {
    writeFileSync(directory.join('d', 'g'), 'text');
    using holder = await Holder.open();
    const { d, f } = await holder.holdAll();
    const other = await server.connect();
    const none = { size: undefined, uid: undefined, gid: undefined, atime: undefined, mtime: undefined };
    const chmod = (inode: Uint8Array) =>
      other.call('setattr', ROOT, { inode, handle: 0, ...none, mode: 0o600, killSuidgid: false });
    const delayed = chmod(f);
    expect((await holder.nextRecall()).inodes).toEqual([f]);
    const made = other.call('mkdir', ROOT, { parent: d, name: b('made'), mode: 0o755, umask: 0, wantsAlone: false });
    const recall = await holder.nextRecall();
    expect(recall.inodes).toEqual([d]);
    holder.answer(recall.id); // of the directory, and never of the file
    await made;
    const g = (await other.call('lookup', ROOT, { parent: d, name: b('g') })).found?.inode as Uint8Array;
    await chmod(g);
    const open = { inode: g, flags: 1, killSuidgid: false, wants: 'none', firstBytes: 0 } as const;
    const { handle } = await other.call('open', ROOT, open);
    const write = { handle, offset: 0, ...PLAIN_WRITE } as const;
    await other.call('write', ROOT, write, { bulk: b('new') });
    await other.call('rename', ROOT, { parent: d, name: b('g'), newParent: d, newName: b('h'), flags: 0 });
    await other.call('unlink', ROOT, { parent: d, name: b('h') });
    await other.call('rmdir', ROOT, { parent: d, name: b('made') });
    expect((await other.call('getattr', ROOT, { inode: f, handle: 0 })).attributes.mode & 0o777).not.toBe(0o600);
    let isDone = false;
    const ended = delayed.then(
      () => {
        isDone = true;
      },
      () => {},
    );
    await other.call('getattr', ROOT, { inode: other.hello.root.inode, handle: 0 });
    expect(isDone).toBe(false);
    other.close();
    await ended;
  });

  test('an answer to another recall, or of another client, does not count', async () => {
    using holder = await Holder.open();
    const { d } = await holder.holdAll();
    using stranger = await Holder.open();
    const other = await server.connect();
    const made = other.call('mkdir', ROOT, { parent: d, name: b('x'), mode: 0o755, umask: 0, wantsAlone: false });
    const { id } = await holder.nextRecall();
    holder.answer(id + 1);
    stranger.answer(id);
    await stranger.lookUp(stranger.root, 'e');
    expect(await isSettled(made, other)).toBe(false);
    holder.answer(id);
    await made;
    other.close();
  });

  test('it is gone: its leases go with the time it has been away; after goodbye there are none at once', async () => {
    const gone = await server.connect();
    const filesystem = new RemoteFilesystem(gone);
    await filesystem.lookup(root, ROOT_NODE, b('d'));
    expect(exported.store.root.leases.holders.size).toBe(1);
    gone.close();
    await vi.waitFor(() => expect([...server.server.sessions.all]).toHaveLength(0));
    expect(exported.store.root.leases.holders.size).toBe(0);
    expect(holdersOf('d')).toBe(0);
  });

  test('its change that was waiting when it said goodbye is not made', async () => {
    using holder = await Holder.open();
    const { d } = await holder.holdAll();
    const author = await server.connect();
    const waiting = author.call('create', ROOT, {
      parent: d,
      name: b('new'),
      mode: 0o644,
      umask: 0,
      flags: 2,
      wants: 'none',
    });
    const { id } = await holder.nextRecall();
    const [, session] = [...server.server.sessions.all];
    author.close();
    await expect(waiting).rejects.toThrow();
    await vi.waitFor(() => expect([...server.server.sessions.all]).toHaveLength(1));
    holder.answer(id);
    await vi.waitFor(() => expect(inodeAt('d').leases.isChanging).toBe(false));
    expect(exported.store.find(inodeAt('d'), b('new'))).toBeNull();
    expect(session?.openFiles).toBe(0);
  });
});

test('a rename between two names of one file changes nothing, and hides no local removal right after it', async () => {
  linkSync(directory.join('d', 'f'), directory.join('d', 'g'));
  const client = await server.connect();
  const recalled: Uint8Array[] = [];
  client.onRecall = (inodes) => {
    recalled.push(...(inodes ?? []));
    return { ready: undefined, finish: () => [] };
  };
  const lookUp = async (parent: Uint8Array, name: string) =>
    (await client.call('lookup', ROOT, { parent, name: b(name) })).found?.inode as Uint8Array;
  const d = await lookUp(client.hello.root.inode, 'd');
  expect(await lookUp(d, 'f')).toEqual(await lookUp(d, 'g'));
  await client.call('rename', ROOT, { parent: d, name: b('f'), newParent: d, newName: b('g'), flags: 0 });
  unlinkSync(directory.join('d', 'g'));
  await vi.waitFor(() => expect(recalled).toContainEqual(d));
  client.close();
});

test('a new small lane: the server takes all leases back, and waits for nobody', async () => {
  const holder = await Holder.open();
  const { d } = await holder.holdAll();
  const other = await server.connect();
  const made = other.call('mkdir', ROOT, { parent: d, name: b('x'), mode: 0o755, umask: 0, wantsAlone: false });
  await holder.nextRecall();
  using again = await Holder.open(holder.session);
  await made;
  expect([holdersOf('d'), holdersOf('d/f'), exported.leases.counts.revocations]).toEqual([0, 0, 0]);
  holder[Symbol.dispose]();
  expect((await again.lookUp(again.root, 'd')).leased).toBe(true);
  other.close();
});

test('a lost connection: the client forgets what it knew', async () => {
  await using proxy = await CuttingProxy.open(() => server.server.port);
  const session = await ServerSession.connect(parseServerAddress(`ws://127.0.0.1:${proxy.port}/`), silent);
  const filesystem = new RemoteFilesystem(session);
  const lookup = () => filesystem.lookup(root, ROOT_NODE, b('d'));
  await lookup();
  expect(lookup()).not.toBeInstanceOf(Promise);
  proxy.cutNow();
  await vi.waitFor(() => expect(session.unreachableSinceMs).toBeDefined(), { interval: 1 });
  const answer = lookup();
  expect(answer).toBeInstanceOf(Promise);
  await answer;
  await lookup();
  expect(lookup()).not.toBeInstanceOf(Promise);
  session.close();
});

test('more leases than a client may hold: the oldest is taken back, and is not granted while it is', async () => {
  Object.assign(limits, { maxLeases: 2 });
  using holder = await Holder.open();
  const d = (await holder.lookUp(holder.root, 'd')).found?.inode as Uint8Array; // the root, d
  holder.raw.send(holder.frame('lookup', { parent: holder.root, name: b('e') }));
  const { id, inodes } = await holder.nextRecall();
  expect(inodes).toEqual([holder.root]);
  await holder.raw.next();
  // The answer and the next request arrive together: what is said then must be known to the server afterwards.
  const frames = [[frameKind.RECALLED, id, []], holder.frame('lookup', { parent: holder.root, name: b('d') })];
  holder.raw.socket.send(encodeFrame(frames[0] as unknown[]).head);
  holder.raw.socket.send(encodeFrame(frames[1] as unknown[]).head);
  const next = await holder.raw.next();
  const [, , , result] = next[0] === frameKind.RECALL ? await holder.raw.next() : next;
  const { leased } = operations.lookup.reply.decode(result);
  const other = await server.connect();
  await other.call('getattr', ROOT, { inode: d, handle: 0 });
  expect(exported.store.root.leases.holders.size > 0).toBe(leased);
  other.close();
});

test('a creation in a directory that 60 clients hold asks them all at once, and waits for one round', async () => {
  const holders = await Promise.all(Array.from({ length: 60 }, () => Holder.open()));
  const author = await ServerSession.connect(parseServerAddress(`ws://127.0.0.1:${server.server.port}/`), silent);
  try {
    let d: Uint8Array = author.hello.root.inode;
    for (const holder of holders) d = (await holder.holdAll()).d;
    expect(holdersOf('d')).toBe(60);
    const made = author.call('mkdir', ROOT, { parent: d, name: b('new'), mode: 0o755, umask: 0, wantsAlone: false });
    // Each is asked before anybody has answered: in turn, the second recall would wait for the first.
    const recalls = await Promise.all(holders.map((holder) => holder.nextRecall()));
    expect(exported.leases.counts.recallsPending).toBe(60);
    expect(await isSettled(made, author)).toBe(false);
    for (const [index, holder] of holders.entries()) holder.answer((recalls[index] as { id: number }).id);
    await made;
    expect(exported.leases.counts).toMatchObject({ recallsSent: 60, recallsPending: 0, revocations: 0 });
  } finally {
    for (const holder of holders) holder[Symbol.dispose]();
    author.close();
  }
});
