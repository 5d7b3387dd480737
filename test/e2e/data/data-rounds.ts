/**
 * What the tests of data leases do on mounts, in a process of its own that can be killed: calls are synchronous, so the
 * next read really is the next one. `data-rounds WHAT COUNT EXPORT,MOUNT,... [ARGUMENT]` prints one line of JSON.
 *
 *   stale KIND     A changes a file that B holds open and has read; B's very next read is what A left
 *   local KIND     the same by a local program of the server, which waits until B has dropped what it read
 *   scattered KIND the same as stale and local, and on one mount, of a large file that is read here and there before, so that the rest
 *                  of it is on its way to the kernel unasked
 *   everyPage      all pages of a file in random order
 *   mixed          the same as stale, random kinds on few files, while `reread` processes keep reading these
 *   reread         opens and reads the files of `mixed` again and again, for COUNT milliseconds
 *   own KIND       a handle that is open for reading sees what another handle of the same mount writes
 *   gathered       what A wrote and did not close is read by B, and by programs on the server, in the right order
 *   fenced         A is stopped with gathered writes; ARGUMENT is the process that serves A
 *   credit KIND    a file opened on the credit of a lease outlives its name
 *   stress SEED    random operations on all mounts, for COUNT milliseconds
 */
import { spawn } from 'node:child_process';
import * as fs from 'node:fs';
import koffi from 'koffi';

const [, , what, countText, rootsText, argument = ''] = process.argv as string[];
const count = Number(countText);
const [local = '', ...mounts] = (rootsText ?? '').split(',');
const random = (below: number) => Math.floor(Math.random() * below);

interface Report {
  rounds: number;
  looks: number;
  stale: number;
  examples: string[];
  maxMs: number;
}

function newReport(): Report {
  return { rounds: 0, looks: 0, stale: 0, examples: [], maxMs: 0 };
}

function note(report: Report, line: string): void {
  report.stale++;
  if (report.examples.length < 8) report.examples.push(line);
}

function codeOf(work: () => unknown): string {
  try {
    work();
    return 'done';
  } catch (error) {
    const { errno: number, code } = error as NodeJS.ErrnoException;
    // Node has no name for it.
    return number === -116 ? 'ESTALE' : (code ?? String(error));
  }
}

function pause(ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
}

/** Files that local programs make raise events, which would take the first leases away again: let them pass. */
const EVENTS_PASSED_MS = 60;

// --- reading

/** In pieces, each a read(2) of its own. */
function readAll(fd: number, pieceBytes = 1 << 20): Buffer {
  const pieces: Buffer[] = [];
  for (let at = 0; ; ) {
    const piece = Buffer.alloc(pieceBytes);
    const length = fs.readSync(fd, piece, 0, pieceBytes, at);
    if (length === 0) return Buffer.concat(pieces);
    pieces.push(piece.subarray(0, length));
    at += length;
  }
}

function readFresh(path: string): Buffer {
  const fd = fs.openSync(path, 'r');
  try {
    return readAll(fd);
  } finally {
    fs.closeSync(fd);
  }
}

/** Where two contents differ, in a few words. */
function difference(seen: Buffer, is: Buffer): string {
  if (seen.equals(is)) return '';
  const shown = (content: Buffer, at: number) => JSON.stringify(content.toString('latin1', at, at + 12));
  for (let at = 0; at < Math.max(seen.length, is.length); at++) {
    if (seen[at] === is[at]) continue;
    return `${seen.length} bytes, is ${is.length}; at ${at} ${shown(seen, at)}, is ${shown(is, at)}`;
  }
  return '';
}

const mmap = koffi
  .load('libc.so.6')
  .func('void *mmap(long at, ulong length, int protection, int flags, int fd, long offset)');
const munmap = koffi.load('libc.so.6').func('int munmap(void *at, ulong length)');
const [PROT_READ, MAP_SHARED] = [1, 1];

/** A shared mapping of a whole file that does not get shorter. */
function mapped(fd: number, length: number): { read(): Buffer; end(): void } {
  const at = mmap(0, length, PROT_READ, MAP_SHARED, fd, 0);
  return {
    read: () => Buffer.from(koffi.decode(at, 'uint8', length) as unknown as Uint8Array),
    end: () => void munmap(at, length),
  };
}

