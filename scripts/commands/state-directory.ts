/** Making the state directory of a server, for the verbs that write there. */
import { existsSync, mkdirSync } from 'node:fs';
import { dirname, resolve } from 'node:path';

/**
 * One directory at a time: in /proc, where mkdir(2) says ENOENT of a directory that could be made by nobody, Node's
 * recursive mkdir tries for ever. Throws an Error of one line.
 */
export function makeStateDirectory(directory: string): void {
  const missing: string[] = [];
  for (let at = resolve(directory); !existsSync(at); at = dirname(at)) missing.unshift(at);
  try {
    for (const one of missing) mkdirOnce(one);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    throw new Error(`cannot make the state directory ${directory} (${code}); name another place with --state DIR`);
  }
}

function mkdirOnce(directory: string): void {
  try {
    mkdirSync(directory, { mode: 0o700 });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
  }
}
