/**
 * Mounting itself: from a free mount point to a /dev/fuse descriptor that is mounted there. As root by mount(8), which gets the
 * open device as its descriptor 3; as a user by fusermount3, which opens the device and sends it back (SCM_RIGHTS over
 * _FUSE_COMMFD). Whoever calls owns the descriptor. Sources: mount(8), fusermount3(1), lib/mount.c of libfuse.
 */
import { closeSync, existsSync, openSync } from 'node:fs';
import { close, receiveDescriptor, socketpair } from '../../shared/linux/libc.ts';
import { runCommand } from './command.ts';
import { MountError } from './mount-error.ts';
import type { MountOptions } from './mount-options.ts';
import { MOUNT_TYPE, type Mount, mountAt } from './mount-table.ts';
import { isRoot } from './unmount.ts';

const MOUNT_TIMEOUT_MS = 20_000;

export interface MountRequest {
  readonly source: string;
  /** As prepareMountPoint gave it. */
  readonly mountpoint: string;
  readonly options: MountOptions;
  /** Reads come in pieces of at most this much, as writes do. */
  readonly maxReadBytes: number;
}

export interface Mounted {
  readonly fuseFd: number;
  readonly mount: Mount;
}

/** What can be known before the server is asked: throws a MountError when this machine or user cannot mount. */
export function checkDevice(): void {
  if (!existsSync('/dev/fuse')) {
    throw new MountError(
      'there is no /dev/fuse: load the module with `modprobe fuse` (in a container: `--device /dev/fuse`)',
    );
  }
  try {
    closeSync(openSync('/dev/fuse', 'r+'));
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === 'ENODEV' || code === 'ENXIO') {
      throw new MountError('/dev/fuse has no driver: load the module with `modprobe fuse`');
    }
    const next = isRoot()
      ? 'in a container, give it `--device /dev/fuse`'
      : '`chmod 666 /dev/fuse` as root, or mount as root';
    throw new MountError(`/dev/fuse cannot be opened (${code}): ${next}`);
  }
}

export async function mountFuse(request: MountRequest): Promise<Mounted> {
  const fuseFd = isRoot() ? await mountAsRoot(request) : await mountAsUser(request);
  const mount = await mountAt(request.mountpoint);
  if (mount === undefined) {
    closeSync(fuseFd);
    throw new MountError(`${request.mountpoint} was unmounted at once by someone else`);
  }
  return { fuseFd, mount };
}

function fuseOptions({ options, maxReadBytes }: MountRequest): string[] {
  return [
    ...(options.allowOther ? ['allow_other'] : []),
    ...(options.defaultPermissions ? ['default_permissions'] : []),
    `max_read=${options.maxReadBytes ?? maxReadBytes}`,
    ...options.generic,
  ];
}

async function mountAsRoot(request: MountRequest): Promise<number> {
  const { mountpoint } = request;
  const fuseFd = openSync('/dev/fuse', 'r+');
  const list = ['fd=3', 'rootmode=40000', 'user_id=0', 'group_id=0', ...fuseOptions(request)].join(',');
  const args = ['-i', '-t', MOUNT_TYPE, '-o', list, '--', request.source, mountpoint];
  const result = await runCommand('mount', args, { timeoutMs: MOUNT_TIMEOUT_MS, fd: fuseFd });
  if (result.status === 0) return fuseFd;
  closeSync(fuseFd);
  const why = result.missing ? 'mount(8) is not installed: `apt install mount`' : result.stderr.split('\n')[0];
  const hint = result.stderr.includes('permission denied') ? ' (in a container: it needs CAP_SYS_ADMIN)' : '';
  throw new MountError(`cannot mount on ${mountpoint}: ${why ?? 'mount(8) gave no reason'}${hint}`);
}

async function mountAsUser(request: MountRequest): Promise<number> {
  const { mountpoint } = request;
  const [ours, theirs] = socketpair();
  try {
    const source = request.source.replace(/[\\,]/g, '\\$&');
    const list = [`fsname=${source}`, `subtype=${MOUNT_TYPE.replace('fuse.', '')}`, ...fuseOptions(request)].join(',');
    const result = await runCommand('fusermount3', ['-o', list, '--', mountpoint], {
      timeoutMs: MOUNT_TIMEOUT_MS,
      fd: theirs,
      environment: { _FUSE_COMMFD: '3' },
    });
    if (result.status !== 0) throw explainUserMount(mountpoint, result.missing, result.stderr);
    // It has ended, so the message waits in the socket: this does not block.
    return receiveDescriptor(ours);
  } finally {
    close(ours);
    close(theirs);
  }
}

/** What fusermount3 said, as one line with the next step. */
export function explainUserMount(mountpoint: string, missing: boolean, stderr: string): MountError {
  if (missing) return new MountError('fusermount3 is not installed: `apt install fuse3`, or mount as root');
  if (stderr.includes('user_allow_other')) {
    const fix = 'add the line `user_allow_other` to /etc/fuse.conf, or leave -o allow_other out';
    return new MountError(`a user may not mount with allow_other here: ${fix}`);
  }
  if (stderr.includes('no write access') || stderr.includes('not owned') || stderr.includes('bad mount point')) {
    return new MountError(`no permission to mount on ${mountpoint}: choose a directory that is yours`);
  }
  if (stderr.includes('Operation not permitted')) {
    return new MountError(`fusermount3 may not mount here (${stderr}): is it setuid root? Or mount as root`);
  }
  return new MountError(`cannot mount on ${mountpoint}: ${stderr || 'fusermount3 gave no reason'}`);
}
