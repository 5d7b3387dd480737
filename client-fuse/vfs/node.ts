/**
 * What a mount holds in memory of an inode: the node, what is known of it under a lease, what the kernel was given of it, and
 * its open handles. Nodes belong to the NodeTable, handles to the HandleTable; only the types are here, since each names
 * the others.
 */
import type { Attributes } from '../../shared/attributes.ts';
import type { PageReads } from '../leases/page-reads.ts';
import type { CallerIdentity } from '../transport/server-session.ts';
import type { BlockCache } from './block-cache.ts';
import type { ExpectedAttributes } from './expected-attributes.ts';
import type { NodeId } from './filesystem.ts';
import type { HeldLocks } from './held-locks.ts';
import type { ListedName, ListingParts } from './listing-parts.ts';
import type { MissedRegions } from './missed-regions.ts';
import type { NodeBlocks } from './node-blocks.ts';
import type { PageTwins } from './page-twins.ts';
import type { ReadAhead } from './read-ahead.ts';
import type { UnmadeFile } from './unmade-file.ts';
import type { WriteBehind } from './write-behind.ts';

/** What is known of one node; set by LeaseCache alone. */
export interface Knowledge {
  /** Everything known in an earlier generation is void. */
  generation: number;
  /** The lease is held: data that were read stay good. */
  isHeld: boolean;
  /** It covers what is kept of the file's data too: nobody writes to it, local programs of the server included. */
  coversData: boolean;
  /** The clock of when this client last opened it to write, or truncated it. */
  uncoveredAt: number;
  attributes: Attributes | undefined;
  /** An own read may have set the access time since. */
  isAccessTimeOld: boolean;
  /** Names of a directory; null is "absent", undefined "to be asked". */
  names: Map<string, Node | null | undefined> | undefined;
  /** Whatever is not among the names is absent. */
  hasAllNames: boolean;
  /** What the directory lists, `.` and `..` included, in order. */
  listing: readonly ListedName[] | undefined;
  /** Of a symbolic link, which always has the same one. */
  target: Buffer | undefined;
  /** Extended attributes of the system: values, or the errno that says why there is none. */
  xattrs: Map<string, Uint8Array | number> | undefined;
  /** There are no extended attributes. */
  hasNoXattrs: boolean;
  /** There is no security.capability, which only setting it changes. */
  hasNoCapability: boolean;
  /** What SEEK_DATA and SEEK_HOLE found: by how and from where. */
  seeks: Map<string, number> | undefined;
  /** Names that were asked about since the lease is held; -1: they have been read ahead. */
  lookups: number;
  /** Who has opened it, and how, since the lease is held: identities and flags for which it need not be asked again. */
  openers: Set<string> | undefined;
  /** Of a directory whose names were recalled: files whose leases were kept, and how many of them were recalled since. */
  left: { readonly files: readonly Node[]; recalls: number } | undefined;
  /** The same of directories: those whose leases may have been kept. */
  kept: Set<Node> | undefined;
  changedAt: number;
  /** The clock of the last recall. */
  recalledAt: number;
  /** Own changes under way: what the server says of the attributes meanwhile may be of before. */
  changing: number;
  /** Recalls that are not acknowledged yet: nothing is learned. */
  recalling: number;
}

export interface Node {
  readonly id: NodeId;
  /** The server's handle (an own copy); empty while the server has not made the file. Set by NodeTable alone. */
  inode: Buffer;
  key: string;
  /** The server has not made the file yet, or could not. */
  unmade: UnmadeFile | undefined;
  /** References that the kernel holds. */
  lookups: number;
  /** Entries that the server sent for it: what it is told when the node is forgotten. */
  entries: number;
  known: Knowledge | undefined;
  given: Given | undefined;
  /** Handles that are not open at the server yet: its lease is as good as that. */
  unopened: Set<OpenHandle> | undefined;
  /** Handles whose reads fill the kernel's page cache. */
  cached: Set<OpenHandle> | undefined;
  /** Where its pages were missed in the kernel; set by ReadAround alone. */
  missed: MissedRegions | undefined;
  /** Pages that the kernel has read since it knows the file: of mappings, above all. */
  mapped: MappedFile | undefined;
  /** Blocks of its data that the server lets this mount keep while others may write: set by SharedBlocks alone. */
  blocks: NodeBlocks | undefined;
  /** The handle that holds the exclusive lease, and gathers writes; until all of them are at the server. */
  gatherer: OpenHandle | undefined;
  /** Open handles that may write. */
  writers: number;
  /** Handles that are being opened, other than to be read through the page cache: one may be granted the exclusive lease. */
  opening: number;
  /** The directory whose known name led to it last. */
  foundIn: Node | undefined;
  /** The name by which it was found last, for people. */
  foundAs: string | undefined;
  /** Locks of programs of this mount. */
  locks: HeldLocks<OpenHandle> | undefined;
  /** It has left the table: whoever still has it looks the name up again. */
  isForgotten: boolean;
}

