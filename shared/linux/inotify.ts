/** Watching for changes by local programs. */
import { check, declare, descriptorPath, O_CLOEXEC } from './call.ts';

const c = {
  inotifyInit: declare('int inotify_init1(int flags)'),
  inotifyAddWatch: declare('int inotify_add_watch(int fd, void *path, uint mask)'),
  inotifyRemoveWatch: declare('int inotify_rm_watch(int fd, int wd)'),
} as const;

/** A new inotify instance that does not block. */
export function inotifyInit(): number {
  return check(c.inotifyInit(0o4000 | O_CLOEXEC), 'inotify_init1');
}

/** The watch descriptor for the inode behind `fd`, which may be an O_PATH one. */
export function inotifyAddWatch(inotifyFd: number, fd: number, mask: number): number {
  return check(c.inotifyAddWatch(inotifyFd, descriptorPath(fd), mask), 'inotify_add_watch');
}

export function inotifyRemoveWatch(inotifyFd: number, wd: number): void {
  c.inotifyRemoveWatch(inotifyFd, wd);
}
