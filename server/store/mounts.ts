/**
 * The mounts of an export: the one that holds its directory, and those inside, which are entered when they are first looked
 * up. Kernel handles are opened through a descriptor of a mount, with that mount's right to write. While it is open the
 * mount's id, and its device number, are not used again, so what was found out about them stays true.
 *
 * A weft mount inside is not entered: its client may be one of this very server, which cannot wait for itself. So it is told
 * apart by what the kernel knows, before its filesystem is asked anything.
 */
import { createHash } from 'node:crypto';
import { readlinkSync } from 'node:fs';
import { isDirectory, isRegular } from '../../shared/attributes.ts';
import { errno, FsError } from '../../shared/errno.ts';
import { AT, O } from '../../shared/linux/constants.ts';
import {
  close,
  deviceOf,
  filesystemOf,
  fstat,
  handleOf,
  openByHandle,
  reopen,
  tryOpenat,
} from '../../shared/linux/libc.ts';
import { isWeftMount, type Mount, mountIdOf, readMountInfo } from '../../shared/linux/mount-info.ts';

/** What handles call the filesystem of the export's own directory. */
export const ROOT_FILESYSTEM = 0;
const PATH_FLAGS = O.PATH | O.NOFOLLOW | O.CLOEXEC;
/** Of filesystems without handles, each subvolume may have a device number of its own. */
const MAX_DEVICES = 64;

interface EnteredMount {
  readonly fd: number;
  /** What handles call its filesystem; undefined: nothing in it is reached by handles. */
  readonly filesystem: number | undefined;
}

export class Mounts {
  readonly usesHandles: boolean;
  readonly #root: string;
  readonly #rootDevice: number;
  readonly #isRootReadOnly: boolean;
  /** By the id of the mount. */
  readonly #entered = new Map<number, EnteredMount>();
  /** Through which descriptor the handles of a filesystem are opened. */
  readonly #openers = new Map<number, number>();
  /** Device numbers that were looked at where there are no handles, with a descriptor there. */
  readonly #devices = new Map<number, number>();

  constructor(rootFd: number) {
    this.#root = readlinkSync(`/proc/self/fd/${rootFd}`);
    this.#rootDevice = deviceOf(rootFd);
    this.#isRootReadOnly = filesystemOf(rootFd).isReadOnly;
    const fd = reopen(rootFd, O.RDONLY | O.DIRECTORY | O.CLOEXEC);
    const handle = handleOf(rootFd);
    this.usesHandles = handle !== undefined && opensHandle(fd, handle.bytes);
    if (handle && this.usesHandles) this.#enter(handle.mountId, { fd, filesystem: ROOT_FILESYSTEM });
    else close(fd);
  }

  /** What handles call the filesystem of a mount; undefined: nothing in it is reached by handles. EREMOTE: a weft mount. */
  filesystemOf(mountId: number): number | undefined {
    const known = this.#entered.get(mountId);
    if (known) return known.filesystem;
    const mount = readMountInfo().find(({ id }) => id === mountId);
    if (mount) refuseWeft(mount);
    const entered = mount && this.#opened(mount);
    if (entered === undefined) throw new FsError(errno.ESTALE, 'mount'); // it was unmounted, or hidden by another
    this.#enter(mountId, entered);
    return entered.filesystem;
  }