// --- changing

/** What the file's name means afterwards, and what its old inode contains. */
interface Changed {
  readonly fresh: Buffer;
  readonly held: Buffer;
}
type Change = (path: string, before: Buffer, round: number) => Changed;

function overwritten(before: Buffer, offset: number, data: Buffer): Changed {
  const after = Buffer.alloc(Math.max(before.length, offset + data.length));
  before.copy(after);
  data.copy(after, offset);
  return { fresh: after, held: after };
}

function withFd<T>(path: string, flags: string | number, use: (fd: number) => T): T {
  const fd = fs.openSync(path, flags);
  try {
    return use(fd);
  } finally {
    fs.closeSync(fd);
  }
}

function writeSomewhere(fd: number, before: Buffer, round: number): Changed {
  const data = Buffer.from(`<written ${round}>`.repeat(1 + (round % 7) * 200));
  const offset = random(before.length + 1);
  fs.writeSync(fd, data, 0, data.length, offset);
  return overwritten(before, offset, data);
}

function both(content: Buffer): Changed {
  return { fresh: content, held: content };
}

const leftOpen: number[] = [];

function closeLeftOpen(): void {
  for (const fd of leftOpen.splice(0)) fs.closeSync(fd);
}

const changes: Readonly<Record<string, Change>> = {
  'write+close': (path, before, round) => withFd(path, 'r+', (fd) => writeSomewhere(fd, before, round)),
  'write+fsync': (path, before, round) => {
    const fd = fs.openSync(path, 'r+');
    leftOpen.push(fd);
    const changed = writeSomewhere(fd, before, round);
    fs.fsyncSync(fd);
    return changed;
  },
  'write without close': (path, before, round) => {
    const fd = fs.openSync(path, 'r+');
    leftOpen.push(fd);
    return writeSomewhere(fd, before, round);
  },
  rewrite: (path, _before, round) => {
    const content = Buffer.from(`rewritten ${round} `.repeat(1 + random(3000)));
    fs.writeFileSync(path, content);
    return both(content);
  },
  truncate: (path, before) => {
    const size = random(before.length);
    fs.truncateSync(path, size);
    return both(before.subarray(0, size));
  },
  'ftruncate to more': (path, before) => {
    const size = before.length + random(10_000);
    withFd(path, 'r+', (fd) => fs.ftruncateSync(fd, size));
    return both(Buffer.concat([before, Buffer.alloc(size - before.length)]));
  },
  append: (path, before, round) => {
    fs.appendFileSync(path, `appended ${round}`);
    return both(Buffer.concat([before, Buffer.from(`appended ${round}`)]));
  },
  'rename-over': (path, before, round) => {
    const content = Buffer.from(`another file ${round} `.repeat(1 + random(300)));
    fs.writeFileSync(`${path}.new`, content);
    fs.renameSync(`${path}.new`, path);
    return { fresh: content, held: before };
  },
};

/** Smaller than what comes with the reply to an open, and larger; not of whole pages. */
function firstContent(round: number): Buffer {
  return Buffer.from(`old content ${round} `.repeat([5, 400, 15_000][round % 3] as number));
}

// --- stale

interface Look {
  readonly of: string;
  readonly is: (changed: Changed) => Buffer;
  see(): Buffer;
}

function mappingOf(kind: string, round: number, fd: number): ReturnType<typeof mapped> | undefined {
  if (!kind.startsWith('write') || round % 2) return undefined;
  return mapped(fd, firstContent(round).length);
}

