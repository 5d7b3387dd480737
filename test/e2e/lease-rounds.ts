/**
 * What the tests of leases do on mounts, in a process of its own that can be killed: calls are synchronous, so the next
 * operation really is the next one. `lease-rounds WHAT COUNT EXPORT,MOUNT,... [ARGUMENT]` prints one line of JSON.
 *
 *   stale KIND     A changes something that B has looked at; B's very next look equals the exported directory
 *   local KIND     the same by a local program: how long until each mount shows it
 *   race           a change of names on one mount while others look (with `look` processes beside it)
 *   look           looks at everything again and again, for COUNT milliseconds
 *   chaos SEED     random operations in a few directories on one mount
 *   trees          trees are made, walked, renamed and removed, each on one mount
 *   monotonic      a file only grows; no mount shows less than another has shown before
 */
import * as fs from 'node:fs';
import { O, RENAME } from '../../shared/linux/constants.ts';
import * as libc from '../../shared/linux/libc.ts';

const [, , what, countText, rootsText, argument] = process.argv as string[];
const count = Number(countText);
const [local = '', ...mounts] = (rootsText ?? '').split(',');
const bytes = (text: string) => Buffer.from(text);

// --- looking

/** Everything about one path but the access time. */
function factsOf(path: string): string {
  try {
    const s = fs.lstatSync(path, { bigint: true });
    const facts = [s.mode.toString(8), s.size, s.mtimeNs, s.ctimeNs, s.nlink, s.uid, s.gid, s.ino];
    const target = s.isSymbolicLink() ? fs.readlinkSync(path) : '';
    return `mode ${facts[0]} size ${facts[1]} mtime ${facts[2]} ctime ${facts[3]} nlink ${facts[4]} ${facts.slice(5).join(' ')} ${target}`;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code ?? 'error';
  }
}

function contentOf(path: string): string {
  try {
    // A FIFO would wait for a writer.
    return fs.lstatSync(path).isFile() ? fs.readFileSync(path, 'latin1') : 'no file';
  } catch (error) {
    return (error as NodeJS.ErrnoException).code ?? 'error';
  }
}

function listingOf(path: string): string {
  try {
    return fs.readdirSync(path).sort().join(' ');
  } catch (error) {
    return (error as NodeJS.ErrnoException).code ?? 'error';
  }
}

interface Look {
  readonly of: string;
  at(root: string): string;
}

const NAMES = ['f', 'g', 'h', 'new', 'new2', 's', 'sub', 'sub/in', 'sub/new', 'empty'];

function looksAt(directory: string): Look[] {
  const looks: Look[] = NAMES.map((name) => ({
    of: `stat ${name}`,
    at: (root) => factsOf(`${root}/${directory}/${name}`),
  }));
  looks.push({ of: 'stat .', at: (root) => factsOf(`${root}/${directory}`) });
  for (const name of ['f', 'g', 'new']) {
    looks.push({ of: `content ${name}`, at: (root) => contentOf(`${root}/${directory}/${name}`) });
  }
  for (const name of ['.', 'sub']) {
    looks.push({ of: `list ${name}`, at: (root) => listingOf(`${root}/${directory}/${name}`) });
  }
  return looks;
}

function shuffled<T>(list: readonly T[]): T[] {
  const result = [...list];
  for (let last = result.length - 1; last > 0; last--) {
    const other = Math.floor(Math.random() * (last + 1));
    [result[last], result[other]] = [result[other] as T, result[last] as T];
  }
  return result;
}

// --- changing

function withFd(path: string, flags: number, use: (fd: number) => void): void {
  const fd = fs.openSync(path, flags, 0o640);
  try {
    use(fd);
  } finally {
    fs.closeSync(fd);
  }
}

function renameWithFlags(root: string, from: string, to: string, flags: number): void {
  withFd(root, O.RDONLY, (fd) => libc.renameat2(fd, bytes(from), fd, bytes(to), flags));
}

type Changes = Readonly<Record<string, (d: string, round: number) => void>>;