  /** Of an inode that the kernel gives no handle for. EREMOTE: it is in a weft mount. */
  checkDevice(fd: number): void {
    const device = deviceOf(fd);
    if (device === this.#rootDevice || this.#devices.has(device)) return;
    const mountId = mountIdOf(fd);
    const mount = readMountInfo().find(({ id }) => id === mountId);
    if (mount) refuseWeft(mount);
    for (const [oldest, kept] of this.#devices) {
      if (this.#devices.size < MAX_DEVICES) break;
      this.#devices.delete(oldest);
      close(kept);
    }
    this.#devices.set(device, reopen(fd, O.PATH | O.CLOEXEC));
  }

  /** An O_PATH descriptor of the inode. ESTALE when it is gone, or its filesystem. */
  open(filesystem: number, handle: Buffer): number {
    const opener = this.#openers.get(filesystem) ?? this.#findOpener(filesystem);
    return openByHandle(opener, handle, PATH_FLAGS);
  }

  /** Of those inside; they are entered again when they are looked up, or a handle of theirs comes. */
  closeInner(): void {
    for (const [id, { fd, filesystem }] of this.#entered) {
      if (fd === this.#openers.get(ROOT_FILESYSTEM)) continue;
      close(fd);
      this.#entered.delete(id);
      if (filesystem !== undefined && this.#openers.get(filesystem) === fd) this.#openers.delete(filesystem);
    }
    for (const fd of this.#devices.values()) close(fd);
    this.#devices.clear();
  }

  close(): void {
    for (const { fd } of this.#entered.values()) close(fd);
    for (const fd of this.#devices.values()) close(fd);
    for (const map of [this.#entered, this.#openers, this.#devices]) map.clear();
  }

  #enter(mountId: number, entered: EnteredMount): void {
    this.#entered.set(mountId, entered);
    const { fd, filesystem } = entered;
    if (filesystem !== undefined && !this.#openers.has(filesystem)) this.#openers.set(filesystem, fd);
  }

  /** After a restart: clients go on in a mount that nobody has looked up yet. */
  #findOpener(filesystem: number): number {
    const inside = this.#root === '/' ? '/' : `${this.#root}/`;
    for (const mount of readMountInfo()) {
      if (!mount.mountpoint.startsWith(inside) || this.#entered.has(mount.id) || isWeftMount(mount)) continue;
      const entered = this.#opened(mount);
      if (entered?.filesystem === filesystem) {
        this.#enter(mount.id, entered);
        return entered.fd;
      }
      if (entered) close(entered.fd);
    }
    throw new FsError(errno.ESTALE, 'file handle');
  }

  /** Undefined for a mount that cannot be seen at its place. */
  #opened(mount: Mount): EnteredMount | undefined {
    const path = tryOpenat(AT.FDCWD, Buffer.from(mount.mountpoint), PATH_FLAGS);
    if (path < 0) return undefined;
    let keepsPath = false;
    try {
      const handle = handleOf(path);
      if (handle?.mountId !== mount.id) return undefined;
      const attributes = fstat(path);
      const kind = isDirectory(attributes) ? O.DIRECTORY : isRegular(attributes) ? O.NONBLOCK : undefined;
      const fd = kind === undefined ? -1 : reopen(path, O.RDONLY | O.CLOEXEC | kind);
      if (fd >= 0 && opensHandle(fd, handle.bytes)) return { fd, filesystem: this.#nameOf(fd, attributes.device) };
      if (fd >= 0) close(fd);
      keepsPath = true;
      return { fd: path, filesystem: undefined };
    } catch (error) {
      if (error instanceof FsError) return undefined;
      throw error;
    } finally {
      if (!keepsPath) close(path);
    }
  }

  /**
   * The same for each mount of the filesystem, so that one file has one handle; but not for those that are read-only and
   * those that are not. Made of what stays while the filesystem is mounted: mount ids do not.
   */
  #nameOf(fd: number, device: number): number {
    const { id, isReadOnly } = filesystemOf(fd);
    if (device === this.#rootDevice && isReadOnly === this.#isRootReadOnly) return ROOT_FILESYSTEM;
    const hash = createHash('sha256').update(`${id} ${device}`).digest().readUIntLE(0, 6);
    return 2 * hash + (isReadOnly ? 1 : 0);
  }
}

function refuseWeft(mount: Mount): void {
  if (isWeftMount(mount)) throw new FsError(errno.EREMOTE, 'a weft mount inside the export');
}

function opensHandle(mountFd: number, handle: Buffer): boolean {
  try {
    close(openByHandle(mountFd, handle, PATH_FLAGS));
    return true;
  } catch {
    return false;
  }
}
