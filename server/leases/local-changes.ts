/**
 * Sees what programs on the server's box change of inodes that clients hold leases on, by inotify: after the fact, within
 * milliseconds. Each leased inode has a watch of its own, so it does not matter by which name it is reached. The server's
 * own changes raise the same events; they are told apart by comparing what an event is about with what was last said to
 * clients (`said...`): equal means that nobody knows anything old. Not seen: writes through a local shared mapping.
 *
 * struct inotify_event:  0 wd s32   4 mask u32   8 cookie u32   12 len u32   16 name, padded with NUL
 */

import type { Logger } from 'pino';
import { isDirectory, type Timespec } from '../../shared/attributes.ts';
import { errno, FsError } from '../../shared/errno.ts';
import { limits } from '../../shared/limits.ts';
import {
  close,
  inotifyAddWatch,
  inotifyInit,
  inotifyRemoveWatch,
  type LocalAttributes,
  type Polling,
  pollReadable,
  readNonblocking,
} from '../../shared/linux/libc.ts';
import type { Inode, InodeWatch } from '../store/inode.ts';
import type { Store } from '../store/store.ts';

const IN = {
  MODIFY: 0x2,
  ATTRIB: 0x4,
  MOVED_FROM: 0x40,
  MOVED_TO: 0x80,
  CREATE: 0x100,
  DELETE: 0x200,
  DELETE_SELF: 0x400,
  MOVE_SELF: 0x800,
  Q_OVERFLOW: 0x4000,
  IGNORED: 0x8000,
} as const;
const NAME_EVENTS = IN.CREATE | IN.DELETE | IN.MOVED_FROM | IN.MOVED_TO;
const OWN_EVENTS = IN.ATTRIB | IN.DELETE_SELF | IN.MOVE_SELF;

type OwnEvents = ReadonlyMap<Inode, ReadonlyMap<string, number>>;

export class LocalChanges {
  readonly #store: Store;
  readonly #log: Logger;
  readonly #fd: number;
  readonly #polling: Polling | undefined;
  /** In the order in which they were made. */
  readonly #watches = new Map<number, InodeWatch>();
  readonly #events = Buffer.alloc(64 * 1024);
  /** Of names in directories, since the events were read last: how many the server itself raised. */
  readonly #ownEvents = new Map<Inode, Map<string, number>>();
  #timer: NodeJS.Timeout | undefined;
  /** Called with each inode of which clients may know something old. */
  onChange: (inode: Inode) => void = () => {};

