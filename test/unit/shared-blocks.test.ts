/**
 * Blocks of a file that others have open to write, over a real server: what is read again needs no request, and is never
 * older than what anybody knows, whoever changes the file and however.
 */
import { appendFileSync, closeSync, openSync, readFileSync, writeFileSync, writeSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import type { ServerSession } from '../../client-fuse/transport/server-session.ts';
import { UnansweredError } from '../../client-fuse/transport/unanswered-error.ts';
import { type Caller, ROOT_NODE } from '../../client-fuse/vfs/filesystem.ts';
import { RemoteFilesystem } from '../../client-fuse/vfs/remote-filesystem.ts';
import type { Export } from '../../server/export.ts';
import type { Inode } from '../../server/store/inode.ts';
import { errno } from '../../shared/errno.ts';
import { BLOCK_BYTES, limits } from '../../shared/limits.ts';
import { FALLOC, O } from '../../shared/linux/constants.ts';
import { TemporaryDirectory, TestServer } from '../support/fixture.ts';
import { KeptClients } from '../support/kept-state.ts';

const root: Caller = { uid: 0, gid: 0, pid: 1, groups: [], signal: new AbortController().signal };
const b = (text: string) => Buffer.from(text);
const { maxHeldBlocks, recallMs, maxRecallPeriods, blockUseMs, leaseUseMs } = limits;
const SIZE = 4 * BLOCK_BYTES + 1_000;

class Mount {
  readonly session: ServerSession;
  readonly filesystem: RemoteFilesystem;

  private constructor(session: ServerSession) {
    this.session = session;
    this.filesystem = new RemoteFilesystem(session);
  }

  static async open(): Promise<Mount> {
    return new Mount(await server.connect());
  }

  async node(): Promise<number> {
    const found = await this.filesystem.lookup(root, ROOT_NODE, b('f'));
    if (!('attributes' in found)) throw new Error('it is there');
    return found.node;
  }

  async openFile(flags: number = O.RDWR): Promise<number> {
    return (await this.filesystem.open(root, await this.node(), flags, false)).handle;
  }

  async read(handle: number, offset: number, size = 100): Promise<string> {
    return Buffer.from(await this.filesystem.read(root, handle, offset, size)).toString('latin1');
  }

  write(handle: number, offset: number, text: string, flags: number = O.RDWR): Promise<number> {
    return this.filesystem.write(root, handle, offset, Buffer.from(text, 'latin1'), flags, false);
  }

  /** Reads until it needs no request; how many it took. */
  async keep(handle: number, offset: number, size = 100): Promise<void> {
    for (let times = 0; times < 50; times++) {
      const before = reads();
      await this.read(handle, offset, size);
      if (reads() === before) return;
    }
    throw new Error('it is never kept');
  }
}

let directory: TemporaryDirectory;
let clients: KeptClients;
let server: TestServer;
let exported: Export;
let reader: Mount;
let writer: Mount;
let r: number;
let w: number;

const reads = () => server.server.dispatcher.counts.get('read') ?? 0;
const truth = (offset: number, size = 100) =>
  readFileSync(directory.join('f'))
    .subarray(offset, offset + size)
    .toString('latin1');

/** What it reads, and how many requests that took. */
async function counted(offset: number, size = 100): Promise<[data: string, requests: number]> {
  const before = reads();
  return [await reader.read(r, offset, size), reads() - before];
}

async function inodeOf(mount: Mount): Promise<Inode> {
  const { attributes } = await mount.filesystem.getattr(root, await mount.node());
  const [inode] = exported.store.numbered(BigInt(attributes.ino));
  if (inode === undefined) throw new Error('it is there');
  return inode;
}

beforeEach(async () => {
  directory = new TemporaryDirectory();
  writeFileSync(directory.join('f'), Buffer.alloc(SIZE, 'abcdefghijklmnopqrstuvwxyz'));
  clients = new KeptClients();
  server = await TestServer.start(directory.path, { clients });
  exported = server.server.exports.get('/') as Export;
  [reader, writer] = [await Mount.open(), await Mount.open()];
  [r, w] = [await reader.openFile(), await writer.openFile()];
});
afterEach(async () => {
  Object.assign(limits, { maxHeldBlocks, recallMs, maxRecallPeriods, blockUseMs, leaseUseMs });
  for (const { session } of [reader, writer]) session.close();
  await server[Symbol.asyncDispose]();
  directory[Symbol.dispose]();
});

test('the second read in a block brings all of it, and what is read there again needs no request', async () => {
  expect(await counted(10)).toEqual([truth(10), 1]);
  expect(await counted(5_000)).toEqual([truth(5_000), 1]);
  for (const offset of [0, 10, 4_096, 60_000]) expect(await counted(offset)).toEqual([truth(offset), 0]);
});

test('read from front to back, each next block is brought at once; a read over two blocks is answered from both', async () => {
  await reader.keep(r, 0);
  expect(await counted(BLOCK_BYTES)).toEqual([truth(BLOCK_BYTES), 1]);
  expect(await counted(BLOCK_BYTES - 50)).toEqual([truth(BLOCK_BYTES - 50), 0]);
  expect(await counted(BLOCK_BYTES, BLOCK_BYTES)).toEqual([truth(BLOCK_BYTES, BLOCK_BYTES), 0]);
  // At the end of the file, and behind it.
  await reader.keep(r, SIZE - 10);
  expect(await counted(SIZE - 10)).toEqual([truth(SIZE - 10), 0]);
  expect(await counted(SIZE + 5)).toEqual(['', 0]);
});

describe('a change by another mount is seen by the next read, and what it leaves stays', () => {
  const first = 10;
  const second = BLOCK_BYTES + 10;
  const last = SIZE - 50;
  const node = async () => writer.node();
  const changes: [what: string, change: () => Promise<unknown>, left: readonly number[]][] = [
    ['a write', () => writer.write(w, 20, 'new'), [second, last]],
    ['a write over two blocks', () => writer.write(w, BLOCK_BYTES - 1, 'new'), [last]],
    ['a write in a block that nobody keeps', () => writer.write(w, 2 * BLOCK_BYTES, 'new'), [first, second, last]],
    ['a write behind the end', () => writer.write(w, SIZE + 10, 'new'), [first, second]],
    ['a write far behind the end', () => writer.write(w, SIZE + 3 * BLOCK_BYTES, 'new'), [first, second]],
    ['an append', () => writer.write(w, 0, 'new', O.RDWR | O.APPEND), [first, second]],
    ['a large write', () => writer.write(w, 3 * BLOCK_BYTES, 'x'.repeat(20_000)), []],
    ['truncation', async () => writer.filesystem.setattr(root, await node(), { size: 30 }), []],
    ['growth by truncation', async () => writer.filesystem.setattr(root, await node(), { size: SIZE + 9 }, w), []],
    ['O_TRUNC', () => writer.openFile(O.RDWR | O.TRUNC), []],
    ['a hole', () => writer.filesystem.fallocate(root, w, FALLOC.PUNCH_HOLE | FALLOC.KEEP_SIZE, 0, 4096), []],
    ['a copy', () => writer.filesystem.copyFileRange(root, w, 2 * BLOCK_BYTES, w, 5, 100), []],
  ];
  test.each(changes)('%s', async (_what, change, left) => {
    for (const offset of [first, second, last]) await reader.keep(r, offset);
    await change();
    for (const offset of [first, second, last]) {
      const [data, requests] = await counted(offset);
      expect(data).toBe(truth(offset));
      expect(requests, `at ${offset}`).toBe(left.includes(offset) ? 0 : 1);
    }
  });

  test.each(changes)('%s, by the mount that keeps the blocks', async (_what, change) => {
    for (const offset of [first, second, last]) await writer.keep(w, offset);
    await change();
    for (const offset of [first, second, last, SIZE + 10]) expect(await writer.read(w, offset)).toBe(truth(offset));
  });
});

test('what a mount wrote itself it has, without asking; until that is done, it asks', async () => {
  await reader.keep(r, 10);
  const { dispatcher } = server.server;
  const dispatch = dispatcher.dispatch.bind(dispatcher);
  let goOn = () => {};
  vi.spyOn(dispatcher, 'dispatch').mockImplementation((request) => {
    const outcome = dispatch(request);
    if (request.operation !== 'write') return outcome;
    return new Promise<void>((resolve) => (goOn = resolve)).then(() => outcome);
  });
  const written = reader.write(r, 20, 'NEW');
  await vi.waitFor(() => expect(truth(20, 3)).toBe('NEW'));
  // Its reply is still to come, and others see it.
  expect(await writer.read(w, 10)).toBe(truth(10));
  expect(await counted(10)).toEqual([truth(10), 1]);
  goOn();
  await written;
  expect(await counted(10)).toEqual([truth(10), 0]);
});

test('a block that was on its way when it was recalled is not kept', async () => {
  await reader.read(r, 10);
  const { dispatcher } = server.server;
  const dispatch = dispatcher.dispatch.bind(dispatcher);
  let goOn: (() => void) | undefined;
  vi.spyOn(dispatcher, 'dispatch').mockImplementation((request) => {
    const outcome = dispatch(request);
    if (request.operation !== 'read' || goOn) return outcome;
    return new Promise<void>((resolve) => (goOn = resolve)).then(() => outcome);
  });
  const old = reader.read(r, 10);
  await vi.waitFor(() => expect(goOn).toBeDefined());
  await writer.write(w, 20, 'NEW');
  goOn?.();
  expect(await old).not.toContain('NEW');
  expect(await counted(10)).toEqual([truth(10), 1]);
});

test('a writer that the reader takes turns with waits for it seldom: what is contended is not granted for a while', async () => {
  await reader.keep(r, 10);
  const { recallsSent } = exported.leases.counts;
  for (let turn = 0; turn < 100; turn++) {
    await writer.write(w, 20, String(turn).padStart(3));
    expect(await reader.read(r, 20, 3)).toBe(String(turn).padStart(3));
  }
  // At first, and then after 150, 300, 600, ... ms.
  expect(exported.leases.counts.recallsSent - recallsSent).toBeLessThan(25);
});

describe('local programs', () => {
  const see = (offset: number) => vi.waitFor(async () => expect(await reader.read(r, offset)).toBe(truth(offset)));

  test('their changes are seen, and what clients write meanwhile hides none', async () => {
    for (const offset of [10, BLOCK_BYTES + 10, SIZE - 50]) await reader.keep(r, offset);
    const fd = openSync(directory.join('f'), 'r+');
    writeSync(fd, 'LOCAL', 20);
    await writer.write(w, 2 * BLOCK_BYTES, 'new');
    await see(10);
    closeSync(fd);
    appendFileSync(directory.join('f'), 'more');
    await see(SIZE - 50);
  });

  test('clients that write elsewhere recall nothing by that', async () => {
    await reader.keep(r, 10);
    const { recallsSent, localChanges } = exported.leases.counts;
    for (let turn = 0; turn < 50; turn++) await writer.write(w, 2 * BLOCK_BYTES + turn, 'x');
    // Events of all these writes have been looked at when the one of another file is.
    const other = await writer.filesystem.mknod(root, ROOT_NODE, b('g'), 0o100644, 0, 0);
    await writer.filesystem.getattr(root, other.node);
    appendFileSync(directory.join('g'), 'local');
    await vi.waitFor(() => expect(exported.leases.counts.localChanges).toBeGreaterThan(localChanges));
    expect(exported.leases.counts.recallsSent - recallsSent).toBeLessThan(3);
    expect(await counted(10)).toEqual([truth(10), 0]);
  });
});

test('what the page cache of the server has not is kept all the same', async () => {
  const { descriptors } = exported.store;
  const read = descriptors.read.bind(descriptors);
  vi.spyOn(descriptors, 'read').mockImplementationOnce((...call) => Promise.resolve().then(() => read(...call)));
  await reader.read(r, 10);
  vi.spyOn(descriptors, 'read').mockImplementationOnce((...call) => Promise.resolve().then(() => read(...call)));
  expect(await counted(10)).toEqual([truth(10), 1]);
  expect(await counted(10)).toEqual([truth(10), 0]);
});

test('a block is asked for again after a while, whoever might have changed it unseen', async () => {
  Object.assign(limits, { blockUseMs: 0 });
  await reader.read(r, 10);
  for (let times = 0; times < 3; times++) expect(await counted(10)).toEqual([truth(10), 1]);
});

test('what a write without an answer would change is kept no more: it may be done at any time', async () => {
  await reader.keep(r, 10);
  await reader.keep(r, 2 * BLOCK_BYTES);
  const call = reader.session.call.bind(reader.session);
  vi.spyOn(reader.session, 'call').mockImplementation((operation, ...rest) =>
    operation === 'write' ? Promise.reject(new UnansweredError(errno.ETIMEDOUT, 'write')) : call(operation, ...rest),
  );
  await expect(reader.write(r, 20, 'late')).rejects.toMatchObject({ code: errno.ETIMEDOUT });
  for (let times = 0; times < 20; times++) expect(await counted(10)).toEqual([truth(10), 1]);
  expect(await counted(2 * BLOCK_BYTES)).toEqual([truth(2 * BLOCK_BYTES), 0]);
});

describe('a server that is started anew', () => {
  async function restart(): Promise<void> {
    const { port } = server.server;
    await server[Symbol.asyncDispose]();
    server = await TestServer.start(directory.path, { port, clients });
    exported = server.server.exports.get('/') as Export;
  }

  test('nothing that the last one let a client keep is used', async () => {
    await reader.keep(r, 10);
    await restart();
    await writer.write(w, 20, 'NEW');
    expect(await reader.read(r, 10)).toBe(truth(10));
  });

  test('a handle that is not open there yet keeps nothing for the others', async () => {
    const [first, second] = [await reader.openFile(O.RDONLY), await reader.openFile(O.RDONLY)];
    reader.filesystem.release(r);
    await restart();
    await reader.keep(first, 10);
    reader.filesystem.release(first);
    const inode = await inodeOf(writer);
    await vi.waitFor(() => expect(inode.hasHeldBlocks).toBe(false));
    await writer.write(w, 20, 'NEW');
    for (let times = 0; times < 3; times++) expect(await reader.read(second, 10)).toBe(truth(10));
    r = second;
  });

  test('nothing is changed before all who kept data know of it, or their leases have ended', async () => {
    Object.assign(limits, { leaseUseMs: 60_000 });
    await reader.keep(r, 10);
    const listed = clients.clients;
    reader.session.close();
    await vi.waitFor(() => expect(server.server.sessions.size).toBe(1));
    // As if it had not said goodbye.
    clients.clients = listed;
    await restart();
    let isWritten = false;
    const written = writer.write(w, 20, 'NEW').finally(() => (isWritten = true));
    await vi.waitFor(() => expect([...server.server.sessions.all].map(({ inFlight }) => inFlight)).toEqual([1]));
    expect(await writer.read(w, 10)).toBe(truth(10));
    expect(isWritten).toBe(false);
    server.server.sessions.endEarlierLeases();
    expect(await written).toBe(3);
    reader = await Mount.open();
  });

  test('who keeps data is in the list of clients; where that cannot be written, nothing is kept', async () => {
    clients.isFull = true;
    const other = await Mount.open();
    const handle = await other.openFile(O.RDONLY);
    for (let times = 0; times < 40; times++) expect(await other.read(handle, 10)).toBe(truth(10));
    expect((await inodeOf(other)).hasHeldBlocks).toBe(false);
    other.session.close();
  });
});

test('nothing is kept without an open file, and the server knows', async () => {
  await reader.keep(r, 10);
  const inode = await inodeOf(reader);
  expect(inode.hasHeldBlocks).toBe(true);
  reader.filesystem.release(r);
  await vi.waitFor(() => expect(inode.hasHeldBlocks).toBe(false));
  r = await reader.openFile();
  expect(await counted(10)).toEqual([truth(10), 1]);
});

test('with O_DIRECT each read is asked for', async () => {
  const direct = await reader.openFile(O.RDWR | O.DIRECT);
  for (let times = 0; times < 3; times++) {
    const before = reads();
    await reader.read(direct, 10);
    expect(reads()).toBe(before + 1);
  }
});

test('a client that does not answer loses its blocks, and knows', async () => {
  Object.assign(limits, { recallMs: 100, maxRecallPeriods: 1 });
  await reader.keep(r, 10);
  await reader.keep(r, BLOCK_BYTES);
  const answer = reader.session.onRecallBlocks;
  const connection = vi.spyOn(reader.session, 'onRecallBlocks');
  reader.session.onRecallBlocks = () => {
    throw new Error('not answered');
  };
  await writer.write(w, 20, 'NEW');
  reader.session.onRecallBlocks = answer;
  connection.mockRestore();
  expect(await reader.read(r, 10)).toBe(truth(10));
  expect((await counted(BLOCK_BYTES))[1]).toBe(1);
});

test('a block is asked for once, however many wait to write to it', async () => {
  for (const offset of [10, BLOCK_BYTES, 2 * BLOCK_BYTES]) await reader.keep(r, offset);
  const held = [...server.server.sessions.all].find(({ heldBlocks }) => heldBlocks > 0);
  if (held === undefined) throw new Error('it keeps three');
  expect(held.heldBlocks).toBe(3);
  let goOn = () => {};
  const mayAsk = new Promise<void>((resolve) => (goOn = resolve));
  const recallBlocks = held.recallBlocks.bind(held);
  const asked = vi.spyOn(held, 'recallBlocks').mockImplementation(async (inode, blocks) => {
    await mayAsk;
    await recallBlocks(inode, blocks);
  });
  const writes = [
    writer.write(w, 20, 'one'),
    writer.write(w, 24, 'two'),
    writer.write(w, BLOCK_BYTES - 1, 'both'),
    writer.write(w, 28, 'four'),
  ];
  await vi.waitFor(() => expect(server.server.dispatcher.counts.get('write')).toBe(4));
  expect(asked.mock.calls.map(([, blocks]) => blocks)).toEqual([[0], [1]]);
  goOn();
  await Promise.all(writes);
  expect([held.heldBlocks, exported.leases.counts.recallsPending]).toEqual([1, 0]);
  expect(await reader.read(r, BLOCK_BYTES - 50)).toBe(truth(BLOCK_BYTES - 50));
});

test('who reads more blocks than a client may hold gives back the first ones', async () => {
  Object.assign(limits, { maxHeldBlocks: 3 });
  for (let index = 0; index < 5; index++) await reader.keep(r, index * BLOCK_BYTES);
  const session = [...server.server.sessions.all].find(({ blockFiles }) => blockFiles.size > 0);
  const [inode] = session?.blockFiles ?? [];
  await vi.waitFor(() => expect(session && inode?.blocks?.count(session)).toBeLessThanOrEqual(3));
  for (let index = 0; index < 5; index++)
    expect(await reader.read(r, index * BLOCK_BYTES)).toBe(truth(index * BLOCK_BYTES));
});