function staleRound(kind: string, round: number, name: string, report: Report, byLocal: boolean): void {
  const [one = '', other = ''] = round % 2 ? mounts : [...mounts].reverse();
  const changer = byLocal ? local : one;
  const path = `${changer}/${name}`;
  const before = firstContent(round);
  const fd = fs.openSync(`${other}/${name}`, 'r');
  const mapping = mappingOf(kind, round >> 1, fd) && mapped(fd, before.length);
  const held: Look = { of: 'the open handle', see: () => readAll(fd, 1 << (12 + (round % 9))), is: (to) => to.held };
  const fresh: Look = { of: 'a new handle', see: () => readFresh(`${other}/${name}`), is: ({ fresh: is }) => is };
  const size: Look = {
    of: 'the size by the open handle',
    see: () => Buffer.from(String(fs.fstatSync(fd).size)),
    is: (to) => Buffer.from(String(to.held.length)),
  };
  const looks = [held, fresh, size];
  if (mapping) looks.push({ of: 'a mapping', see: mapping.read, is: (to) => to.held.subarray(0, before.length) });
  // Read twice: from the server, and from the kernel's pages.
  for (const look of [...looks, ...looks]) {
    const wrong = difference(look.see(), look.is(both(before)));
    if (wrong) note(report, `${kind} round ${round}, before: ${look.of} at ${other}: ${wrong}`);
  }
  const changed = (changes[kind] as Change)(path, before, round);
  for (let index = 0; index < looks.length; index++) {
    const look = looks[(index + (round >> 1)) % looks.length] as Look;
    const wrong = difference(look.see(), look.is(changed));
    report.looks++;
    if (wrong) note(report, `${kind} round ${round}: ${look.of} at ${other}: ${wrong}`);
  }
  mapping?.end();
  fs.closeSync(fd);
  closeLeftOpen();
  const truth = difference(fs.readFileSync(`${local}/${name}`), changed.fresh);
  if (truth) note(report, `${kind} round ${round}: on the server: ${truth}`);
}

/** Each round has a file of its own: a lease that was recalled is not granted again at once. */
function stale(kind: string, byLocal = false): Report {
  const report = newReport();
  const directory = `${byLocal ? 'local' : 'stale'} ${kind}`;
  fs.mkdirSync(`${local}/${directory}`);
  for (let round = 0; round < count; round++) fs.writeFileSync(`${local}/${directory}/${round}`, firstContent(round));
  pause(EVENTS_PASSED_MS);
  for (; report.rounds < count; report.rounds++) {
    staleRound(kind, report.rounds, `${directory}/${report.rounds}`, report, byLocal);
  }
  return report;
}

/** The client brings a region of a MiB at its eighth read: the last read of each is the last before the change. */
const SCATTERED_REGIONS = 3;
const SCATTERED_READS = 8 * SCATTERED_REGIONS;
const SCATTERED_BYTES = SCATTERED_REGIONS * (1 << 20) + 5000;

function scatteredContent(round: number): Buffer {
  return Buffer.alloc(SCATTERED_BYTES, `content ${round} of a larger file `);
}

function scatteredRound(kind: string, round: number, name: string, report: Report): void {
  const [one = '', other = ''] = round % 2 ? mounts : [...mounts].reverse();
  // Names that a local program changes are seen after the fact.
  const changers = kind === 'rename-over' ? [one, other] : [one, other, local];
  const changer = changers[(round >> 1) % changers.length] as string;
  const before = scatteredContent(round);
  const fd = fs.openSync(`${other}/${name}`, 'r');
  const page = Buffer.alloc(4096);
  for (let read = 0; read < SCATTERED_READS; read++) {
    // Backwards, and apart: the kernel does not read ahead.
    const place = 31 * (7 - Math.floor(read / SCATTERED_REGIONS)) + random(20);
    const at = (1 << 20) * (read % SCATTERED_REGIONS) + 4096 * place;
    const wrong = difference(page.subarray(0, fs.readSync(fd, page, 0, 4096, at)), before.subarray(at, at + 4096));
    if (wrong) note(report, `${kind} round ${round}, before, page at ${at}: ${wrong}`);
  }
  const changed = (changes[kind] as Change)(`${changer}/${name}`, before, round);
  const looks: [string, Buffer, Buffer][] = [
    ['the open handle', readAll(fd), changed.held],
    ['a new handle', readFresh(`${other}/${name}`), changed.fresh],
    ['on the mount that changed it', readFresh(`${one}/${name}`), changed.fresh],
  ];
  for (const [of, seen, is] of looks) {
    const wrong = difference(seen, is);
    report.looks++;
    if (wrong) note(report, `${kind} by ${changer} round ${round}: ${of}: ${wrong}`);
  }
  fs.closeSync(fd);
  closeLeftOpen();
  fs.unlinkSync(`${local}/${name}`);
}