  /** `isEnabled` false: nothing is watched, so nothing is leased. */
  constructor(store: Store, log: Logger, isEnabled = true) {
    this.#store = store;
    this.#log = log;
    this.#fd = isEnabled ? openInotify() : -1;
    if (this.#fd >= 0) this.#polling = pollReadable(this.#fd, () => this.#gather());
  }

  get isAvailable(): boolean {
    return this.#fd >= 0;
  }

  /** True when local changes of the inode, and of a directory's names, will be seen from now on. */
  watch(inode: Inode, attributes: { readonly mode: number }): boolean {
    if (inode.watch) return true;
    if (this.#fd < 0 || !this.#makeRoom()) return false;
    const isDir = isDirectory(attributes);
    try {
      const fd = this.#store.descriptorOf(inode);
      const wd = inotifyAddWatch(this.#fd, fd, isDir ? OWN_EVENTS | NAME_EVENTS : OWN_EVENTS | IN.MODIFY);
      const watch: InodeWatch = { inode, names: isDir ? new Map() : undefined };
      this.#watches.set(wd, watch);
      inode.watch = watch;
      return true;
    } catch (error) {
      if (error instanceof FsError) return false; // no watches left, or it is gone: no lease then
      throw error;
    }
  }

  /**
   * A client is told that `name` is this inode or absent. Others that were told otherwise, before a local change, lose the
   * directory: its event may still wait in the queue, and once `names` has what is, it would pass for our own doing.
   */
  said(directory: Inode, name: Uint8Array, inode: Inode | null): void {
    const before = directory.watch?.names?.get(keyOfName(name));
    if (before !== undefined && before !== (inode?.key ?? null)) this.onChange(directory);
    this.#is(directory, name, inode);
  }

  /**
   * The server itself made `name` this inode or absent, which raised one event, and nobody else holds a lease on the
   * directory.
   */
  made(directory: Inode, name: Uint8Array, inode: Inode | null): void {
    if (directory.watch === undefined) return;
    const key = keyOfName(name);
    const ofDirectory = this.#ownEvents.get(directory) ?? new Map<string, number>();
    this.#ownEvents.set(directory, ofDirectory);
    ofDirectory.set(key, (ofDirectory.get(key) ?? 0) + 1);
    this.#is(directory, name, inode);
  }

  #is(directory: Inode, name: Uint8Array, inode: Inode | null): void {
    const names = directory.watch?.names;
    if (names === undefined) return;
    if (names.size >= limits.maxWatchedNames) {
      // Most are of long ago. Clients start over with what they are asked now.
      names.clear();
      this.onChange(directory);
    }
    names.set(keyOfName(name), inode === null ? null : inode.key);
  }

  /** Clients are told these attributes. Other holders that know older ones, from before a local change, lose them. */
  saidAttributes(inode: Inode, attributes: LocalAttributes): void {
    const stamp = stampOf(attributes);
    const isOld = inode.saidStamp !== stamp && inode.saidStamp !== '';
    inode.saidStamp = stamp;
    if (isOld && this.#mayKnowOld(inode)) this.onChange(inode);
  }

  /**
   * In a change of ours, everybody who might know older attributes is giving the lease back. Not so who holds blocks elsewhere
   * in the file; therefore each change that leaves them says at once what it has made of the attributes (`ownChange`).
   */
  #mayKnowOld({ leases, hasHeldBlocks }: Inode): boolean {
    return hasHeldBlocks || (leases.holders.size > 0 && !leases.isChanging);
  }

  /** Nothing changed between two looks. */
  isAsSaid(said: LocalAttributes, is: LocalAttributes): boolean {
    return isEqual(said, is);
  }

  /** The server itself changed the inode, and nobody else holds a lease on it. */
  ownChange(inode: Inode, attributes: LocalAttributes): void {
    inode.saidStamp = stampOf(attributes);
  }

  /** Ends the watch of an inode that nobody holds a lease on, when there are too many. */
  #makeRoom(): boolean {
    if (this.#watches.size < limits.maxWatches) return true;
    let looked = 0;
    for (const [wd, watch] of this.#watches) {
      if (++looked > MAX_LOOKED_AT) return false;
      this.#watches.delete(wd);
      if (watch.inode.isLeased) {
        this.#watches.set(wd, watch); // to the young end
        continue;
      }
      watch.inode.watch = undefined;
      inotifyRemoveWatch(this.#fd, wd);
      return true;
    }
    return false;
  }

  close(): void {
    this.#polling?.close();
    clearTimeout(this.#timer);
    if (this.#fd >= 0) close(this.#fd);
  }

  /** There are events. They wait for more: most are the server's own, and several are often about one thing. */
  #gather(): void {
    this.#polling?.pause();
    this.#timer = setTimeout(() => {
      try {
        this.#handle();
      } finally {
        this.#polling?.resume();
      }
    }, GATHER_MS);
  }

  /** All that there are. An event is in the queue when the call that raised it returns, so none of ours is still to come. */
  #handle(): void {
    const seen = new Map<
      string,
      { readonly wd: number; readonly mask: number; readonly name: Buffer; times: number }
    >();
    for (;;) {
      const length = readNonblocking(this.#fd, this.#events);
      if (length <= 0) break;
      for (let at = 0; at < length; ) {
        const end = at + 16 + this.#events.readUInt32LE(at + 12);
        const wd = this.#events.readInt32LE(at);
        const mask = this.#events.readUInt32LE(at + 4);
        const nul = this.#events.indexOf(0, at + 16);
        const name = this.#events.subarray(at + 16, nul < 0 ? end : Math.min(nul, end));
        at = end;
        // Other events of what is in a directory come with its own watch.
        if (name.length > 0 && !(mask & NAME_EVENTS)) continue;
        // The state is looked at, not the event: once for all that are about the same.
        const about = `${wd} ${mask & (IN.IGNORED | IN.Q_OVERFLOW)} ${name.toString('latin1')}`;
        const before = seen.get(about);
        if (before) before.times++;
        else seen.set(about, { wd, mask, name: Buffer.from(name), times: 1 });
      }
    }
    const own = new Map(this.#ownEvents);
    this.#ownEvents.clear();
    for (const { wd, mask, name, times } of seen.values()) this.#event(wd, mask, name, times, own);
  }

  #event(wd: number, mask: number, name: Buffer, times: number, own: OwnEvents): void {
    if (mask & IN.Q_OVERFLOW) return this.#overflow();
    const watch = this.#watches.get(wd);
    if (watch === undefined) return;
    if (mask & IN.IGNORED) {
      this.#watches.delete(wd);
      watch.inode.watch = undefined;
      if (watch.inode.isLeased) this.onChange(watch.inode);
    } else if (name.length === 0) {
      this.#checkAttributes(watch.inode);
    } else if (times > (own.get(watch.inode)?.get(keyOfName(name)) ?? 0)) {
      this.#checkName(watch, name);
    }
  }

  #checkName({ inode: directory, names }: InodeWatch, name: Buffer): void {
    const key = keyOfName(name);
    let is: string | null;
    try {
      is = this.#keyOf(directory, name);
    } catch (error) {
      if (!(error instanceof FsError)) throw error;
      names?.delete(key); // it cannot be told now: no descriptors, or the directory has gone
      this.onChange(directory);
      return;
    }
    const before = names?.get(key);
    // Our own doing; or made and removed, or moved away and back, which leaves other times behind.
    if (before === is) return this.#checkAttributes(directory);
    names?.set(key, is);
    // A directory's own watch tells of that only when nobody has it open.
    const lost = before ? this.#store.withKey(before) : undefined;
    if (lost) this.#checkAttributes(lost);
    this.onChange(directory);
  }

  #keyOf(directory: Inode, name: Uint8Array): string | null {
    const inode = this.#store.find(directory, name);
    // No event would tell that it is removed.
    if (inode && !inode.watch) this.#store.letGo(inode);
    return inode?.key ?? null;
  }

