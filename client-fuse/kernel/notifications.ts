/**
 * Notifications: messages to the kernel that answer no request, by which a recall empties its caches. Each is encoded here and
 * written by another thread (KernelChannel.notify). Never await one in a handler that a caller waits for: the kernel
 * may hold the lock that the notification needs until that caller is answered. Source: fuse_notify() in fs/fuse/dev.c.
 */
import { Semaphore } from 'async-mutex';
import { errno, FsError } from '../../shared/errno.ts';
import type { NodeId } from '../vfs/filesystem.ts';
import type { KernelChannel } from './channel.ts';
import { EXPIRE_ONLY, NOTIFY } from './constants.ts';
import { notifyDeleteOut, notifyInvalEntryOut, notifyInvalInodeOut, notifyStoreOut, outHeader } from './structures.ts';

/** fuse_out_header with unique 0 and the notification's code in place of the error, then arguments and name. */
function frame(code: number, argumentBytes: number, name?: Uint8Array): { bytes: Buffer; view: DataView } {
  const nameAt = outHeader.bytes + argumentBytes;
  const bytes = Buffer.alloc(nameAt + (name ? name.length + 1 : 0));
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  outHeader.fields.len.set(view, 0, bytes.length);
  outHeader.fields.error.set(view, 0, code);
  if (name) bytes.set(name, nameAt);
  return { bytes, view };
}

/** Attributes of an inode; and its pages in [offset, offset + length): length 0 is to the end, offset -1 no pages. */
export function encodeInvalidateInode(node: NodeId, offset: number, length: number): Buffer {
  const { bytes, view } = frame(NOTIFY.INVAL_INODE, notifyInvalInodeOut.bytes);
  notifyInvalInodeOut.fields.ino.set(view, outHeader.bytes, node);
  notifyInvalInodeOut.fields.off.set(view, outHeader.bytes, offset);
  notifyInvalInodeOut.fields.len.set(view, outHeader.bytes, length);
  return bytes;
}

export function encodeInvalidateEntry(parent: NodeId, name: Uint8Array, expireOnly: boolean): Buffer {
  const { bytes, view } = frame(NOTIFY.INVAL_ENTRY, notifyInvalEntryOut.bytes, name);
  notifyInvalEntryOut.fields.parent.set(view, outHeader.bytes, parent);
  notifyInvalEntryOut.fields.namelen.set(view, outHeader.bytes, name.length);
  notifyInvalEntryOut.fields.flags.set(view, outHeader.bytes, expireOnly ? EXPIRE_ONLY : 0);
  return bytes;
}

/** As an invalidated entry, and the kernel tells those who watch the directory that the name is gone. */
export function encodeDelete(parent: NodeId, child: NodeId, name: Uint8Array): Buffer {
  const { bytes, view } = frame(NOTIFY.DELETE, notifyDeleteOut.bytes, name);
  notifyDeleteOut.fields.parent.set(view, outHeader.bytes, parent);
  notifyDeleteOut.fields.child.set(view, outHeader.bytes, child);
  notifyDeleteOut.fields.namelen.set(view, outHeader.bytes, name.length);
  return bytes;
}

/** What stands before `dataBytes` for the pages of an inode from `offset` on. */
export function encodeStore(node: NodeId, offset: number, dataBytes: number): Buffer {
  const { bytes, view } = frame(NOTIFY.STORE, notifyStoreOut.bytes);
  outHeader.fields.len.set(view, 0, bytes.length + dataBytes);
  notifyStoreOut.fields.nodeid.set(view, outHeader.bytes, node);
  notifyStoreOut.fields.offset.set(view, outHeader.bytes, offset);
  notifyStoreOut.fields.size.set(view, outHeader.bytes, dataBytes);
  return bytes;
}

/** Every cached name of the mount is looked up again. Takes no lock of any directory (protocol 7.44). */
export function encodeIncrementEpoch(): Buffer {
  return frame(NOTIFY.INC_EPOCH, 0).bytes;
}

/**
 * So many may wait for pages at once, each on a thread of the pool: pages that are being read or written back are locked
 * until the server has answered, and there must be threads left for what brings the answer (a host's name is looked up).
 */
const MOST_AWAITED_PAGES = 16;

/** Sends notifications. Each resolves when the kernel has done it; what it did not know is as good as done. */
export class Notifier {
  readonly #channel: KernelChannel;
  readonly #awaitedPages = new Semaphore(MOST_AWAITED_PAGES);

  constructor(channel: KernelChannel) {
    this.#channel = channel;
  }

  /** False: the kernel does not know the inode, or not yet. */
  async invalidateInode(node: NodeId, offset: number, length: number): Promise<boolean> {
    const send = () => this.#send(encodeInvalidateInode(node, offset, length));
    const code = offset < 0 ? await send() : await this.#awaitedPages.runExclusive(send);
    return code !== errno.ENOENT;
  }

  /** What the kernel keeps of a directory: no such page is locked for longer than it takes to copy it, so nobody waits here. */
  async invalidateListing(node: NodeId): Promise<void> {
    await this.#send(encodeInvalidateInode(node, 0, 0));
  }

  /** Whole pages of the file, not beyond its end: the kernel would take that for the new one. */
  async storePages(node: NodeId, offset: number, data: Uint8Array): Promise<void> {
    const store = encodeStore(node, offset, data.length);
    await this.#awaitedPages.runExclusive(() => this.#send(store, data));
  }

  async invalidateEntry(parent: NodeId, name: Uint8Array, options: { expireOnly?: boolean } = {}): Promise<void> {
    await this.#send(encodeInvalidateEntry(parent, name, options.expireOnly ?? false));
  }

  async deleteEntry(parent: NodeId, child: NodeId, name: Uint8Array): Promise<void> {
    await this.#send(encodeDelete(parent, child, name));
  }

  /** Only where Features.epochs says so; EINVAL otherwise. */
  async incrementEpoch(): Promise<void> {
    await this.#send(encodeIncrementEpoch());
  }

  async #send(notification: Buffer, data?: Uint8Array): Promise<number> {
    const code = await this.#channel.notify(notification, data);
    // ENOENT: neither inode nor name is cached. ENODEV: the mount is gone, and its caches with it.
    if (code !== 0 && code !== errno.ENOENT && code !== errno.ENODEV) throw new FsError(code, 'notification');
    return code;
  }
}