function scattered(kind: string): Report {
  const report = newReport();
  const directory = `scattered ${kind}`;
  fs.mkdirSync(`${local}/${directory}`);
  for (let round = 0; round < count; round++) {
    fs.writeFileSync(`${local}/${directory}/${round}`, scatteredContent(round));
  }
  pause(EVENTS_PASSED_MS);
  for (; report.rounds < count; report.rounds++) {
    scatteredRound(kind, report.rounds, `${directory}/${report.rounds}`, report);
  }
  return report;
}

/** All pages of a file, in random order. */
function everyPage(): { pages: number; wrong: number } {
  const pages = 2048;
  const content = Buffer.alloc(4096 * pages);
  for (let page = 0; page < pages; page++) content.writeUInt32LE(page, 4096 * page);
  fs.writeFileSync(`${local}/pages`, content);
  pause(EVENTS_PASSED_MS);
  const order = Array.from({ length: pages }, (_, page) => ({ page, key: Math.random() }));
  order.sort((a, b) => a.key - b.key);
  let wrong = 0;
  const fd = fs.openSync(`${mounts[0]}/pages`, 'r');
  const seen = Buffer.alloc(4096);
  for (const { page } of order) {
    fs.readSync(fd, seen, 0, 4096, 4096 * page);
    if (!seen.equals(content.subarray(4096 * page, 4096 * page + 4096))) wrong++;
  }
  fs.closeSync(fd);
  return { pages, wrong };
}

const MIXED_FILES = 3;

function mixed(): Report {
  const report = newReport();
  const contents = Array.from({ length: MIXED_FILES }, (_, index) => firstContent(index));
  for (const [index, content] of contents.entries()) fs.writeFileSync(`${local}/mixed/${index}`, content);
  // Readers may know these names as absent: a local program's change is seen after the fact.
  pause(EVENTS_PASSED_MS);
  const kinds = Object.keys(changes);
  for (; report.rounds < count; report.rounds++) {
    const index = random(MIXED_FILES);
    const before = contents[index] as Buffer;
    const kind = before.length > 300_000 ? 'truncate' : (kinds[random(kinds.length)] as string);
    const fds = mounts.map((root) => fs.openSync(`${root}/mixed/${index}`, 'r'));
    for (const fd of fds) if (random(2)) readAll(fd);
    const changer = mounts[random(mounts.length)] as string;
    const changed = (changes[kind] as Change)(`${changer}/mixed/${index}`, before, report.rounds);
    contents[index] = changed.fresh;
    for (const [at, root] of mounts.entries()) {
      const held = difference(readAll(fds[at] as number), changed.held);
      const fresh = difference(readFresh(`${root}/mixed/${index}`), changed.fresh);
      report.looks += 2;
      const where = `round ${report.rounds}, ${kind} at ${changer}, seen at ${root}`;
      if (held) note(report, `${where} by the open handle: ${held}`);
      if (fresh) note(report, `${where} by a new handle: ${fresh}`);
    }
    for (const fd of fds) fs.closeSync(fd);
    closeLeftOpen();
  }
  return report;
}

function reread(): Report {
  const report = newReport();
  const end = Date.now() + count;
  while (Date.now() < end) {
    const root = mounts[random(mounts.length)] as string;
    codeOf(() =>
      withFd(`${root}/mixed/${random(MIXED_FILES)}`, 'r', (fd) => {
        for (let times = random(4); times >= 0; times--) readAll(fd, 1 << (12 + random(9)));
      }),
    );
    report.looks++;
  }
  return report;
}

/** How much of the file a reader has read when another handle of its mount changes it. */
const OWN_READ_BYTES = [0, 4096, 3 * 65_536];

