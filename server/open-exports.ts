/** Opens the directories that a server is to export; used by `weft serve` and by tests. */
import { realpathSync, statSync } from 'node:fs';
import type { Logger } from 'pino';
import { raiseOpenFileLimit, umask } from '../shared/linux/libc.ts';
import type { Export } from './export.ts';
import { LeaseManager } from './leases/lease-manager.ts';
import { LocalChanges } from './leases/local-changes.ts';
import { DirectoryStore } from './store/directory-store.ts';
import type { Squash } from './store/identity.ts';
import { HandleSigner } from './store/inode-handle.ts';

export interface ExportRequest {
  readonly name: string;
  readonly directory: string;
  readonly readOnly: boolean;
}

/** Throws an Error that names the directory and what is wrong with it. */
export function openExports(
  requests: readonly ExportRequest[],
  squash: Squash,
  key: Buffer,
  log: Logger,
  grantsLeases = true,
): Export[] {
  umask(0); // each creation brings its caller's
  // An eighth of the descriptors to come back to inodes quickly, three eighths for kernel leases on files that clients keep,
  // the others for handles that clients hold open.
  const eighth = raiseOpenFileLimit() / 8 / requests.length;
  const descriptors = Math.max(64, Math.floor(eighth));
  const paths = requests.map(({ directory }) => checkedDirectory(directory));
  refuseOverlap(paths);
  return requests.map(({ name, readOnly }, index) => {
    const path = paths[index] as string;
    const store = new DirectoryStore(path, new HandleSigner(key, scopeOf(name, path)), descriptors);
    const leases = new LeaseManager(store, new LocalChanges(store, log, grantsLeases), log, Math.floor(3 * eighth));
    const { usesKernelHandles } = store.inodes;
    return { name, directory: path, readOnly, squash, store, leases, usesKernelHandles };
  });
}

/**
 * What handles are good for: this export of this directory. Another directory that is exported under the same name later
 * must not honour them. Without the device number, which may be another after a restart of the machine.
 */
function scopeOf(name: string, path: string): string {
  const { ino, birthtimeNs } = statSync(path, { bigint: true });
  return `${name} ${ino} ${birthtimeNs}`;
}

/** Each export has lock tables of its own: a file that is reached through two of them would be written without order. */
function refuseOverlap(paths: readonly string[]): void {
  for (const [index, path] of paths.entries()) {
    const other = paths.find((one, at) => at !== index && `${path}/`.startsWith(one === '/' ? one : `${one}/`));
    if (other === undefined) continue;
    const relation = other === path ? 'is exported twice' : `is inside of ${other}, which is exported too`;
    throw new Error(`${path} ${relation}: export it once, and mount it where it is needed`);
  }
}

function checkedDirectory(directory: string): string {
  try {
    const path = realpathSync(directory);
    if (statSync(path).isDirectory()) return path;
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT') throw new Error(`${directory} does not exist; make it, or name another directory`);
    throw new Error(`${directory} cannot be exported: ${message}`);
  }
  throw new Error(`${directory} is not a directory; name the directory that holds it`);
}
