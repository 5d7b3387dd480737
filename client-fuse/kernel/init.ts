/**
 * The INIT negotiation, pure: what the kernel offers goes in, the reply and the features then in force come out. Used
 * once a mount, before any other request. Every feature has a fallback, so that any kernel from 5.4 (7.31) on serves.
 * Source: include/uapi/linux/fuse.h and process_init_reply() in the kernel's fs/fuse/inode.c.
 */
import { errno } from '../../shared/errno.ts';
import { PAGE_SIZE } from '../../shared/limits.ts';
import { INIT, INIT2, PROTOCOL_MAJOR, PROTOCOL_MINOR, PROTOCOL_MINOR_OLDEST } from './constants.ts';

/** fuse_init_in. */
export interface InitOffer {
  readonly major: number;
  readonly minor: number;
  readonly maxReadahead: number;
  readonly flags: number;
  /** 0 where the kernel sent none (before 7.36). */
  readonly flags2: number;
}

export interface InitWishes {
  /** The largest write(2) that should arrive as one request. */
  readonly maxWriteBytes: number;
  /** /proc/sys/fs/fuse/max_pages_limit; 256 on kernels that have no such file. */
  readonly maxPagesLimit: number;
  /** Let the kernel keep targets of symbolic links. Needs an invalidation when one is replaced. */
  readonly cacheSymlinks: boolean;
  /**
   * The kernel checks modes and ACLs too (POSIX_ACL implies the mount option default_permissions). The server enforces
   * every request; this is for what makes no request: opening fifos, sockets and devices, and names from a cache.
   */
  readonly checkPermissions: boolean;
  /** Requests the kernel may send ahead (readahead, asynchronous direct I/O, writeback). */
  readonly maxBackground: number;
}

/** fuse_init_out, as far as it is not 0. */
export interface InitAnswer {
  readonly major: number;
  readonly minor: number;
  readonly maxReadahead: number;
  readonly flags: number;
  readonly flags2: number;
  readonly maxBackground: number;
  readonly congestionThreshold: number;
  readonly maxWrite: number;
  readonly timeGran: number;
  readonly maxPages: number;
}

/** What holds for this mount. */
export interface Features {
  /** The protocol spoken: the smaller of the two minor versions. */
  readonly minor: number;
  readonly maxWriteBytes: number;
  readonly setxattrExtended: boolean;
  readonly killPrivileges: boolean;
  readonly sharedMmapOfDirectIo: boolean;
  /** NOTIFY_INVAL_ENTRY may ask for expiry only. */
  readonly expireOnly: boolean;
  /** NOTIFY_INC_EPOCH is there. */
  readonly epochs: boolean;
  readonly readdirplus: boolean;
}

export type Negotiation =
  | { readonly kind: 'agreed'; readonly answer: InitAnswer; readonly features: Features }
  /** The kernel is newer by a major version: it is told ours and sends another INIT. */
  | { readonly kind: 'again'; readonly answer: InitAnswer }
  | { readonly kind: 'refused'; readonly errno: number; readonly reason: string };

/** max_pages of kernels that have no FUSE_MAX_PAGES. */
const DEFAULT_MAX_PAGES = 32;
/** The largest value of the u16 field, and of the sysctl. */
const LARGEST_MAX_PAGES = 65535;

/*
 * Wanted where offered. Not in this list, on purpose:
 * - WRITEBACK_CACHE: the kernel would dirty pages without asking and ignore the server's size and times.
 * - READDIRPLUS_AUTO: the kernel would look up by itself, one after the other, most names of a long directory that is listed
 *   first and looked at afterwards. The filesystem decides what it tells of names.
 * - EXPORT_SUPPORT: a lookup of `..` by node id cannot be answered for an inode that the server has forgotten.
 * - NO_OPEN_SUPPORT: every open is a real one. ABORT_ERROR: ENODEV is as good an end.
 */