function ownRound(kind: string, round: number, name: string, report: Report): void {
  const root = mounts[round % mounts.length] as string;
  const path = `${root}/${name}`;
  const before = firstContent(round % 2 ? 0 : 2);
  // The first open is the one that brings the content; the second is on the credit of its lease.
  const fds = [fs.openSync(path, 'r'), fs.openSync(path, 'r')];
  const readBytes = OWN_READ_BYTES[round % OWN_READ_BYTES.length] as number;
  const piece = Buffer.alloc(16_384);
  for (const fd of fds)
    for (let at = 0; at < readBytes; at += piece.length) fs.readSync(fd, piece, 0, piece.length, at);
  const changed = (changes[kind] as Change)(path, before, round);
  for (const [index, fd] of fds.entries()) {
    // On from where it has stopped, as a sequential reader does, and then all.
    const next = piece.subarray(0, Math.max(0, fs.readSync(fd, piece, 0, piece.length, readBytes)));
    const wrong =
      difference(next, changed.held.subarray(readBytes, readBytes + piece.length)) ||
      difference(readAll(fd), changed.held);
    report.looks++;
    if (wrong) note(report, `${kind} round ${round}, ${readBytes} bytes read before, handle ${index}: ${wrong}`);
    fs.closeSync(fd);
  }
  const wrong = difference(readFresh(path), changed.fresh);
  if (wrong) note(report, `${kind} round ${round}, a new handle: ${wrong}`);
  closeLeftOpen();
}

function own(kind: string): Report {
  const report = newReport();
  const directory = `own ${kind}`;
  fs.mkdirSync(`${local}/${directory}`);
  for (let round = 0; round < count; round++) {
    fs.writeFileSync(`${local}/${directory}/${round}`, firstContent(round % 2 ? 0 : 2));
  }
  pause(EVENTS_PASSED_MS);
  for (; report.rounds < count; report.rounds++) {
    ownRound(kind, report.rounds, `${directory}/${report.rounds}`, report);
  }
  return report;
}

// --- gathered

interface Gathered extends Report {
  /** Rounds in which the server had not got the data when the write was done. */
  gathered: number;
}

type Onlooker = (name: string, other: string, content: Buffer) => Buffer;

/** What looks first, and what it sees; afterwards the file contains `is`. */
const onlookers: Readonly<Record<string, { see: Onlooker; is?: (content: Buffer) => Buffer }>> = {
  'read at B': { see: (name, other) => readFresh(`${other}/${name}`) },
  'stat at B': { see: (name, other, content) => content.subarray(0, fs.statSync(`${other}/${name}`).size) },
  'append at B': {
    see: (name, other) => {
      fs.appendFileSync(`${other}/${name}`, 'more');
      return fs.readFileSync(`${other}/${name}`);
    },
    is: (content) => Buffer.concat([content, Buffer.from('more')]),
  },
  'local cat': { see: (name) => fs.readFileSync(`${local}/${name}`) },
  'local append': {
    see: (name) => {
      fs.appendFileSync(`${local}/${name}`, 'more');
      return fs.readFileSync(`${local}/${name}`);
    },
    is: (content) => Buffer.concat([content, Buffer.from('more')]),
  },
  'local truncate': {
    see: (name) => {
      fs.truncateSync(`${local}/${name}`, 3);
      return fs.readFileSync(`${local}/${name}`);
    },
    is: (content) => content.subarray(0, 3),
  },
};

function gatheredRound(kind: string, round: number, name: string, report: Gathered): void {
  const [writer = '', other = ''] = round % 2 ? mounts : [...mounts].reverse();
  const { see, is = (content: Buffer) => content } = onlookers[kind] as (typeof onlookers)[string];
  const fd = fs.openSync(`${writer}/${name}`, 'wx+');
  const content = Buffer.from(`gathered ${round} `.repeat(1 + (round % 3) * 900));
  for (let at = 0; at < content.length; at += 1000)
    fs.writeSync(fd, content, at, Math.min(1000, content.length - at), at);
  // stat(2) breaks no lease of the server's.
  if (fs.statSync(`${local}/${name}`).size < content.length) report.gathered++;
  const startedMs = performance.now();
  const wrong = difference(see(name, other, content), is(content));
  report.maxMs = Math.max(report.maxMs, performance.now() - startedMs);
  report.looks++;
  if (wrong) note(report, `${kind} round ${round} of ${writer}: ${wrong}`);
  // And the writer goes on, at the end of what there is now.
  const end = is(content).length;
  fs.writeSync(fd, 'the end', end);
  const whole = Buffer.concat([is(content), Buffer.from('the end')]);
  for (const root of [other, local, writer]) {
    const later = difference(fs.readFileSync(`${root}/${name}`), whole);
    if (later) note(report, `${kind} round ${round}, later at ${root}: ${later}`);
  }
  fs.closeSync(fd);
}

