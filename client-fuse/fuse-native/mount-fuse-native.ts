/**
 * A mount by the fuse-native driver: libfuse's threads, and the dispatcher that answers them on the event loop. Whoever
 * mounts owns it until `closed`; the filesystem stays the caller's, who disposes of it afterwards.
 *
 * The process that mounts must never make a synchronous call on the mount (nor fill the pool with asynchronous ones): its
 * own event loop would have to answer it.
 */
import { execFile } from 'node:child_process';
import { readdir } from 'node:fs/promises';
import { resolve } from 'node:path';
import { promisify } from 'node:util';
import type { Caller, Filesystem } from '../vfs/filesystem.ts';
import { type FuseNativeBinding, loadFuseNative } from './binding.ts';
import { Dispatcher } from './dispatcher.ts';
import { FuseDevice, listFuseDescriptors } from './fuse-device.ts';
import type { Log } from './log.ts';
import { allowsOthers, encodeMountOptions, type FuseNativeOptions } from './mount-options.ts';
import { OpenFiles } from './open-files.ts';
import type { Mounted } from './operation.ts';
import { PathResolver } from './path-resolver.ts';

export interface FuseNativeMountRequest {
  readonly filesystem: Filesystem;
  readonly mountpoint: string;
  readonly options?: FuseNativeOptions;
  readonly log: Log;
}

export interface FuseNativeMount {
  readonly mountpoint: string;
  /** Resolves when the mount has ended, whoever unmounted it; its open files are released by then. Never rejects. */
  readonly closed: Promise<void>;
  /** For status. */
  readonly counts: { readonly inFlight: number; readonly openFiles: number; readonly unexpectedErrors: number };
  /**
   * Resolves when the mount has ended. Rejects when it is busy, unless `lazy`: then it is taken out of the tree at once,
   * and `closed` follows when its last user is gone.
   */
  unmount(how?: { readonly lazy?: boolean }): Promise<void>;
}

/** Records that native code goes on using, or may: never freed (2.6 KiB a mount, 0.4 KiB a thread of libfuse). */
const immortal: Buffer[] = [];

/** Resolves when the mount answers. Rejects with an Error that says what to do. */
export async function mountFuseNative(request: FuseNativeMountRequest): Promise<FuseNativeMount> {
  const { filesystem, log, options = {} } = request;
  const binding = loadFuseNative();
  const encoded = encodeMountOptions(options);
  const mountpoint = resolve(request.mountpoint);
  await checkMountpoint(mountpoint, options.mountOptions?.includes('nonempty') ?? false);

  const thread = Buffer.alloc(binding.sizeof_fuse_thread_t);
  immortal.push(thread);
  const files = new OpenFiles();
  let onInit: (isUnderstood: boolean) => void = () => {};
  const initialized = new Promise<boolean>((done) => {
    onInit = done;
  });
  const mounted = describeMount(filesystem, files, allowsOthers(options));
  const dispatcher = new Dispatcher({ binding, thread, mounted, log, onInit });
  const device = startLibfuse(binding, mountpoint, encoded, thread, dispatcher);
  const closed = device.ended.then(() => {
    binding.fuse_native_unmount(mountpoint, thread);
    files.releaseAll();
    log.debug({ mountpoint }, 'fuse-native mount ended');
  });

  const isUnderstood = await Promise.race([initialized, closed.then(() => undefined)]);
  if (isUnderstood === undefined) throw new Error(`${mountpoint} was unmounted before it answered; mount it again`);
  if (!isUnderstood) {
    await unmountNow(mountpoint, true);
    throw new Error('driver fuse-native: an unknown build; run `npm install fuse-native@2.2.6` again');
  }
  log.debug({ mountpoint, options: encoded }, 'mounted by fuse-native');
  return {
    mountpoint,
    closed,
    get counts() {
      const { inFlight, unexpectedErrors } = dispatcher;
      return { inFlight, openFiles: files.size, unexpectedErrors };
    },
    async unmount({ lazy = false } = {}) {
      await unmountNow(mountpoint, lazy);
      device.lookSoon();
      if (!lazy) await closed;
    },
  };
}

