/**
 * The native part of `fuse-native` 2.2.6 (fuse-native.c), typed, and how it is loaded. The package's own index.js is
 * passed over: it rounds times, inode numbers and statistics to 32 bits or milliseconds, hides open flags and mount options,
 * and answers ETIMEDOUT after 15 s while the late result is still written into libfuse's memory.
 *
 * The package is optional. Absent, built for another machine, or without libfuse 2, it is reported in one line.
 */
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { isMainThread } from 'node:worker_threads';

/** Operations of libfuse 2.9 that fuse-native passes on. `init` comes once, before all others. */
export type NativeOperationName =
  | 'init'
  | 'access'
  | 'statfs'
  | 'fgetattr'
  | 'getattr'
  | 'flush'
  | 'fsync'
  | 'fsyncdir'
  | 'readdir'
  | 'truncate'
  | 'ftruncate'
  | 'utimens'
  | 'readlink'
  | 'chown'
  | 'chmod'
  | 'mknod'
  | 'setxattr'
  | 'getxattr'
  | 'listxattr'
  | 'removexattr'
  | 'open'
  | 'opendir'
  | 'read'
  | 'write'
  | 'release'
  | 'releasedir'
  | 'create'
  | 'unlink'
  | 'rename'
  | 'link'
  | 'symlink'
  | 'mkdir'
  | 'rmdir';

/** Called on the main thread for each request, while a thread of libfuse waits. `locals` is that thread's record. */
export type NativeHandler = (locals: Buffer, operation: number, ...args: readonly unknown[]) => void;

type Numbers = { readonly [N in NativeOperationName as `op_${N}`]: number };

export interface FuseNativeBinding extends Numbers {
  /** Bytes of the record of a mount. It must never move nor be freed. */
  readonly sizeof_fuse_thread_t: number;
  /** Mounts and starts libfuse's threads. Throws `fuse failed`; the reason is on standard error only. */
  fuse_native_mount(
    mountpoint: string,
    options: string,
    thread: Buffer,
    context: object,
    allocate: (sizeBytes: number) => Buffer,
    handlers: readonly (NativeHandler | undefined)[],
    implemented: Uint32Array,
  ): void;
  /** Unmounts nothing: it lets the event loop end. */
  fuse_native_unmount(mountpoint: string, thread: Buffer): void;
  /** Stores the result of a request and wakes its thread; nothing else, so it does for every operation. */
  fuse_native_signal_init(locals: Buffer, result: number): void;
  /** These detach the buffer as well that the request brought. */
  fuse_native_signal_read(locals: Buffer, result: number, unused: number, data: ArrayBufferLike): void;
  fuse_native_signal_write(locals: Buffer, result: number, unused: number, data: ArrayBufferLike): void;
  fuse_native_signal_setxattr(locals: Buffer, result: number, data: ArrayBufferLike): void;
  fuse_native_signal_getxattr(locals: Buffer, result: number, data: ArrayBufferLike): void;
  fuse_native_signal_listxattr(locals: Buffer, result: number, data: ArrayBufferLike): void;
}

const VERSION = '2.2.6';
/** The size of fuse_thread_t in the build that native-request.ts describes. */
const THREAD_BYTES = 2640;

let loaded: FuseNativeBinding | undefined;

/** Throws an Error whose message says what to install. */
export function loadFuseNative(): FuseNativeBinding {
  if (loaded) return loaded;
  if (process.platform !== 'linux' || process.arch !== 'x64') {
    throw new Error(
      `driver fuse-native: it exists for x86-64 Linux only, this is ${process.arch}; use the kernel driver`,
    );
  }
  if (!isMainThread) throw new Error('driver fuse-native: it works on the main thread only');
  loaded = loadFrom(packageDirectory());
  return loaded;
}

function packageDirectory(): string {
  let manifest: string;
  try {
    manifest = createRequire(import.meta.url).resolve('fuse-native/package.json');
  } catch (error) {
    throw new Error(`driver fuse-native: the package is not installed; run \`npm install fuse-native@${VERSION}\``, {
      cause: error,
    });
  }
  const { version } = JSON.parse(readFileSync(manifest, 'utf8')) as { version: string };
  if (version !== VERSION) {
    throw new Error(`driver fuse-native: version ${version} is installed; run \`npm install fuse-native@${VERSION}\``);
  }
  return dirname(manifest);
}

function loadFrom(directory: string): FuseNativeBinding {
  const addon = join(directory, 'prebuilds', 'linux-x64', 'node.napi.node');
  let binding: FuseNativeBinding;
  try {
    // A native addon cannot be import()ed, only required.
    binding = createRequire(import.meta.url)(addon) as FuseNativeBinding;
  } catch (error) {
    const { message } = error as Error;
    const hint = message.includes('libfuse.so.2')
      ? 'libfuse 2 is missing; run `apt-get install libfuse2` (Debian 12) or `apt-get install libfuse2t64` (Ubuntu 24.04)'
      : `${message}; run \`npm install fuse-native@${VERSION}\` again`;
    throw new Error(`driver fuse-native: ${hint}`, { cause: error });
  }
  if (binding.sizeof_fuse_thread_t !== THREAD_BYTES) {
    throw new Error(
      `driver fuse-native: an unknown build (${addon}); run \`npm install fuse-native@${VERSION}\` again`,
    );
  }
  return binding;
}
