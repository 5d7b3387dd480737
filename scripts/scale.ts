/**
 * What leases cost a server: `scripts/scale [CLIENTS] [INODES]` (100 and 100,000 by default). In one process a server on a
 * temporary directory and that many sessions; heap after a collection before and after leases are granted, once on each
 * inode and then a second time; what a client holds of as many inodes; and how long a `mkdir` takes in a directory that 60 of the sessions hold.
 */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pino from 'pino';
import { LeaseCache } from '../client-fuse/leases/lease-cache.ts';
import { parseServerAddress } from '../client-fuse/transport/server-address.ts';
import { ServerSession } from '../client-fuse/transport/server-session.ts';
import { NodeTable } from '../client-fuse/vfs/node-table.ts';
import { openExports } from '../server/open-exports.ts';
import { Server } from '../server/server.ts';

const [clientCount = 100, inodeCount = 100_000] = process.argv.slice(2).map(Number);
const FILES_IN_DIRECTORY = 1000;
const HOLDERS = 60;
const MADE = 50;
const log = pino({ level: 'silent' });
const bytes = (text: string | number) => Buffer.from(String(text));
const CALLER = [0, 0];

/** In bytes, of the heap and of buffers beside it. */
async function memory(): Promise<{ used: number; rss: number }> {
  if (globalThis.gc === undefined) throw new Error('run it by scripts/scale, which has the collector exposed');
  for (let times = 0; times < 3; times++) {
    globalThis.gc();
    await new Promise((done) => setTimeout(done, 50));
  }
  const { heapUsed, external, rss } = process.memoryUsage();
  return { used: heapUsed + external, rss };
}

/** Each session looks at its share of the directories, `shift` sessions further on. Returns how many leases it was granted. */
async function lookAtAll(sessions: readonly ServerSession[], directories: readonly Uint8Array[], shift: number) {
  let leased = 0;
  for (const [index, parent] of directories.entries()) {
    const session = sessions[(index + shift) % sessions.length] as ServerSession;
    const names = Array.from({ length: FILES_IN_DIRECTORY }, (_, file) => bytes(file));
    const replies = await Promise.all(names.map((name) => session.call('lookup', CALLER, { parent, name })));
    leased += replies.filter(({ found }) => found?.leased).length;
  }
  return leased;
}

async function directoriesOf(session: ServerSession): Promise<Uint8Array[]> {
  const parent = session.hello.root.inode;
  const names = Array.from({ length: Math.ceil(inodeCount / FILES_IN_DIRECTORY) }, (_, index) => bytes(`d${index}`));
  const replies = await Promise.all(names.map((name) => session.call('lookup', CALLER, { parent, name })));
  return replies.flatMap(({ found }) => (found ? [Buffer.from(found.inode)] : []));
}

/** Milliseconds of each of some creations in directories that are held, each by all of `holders`. */
async function creations(author: ServerSession, holders: readonly ServerSession[]): Promise<number[]> {
  const took: number[] = [];
  for (let round = 0; round < MADE; round++) {
    const parent = author.hello.root.inode;
    const { entry } = await author.call('mkdir', CALLER, {
      parent,
      name: bytes(`made${round}`),
      mode: 0o755,
      umask: 0,
      wantsAlone: false,
    });
    const where = { parent: Buffer.from(entry.inode), name: bytes('new') };
    const looked = await Promise.all(holders.map((one) => one.call('lookup', CALLER, where)));
    if (looked.some(({ leased }) => !leased)) throw new Error('a session was not granted the directory');
    const startedMs = performance.now();
    await author.call('mkdir', CALLER, { ...where, mode: 0o755, umask: 0, wantsAlone: false });
    took.push(performance.now() - startedMs);
  }
  return took.sort((a, b) => a - b);
}

/** What a client holds of an inode that it has listed: its node, its attributes and its name in a directory. */
async function clientBytes(): Promise<number> {
  const table = new NodeTable(bytes('root'));
  const leases = new LeaseCache(() => true);
  const time = () => ({ sec: 1_700_000_000, nsec: 1 });
  const before = await memory();
  let directory = table.root;
  for (let made = 0; made < inodeCount; made++) {
    if (made % FILES_IN_DIRECTORY === 0) directory = table.found(Buffer.alloc(40, `directory ${made}`));
    const node = table.found(Buffer.from(`inode ${made}`.padEnd(40)));
    const sizes = { mode: 0o100644, nlink: 1, uid: 0, gid: 0, rdev: 0, size: made, blocks: 0, blksize: 4096 };
    const times = { atime: time(), mtime: time(), ctime: time(), btime: time() };
    leases.learnAttributes(node, { ino: made, ...sizes, ...times }, true, leases.clock);
    leases.learnName(directory, `file ${made}`, node, true, leases.clock);
  }
  const after = await memory();
  if (table.size < inodeCount) throw new Error('nodes are missing');
  return Math.round((after.used - before.used) / inodeCount);
}

console.log(`a client, an inode that it holds a lease on: ${await clientBytes()} bytes of heap`);
const directory = mkdtempSync(join(tmpdir(), 'weft-scale-'));
for (let made = 0; made < inodeCount; made++) {
  const at = join(directory, `d${Math.floor(made / FILES_IN_DIRECTORY)}`);
  if (made % FILES_IN_DIRECTORY === 0) mkdirSync(at);
  writeFileSync(join(at, String(made % FILES_IN_DIRECTORY)), '');
}
const exports = openExports([{ name: '/', directory, readOnly: false }], 'none', Buffer.alloc(32, 1), log);
const server = await Server.start({ exports, listen: { host: '127.0.0.1', port: 0 }, log, pollUs: 0 });
const address = parseServerAddress(`ws://127.0.0.1:${server.port}/`);
const sessions: ServerSession[] = [];
try {
  for (let index = 0; index < clientCount; index++) sessions.push(await ServerSession.connect(address, log));
  const [author, ...holders] = sessions as [ServerSession, ...ServerSession[]];
  const directories = await directoriesOf(author);
  const empty = await memory();
  const first = await lookAtAll(sessions, directories, 0);
  const once = await memory();
  const second = await lookAtAll(sessions, directories, 1);
  const twice = await memory();
  const each = (after: number, before: number, count: number) => `${Math.round((after - before) / count)} bytes`;
  console.log(`${clientCount} sessions; ${first} inodes leased once, then ${second} a second time`);
  console.log(
    `an inode with its first lease: ${each(once.used, empty.used, first)} of heap, ${each(once.rss, empty.rss, first)} resident`,
  );
  console.log(`one more lease on it: ${each(twice.used, once.used, second)} of heap`);
  const took = await creations(author, holders.slice(0, HOLDERS));
  const at = (part: number) => `${(took[Math.floor(part * (took.length - 1))] as number).toFixed(1)} ms`;
  console.log(
    `mkdir in a directory held by ${Math.min(HOLDERS, holders.length)}: median ${at(0.5)}, 95 % ${at(0.95)}, longest ${at(1)}`,
  );
} finally {
  for (const session of sessions) session.close();
  await server.close();
  rmSync(directory, { recursive: true, force: true });
}