/** `d` is a directory with files f and g, h another name of g, a symbolic link s, sub with a file `in`, and empty. */
const changes: Changes = {
  'write+close': (d, round) => fs.writeFileSync(`${d}/f`, 'x'.repeat(1 + (round % 5000))),
  'write+fsync': (d) =>
    withFd(`${d}/f`, O.WRONLY, (fd) => {
      fs.writeSync(fd, 'synced, and longer than before');
      fs.fsyncSync(fd);
    }),
  truncate: (d, round) => fs.truncateSync(`${d}/f`, round % 9000),
  ftruncate: (d, round) => withFd(`${d}/f`, O.RDWR, (fd) => fs.ftruncateSync(fd, 1 + (round % 9000))),
  append: (d) => fs.appendFileSync(`${d}/f`, 'more'),
  'write to the other name': (d) => fs.appendFileSync(`${d}/h`, 'more'),
  fallocate: (d) => withFd(`${d}/f`, O.RDWR, (fd) => fs.writeSync(fd, 'far', 100_000)),
  chmod: (d, round) => fs.chmodSync(`${d}/f`, 0o600 + (round % 64)),
  'chmod of a directory': (d, round) => fs.chmodSync(`${d}/sub`, 0o700 + (round % 64)),
  chown: (d, round) => fs.chownSync(`${d}/f`, 1000 + (round % 100), 2000),
  utimes: (d, round) => fs.utimesSync(`${d}/f`, 1000, round),
  setxattr: (d) => withFd(`${d}/f`, O.RDONLY, (fd) => libc.setxattr(fd, bytes('user.x'), bytes('1'), 0)),
  create: (d) => fs.writeFileSync(`${d}/new`, 'made'),
  mkdir: (d) => fs.mkdirSync(`${d}/new`),
  mknod: (d) => withFd(d, O.RDONLY, (fd) => libc.mknodat(fd, bytes('new'), 0o010644, 0)),
  symlink: (d) => fs.symlinkSync('elsewhere', `${d}/new`),
  unlink: (d) => fs.unlinkSync(`${d}/f`),
  'unlink of one of two names': (d) => fs.unlinkSync(`${d}/g`),
  rmdir: (d) => fs.rmdirSync(`${d}/empty`),
  rename: (d) => fs.renameSync(`${d}/f`, `${d}/new`),
  'rename into another directory': (d) => fs.renameSync(`${d}/f`, `${d}/sub/new`),
  'rename of a directory': (d) => fs.renameSync(`${d}/sub`, `${d}/empty/new`),
  'rename-over': (d) => fs.renameSync(`${d}/f`, `${d}/g`),
  'rename-over from another directory': (d) => fs.renameSync(`${d}/sub/in`, `${d}/f`),
  'rename-over of a directory': (d) => fs.renameSync(`${d}/sub`, `${d}/empty`),
  exchange: (d) => renameWithFlags(d, 'f', 'sub', RENAME.EXCHANGE),
  link: (d) => fs.linkSync(`${d}/f`, `${d}/new`),
  'link in another directory': (d) => fs.linkSync(`${d}/f`, `${d}/sub/new`),
  'O_TMPFILE and link': (d) => {
    const fd = libc.openat(-100, bytes(d), O.TMPFILE | O.RDWR, 0o640);
    try {
      fs.writeSync(fd, 'from nowhere');
      withFd(d, O.RDONLY, (directory) => libc.linkDescriptor(fd, directory, bytes('new')));
    } finally {
      fs.closeSync(fd);
    }
  },
  'create and remove': (d) => {
    fs.writeFileSync(`${d}/new`, '');
    fs.unlinkSync(`${d}/new`);
  },
  'rename there and back': (d) => {
    fs.renameSync(`${d}/f`, `${d}/new`);
    fs.renameSync(`${d}/new`, `${d}/f`);
  },
  'replace as an editor does': (d) => {
    fs.writeFileSync(`${d}/new2`, 'the new text');
    fs.renameSync(`${d}/new2`, `${d}/f`);
  },
};

/** What only a local program can do differently, or what is seen in another way then. */
const localChanges: Changes = {
  ...changes,
  'link in an unwatched directory': (d) => fs.linkSync(`${d}/f`, `${local}/unwatched-${d.split('/').at(-1)}`),
  'link in an unwatched directory, write there': (d) => {
    const other = `${local}/unwatched-${d.split('/').at(-1)}`;
    fs.linkSync(`${d}/f`, other);
    const start = Date.now();
    while (Date.now() - start < 5);
    fs.appendFileSync(other, 'by the other name');
  },
};