function gathered(kind: string): Gathered {
  const report = { ...newReport(), gathered: 0 };
  fs.mkdirSync(`${mounts[0]}/gathered ${kind}`);
  for (; report.rounds < count; report.rounds++) {
    gatheredRound(kind, report.rounds, `gathered ${kind}/${report.rounds}`, report);
  }
  return report;
}

// --- faults

/** A is stopped right after it has acknowledged writes; B goes on; A comes back. Says what everybody was told. */
function fenced(): Record<string, string | number> {
  const [a = '', b = ''] = mounts;
  const pid = Number(argument);
  fs.writeFileSync(`${local}/cached`, 'old');
  pause(EVENTS_PASSED_MS);
  // Before a file is open: a new process closes what it inherits, and would wait for A like everybody else.
  const goOn = `while [ ! -e '${local}/changed' ]; do sleep 0.05; done; sleep 0.5; kill -CONT ${pid}`;
  spawn('sh', ['-c', goOn], { stdio: 'ignore', detached: true }).unref();
  const dirty = fs.openSync(`${a}/dirty`, 'wx+');
  const unwatched = fs.openSync(`${a}/unwatched`, 'wx+');
  const cached = fs.openSync(`${a}/cached`, 'r');
  const before = readAll(cached).toString();
  fs.writeSync(unwatched, 'unwatched');
  fs.writeSync(dirty, 'gathered by A');
  process.kill(pid, 'SIGSTOP');
  const startedMs = performance.now();
  const said: Record<string, string | number> = { before };
  try {
    said.readAtB = fs.readFileSync(`${b}/dirty`, 'latin1');
    said.readMs = performance.now() - startedMs;
    fs.writeFileSync(`${b}/dirty`, 'of B');
    fs.writeFileSync(`${b}/cached`, 'new');
    fs.writeFileSync(`${b}/unwatched`, 'of B too');
    said.allMs = performance.now() - startedMs;
  } finally {
    fs.writeFileSync(`${local}/changed`, '');
  }
  // A is still stopped: its kernel has these pages, and must not answer from them.
  said.cachedAtA = readAll(cached).toString();
  said.fsync = codeOf(() => fs.fsyncSync(dirty));
  said.readAtA = readFresh(`${a}/dirty`).toString();
  said.writeAgain = codeOf(() => fs.writeSync(dirty, 'A', 0));
  said.fsyncAgain = codeOf(() => fs.fsyncSync(dirty));
  said.close = codeOf(() => fs.closeSync(dirty));
  said.unwatchedFsync = codeOf(() => fs.fsyncSync(unwatched));
  said.unwatchedWriteAgain = codeOf(() => fs.writeSync(unwatched, 'A', 0));
  said.unwatchedClose = codeOf(() => fs.closeSync(unwatched));
  said.dirty = fs.readFileSync(`${local}/dirty`, 'latin1');
  said.unwatched = fs.readFileSync(`${local}/unwatched`, 'latin1');
  said.dirtyAtB = fs.readFileSync(`${b}/dirty`, 'latin1');
  fs.closeSync(cached);
  return said;
}

// --- names that go while a file is open

const removals: Readonly<Record<string, (a: string, b: string) => void>> = {
  'another client unlinks': (a) => fs.unlinkSync(`${a}/f`),
  'another client renames over': (a) => fs.renameSync(`${a}/other`, `${a}/f`),
  'this client unlinks': (_a, b) => fs.unlinkSync(`${b}/f`),
  'this client renames over': (_a, b) => fs.renameSync(`${b}/other`, `${b}/f`),
};

