/**
 * What the dispatcher asks of storage: the operations of a filesystem on inodes, names and descriptors. Implemented for
 * an ordinary directory (DirectoryStore); later for a snapshot's view. Namespace operations are synchronous, so each
 * is atomic against every other request; data operations take their page-range locks before they come here.
 * All throw FsError with the errno that the client's caller sees.
 */
import type { FilesystemStatistics, Timespec } from '../../shared/attributes.ts';
import type { LocalAttributes } from '../../shared/linux/libc.ts';
import type { DescriptorCalls } from './descriptor-calls.ts';
import type { Identity } from './identity.ts';
import type { Inode } from './inode.ts';
import type { FoundInode } from './inode-table.ts';

/** Changes of attributes other than the size, which needs a lock and time. */
export interface MetadataChanges {
  readonly mode: number | undefined;
  readonly uid: number | undefined;
  readonly gid: number | undefined;
  readonly atime: Timespec | 'now' | undefined;
  readonly mtime: Timespec | 'now' | undefined;
}

export interface CreatedFile extends FoundInode {
  readonly fd: number;
}

export interface Store {
  /** For the descriptors that it opens. */
  readonly descriptors: DescriptorCalls;
  readonly root: Inode;
  resolve(handle: Uint8Array): Inode;
  /** The inode if it is in memory. */
  known(handle: Uint8Array): Inode | undefined;
  /** The same, by the inode's key. */
  withKey(key: string): Inode | undefined;
  /** Those with this number that are in memory: several, where filesystems are mounted in the export. Looks at all. */
  numbered(ino: bigint): Inode[];
  pin(inode: Inode): void;
  unpin(inode: Inode): void;
  /** A local program may have removed its last name: its space is to be free when nobody has it open. */
  nameRemoved(inode: Inode): void;
  /** Nobody would say so: nothing keeps its space from being free. */
  letGo(inode: Inode): void;
  /** The same as `nameRemoved` for a few of those of which nobody would. To be called now and then. */
  closeRemoved(): void;

  /** The inode behind a name, whoever asks; null when the name is absent, or no client can be told what it is. */
  find(parent: Inode, name: Uint8Array): Inode | null;
  /** An O_PATH descriptor of the inode; good until the next await. */
  descriptorOf(inode: Inode): number;
  lookup(as: Identity, parent: Inode, name: Uint8Array): FoundInode;
  readlink(inode: Inode): Buffer;
  mknod(as: Identity, parent: Inode, name: Uint8Array, mode: number, rdev: number, umask: number): FoundInode;
  mkdir(as: Identity, parent: Inode, name: Uint8Array, mode: number, umask: number): FoundInode;
  symlink(as: Identity, parent: Inode, name: Uint8Array, target: Uint8Array): FoundInode;
  link(as: Identity, inode: Inode, parent: Inode, name: Uint8Array): FoundInode;
  /** `victim`: what the name is, if `find` has said so in the same turn. */
  unlink(as: Identity, parent: Inode, name: Uint8Array, victim?: Inode | null): void;
  rmdir(as: Identity, parent: Inode, name: Uint8Array, victim?: Inode | null): void;
  /** `replaced`: what the new name is, if `find` has said so in the same turn. */
  rename(
    as: Identity,
    parent: Inode,
    name: Uint8Array,
    newParent: Inode,
    newName: Uint8Array,
    flags: number,
    replaced?: Inode | null,
  ): void;

  attributes(inode: Inode): LocalAttributes;
  change(as: Identity, inode: Inode, changes: MetadataChanges): void;
  /** Clears set-user-ID, and set-group-ID of a file that its group may execute. */
  killSuidgid(inode: Inode): void;
  access(as: Identity, inode: Inode, mask: number): void;
  /** Of any namespace. */
  hasXattrs(inode: Inode): boolean;
  getxattr(as: Identity, inode: Inode, name: Uint8Array): Buffer;
  listxattr(as: Identity, inode: Inode): Buffer;
  setxattr(as: Identity, inode: Inode, name: Uint8Array, value: Uint8Array, flags: number): void;
  removexattr(as: Identity, inode: Inode, name: Uint8Array): void;
  statistics(inode: Inode): FilesystemStatistics;

  /** A descriptor that is the caller's to close. `flags`: access mode, O_TRUNC, O_NOATIME, or O.EXEC. */
  open(as: Identity, inode: Inode, flags: number): number;
  openDirectory(as: Identity, inode: Inode): number;
  /** A new file, with its descriptor; undefined when the name is there already. */
  create(
    as: Identity,
    parent: Inode,
    name: Uint8Array,
    mode: number,
    umask: number,
    flags: number,
  ): CreatedFile | undefined;
  tmpfile(as: Identity, parent: Inode, mode: number, umask: number, flags: number): CreatedFile;
  sync(): Promise<void>;
  /** No client is there: what is mounted in the export may be unmounted. */
  closeUnused(): void;
  close(): void;
}
