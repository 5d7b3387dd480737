/** Requests under way when the server is killed: what the next process says to them, and that it applies none twice. */
import { execFileSync } from 'node:child_process';
import {
  existsSync,
  linkSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  statSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { RequestContext } from '../../server/dispatch/handler.ts';
import { makeOnce } from '../../server/dispatch/replays.ts';
import type { Export } from '../../server/export.ts';
import { openJournal } from '../../server/session/journal-file.ts';
import { RequestJournal } from '../../server/session/request-journal.ts';
import type { Inode } from '../../server/store/inode.ts';
import type { Store } from '../../server/store/store.ts';
import { errno, FsError } from '../../shared/errno.ts';
import { limits } from '../../shared/limits.ts';
import { O, RENAME } from '../../shared/linux/constants.ts';
import { frameKind, type OperationName, operations, type RequestOf } from '../../shared/protocol/messages.ts';
import { BOOT, RawClient, ROOT, silent, TemporaryDirectory, TestServer } from '../support/fixture.ts';
import { KeptJournal } from '../support/kept-state.ts';
import { PLAIN_WRITE } from '../support/requests.ts';

const b = (text: string) => Buffer.from(text);
const ID = Buffer.alloc(16, 5);
const inode = Buffer.alloc(limits.maxHandleBytes, 9);

describe('the journal', () => {
  test('says of each slot what was noted last', () => {
    const kept = new KeptJournal();
    const session = new RequestJournal(kept, BOOT, 0).open(ID, 'owner');
    session.begun(0, 7, 1);
    session.done(0, 7, 0, inode, 0);
    session.begun(1, 2 ** 53 - 1, 1234.5);
    session.begun(limits.maxRequestsInFlight - 1, 9, 1);
    session.done(limits.maxRequestsInFlight - 1, 9, errno.EEXIST, undefined, 4096);
    const next = new RequestJournal(kept.ofNextProcess(), BOOT, 0);
    expect([next.knows(ID.toString('hex'), 'owner'), next.knows(ID.toString('hex'), 'other')]).toEqual([true, false]);
    expect([...next.open(ID, 'owner').earlier]).toEqual([
      [0, { seq: 7, isDone: true, errno: 0, inode, count: 0, begunMs: 0, isOfLastProcess: false }],
      [
        1,
        {
          seq: 2 ** 53 - 1,
          isDone: false,
          errno: 0,
          inode: undefined,
          count: 0,
          begunMs: 1234.5,
          isOfLastProcess: true,
        },
      ],
      [
        1023,
        {
          seq: 9,
          isDone: true,
          errno: errno.EEXIST,
          inode: undefined,
          count: 4096,
          begunMs: 0,
          isOfLastProcess: false,
        },
      ],
    ]);
  });

  test('says where a write goes that has begun, until it has ended', () => {
    const kept = new KeptJournal();
    const journal = new RequestJournal(kept, BOOT, 0);
    const session = journal.open(ID, 'owner');
    const pages = { start: 2 ** 40, end: 2 ** 40 + 3 };
    for (const slot of [1, 2, 3]) session.begun(slot, 7, 1, { inode, pages });
    session.done(2, 7, 0, undefined, 4096);
    session.begun(4, 7, 1);
    const next = new RequestJournal(kept.ofNextProcess(), BOOT, 0);
    const write = { session: ID.toString('hex'), seq: 7, inode, pages };
    expect([...next.interrupted()]).toEqual([
      { ...write, slot: 1 },
      { ...write, slot: 3 },
    ]);
    next.done(ID.toString('hex'), 1, 7, errno.EIO);
    expect([...next.interrupted()]).toEqual([{ ...write, slot: 3 }]);
    expect(next.open(ID, 'owner').earlier.get(1)).toMatchObject({ isDone: true, errno: errno.EIO });
    expect([...new RequestJournal(kept, Buffer.alloc(16, 2), 0).interrupted()]).toEqual([]);
  });

  const knows = (kept: KeptJournal, boot: Buffer, nowMs: number) =>
    new RequestJournal(kept, boot, nowMs).knows(ID.toString('hex'), 'owner');

  test('is not believed after a start of the machine, nor of a session that has ended', () => {
    const kept = new KeptJournal();
    const journal = new RequestJournal(kept, BOOT, 0);
    journal.open(ID, 'owner');
    expect(knows(kept, BOOT, 2000)).toBe(true);
    expect(knows(kept, Buffer.alloc(16, 2), 2000)).toBe(false);
    journal.close(ID.toString('hex'));
    expect(knows(kept, BOOT, 2000)).toBe(false);
  });

  test('is believed of a session that was used for days; a day after the first start at which it was not, no more', () => {
    const kept = new KeptJournal();
    new RequestJournal(kept, BOOT, 0).open(ID, 'owner');
    const restartMs = 3 * limits.maxCourtesyMs;
    expect(knows(kept, BOOT, restartMs)).toBe(true);
    // Its client came back.
    new RequestJournal(kept, BOOT, restartMs).open(ID, 'owner');
    expect(knows(kept, BOOT, 2 * restartMs)).toBe(true);
    expect(knows(kept, BOOT, 2 * restartMs + limits.maxCourtesyMs - 1)).toBe(true);
    expect(knows(kept, BOOT, 2 * restartMs + limits.maxCourtesyMs)).toBe(false);
  });

  test('knows of what began only whether it was in the last process, also when its client was away in that one', () => {
    const kept = new KeptJournal();
    const begun = new RequestJournal(kept, BOOT, 0).open(ID, 'owner');
    begun.begun(0, 1, 0);
    const isOfLast = (journal: RequestJournal) => journal.open(ID, 'owner').earlier.get(0)?.isOfLastProcess;
    const next = new RequestJournal(kept, BOOT, 0);
    expect([isOfLast(next), isOfLast(next)]).toEqual([true, true]);
    next.open(ID, 'owner').begun(1, 2, 0);
    new RequestJournal(kept, BOOT, 0);
    const last = new RequestJournal(kept, BOOT, 0).open(ID, 'owner');
    expect([...last.earlier.values()].map(({ isOfLastProcess }) => isOfLastProcess)).toEqual([false, false]);
    last.begun(1, 3, 0);
    const { earlier } = new RequestJournal(kept, BOOT, 0).open(ID, 'owner');
    expect([...earlier.values()].map(({ isOfLastProcess }) => isOfLastProcess)).toEqual([false, true]);
  });

  test('gives the place of one that has ended to another, without what was noted there', () => {
    const kept = new KeptJournal();
    const journal = new RequestJournal(kept, BOOT, 0);
    const ended = journal.open(ID, 'owner');
    ended.begun(3, 1, 0);
    journal.close(ID.toString('hex'));
    const { bytes } = kept;
    const other = Buffer.alloc(16, 6);
    journal.open(other, 'owner').done(3, 1, 0, undefined, 7);
    // What was under way in it ends now.
    ended.done(3, 1, errno.EIO, undefined, 0);
    const { earlier } = new RequestJournal(kept, BOOT, 0).open(other, 'owner');
    expect([...earlier.values()]).toMatchObject([{ seq: 1, errno: 0, count: 7 }]);
    expect(kept.bytes).toBe(bytes);
  });

  test('is a file that only its owner reads, and that is there for the next process', () => {
    using directory = new TemporaryDirectory();
    openJournal(directory.path, silent).open(ID, 'owner').done(0, 1, 0, inode, 0);
    expect(statSync(directory.join('requests.journal')).mode & 0o777).toBe(0o600);
    const next = openJournal(directory.path, silent);
    expect(next.knows(ID.toString('hex'), 'owner')).toBe(true);
    expect(next.open(ID, 'owner').earlier.size).toBe(1);
  });
});

let directory: TemporaryDirectory;
let server: TestServer;
let journal: KeptJournal;

beforeEach(async () => {
  directory = new TemporaryDirectory();
  journal = new KeptJournal();
  server = await TestServer.start(directory.path, { journal });
});
afterEach(async () => {
  await server[Symbol.asyncDispose]();
  directory[Symbol.dispose]();
});

/** `begun`: as if it had been killed in the middle of the last request. */
async function nextServer(): Promise<void> {
  journal = journal.ofNextProcess();
  const { port } = server.server;
  await server[Symbol.asyncDispose]();
  server = await TestServer.start(directory.path, { port, journal });
}

async function send<N extends OperationName>(
  raw: RawClient,
  seq: number,
  operation: N,
  request: RequestOf<N>,
  bulk?: Buffer,
): Promise<{ code: unknown; reply: unknown }> {
  const { code, request: asked, reply } = operations[operation];
  const body = (asked as { encode(value: unknown): unknown }).encode(request);
  raw.send([frameKind.REQUEST, seq, seq, code, ROOT, body], bulk);
  const [, , failed, result] = await raw.next();
  return { code: failed, reply: failed === 0 ? reply.decode(result) : undefined };
}

const name = (parent: Uint8Array, text: string) => ({ parent, name: b(text) });
const made = { mode: 0o755, umask: 0, wantsAlone: false };
const CREATED_WITH = {
  ...{ mode: 0o644, umask: 0, flags: O.WRONLY, offset: 0, extents: undefined, attributes: undefined },
  ...{ sync: 'none' as const, closes: true },
} as const;
const append = (handle: number) => ({ handle, offset: 0, ...PLAIN_WRITE, append: true }) as const;
const open = (handle: Uint8Array) =>
  ({ inode: handle, flags: O.WRONLY, killSuidgid: false, wants: 'none', firstBytes: 0 }) as const;

/** What is asked, and what undoes it behind the server's back, so that a second application would be seen. */
const cases: [
  what: string,
  ask: (raw: RawClient, root: Uint8Array, seq: number) => Promise<{ code: unknown }>,
  undo: () => void,
][] = [
  ['mkdir', (raw, root, seq) => send(raw, seq, 'mkdir', { ...name(root, 'new'), ...made }), () => {}],
  [
    'mknod',
    (raw, root, seq) => send(raw, seq, 'mknod', { ...name(root, 'new'), ...made, mode: 0o100644, rdev: 0 }),
    () => {},
  ],
  ['symlink', (raw, root, seq) => send(raw, seq, 'symlink', { ...name(root, 'new'), target: b('there') }), () => {}],
  [
    'create',
    (raw, root, seq) =>
      send(raw, seq, 'create', { ...name(root, 'new'), ...made, mode: 0o644, flags: O.WRONLY | O.EXCL, wants: 'none' }),
    () => {},
  ],
  ['createWith', (raw, root, seq) => send(raw, seq, 'createWith', { ...name(root, 'new'), ...CREATED_WITH }), () => {}],
  [
    'unlink',
    (raw, root, seq) => send(raw, seq, 'unlink', name(root, 'old')),
    () => writeFileSync(at('old'), 'another'),
  ],
  ['rmdir', (raw, root, seq) => send(raw, seq, 'rmdir', name(root, 'dir')), () => mkdirSync(at('dir'))],
  [
    'rename',
    (raw, root, seq) =>
      send(raw, seq, 'rename', { ...name(root, 'old'), newParent: root, newName: b('moved'), flags: 0 }),
    () => writeFileSync(at('old'), 'another'),
  ],
  [
    'an exchange',
    (raw, root, seq) =>
      send(raw, seq, 'rename', { ...name(root, 'old'), newParent: root, newName: b('dir'), flags: RENAME.EXCHANGE }),
    () => {},
  ],
];
const at = (file: string) => directory.join(file);

/** Names, kinds and contents. */
function tree(): string {
  return execFileSync(
    'sh',
    ['-c', 'find . | sort | while read one; do stat -c "%n %F %i" $one; cat $one 2>&1; done; true'],
    {
      cwd: directory.path,
      encoding: 'utf8',
    },
  );
}

describe('a request whose reply was lost with the server', () => {
  beforeEach(() => {
    writeFileSync(directory.join('old'), 'old');
    mkdirSync(directory.join('dir'));
  });

  test.each(cases)('%s: is answered as it was, and not applied again', async (_what, ask, undo) => {
    const { client, hello } = await RawClient.greeted(server.server.port);
    expect((await ask(client, hello.root.inode, 1)).code).toBe(0);
    await nextServer();
    undo();
    const before = tree();
    const { client: again, hello: next } = await RawClient.greeted(server.server.port, hello.session);
    expect([next.session, next.resumed, next.remembers]).toEqual([hello.session, false, true]);
    expect((await ask(again, hello.root.inode, 1)).code).toBe(0);
    expect(tree()).toBe(before);
    // It is not so for another request.
    expect((await send(again, 2, 'mkdir', { ...name(next.root.inode, 'second'), ...made })).code).toBe(0);
    client[Symbol.dispose]();
    again[Symbol.dispose]();
  });

  test('an append: by the handle of the earlier server, with the count of bytes', async () => {
    const { client, hello } = await RawClient.greeted(server.server.port);
    const { reply } = await send(client, 1, 'lookup', name(hello.root.inode, 'old'));
    const file = (reply as { found: { inode: Uint8Array } }).found.inode;
    const opened = await send(client, 2, 'open', open(file));
    const { handle } = opened.reply as { handle: number };
    expect((await send(client, 3, 'write', append(handle), b(' record'))).code).toBe(0);
    await nextServer();
    const { client: again } = await RawClient.greeted(server.server.port, hello.session);
    expect(await send(again, 3, 'write', append(handle), b(' record'))).toMatchObject({ reply: { written: 7 } });
    // One that the earlier server never saw.
    expect((await send(again, 4, 'write', append(handle), b(' record'))).code).toBe(errno.EBADF);
    expect(readFileSync(at('old'), 'utf8')).toBe('old record');
    client[Symbol.dispose]();
    again[Symbol.dispose]();
  });

  test('a write, a truncation, opening with O_TRUNC and O_CREAT: what others made of the file since stays', async () => {
    const { client, hello } = await RawClient.greeted(server.server.port);
    const { reply } = await send(client, 1, 'lookup', name(hello.root.inode, 'old'));
    const file = (reply as { found: { inode: Uint8Array } }).found.inode;
    const { handle } = (await send(client, 2, 'open', open(file))).reply as { handle: number };
    const none = { mode: undefined, uid: undefined, gid: undefined, atime: undefined, mtime: undefined };
    const truncating = { ...made, mode: 0o644, flags: O.WRONLY | O.TRUNC, wants: 'none' } as const;
    const ask = async (raw: RawClient) => [
      await send(raw, 3, 'write', { ...append(handle), append: false }, b('mine')),
      await send(raw, 4, 'setattr', { ...none, inode: file, handle: 0, size: 2, killSuidgid: false }),
      await send(raw, 5, 'open', { ...open(file), flags: O.WRONLY | O.TRUNC }),
      await send(raw, 6, 'create', { ...name(hello.root.inode, 'old'), ...truncating }),
      await send(raw, 7, 'create', { ...name(hello.root.inode, 'new'), ...truncating }),
    ];
    expect((await ask(client)).map(({ code }) => code)).toEqual([0, 0, 0, 0, 0]);
    await nextServer();
    for (const there of ['old', 'new']) writeFileSync(at(there), "somebody else's");
    const { client: again } = await RawClient.greeted(server.server.port, hello.session);
    expect(await ask(again)).toMatchObject([
      { reply: { written: 4 } },
      { reply: { attributes: { size: 15 }, leased: false } },
      ...[5, 6, 7].map(() => ({ reply: { handle: Number.MAX_SAFE_INTEGER, lease: 'none' } })),
    ]);
    for (const there of ['old', 'new']) expect(readFileSync(at(there), 'utf8')).toBe("somebody else's");
    client[Symbol.dispose]();
    again[Symbol.dispose]();
  });

  test('its failure is said again, though it would be successful now', async () => {
    const { client, hello } = await RawClient.greeted(server.server.port);
    const ask = (raw: RawClient) => send(raw, 1, 'mkdir', { ...name(hello.root.inode, 'old'), ...made });
    expect((await ask(client)).code).toBe(errno.EEXIST);
    await nextServer();
    unlinkSync(at('old'));
    const { client: again } = await RawClient.greeted(server.server.port, hello.session);
    expect((await ask(again)).code).toBe(errno.EEXIST);
    expect(existsSync(at('old'))).toBe(false);
    client[Symbol.dispose]();
    again[Symbol.dispose]();
  });

  describe('and of which nobody knows whether it was applied', () => {
    /** The next server believes that the last one was killed in the middle of request 1 of a session. */
    async function interrupted(): Promise<{ raw: RawClient; root: Uint8Array; session: Uint8Array }> {
      const { client, hello } = await RawClient.greeted(server.server.port);
      client[Symbol.dispose]();
      const { session } = hello;
      // No process is started within a millisecond; here the next one may be.
      new RequestJournal(journal, BOOT, 0).open(session, '/ anyone').begun(1, 1, Date.now() - 1);
      await nextServer();
      const { client: again } = await RawClient.greeted(server.server.port, session);
      return { raw: again, root: hello.root.inode, session };
    }

    test.each(cases)('%s: is EIO, unless a second attempt shows that there was no first', async (what, ask) => {
      const before = tree();
      const { raw, root } = await interrupted();
      const makes = readdirSync(directory.path).length;
      const isTried = ['mkdir', 'mknod', 'symlink', 'create', 'createWith'].includes(what);
      expect((await ask(raw, root, 1)).code).toBe(isTried ? 0 : errno.EIO);
      if (isTried) expect(readdirSync(directory.path)).toHaveLength(makes + 1);
      else expect(tree()).toBe(before);
      raw[Symbol.dispose]();
    });

    test('a name that is there, perhaps by the first attempt: EIO', async () => {
      mkdirSync(join(directory.path, 'new'));
      const { raw, root } = await interrupted();
      expect((await send(raw, 1, 'mkdir', { ...name(root, 'new'), ...made })).code).toBe(errno.EIO);
      raw[Symbol.dispose]();
    });

    test('a name that somebody took since the server is there again: EEXIST', async () => {
      const { raw, root } = await interrupted();
      mkdirSync(at('new'));
      // File times are those of the kernel's last tick.
      const bornMs = () => statSync(at('new')).birthtimeMs;
      while (bornMs() < server.server.startedMs + 20) {
        rmdirSync(at('new'));
        mkdirSync(at('new'));
      }
      expect((await send(raw, 1, 'mkdir', { ...name(root, 'new'), ...made })).code).toBe(errno.EEXIST);
      raw[Symbol.dispose]();
    });

    test.each([
      ['gone', false],
      ["somebody else's", true],
    ])(
      'a name that another client removes while its lease is recalled, and that is %s then: EIO',
      async (_, isTaken) => {
        mkdirSync(at('new')); // by the first attempt
        const { raw, root } = await interrupted();
        const { client: holder } = await RawClient.greeted(server.server.port);
        expect((await send(holder, 1, 'lookup', name(root, 'none'))).reply).toMatchObject({ leased: true });
        const asked = send(raw, 1, 'mkdir', { ...name(root, 'new'), ...made });
        const [kind, id] = await holder.next();
        expect(kind).toBe(frameKind.RECALL);
        expect((await send(holder, 2, 'rmdir', name(root, 'new'))).code).toBe(0);
        if (isTaken) expect((await send(holder, 3, 'mkdir', { ...name(root, 'new'), ...made })).code).toBe(0);
        holder.send([frameKind.RECALLED, id, []]);
        expect((await asked).code).toBe(errno.EIO);
        expect(existsSync(at('new'))).toBe(isTaken);
        raw[Symbol.dispose]();
        holder[Symbol.dispose]();
      },
    );

    test('a name that was removed when there was another server in between: EIO', async () => {
      mkdirSync(at('new')); // by the first attempt
      const { raw, root, session } = await interrupted();
      expect((await send(raw, 2, 'rmdir', name(root, 'new'))).code).toBe(0);
      raw[Symbol.dispose]();
      await nextServer();
      const { client: again } = await RawClient.greeted(server.server.port, session);
      expect((await send(again, 1, 'mkdir', { ...name(root, 'new'), ...made })).code).toBe(errno.EIO);
      expect(existsSync(at('new'))).toBe(false);
      again[Symbol.dispose]();
    });

    test('a link, and the name is there: EEXIST when it is one of another file', async () => {
      linkSync(at('old'), at('same'));
      writeFileSync(at('other'), '');
      for (const [there, told] of [
        ['same', errno.EIO],
        ['other', errno.EEXIST],
      ] as const) {
        const { store } = server.server.exports.get('/') as Export;
        const linked = store.find(store.root, b('old')) as Inode;
        expect(toldOfWhatIsThere(store, b(there), 1, Date.now(), linked)).toBe(told);
      }
    });
  });
});

/** Of an interrupted attempt to make `name`, when the next one finds it there. */
function toldOfWhatIsThere(store: Store, name: Buffer, begunMs: number, startedMs: number, linked?: Inode): unknown {
  const earlier = { seq: 1, isDone: false, errno: 0, inode: undefined, count: 0, begunMs, isOfLastProcess: true };
  const request = { earlier, applying: () => {} };
  const sinceStart = { startedMs, mayBeRemoved: () => false };
  const context = { store, request, sinceStart } as unknown as RequestContext;
  const make = () => {
    throw new FsError(errno.EEXIST, 'make');
  };
  try {
    return makeOnce(context, store.root, name, make, linked);
  } catch (error) {
    return (error as FsError).code;
  }
}

describe('whose is a name that is there after an interrupted attempt', () => {
  const BEGUN_MS = 100_000.5;
  const STARTED_MS = 103_000;
  const rows: [what: string, bornMs: number, told: number, begunMs?: number, startedMs?: number][] = [
    ['long before', BEGUN_MS - 2_001, errno.EEXIST],
    ['before, or by a clock that is behind', BEGUN_MS - 1_999, errno.EIO],
    ['at that time: by the server, or a local program', BEGUN_MS + 1, errno.EIO],
    ['while there was no server', STARTED_MS - 1, errno.EIO],
    ['by somebody else, when there was one again', STARTED_MS, errno.EEXIST],
    ['who knows: the clock was set back', BEGUN_MS, errno.EIO, BEGUN_MS, BEGUN_MS - 60_000],
    ['who knows: the filesystem does not say', 0, errno.EIO],
  ];
  test.each(rows)('born %s', (_what, bornMs, told, begunMs = BEGUN_MS, startedMs = STARTED_MS) => {
    const btime = { sec: Math.floor(bornMs / 1000), nsec: Math.round((bornMs % 1000) * 1e6) };
    const store = { root: {}, find: () => ({}), attributes: () => ({ btime }) } as unknown as Store;
    expect(toldOfWhatIsThere(store, b('new'), begunMs, startedMs)).toBe(told);
  });
});

test('a server that knows nothing of the session: a client tells EIO of what would be done twice unnoticed', async () => {
  writeFileSync(directory.join('old'), 'old');
  const session = await server.connect();
  const { found } = await session.call('lookup', ROOT, name(session.hello.root.inode, 'old'));
  const { handle } = await session.call('open', ROOT, open(found?.inode as Uint8Array));
  // It is applied, and its reply is lost.
  for (const one of server.server.sessions.all) one.end = () => {};
  const lost = session.call('write', ROOT, append(handle), { bulk: b(' record') });
  const told = expect(lost).rejects.toMatchObject({ code: errno.EIO });
  await expect.poll(() => readFileSync(directory.join('old'), 'utf8')).toBe('old record');
  journal = new KeptJournal();
  await nextServer();
  await told;
  expect(readFileSync(directory.join('old'), 'utf8')).toBe('old record');
  session.close();
});
