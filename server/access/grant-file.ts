/**
 * The grants of a server: tokens and certificates' names, with what each allows. Kept in the state directory, mode 0600,
 * replaced atomically. Of a token only the SHA-256 is kept: it is 256 random bits, so there is nothing to guess that a
 * slow hash would make dearer, and each connection pays for it.
 */
import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import {
  closeSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  statSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import type { Credential } from './credential.ts';

export interface Grant extends Credential {
  /** Hexadecimal SHA-256 of the token; absent for a certificate. */
  readonly hash?: string;
  /** Common name of the certificate's subject. */
  readonly certificate?: string;
  readonly createdMs: number;
  readonly expiresMs?: number;
}

const VERSION = 1;

export const grantFile = (stateDirectory: string): string => join(stateDirectory, 'grants.json');

const hashOf = (token: string) => createHash('sha256').update(token).digest();

export function newToken(): { token: string; hash: string } {
  const token = `weft_${randomBytes(32).toString('base64url')}`;
  return { token, hash: hashOf(token).toString('hex') };
}

/** Undefined when there is no file. Throws an Error that names the file when it is not what was written. */
export function readGrants(path: string): Grant[] | undefined {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT') return undefined;
    throw Object.assign(new Error(`${path} cannot be read: ${message}`), { code });
  }
  let content: { version?: unknown; grants?: unknown };
  try {
    content = JSON.parse(text) as typeof content;
  } catch {
    content = {};
  }
  if (content?.version !== VERSION || !Array.isArray(content.grants)) {
    throw new Error(`${path} is damaged: restore it, or delete it and create the tokens again`);
  }
  return content.grants as Grant[];
}

/**
 * Durable when it returns; a reader sees the old file or the new one. `change` gets undefined when there is no file. The
 * new file is the lock: of two changes at once one throws, so that none is lost.
 */
export function changeGrants(path: string, change: (grants: Grant[] | undefined) => readonly Grant[]): void {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  const changed = `${path}.new`;
  let fd: number;
  try {
    fd = openSync(changed, 'wx', 0o600);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    throw new Error(`${changed} is there: another \`weft token\` is at work; if there is none, remove that file`);
  }
  try {
    const grants = change(readGrants(path));
    writeFileSync(fd, `${JSON.stringify({ version: VERSION, grants }, null, 2)}\n`);
    fsyncSync(fd);
    renameSync(changed, path);
  } catch (error) {
    unlinkSync(changed);
    throw error;
  } finally {
    closeSync(fd);
  }
  const directory = openSync(dirname(path), 'r');
  fsyncSync(directory);
  closeSync(directory);
}

/** Changes whenever the file is replaced. */
export function grantFileStamp(path: string): string {
  const stat = statSync(path, { bigint: true, throwIfNoEntry: false });
  return stat === undefined ? '' : `${stat.ino} ${stat.mtimeNs} ${stat.size}`;
}

/** Compares with every grant, in constant time: how long it takes says nothing about how much was right. */
export function grantOfToken(grants: readonly Grant[], token: string): Grant | undefined {
  const hash = hashOf(token);
  let found: Grant | undefined;
  for (const grant of grants) {
    const known = Buffer.from(grant.hash ?? '', 'hex');
    if (known.length === hash.length && timingSafeEqual(known, hash)) found = grant;
  }
  return found;
}