function setUp(d: string): void {
  fs.mkdirSync(`${d}/sub`, { recursive: true });
  fs.mkdirSync(`${d}/empty`);
  for (const name of ['f', 'g', 'sub/in']) fs.writeFileSync(`${d}/${name}`, `old ${name}`);
  fs.linkSync(`${d}/g`, `${d}/h`);
  fs.symlinkSync('f', `${d}/s`);
}

function remove(d: string): void {
  fs.rmSync(d, { recursive: true, force: true });
}

// --- what is run

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

/** So that leases on everything are held; sometimes again, under the leases of the first time. */
function lookAtAll(looks: readonly Look[], round: number): void {
  for (const root of round % 4 === 0 ? [...mounts, ...mounts] : mounts) for (const look of looks) look.at(root);
}

/** How many different looks a round takes, before and after the change. */
const LOOKS_A_ROUND = 6;

function staleRound(kind: string, round: number, report: Report): void {
  const directory = `stale-${process.pid}-${round}`;
  const [changer = '', ...others] = shuffled(mounts);
  // By a mount: a local program's events would take the leases away again.
  setUp(`${changer}/${directory}`);
  const allLooks = looksAt(directory);
  const looks = shuffled(allLooks).slice(0, LOOKS_A_ROUND);
  const held = kind === 'write without close' ? fs.openSync(`${changer}/${directory}/f`, 'r+') : -1;
  lookAtAll(looks, round);
  const before = allLooks.map((look) => look.at(local)).join();
  if (held >= 0) fs.writeSync(held, `not closed ${round}`);
  else changes[kind]?.(`${changer}/${directory}`, round);
  for (const root of [...shuffled(others), changer]) {
    for (const look of shuffled(looks)) {
      const seen = look.at(root);
      report.looks++;
      const is = look.at(local);
      if (seen !== is) note(report, `${kind} round ${round}, ${look.of} at ${root}: ${seen}, is ${is}`);
    }
  }
  if (before === allLooks.map((look) => look.at(local)).join()) note(report, `${kind}: changed nothing`);
  if (held >= 0) fs.closeSync(held);
  remove(`${local}/${directory}`);
}

function stale(kind: string): Report {
  const report = newReport();
  for (; report.rounds < count; report.rounds++) staleRound(kind, report.rounds, report);
  return report;
}

const SEEN_WITHIN_MS = 1000;
/** Longer than the first one of inode-leases.ts. */
const BACKOFF_MS = 150;

/** A local program changes; each mount is looked at until it shows what is. */
function localRound(kind: string, round: number, report: Report): void {
  const directory = `local-${process.pid}-${round}`;
  const d = `${local}/${directory}`;
  setUp(d);
  const looks = shuffled(looksAt(directory)).slice(0, 2);
  const held = kind === 'write without close' ? fs.openSync(`${d}/f`, 'r+') : -1;
  lookAtAll(looks, round);
  // The events of what was set up take the first leases away, and new ones are granted only after the back-off.
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, BACKOFF_MS);
  lookAtAll(looks, round);
  if (held >= 0) fs.writeSync(held, `not closed ${round}`);
  else localChanges[kind]?.(d, round);
  const changedMs = performance.now();
  const unseen = shuffled(mounts).flatMap((root) => shuffled(looks).map((look) => ({ root, look, wasOld: false })));
  for (let tookMs = 0; unseen.length > 0 && tookMs < SEEN_WITHIN_MS; tookMs = performance.now() - changedMs) {
    for (const one of unseen.splice(0)) {
      report.looks++;
      const askedMs = performance.now() - changedMs;
      if (one.look.at(one.root) !== one.look.at(local)) unseen.push({ ...one, wasOld: true });
      else if (one.wasOld) report.maxMs = Math.max(report.maxMs, askedMs);
    }
  }
  for (const { root, look } of unseen) {
    note(report, `${kind} round ${round}, ${look.of} at ${root}: ${look.at(root)}, is ${look.at(local)}`);
  }
  if (held >= 0) fs.closeSync(held);
  remove(d);
  remove(`${local}/unwatched-${directory}`);
}

