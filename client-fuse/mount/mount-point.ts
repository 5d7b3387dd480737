/**
 * The mount point before mounting: is it a directory, empty, free? Everything that touches it runs in a child process with a
 * deadline, for it may be a mount that no longer answers. A dead FUSE mount that is found there is cleaned away.
 */
import { basename, dirname, join, resolve } from 'node:path';
import { type CommandResult, runCommand } from './command.ts';
import { MountError } from './mount-error.ts';
import { isWeftMount, mountAt } from './mount-table.ts';
import { detach } from './unmount.ts';

/** Whoever mounts over a mount that hangs is told within 10 s. */
const PROBE_TIMEOUT_MS = 5000;
const DEAD = 'Transport endpoint is not connected';

export interface MountPointOptions {
  /** Mount over a directory that is not empty. */
  readonly nonempty: boolean;
  /** Says what was done about a dead mount. */
  readonly report: (line: string) => void;
}

/** The absolute path, without symbolic links, of a directory that can be mounted on; or a MountError. */
export async function prepareMountPoint(path: string, options: MountPointOptions): Promise<string> {
  const mountpoint = await resolveMountPoint(resolve(path));
  const there = await mountAt(mountpoint);
  let probe = await probeDirectory(mountpoint);
  if (probe.stderr.includes(DEAD)) {
    await detach(mountpoint);
    options.report(`cleaned away a dead mount at ${mountpoint}`);
    probe = await probeDirectory(mountpoint);
  } else if (there && isWeftMount(there)) {
    throw new MountError(`${mountpoint} is already mounted (${there.source}): \`weft umount ${mountpoint}\` first`);
  }
  if (probe.status !== 0) throw explain(mountpoint, probe);
  if (probe.stdout.trim() !== 'directory') {
    throw new MountError(`mount point ${mountpoint} is not a directory: give an empty directory`);
  }
  if (!options.nonempty) await refuseUnlessEmpty(mountpoint);
  return mountpoint;
}

function probeDirectory(path: string): Promise<CommandResult> {
  return runCommand('stat', ['-L', '-c', '%F', '--', path], { timeoutMs: PROBE_TIMEOUT_MS });
}

async function resolveMountPoint(path: string): Promise<string> {
  const whole = await runCommand('realpath', ['--', path], { timeoutMs: PROBE_TIMEOUT_MS });
  if (whole.status === 0) return lineOf(whole);
  if (!whole.stderr.includes(DEAD)) throw explain(path, whole);
  // The name itself is a dead mount, which cannot be looked into: its directory can.
  const parent = await runCommand('realpath', ['--', dirname(path)], { timeoutMs: PROBE_TIMEOUT_MS });
  if (parent.status !== 0) throw explain(path, parent);
  return join(lineOf(parent), basename(path));
}

function lineOf(result: CommandResult): string {
  return result.stdout.replace(/\n$/, '');
}

async function refuseUnlessEmpty(mountpoint: string): Promise<void> {
  const args = [mountpoint, '-mindepth', '1', '-maxdepth', '1', '-print', '-quit'];
  const first = await runCommand('find', args, { timeoutMs: PROBE_TIMEOUT_MS });
  if (first.status !== 0) throw explain(mountpoint, first);
  if (first.stdout === '') return;
  throw new MountError(`mount point ${mountpoint} is not empty: choose an empty directory, or give \`-o nonempty\``);
}

function explain(path: string, failed: CommandResult): MountError {
  const { stderr } = failed;
  if (failed.timedOut) {
    return new MountError(
      `mount point ${path} does not answer: another mount there hangs; \`umount -l ${path}\` clears it`,
    );
  }
  if (stderr.includes('No such file')) {
    return new MountError(`mount point ${path} does not exist: make it with \`mkdir -p ${path}\``);
  }
  if (stderr.includes('Not a directory')) {
    return new MountError(`mount point ${path} is not a directory: give an empty directory`);
  }
  if (stderr.includes('Permission denied')) {
    return new MountError(`mount point ${path}: permission denied: choose a directory that you may enter`);
  }
  return new MountError(`mount point ${path}: ${stderr || 'cannot be examined'}`);
}