const WANTED =
  INIT.ASYNC_READ |
  INIT.POSIX_LOCKS |
  INIT.FLOCK_LOCKS |
  INIT.ATOMIC_O_TRUNC |
  INIT.BIG_WRITES |
  INIT.DONT_MASK |
  INIT.AUTO_INVAL_DATA |
  INIT.DO_READDIRPLUS |
  INIT.ASYNC_DIO |
  INIT.PARALLEL_DIROPS |
  INIT.MAX_PAGES |
  INIT.HANDLE_KILLPRIV_V2 |
  INIT.SETXATTR_EXT |
  INIT.INIT_EXT;

const WANTED2 = INIT2.HAS_EXPIRE_ONLY | INIT2.DIRECT_IO_ALLOW_MMAP;

/**
 * The largest write that can arrive as one request: `wanted`, whole pages, as far as the kernel's page limit goes. Also
 * the value of the mount option max_read, so that reads come in the same pieces.
 */
export function largestWriteBytes(wanted: number, maxPagesLimit: number): number {
  const pages = Math.max(1, Math.min(Math.floor(wanted / PAGE_SIZE), maxPagesLimit, LARGEST_MAX_PAGES));
  return pages * PAGE_SIZE;
}

export function negotiate(offer: InitOffer, wishes: InitWishes): Negotiation {
  if (offer.major < PROTOCOL_MAJOR || (offer.major === PROTOCOL_MAJOR && offer.minor < PROTOCOL_MINOR_OLDEST)) {
    const spoken = `${offer.major}.${offer.minor}`;
    const needed = `${PROTOCOL_MAJOR}.${PROTOCOL_MINOR_OLDEST} (Linux 5.4)`;
    const reason = `the kernel speaks FUSE ${spoken}, weft needs ${needed} or later: use --driver fuse-native`;
    return { kind: 'refused', errno: errno.EPROTO, reason };
  }
  if (offer.major > PROTOCOL_MAJOR) return { kind: 'again', answer: bareAnswer() };

  let flags = offer.flags & WANTED;
  if (wishes.cacheSymlinks) flags |= offer.flags & INIT.CACHE_SYMLINKS;
  if (wishes.checkPermissions) flags |= offer.flags & INIT.POSIX_ACL;
  const flags2 = flags & INIT.INIT_EXT ? offer.flags2 & WANTED2 : 0;
  const minor = Math.min(offer.minor, PROTOCOL_MINOR);

  const pagesLimit = flags & INIT.MAX_PAGES ? wishes.maxPagesLimit : DEFAULT_MAX_PAGES;
  const maxWrite = largestWriteBytes(wishes.maxWriteBytes, pagesLimit);
  // One page more than the data, where the limit has room: a caller's buffer that is not aligned touches one page more,
  // and a direct write from it would come in two requests otherwise.
  const maxPages = flags & INIT.MAX_PAGES ? Math.min(maxWrite / PAGE_SIZE + 1, pagesLimit, LARGEST_MAX_PAGES) : 0;

  return {
    kind: 'agreed',
    answer: {
      ...bareAnswer(),
      minor,
      maxReadahead: offer.maxReadahead,
      flags: flags >>> 0,
      flags2: flags2 >>> 0,
      maxBackground: wishes.maxBackground,
      congestionThreshold: Math.floor((wishes.maxBackground * 3) / 4),
      maxWrite,
      timeGran: 1,
      maxPages,
    },
    features: {
      minor,
      maxWriteBytes: maxWrite,
      setxattrExtended: (flags & INIT.SETXATTR_EXT) !== 0,
      killPrivileges: (flags & INIT.HANDLE_KILLPRIV_V2) !== 0,
      sharedMmapOfDirectIo: (flags2 & INIT2.DIRECT_IO_ALLOW_MMAP) !== 0,
      expireOnly: (flags2 & INIT2.HAS_EXPIRE_ONLY) !== 0,
      epochs: minor >= 44,
      readdirplus: (flags & INIT.DO_READDIRPLUS) !== 0,
    },
  };
}

function bareAnswer(): InitAnswer {
  return {
    major: PROTOCOL_MAJOR,
    minor: PROTOCOL_MINOR,
    maxReadahead: 0,
    flags: 0,
    flags2: 0,
    maxBackground: 0,
    congestionThreshold: 0,
    maxWrite: 0,
    timeGran: 1,
    maxPages: 0,
  };
}
