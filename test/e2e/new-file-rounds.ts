/**
 * New files in directories that only one mount knows of, and what the other one's very next look shows, in a process of its own as
 * lease-rounds.ts: `new-file-rounds COUNT EXPORT,MOUNT,MOUNT` prints one line of JSON. Each round makes a directory and some files in it,
 * of which some are still being written.
 */
import * as fs from 'node:fs';

const [, , countText, rootsText] = process.argv as string[];
const [local = '', ...mounts] = (rootsText ?? '').split(',');
const MOST_FILES = 4;

interface NewFile {
  readonly name: string;
  readonly text: string;
  /** Of one that is not closed yet. */
  readonly fd: number | undefined;
}

const random = (below: number) => Math.floor(Math.random() * below);
const report = { rounds: 0, looks: 0, wrong: 0, examples: [] as string[] };

function expectSame(what: string, seen: unknown, is: unknown): void {
  report.looks++;
  if (seen === is) return;
  report.wrong++;
  if (report.examples.length < 8) report.examples.push(`round ${report.rounds}, ${what}: ${seen}, is ${is}`);
}

function make(directory: string, index: number): NewFile {
  const name = `f${index}`;
  const text = 'x'.repeat(random(3) === 0 ? 70_000 : random(5_000));
  const fd = fs.openSync(`${directory}/${name}`, random(2) ? 'wx' : 'w', random(2) ? 0o644 : 0o444);
  if (random(4) === 0) expectSame('the number', fs.fstatSync(fd).ino, fs.statSync(`${directory}/${name}`).ino);
  for (let at = 0; at < text.length; at += 4096) fs.writeSync(fd, text.slice(at, at + 4096), at);
  if (random(4) === 0) fs.fchmodSync(fd, 0o666);
  if (random(3) === 0) return { name, text, fd };
  fs.closeSync(fd);
  return { name, text, fd: undefined };
}

function errorOf(work: () => unknown): string {
  try {
    work();
    return 'none';
  } catch (error) {
    return (error as NodeJS.ErrnoException).code ?? 'error';
  }
}

/** One look or change on the other mount, or on the one that made them. */
const looks: ((directory: string, files: readonly NewFile[]) => void)[] = [
  (d, files) => {
    const names = files.map(({ name }) => name).join();
    expectSame('what is listed', fs.readdirSync(d).sort().join(), names);
  },
  (d, files) => {
    for (const { name, text } of files)
      expectSame(`the size of ${name}`, fs.statSync(`${d}/${name}`).size, text.length);
  },
  (d, files) => {
    for (const { name, text } of files)
      expectSame(`what is in ${name}`, fs.readFileSync(`${d}/${name}`, 'latin1') === text, true);
  },
  (d, files) => {
    for (const { name } of files)
      expectSame(
        `one more ${name}`,
        errorOf(() => fs.openSync(`${d}/${name}`, 'wx')),
        'EEXIST',
      );
  },
  (d, [file]) =>
    expectSame(
      'a directory in its place',
      errorOf(() => fs.mkdirSync(`${d}/${file?.name}`)),
      'EEXIST',
    ),
  (d) =>
    expectSame(
      'its removal',
      errorOf(() => fs.rmdirSync(d)),
      'ENOTEMPTY',
    ),
  (d) => {
    const seen = fs.statSync(d, { bigint: true });
    const is = fs.statSync(d.replace(/^.*\//, `${local}/`), { bigint: true });
    expectSame('the times of its directory', `${seen.mtimeNs} ${seen.ctimeNs}`, `${is.mtimeNs} ${is.ctimeNs}`);
  },
  (d, [file]) => {
    fs.renameSync(`${d}/${file?.name}`, `${d}/renamed`);
    expectSame('what was renamed', fs.statSync(`${d}/renamed`).size, file?.text.length);
    fs.renameSync(`${d}/renamed`, `${d}/${file?.name}`);
  },
  (d, [file]) => {
    fs.linkSync(`${d}/${file?.name}`, `${d}/link`);
    expectSame('what was linked', fs.statSync(`${d}/link`).nlink, 2);
    fs.unlinkSync(`${d}/link`);
  },
];

for (const count = Number(countText); report.rounds < count; report.rounds++) {
  const [maker = '', other = ''] = random(2) ? mounts : [...mounts].reverse();
  const name = `new-${process.pid}-${report.rounds}`;
  fs.mkdirSync(`${maker}/${name}`);
  const files = Array.from({ length: 1 + random(MOST_FILES) }, (_, index) => make(`${maker}/${name}`, index));
  for (let look = random(3); look >= 0; look--) {
    looks[random(looks.length)]?.(`${random(3) ? other : maker}/${name}`, files);
  }
  for (const { fd } of files) if (fd !== undefined) fs.closeSync(fd);
  for (const root of [other, maker, local]) {
    for (const file of files) {
      const data = fs.readFileSync(`${root}/${name}/${file.name}`, 'latin1');
      expectSame(`${file.name} at ${root}`, data === file.text, true);
    }
  }
  fs.rmSync(`${random(2) ? other : maker}/${name}`, { recursive: true });
}
console.log(JSON.stringify(report));