/** A name that the kernel may keep: since when, and until when. */
export interface GivenName {
  readonly givenMs: number;
  untilMs: number;
  readonly isDirectory: boolean;
}

/** What a directory lists, as the kernel may keep it: since when, until when, and whether it has seen the end of it. */
export interface GivenListing {
  givenMs: number;
  readonly untilMs: number;
  isWhole: boolean;
}

/** What the kernel was given of one node. */
export interface Given {
  attributesUntilMs: number;
  /** Names of a directory. */
  readonly names: Map<string, GivenName>;
  listing: GivenListing | undefined;
  /** Pages may be cached. */
  hasPages: boolean;
  /** Resolves when the kernel has the pages that it is being given unasked. */
  storing: Promise<void> | undefined;
  readonly reads: PageReads;
  /** Creations, removals and renames in the directory that wait for their reply, holding its lock in the kernel. */
  changes: number;
  /** Names that the kernel moved itself, out of or into the directory: counted. */
  moves: number;
  /** Resolves when what was given is taken back. */
  takingBack: Promise<void> | undefined;
}

/** Pages of a file that the kernel has read, whether a lease covers them or not; set by MappedPages alone. */
export interface MappedFile {
  /** The kernel may have pages that no lease covers, and that no drop which has begun takes. */
  mayHavePages: boolean;
  /** Once programs of this mount use locks on it while it is open for writing. */
  twins: PageTwins | undefined;
  /** The drop that has begun, and the one behind it. */
  dropping: Promise<void> | undefined;
  next: Promise<void> | undefined;
}

/** An open file or directory of the mount: see open-handle.ts. */
export interface OpenHandle {
  readonly node: Node;
  readonly isDirectory: boolean;
  /** open(2) flags without those that act only once (O_CREAT, O_EXCL, O_TRUNC). */
  readonly flags: number;
  readonly opener: CallerIdentity;
  /** The server's handle, and the session (epoch) in which it was given. */
  server: number;
  epoch: number;
  reopening: Promise<void> | undefined;
  /** Locks that were taken through it are lost: it is of no use any more. */
  hasLostLocks: boolean;
  /** What it wrote may be lost, and its next fsync or close says so. */
  hasLostWrites: boolean;
  readAhead: ReadAhead | undefined;
  /** Reads fill the kernel's page cache, under a lease. Of a directory: the kernel keeps what it lists. */
  isCached: boolean;
  /** Opened with O_DIRECT: each read asks the server. */
  isDirect: boolean;
  /** The whole file, as it came with the reply to the open; good until it is read once or the lease is recalled. */
  first: Uint8Array | undefined;
  /** Writes are gathered here, under an exclusive lease. */
  behind: WriteBehind | undefined;
  /** They were gathered for a file that was not made yet, and no such lease came with it: they are sent as any other. */
  hasNoLease: boolean;
  /** Of the file that it has made: then changes of attributes are gathered too. */
  expected: ExpectedAttributes | undefined;
  /** What it has read and written lately, under the same lease. */
  blocks: BlockCache | undefined;
  /** The kernel asked that writes clear set-ID bits. */
  killsSuidgid: boolean;
  /** What a directory listed when it was opened or rewound, if that is known; and whether it was read since. */
  listing: readonly ListedName[] | undefined;
  isListingRead: boolean;
  /** When its first names were asked for last. */
  listedAsOf: number;
  /** What the server has sent so far of one whose listing is not known. */
  parts: ListingParts | undefined;
}
