/**
 * `bench meta`: what programs do with many small files, one call after the other. With a second directory the questions
 * are asked there, and the first stat of each name finds its caches empty.
 */
import fs from 'node:fs';
import path from 'node:path';
import type { Measurement, Meter } from './measurement.ts';

const CONTENT = Buffer.alloc(1024, 'weft');

/** `made` and `seen` are the same scratch directory, seen through one or two mounts. */
export async function* measureMeta(
  meter: Meter,
  made: string,
  seen: string,
  files: number,
): AsyncGenerator<Measurement> {
  const [from, to] = ['names', 'renamed'];
  for (const directory of [from, to]) fs.mkdirSync(path.join(made, directory));
  const name = (index: number) => `file-${index}.txt`;
  /** What a call returns, if a number, is the bytes that it moved. */
  const step = (title: string, call: (index: number) => unknown) => {
    const bytesOf = (moved: unknown) => (typeof moved === 'number' ? moved : 0);
    return meter.measure({ name: title, calls: files, call: (index) => bytesOf(call(index)) });
  };
  const stat = (index: number) => fs.lstatSync(path.join(seen, from, name(index)));

  yield await step('create, write 1 KiB, close', (index) => {
    const fd = fs.openSync(path.join(made, from, name(index)), 'wx');
    const written = fs.writeSync(fd, CONTENT);
    fs.closeSync(fd);
    return written;
  });
  await appearance(path.join(seen, from, name(files - 1)));
  yield await step('stat, first', stat);
  yield await step('stat, again', stat);
  yield await step('stat, absent name', (index) => {
    const found = fs.lstatSync(path.join(seen, from, `absent-${index}`), { throwIfNoEntry: false });
    if (found) throw new Error('an absent name was found');
  });
  yield await step('open, read, close', (index) => {
    const content = fs.readFileSync(path.join(seen, from, name(index)));
    if (!content.equals(CONTENT)) throw new Error(`${name(index)} does not hold what was written`);
    return content.length;
  });
  let listed: string[] = [];
  yield await step('readdir and stat, per entry', (index) => {
    if (index === 0) listed = fs.readdirSync(path.join(seen, from));
    if (index === 0 && listed.length !== files)
      throw new Error(`${files} files were made, ${listed.length} are listed`);
    fs.lstatSync(path.join(seen, from, listed[index] ?? name(index)));
  });
  yield await step('rename', (index) =>
    fs.renameSync(path.join(made, from, name(index)), path.join(made, to, name(index))),
  );
  yield await step('unlink', (index) => fs.unlinkSync(path.join(made, to, name(index))));
  yield await step('mkdir', (index) => fs.mkdirSync(path.join(made, `directory-${index}`)));
  yield await step('rmdir', (index) => fs.rmdirSync(path.join(made, `directory-${index}`)));
}

const APPEAR_MS = 10_000;

/** What was made through one mount may take a moment to appear on another (NFS, sshfs). */
export async function appearance(file: string): Promise<void> {
  const untilMs = Date.now() + APPEAR_MS;
  while (!fs.lstatSync(file, { throwIfNoEntry: false })) {
    if (Date.now() > untilMs)
      throw new Error(`${file} did not appear within ${APPEAR_MS / 1000} s: not the same files`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
