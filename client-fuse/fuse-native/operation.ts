/**
 * What an operation of this driver is: it reads its arguments from the request, calls the filesystem, writes its results
 * into the request, and returns what libfuse wants as result: 0, or a number of bytes. Failures are thrown.
 */
import type { Caller, Filesystem } from '../vfs/filesystem.ts';
import type { NativeRequest } from './native-request.ts';
import type { OpenFiles } from './open-files.ts';
import type { PathResolver } from './path-resolver.ts';

/** A mount, as its operations see it. */
export interface Mounted {
  readonly filesystem: Filesystem;
  /** Whoever mounted: fuse-native does not say who calls. The kernel checks permissions instead (default_permissions). */
  readonly caller: Caller;
  readonly resolver: PathResolver;
  readonly files: OpenFiles;
  /**
   * The caller may be somebody without the rights of the mounting user, who is asked of the server: nobody may make a
   * file that runs with those rights, and writing to one takes them from it.
   */
  readonly mayBeAnybody: boolean;
}

export type Operation = (request: NativeRequest, mounted: Mounted) => Promise<number>;