  #checkAttributes(inode: Inode): void {
    if (!this.#mayKnowOld(inode)) return this.#store.nameRemoved(inode);
    let stamp = 'gone';
    let isRemoved = false;
    try {
      const attributes = this.#store.attributes(inode);
      stamp = stampOf(attributes);
      isRemoved = attributes.nlink === 0;
    } catch (error) {
      if (!(error instanceof FsError)) throw error;
    }
    if (stamp !== inode.saidStamp) {
      inode.saidStamp = stamp;
      this.onChange(inode);
    }
    if (isRemoved) this.#store.nameRemoved(inode); // after that nobody is asked for leases on it any more
  }

  /** The kernel dropped events: anything may have changed. */
  #overflow(): void {
    this.#log.warn('more local changes than inotify could queue: all leases are recalled');
    for (const { inode, names } of this.#watches.values()) {
      names?.clear();
      this.onChange(inode);
    }
  }
}

function openInotify(): number {
  try {
    return inotifyInit();
  } catch (error) {
    if (error instanceof FsError && [errno.EMFILE, errno.ENFILE, errno.ENOSYS].includes(error.code as never)) return -1;
    throw error;
  }
}

/** A local change may be seen this much later; 50 ms are promised. */
const GATHER_MS = 5;
/** Watches that are looked at to find one to end. */
const MAX_LOOKED_AT = 64;

/** All that clients keep but the access time: before Linux 6.13, changes within a tick have the same change time. */
function stampOf({ ctime, mtime, size, mode, nlink, uid, gid }: LocalAttributes): string {
  return `${ctime.sec}.${ctime.nsec} ${mtime.sec}.${mtime.nsec} ${size} ${mode} ${nlink} ${uid} ${gid}`;
}

function isEqual(a: LocalAttributes, b: LocalAttributes): boolean {
  const isSame = a.size === b.size && a.mode === b.mode && a.nlink === b.nlink && a.uid === b.uid && a.gid === b.gid;
  return isSame && isSameTime(a.ctime, b.ctime) && isSameTime(a.mtime, b.mtime);
}

function isSameTime(a: Timespec, b: Timespec): boolean {
  return a.sec === b.sec && a.nsec === b.nsec;
}

function keyOfName(name: Uint8Array): string {
  return Buffer.from(name.buffer, name.byteOffset, name.length).toString('latin1');
}
