/**
 * Unmounting: politely, lazily, or by force when the client is gone. As root by umount2(2) on a thread of its own, as a user by
 * fusermount3. None of it looks into the mount.
 */
import { closeSync, constants, existsSync, openSync, writeSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { errno, FsError } from '../../shared/errno.ts';
import { MNT } from '../../shared/linux/constants.ts';
import { umount2Async } from '../../shared/linux/libc.ts';
import { clientEnds, clientOf } from './client-end.ts';
import { type CommandResult, runCommand } from './command.ts';
import { MountError } from './mount-error.ts';
import { isMounted, isWeftMount, MOUNT_TYPE, type Mount, mountAt } from './mount-table.ts';

const UNMOUNT_TIMEOUT_MS = 10_000;

/** What came of an attempt. `stuck`: the kernel waits for the client, which does not answer. */
export type UnmountOutcome = 'unmounted' | 'busy' | 'not mounted' | 'stuck' | { readonly failed: string };

export function isRoot(): boolean {
  return process.geteuid?.() === 0;
}

/** One attempt at a resolved path. */
export async function tryUnmount(mountpoint: string, options: { lazy: boolean }): Promise<UnmountOutcome> {
  return isRoot() ? unmountAsRoot(mountpoint, options.lazy ? MNT.DETACH : 0) : unmountAsUser(mountpoint, options.lazy);
}

async function unmountAsRoot(mountpoint: string, flags: number): Promise<UnmountOutcome> {
  let timer: NodeJS.Timeout | undefined;
  const deadline = new Promise<'stuck'>((done) => {
    timer = setTimeout(() => done('stuck'), UNMOUNT_TIMEOUT_MS);
  });
  try {
    const unmounted = umount2Async(Buffer.from(mountpoint), flags).then((): UnmountOutcome => 'unmounted');
    return await Promise.race([unmounted, deadline]);
  } catch (error) {
    if (!(error instanceof FsError)) throw error;
    if (error.code === errno.EBUSY) return 'busy';
    if (error.code === errno.EINVAL || error.code === errno.ENOENT) return 'not mounted';
    return { failed: error.message };
  } finally {
    clearTimeout(timer);
  }
}

async function unmountAsUser(mountpoint: string, lazy: boolean): Promise<UnmountOutcome> {
  const args = ['-u', ...(lazy ? ['-z'] : []), '--', mountpoint];
  const result = await runCommand('fusermount3', args, { timeoutMs: UNMOUNT_TIMEOUT_MS });
  if (result.status === 0) return 'unmounted';
  if (result.timedOut) return 'stuck';
  if (result.stderr.includes('busy')) return 'busy';
  if (result.stderr.includes('not found in') || result.stderr.includes('not mounted')) return 'not mounted';
  return { failed: result.missing ? 'fusermount3 is not installed: `apt install fuse3`' : result.stderr };
}

/** Takes a mount away whose client is gone: ends its connection, so that nobody waits for it, and detaches it. */
export async function detach(mountpoint: string): Promise<void> {
  const mount = await mountAt(mountpoint);
  if (mount) await abortConnection(mount);
  const outcome = isRoot()
    ? await unmountAsRoot(mountpoint, MNT.DETACH | MNT.FORCE)
    : await unmountAsUser(mountpoint, true);
  if (typeof outcome === 'object') throw new MountError(`cannot unmount ${mountpoint}: ${outcome.failed}`);
}

const FUSECTL = '/sys/fs/fuse/connections';

/** Ends a FUSE connection by fusectl: all waiting callers get ECONNABORTED, D state included. False: not permitted here. */
export async function abortConnection(mount: Mount): Promise<boolean> {
  const minor = mount.device.split(':')[1] ?? '';
  const abort = join(FUSECTL, minor, 'abort');
  if (!existsSync(abort) && isRoot()) {
    await runCommand('mount', ['-t', 'fusectl', 'none', FUSECTL], { timeoutMs: UNMOUNT_TIMEOUT_MS });
  }
  try {
    const fd = openSync(abort, constants.O_WRONLY);
    try {
      writeSync(fd, '1');
    } finally {
      closeSync(fd);
    }
    return true;
  } catch {
    // Not there or not ours: MNT_FORCE, or the end of the client itself, does the same.
    return false;
  }
}

export interface UnmountOptions {
  /** Out of the tree at once; nothing is waited for. */
  readonly lazy?: boolean;
  /** It is unmounted, and its client, this process, stays until the server has what was written. */
  readonly onWait?: (client: number) => void;
}

/**
 * `weft umount`: unmounts the mount of weft's at `path`, and waits until its client has ended. Throws a MountError when there
 * is none, when it is something else's, and when it is in use.
 */
export async function unmount(path: string, { lazy = false, onWait }: UnmountOptions = {}): Promise<void> {
  const mount = await findMount(path);
  if (mount === undefined) throw notMounted(path);
  if (!isWeftMount(mount))
    throw new MountError(`${path} is not a weft mount (${mount.type}): \`umount\` is for others`);
  const client = lazy ? undefined : await clientOf(mount);
  const outcome = await tryUnmount(mount.mountpoint, { lazy });
  const lazily = `\`weft umount --lazy ${path}\``;
  switch (outcome) {
    case 'unmounted':
      if (client !== undefined) await clientEnds(client, () => onWait?.(client));
      return;
    case 'busy':
      throw new MountError(`mount point busy: close what \`lsof ${path}\` shows, or ${lazily}`);
    case 'stuck':
      throw new MountError(`unmounting ${path} waits for the server: try again when it is back, or ${lazily}`);
    case 'not mounted':
      // fusermount3 says so of what is not this user's.
      if (!(await isMounted(mount))) throw notMounted(path);
      throw new MountError(`${path} was mounted by somebody else: unmount it as that user, or as root`);
    default:
      throw new MountError(`cannot unmount ${path}: ${outcome.failed}`);
  }
}

function notMounted(path: string): MountError {
  return new MountError(`${path} is not mounted: \`mount -t ${MOUNT_TYPE}\` lists the mounts`);
}

const MAX_LINKS = 40;

/**
 * What is mounted at a path, or where symbolic links lead from there. Only directories above it are looked into: the mount
 * itself may not answer.
 */
async function findMount(path: string): Promise<Mount | undefined> {
  let absolute = resolve(path);
  for (let links = 0; links <= MAX_LINKS; links++) {
    const literal = await mountAt(absolute);
    if (literal) return literal;
    const parent = await runCommand('realpath', ['--', dirname(absolute)], { timeoutMs: UNMOUNT_TIMEOUT_MS });
    if (parent.status !== 0) return undefined;
    const resolved = join(lineOf(parent), basename(absolute));
    const mount = await mountAt(resolved);
    if (mount) return mount;
    const link = await runCommand('readlink', ['--', resolved], { timeoutMs: UNMOUNT_TIMEOUT_MS });
    if (link.status !== 0) return undefined;
    absolute = resolve(dirname(resolved), lineOf(link));
  }
  return undefined;
}

function lineOf({ stdout }: CommandResult): string {
  return stdout.replace(/\n$/, '');
}
