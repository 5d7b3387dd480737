/** umount(2). */
import koffi from 'koffi';
import { FsError } from '../errno.ts';
import { check, declare, keepAlive, pathA, terminated } from './call.ts';

const c = {
  umount2: declare('int umount2(void *target, int flags)'),
} as const;

export function umount2(target: Uint8Array, flags: number): void {
  check(c.umount2(terminated(pathA, target), flags), 'umount2');
}

/** umount2(2) on a thread of its own: it may have to wait for the client that serves the mount. */
export function umount2Async(target: Uint8Array, flags: number): Promise<void> {
  const path = Buffer.alloc(target.length + 1);
  path.set(target);
  return new Promise((resolve, reject) => {
    c.umount2.async(path, flags, (error: Error | null, result: number) => {
      keepAlive(path);
      if (error) reject(error);
      else if (result < 0) reject(new FsError(koffi.errno(), 'umount2'));
      else resolve();
    });
  });
}