function localKind(kind: string): Report {
  const report = newReport();
  for (; report.rounds < count && report.stale < 40; report.rounds++) localRound(kind, report.rounds, report);
  return report;
}

const RACE_DIRECTORIES = 4;
const RACE_NAMES = 6;
const raceDirectory = (index: number) => `race/${index}`;
const random = (below: number) => Math.floor(Math.random() * below);

/** Names change on one mount, and every other shows it at once, while other processes look at them all the time. */
function race(): Report {
  const report = newReport();
  const [changer = '', ...others] = mounts;
  const started = performance.now();
  const name = () => `${raceDirectory(random(RACE_DIRECTORIES))}/${random(RACE_NAMES)}`;
  for (let index = 0; index < RACE_DIRECTORIES; index++) {
    fs.mkdirSync(`${local}/${raceDirectory(index)}`, { recursive: true });
  }
  for (; report.rounds < count; report.rounds++) {
    const [from, to] = [name(), name()];
    for (const root of others) if (random(2)) factsOf(`${root}/${from}`);
    try {
      const kind = random(6);
      if (kind < 2) fs.writeFileSync(`${changer}/${from}`, 'x');
      else if (kind === 2) fs.unlinkSync(`${changer}/${from}`);
      else if (kind === 3) fs.linkSync(`${changer}/${from}`, `${changer}/${to}`);
      else fs.renameSync(`${changer}/${from}`, `${changer}/${to}`);
    } catch {
      // ENOENT, EEXIST: an ordinary answer
    }
    for (const root of shuffled(mounts)) {
      for (const path of random(2) ? [from, to] : [to, from]) {
        const seen = factsOf(`${root}/${path}`);
        const is = factsOf(`${local}/${path}`);
        report.looks++;
        if (seen !== is) note(report, `round ${report.rounds}, ${path} at ${root}: ${seen}, is ${is}`);
      }
    }
  }
  report.maxMs = performance.now() - started;
  return report;
}

/** Asks for leases all the time: stat, absent names, open, listings. */
function look(): Report {
  const report = newReport();
  const end = Date.now() + count;
  while (Date.now() < end) {
    const root = `${mounts[random(mounts.length)]}/${raceDirectory(random(RACE_DIRECTORIES))}`;
    for (let index = 0; index < 20; index++) {
      const path = `${root}/${random(RACE_NAMES)}`;
      const kind = random(12);
      if (kind === 0) contentOf(path);
      else if (kind === 1) listingOf(root);
      else if (kind === 2) factsOf(root);
      else factsOf(path);
      report.looks++;
    }
  }
  return report;
}

/** Random operations in a few directories; errors are ordinary answers. */
interface Doings extends Report {
  readonly done: Record<string, number>;
  readonly failed: Record<string, number>;
}

/** Some of them, one after the other; others do the same meanwhile, so each may fail. */
function doings(operations: Readonly<Record<string, () => void>>): Doings {
  const report = newReport();
  const done: Record<string, number> = {};
  const failed: Record<string, number> = {};
  const names = Object.keys(operations);
  for (; report.rounds < count; report.rounds++) {
    const kind = names[random(names.length)] as string;
    try {
      operations[kind]?.();
      done[kind] = (done[kind] ?? 0) + 1;
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code ?? String(error);
      failed[code] = (failed[code] ?? 0) + 1;
    }
  }
  return { ...report, done, failed };
}

function chaos(): Doings {
  for (let index = 0; index < 3; index++) fs.mkdirSync(`${mounts[0]}/chaos/${index}`, { recursive: true });
  const path = () => `${mounts[random(mounts.length)]}/chaos/${random(3)}/${random(12)}`;
  return doings({
    create: () => fs.writeFileSync(path(), 'x'.repeat(random(100)), { flag: random(2) ? 'w' : 'wx' }),
    unlink: () => fs.unlinkSync(path()),
    rename: () => fs.renameSync(path(), path()),
    exchange: () => {
      const root = `${mounts[random(mounts.length)]}/chaos`;
      renameWithFlags(root, `${random(3)}/${random(12)}`, `${random(3)}/${random(12)}`, RENAME.EXCHANGE);
    },
    link: () => fs.linkSync(path(), path()),
    symlink: () => fs.symlinkSync('target', path()),
    mkdir: () => fs.mkdirSync(path()),
    rmdir: () => fs.rmdirSync(path()),
    stat: () => void fs.lstatSync(path()),
    statAgain: () => void fs.lstatSync(path()),
    readdir: () => void fs.readdirSync(`${mounts[random(mounts.length)]}/chaos/${random(3)}`),
    chmod: () => fs.chmodSync(path(), 0o600 + random(64)),
    truncate: () => fs.truncateSync(path(), random(10_000)),
    append: () => fs.appendFileSync(path(), 'appended'),
    read: () => void fs.readFileSync(path()),
    utimes: () => fs.utimesSync(path(), random(1e9), random(1e9)),
  });
}