function describeMount(filesystem: Filesystem, files: OpenFiles, hasOthers: boolean): Mounted {
  const uid = process.geteuid?.() ?? 0;
  const caller: Caller = {
    uid,
    gid: process.getegid?.() ?? 0,
    pid: 0,
    groups: process.getgroups?.() ?? [],
    // libfuse 2 passes interrupts on only by signals to its threads: a wait is not given up.
    signal: new AbortController().signal,
  };
  const mayBeAnybody = hasOthers || uid !== 0;
  return { filesystem, caller, resolver: new PathResolver(filesystem, caller), files, mayBeAnybody };
}

/** Mounts, and starts libfuse's threads. */
function startLibfuse(
  binding: FuseNativeBinding,
  mountpoint: string,
  options: string,
  thread: Buffer,
  { handlers, implemented }: Dispatcher,
): FuseDevice {
  const allocate = (sizeBytes: number) => {
    const locals = Buffer.alloc(sizeBytes);
    immortal.push(locals);
    return locals;
  };
  const before = listFuseDescriptors();
  try {
    binding.fuse_native_mount(mountpoint, options, thread, {}, allocate, handlers, implemented);
  } catch (error) {
    throw new Error(
      `${mountpoint} could not be mounted (libfuse's reason is above); check /dev/fuse, and user_allow_other in /etc/fuse.conf`,
      { cause: error },
    );
  }
  const [fd] = [...listFuseDescriptors()].filter((candidate) => !before.has(candidate));
  if (fd === undefined) throw new Error(`${mountpoint} ended as soon as it was mounted; mount it again`);
  return new FuseDevice(fd);
}

const MAX_MOUNTPOINT_BYTES = 1023;

async function checkMountpoint(mountpoint: string, mayHaveEntries: boolean): Promise<void> {
  if (Buffer.byteLength(mountpoint) > MAX_MOUNTPOINT_BYTES) {
    throw new Error(`the mount point's path is longer than ${MAX_MOUNTPOINT_BYTES} bytes; choose another`);
  }
  let entries: string[];
  try {
    entries = await readdir(mountpoint);
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT') throw new Error(`mount point ${mountpoint} does not exist; make it: mkdir -p ${mountpoint}`);
    if (code === 'ENOTDIR') throw new Error(`mount point ${mountpoint} is not a directory; name a directory`);
    if (code === 'ENOTCONN') throw new Error(`${mountpoint} is a dead mount; run: umount --lazy ${mountpoint}`);
    throw new Error(`mount point ${mountpoint} cannot be read: ${message}`);
  }
  if (entries.length > 0 && !mayHaveEntries) {
    throw new Error(`mount point ${mountpoint} is not empty; choose an empty directory, or add -o nonempty`);
  }
}

const run = promisify(execFile);

/** By a child process: umount looks at the mount point, and this process must be free to answer. */
async function unmountNow(mountpoint: string, lazy: boolean): Promise<void> {
  const isRoot = process.geteuid?.() === 0;
  const [program, args] = isRoot
    ? ['umount', ['-i', '--no-canonicalize', ...(lazy ? ['--lazy'] : []), mountpoint]]
    : ['fusermount', ['-u', ...(lazy ? ['-z'] : []), mountpoint]];
  try {
    await run(program as string, args as string[]);
  } catch (error) {
    const { stderr = '', message } = error as { stderr?: string; message: string };
    if (/not (mounted|found in|a mountpoint)|no mount point/i.test(stderr)) return;
    const hint = /busy/i.test(stderr)
      ? `close what \`lsof ${mountpoint}\` shows, or unmount lazily`
      : stderr || message;
    throw new Error(`${mountpoint} could not be unmounted: ${hint.trim()}`, { cause: error });
  }
}
