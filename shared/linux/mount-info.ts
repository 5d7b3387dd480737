/**
 * The mount table of this process, /proc/self/mountinfo: which filesystem is mounted where, without touching any of them.
 * Source: proc_pid_mountinfo(5).
 */
import { readFileSync } from 'node:fs';

export interface Mount {
  readonly id: number;
  /** `major:minor`. The minor number of a FUSE mount is the name of its connection in fusectl. */
  readonly device: string;
  readonly mountpoint: string;
  readonly type: string;
  readonly source: string;
}

export const MOUNT_INFO = '/proc/self/mountinfo';

/*
 * 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
 * id    device root mountpoint        optional  -  type source
 */
export function parseMountInfo(text: string): Mount[] {
  const mounts: Mount[] = [];
  for (const line of text.split('\n')) {
    const fields = line.split(' ');
    const separator = fields.indexOf('-', 6);
    const [id, , device, , mountpoint] = fields;
    if (separator < 0 || device === undefined || mountpoint === undefined) continue;
    const type = fields[separator + 1] ?? '';
    const source = unescapeOctal(fields[separator + 2] ?? '');
    mounts.push({ id: Number(id), device, mountpoint: unescapeOctal(mountpoint), type, source });
  }
  return mounts;
}

/** Space, tab, newline and backslash stand as three octal digits; bytes, so that any UTF-8 comes out right. */
function unescapeOctal(text: string): string {
  if (!text.includes('\\')) return text;
  const latin1 = Buffer.from(text, 'utf8').toString('latin1');
  const bytes = latin1.replace(/\\([0-7]{3})/g, (_, digits) => String.fromCharCode(Number.parseInt(digits, 8)));
  return Buffer.from(bytes, 'latin1').toString('utf8');
}

export function readMountInfo(): Mount[] {
  return parseMountInfo(readFileSync(MOUNT_INFO, 'utf8'));
}

/** The id of the mount in which a descriptor (O_PATH too) was opened. Asks no filesystem. */
export function mountIdOf(fd: number): number {
  const [, id] = /^mnt_id:\s*(\d+)$/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8')) ?? [];
  return Number(id);
}

/** Of all mounts of weft's, by any of its drivers, and of no others: it cannot be chosen. */
export const MOUNT_TYPE = 'fuse.weft';

export function isWeftMount(mount: Mount): boolean {
  return mount.type === MOUNT_TYPE;
}