function trees(): Doings {
  fs.mkdirSync(`${mounts[0]}/trees`, { recursive: true });
  const tree = () => `${mounts[random(mounts.length)]}/trees/${random(3)}`;
  const branch = () => `${tree()}/${random(6)}/${random(4)}`;
  const walk = (directory: string) => {
    for (const entry of fs.readdirSync(directory, { withFileTypes: true })) {
      const path = `${directory}/${entry.name}`;
      fs.lstatSync(path);
      if (entry.isDirectory()) walk(path);
      else fs.readFileSync(path);
    }
  };
  const make = () => {
    for (let index = 0; index < 8; index++) {
      const directory = branch();
      fs.mkdirSync(directory, { recursive: true });
      for (let file = random(4); file > 0; file--) fs.writeFileSync(`${directory}/f${file}`, 'x'.repeat(random(100)));
    }
  };
  return doings({
    make,
    makeMore: make,
    walk: () => walk(tree()),
    walkAgain: () => walk(tree()),
    remove: () => fs.rmSync(tree(), { recursive: true }),
    removeBranch: () => fs.rmSync(branch(), { recursive: true }),
    rename: () => fs.renameSync(branch(), branch()),
    create: () => fs.writeFileSync(`${branch()}/f${random(4)}`, 'y'.repeat(random(100))),
  });
}

/** One mount appends, in pieces that travel on either connection, while each mount is asked in turn. */
async function monotonic(): Promise<Report> {
  const report = newReport();
  const [writer = ''] = mounts;
  const path = `monotonic-${process.pid}`;
  fs.writeFileSync(`${writer}/${path}`, '');
  const file = await fs.promises.open(`${writer}/${path}`, 'a');
  const piece = Buffer.alloc(512 * 1024);
  for (; report.rounds < count; report.rounds++) {
    if (report.rounds % 50 === 0) await file.truncate(0);
    let isDone = false;
    const written = file.write(piece, 0, report.rounds % 2 ? piece.length : 1000).finally(() => {
      isDone = true;
    });
    let most = 0;
    while (!isDone) {
      for (const root of shuffled(mounts)) {
        const { size } = fs.statSync(`${root}/${path}`);
        report.looks++;
        if (size < most) note(report, `round ${report.rounds}: ${size} at ${root}, ${most} was shown before`);
        most = Math.max(most, size);
      }
      await new Promise((next) => setImmediate(next));
    }
    await written;
  }
  await file.close();
  fs.unlinkSync(`${local}/${path}`);
  return report;
}

function kindsOf(): string[] {
  return ['write without close', ...Object.keys(changes)];
}

switch (what) {
  case 'kinds':
    console.log(JSON.stringify({ stale: kindsOf(), local: ['write without close', ...Object.keys(localChanges)] }));
    break;
  case 'stale':
  case 'local': {
    const run = what === 'stale' ? stale : localKind;
    const all = JSON.parse(argument ?? '[]') as string[];
    console.log(JSON.stringify(Object.fromEntries(all.map((kind) => [kind, run(kind)]))));
    break;
  }
  case 'race':
    console.log(JSON.stringify(race()));
    break;
  case 'look':
    console.log(JSON.stringify(look()));
    break;
  case 'chaos':
    console.log(JSON.stringify(chaos()));
    break;
  case 'trees':
    console.log(JSON.stringify(trees()));
    break;
  case 'monotonic':
    console.log(JSON.stringify(await monotonic()));
    break;
  default:
    throw new Error(`lease-rounds does not know ${what}`);
}
