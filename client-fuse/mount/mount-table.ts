/**
 * What is mounted where, for the client: a mount of ours is recognised by its device number, which no other mount has while
 * it lives.
 */
import { readFile } from 'node:fs/promises';
import { MOUNT_INFO, type Mount, parseMountInfo } from '../../shared/linux/mount-info.ts';

export { isWeftMount, MOUNT_TYPE, type Mount } from '../../shared/linux/mount-info.ts';

export async function readMounts(): Promise<Mount[]> {
  return parseMountInfo(await readFile(MOUNT_INFO, 'utf8'));
}

/** What is seen at a path: the last mounted of those stacked there. */
export async function mountAt(mountpoint: string): Promise<Mount | undefined> {
  return (await readMounts()).findLast((mount) => mount.mountpoint === mountpoint);
}

/** Is this very mount still there? Its numbers are the next mount's as soon as it is gone, on another directory. */
export async function isMounted({ id, device, mountpoint }: Mount): Promise<boolean> {
  const isIt = (one: Mount) => one.id === id && one.device === device && one.mountpoint === mountpoint;
  return (await readMounts()).some(isIt);
}

/** Something else is mounted on a directory of this mount. In other namespaces than this process' it is not seen. */
export async function hasMountsInside(mount: Mount): Promise<boolean> {
  const inside = `${mount.mountpoint === '/' ? '' : mount.mountpoint}/`;
  return (await readMounts()).some(({ mountpoint }) => mountpoint.startsWith(inside));
}