/** `busy`: the directory is contended, so its names are not leased, and the file is. */
function creditRound(kind: string, isBusy: boolean, round: number, report: Report): void {
  const [a = '', b = ''] = mounts;
  const directory = `credit ${kind} ${isBusy ? 'busy' : ''} ${round}`;
  fs.mkdirSync(`${local}/${directory}`);
  const content = Buffer.from('still here '.repeat(20_000));
  for (const name of ['f', 'other']) fs.writeFileSync(`${local}/${directory}/${name}`, content);
  pause(EVENTS_PASSED_MS);
  const [atA, atB] = [`${a}/${directory}`, `${b}/${directory}`];
  const contend = () => {
    for (let times = 0; times < 4; times++) {
      fs.statSync(`${atB}/f`);
      fs.writeFileSync(`${atA}/new${times}`, '');
    }
  };
  if (isBusy) contend();
  else fs.readdirSync(atB);
  // The first is asked for, the others are opened on its credit.
  for (let times = 0; times < 2; times++) fs.closeSync(fs.openSync(`${atB}/f`, 'r'));
  const fd = fs.openSync(`${atB}/f`, 'r');
  if (round % 2) fs.readSync(fd, Buffer.alloc(4096), 0, 4096, 0);
  removals[kind]?.(atA, atB);
  let wrong = '';
  const code = codeOf(() => {
    wrong = difference(readAll(fd), content);
  });
  report.looks++;
  if (code !== 'done' || wrong) note(report, `${kind}${isBusy ? ', busy' : ''}, round ${round}: ${code} ${wrong}`);
  const stat = codeOf(() => fs.fstatSync(fd));
  if (stat !== 'done') note(report, `${kind}${isBusy ? ', busy' : ''}, round ${round}: fstat ${stat}`);
  fs.closeSync(fd);
}

function credit(kind: string, isBusy: boolean): Report {
  const report = newReport();
  for (; report.rounds < count; report.rounds++) creditRound(kind, isBusy, report.rounds, report);
  return report;
}

// --- stress

function stress(): { done: Record<string, number>; failed: Record<string, number> } {
  const done: Record<string, number> = {};
  const failed: Record<string, number> = {};
  const directory = () => `${mounts[random(mounts.length)]}/stress/${random(2)}`;
  const path = () => `${directory()}/${random(10)}`;
  const open: number[] = [];
  const anyFd = () => open[random(open.length)] ?? -1;
  const keep = (fd: number) => {
    open.push(fd);
    if (open.length > 6) fs.closeSync(open.shift() as number);
  };
  const operations: Readonly<Record<string, () => void>> = {
    openToRead: () => keep(fs.openSync(path(), 'r')),
    openToWrite: () => keep(fs.openSync(path(), 'r+')),
    create: () => keep(fs.openSync(path(), 'w+')),
    read: () => void fs.readSync(anyFd(), Buffer.alloc(10_000), 0, 10_000, random(20_000)),
    readAgain: () => void readAll(anyFd(), 65_536),
    write: () =>
      void fs.writeSync(anyFd(), Buffer.alloc(1 + random(10_000), random(256)), 0, undefined, random(60_000)),
    writeWhole: () => fs.writeFileSync(path(), Buffer.alloc(random(100_000), random(256))),
    readWhole: () => void fs.readFileSync(path()),
    truncate: () => fs.truncateSync(path(), random(60_000)),
    fsync: () => fs.fsyncSync(anyFd()),
    rename: () => fs.renameSync(path(), path()),
    unlink: () => fs.unlinkSync(path()),
    list: () => void fs.readdirSync(directory()),
    stat: () => void fs.statSync(path()),
    close: () => fs.closeSync(open.pop() ?? -1),
  };
  const names = Object.keys(operations);
  const end = Date.now() + count;
  while (Date.now() < end) {
    const kind = names[random(names.length)] as string;
    const code = codeOf(operations[kind] as () => void);
    const counts = code === 'done' ? done : failed;
    const key = code === 'done' ? kind : code;
    counts[key] = (counts[key] ?? 0) + 1;
  }
  return { done, failed };
}

function each<T>(run: (kind: string) => T): Record<string, T> {
  return Object.fromEntries((JSON.parse(argument) as string[]).map((kind) => [kind, run(kind)]));
}

const programs: Readonly<Record<string, () => unknown>> = {
  kinds: () => ({ changes: Object.keys(changes), onlookers: Object.keys(onlookers), removals: Object.keys(removals) }),
  stale: () => each((kind) => stale(kind)),
  local: () => each((kind) => stale(kind, true)),
  scattered: () => each(scattered),
  everyPage,
  mixed,
  reread,
  own: () => each(own),
  gathered: () => each(gathered),
  fenced,
  credit: () => each((kind) => credit(kind, false)),
  'credit in a busy directory': () => each((kind) => credit(kind, true)),
  stress,
};

const run = programs[what ?? ''];
if (run === undefined) throw new Error(`data-rounds does not know ${what}`);
console.log(JSON.stringify(run()));
