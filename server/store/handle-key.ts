/**
 * The secret under which the server signs inode handles. Kept in a file, so that handles survive a restart: made at the
 * first start, readable by its owner only.
 */
import { randomBytes } from 'node:crypto';
import { chmodSync, linkSync, mkdirSync, readFileSync, unlinkSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';

const KEY_BYTES = 32;
const KEY_FILE = 'handle.key';

/** Where a server keeps what must survive it. */
export function defaultStateDirectory(): string {
  if (process.env.STATE_DIRECTORY) return process.env.STATE_DIRECTORY; // set by systemd
  if (process.getuid?.() === 0) return '/var/lib/weft';
  return join(process.env.XDG_STATE_HOME ?? join(homedir(), '.local', 'state'), 'weft');
}

/** Throws an Error that names the file when it cannot be read or made. */
export function loadHandleKey(stateDirectory: string): Buffer {
  const file = join(stateDirectory, KEY_FILE);
  const existing = readKey(file);
  if (existing) return existing;
  try {
    mkdirSync(stateDirectory, { recursive: true, mode: 0o700 });
    const temporary = `${file}.${process.pid}`;
    writeFileSync(temporary, randomBytes(KEY_BYTES), { mode: 0o600 });
    chmodSync(temporary, 0o600);
    try {
      linkSync(temporary, file); // fails if another server was faster: then its key counts
    } catch {
      // read below
    }
    unlinkSync(temporary);
  } catch (error) {
    throw new Error(`cannot write ${file} (${(error as Error).message}); name another place with --state DIR`, {
      cause: error,
    });
  }
  const key = readKey(file);
  if (!key) throw new Error(`${file} cannot be read; remove it, or name another place with --state DIR`);
  return key;
}

function readKey(file: string): Buffer | undefined {
  let key: Buffer;
  try {
    key = readFileSync(file);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw new Error(`cannot read ${file} (${(error as Error).message}); name another place with --state DIR`, {
      cause: error,
    });
  }
  if (key.length !== KEY_BYTES)
    throw new Error(
      `${file} is damaged (${key.length} bytes instead of ${KEY_BYTES}); remove it, clients then mount anew`,
    );
  return key;
}
