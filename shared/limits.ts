/**
 * Every bound of weft in one place, each with its reason. Sizes are bytes, times milliseconds.
 */

export const KiB = 1024;
export const MiB = 1024 * KiB;

/** The unit of page-range locks: the page size of every machine weft runs on. */
export const PAGE_SIZE = 4096;

/** The unit in which clients keep data of files that are open for writing: one message of the small lane. */
export const BLOCK_BYTES = 64 * KiB;

export const limits = {
  /** One write(2) or read(2) that stays whole. 16 MiB: the largest that a raised fs.fuse.max_pages_limit is useful for. */
  maxDataBytes: 16 * MiB,
  /** Arguments or results beside the bulk data: the largest are a 64 KiB xattr and a directory chunk. */
  maxHeaderBytes: 512 * KiB,
  /** Values in one message: a directory chunk of the shortest names, each looked up, has 11,000 entries of 30 values. */
  maxMessageValues: 1 << 19,
  /** NAME_MAX of Linux. */
  maxNameBytes: 255,
  /** PATH_MAX - 1: the longest target of a symbolic link. */
  maxLinkTargetBytes: 4095,
  /** XATTR_NAME_MAX and XATTR_SIZE_MAX of Linux. */
  maxXattrNameBytes: 255,
  maxXattrValueBytes: 64 * KiB,
  /** Kernel handles are at most 128 bytes (MAX_HANDLE_SZ), and ours add a type and a MAC. */
  maxHandleBytes: 192,
  /** NGROUPS_MAX is 65536; who is in more than 1024 groups gets the first 1024. */
  maxGroups: 1024,
  /** Directory listings come in chunks of this size: some thousand names, one round trip. */
  maxDirectoryBytes: 256 * KiB,
  /** Requests one session may have unanswered, and replies that are kept for it; the next one waits in the client. Above any sensible FUSE max_background. */
  maxRequestsInFlight: 1024,
  /** Bytes of write payload that one session may have unanswered at the server; more is read from the socket later. */
  maxBytesInFlight: 16 * MiB,
  /** Reply bytes queued in one socket before the server holds back further bulk replies of that client. */
  maxQueuedReplyBytes: 8 * MiB,
  /** Handles one session may hold open: beyond any process' own limit, below what would hurt the server's memory. */
  maxOpenHandles: 1 << 17,
  /** Inodes the server remembers without a reason (no open handle, no lock): memory is about 400 bytes each. */
  maxIdleInodes: 100_000,
  /** A lease of the session: how long a client may be away before the server may let go of what it holds. */
  sessionLeaseMs: 30_000,
  /** How long the server keeps, as a courtesy, what nobody else asks for of a client that is away: over a night. */
  maxCourtesyMs: 24 * 3_600_000,
  /** Clients to whom it does: each may hold open files and locks. Beyond, who has been away for longest goes. */
  maxCourtesySessions: 256,
  /** Names removed, and files changed, since its start that a server keeps in mind, some 100 bytes each: for what comes late. */
  maxKnownSinceStart: 100_000,
  /** How long a client may use its leases after the server answered it last. */
  leaseUseMs: 3_000,
  /** Less by this is what the kernel is told: it counts from when the caller is woken up and takes its reply in. */
  kernelTakesInMs: 250,
  /** While leases are used, the server is asked this often at least to say that it would have recalled. */
  leaseRenewMs: 1_000,
  /** How long a holder may take to answer a recall before its leases are revoked: longer than it would use them. */
  recallMs: 5_000,
  /** How many times as long, if it goes on speaking: it is slow, and what it gathered would be lost. */
  maxRecallPeriods: 4,
  /** Inodes one session may hold leases on; beyond, the oldest goes. About 1 KiB each, and as much in the kernel. */
  maxLeases: 50_000,
  /** Blocks of files' data that one session may hold: more than a client keeps. Beyond, the oldest go. Some 100 bytes each. */
  maxHeldBlocks: 2_048,
  /** Clients that hold a lease on one inode; more look it up on demand. A change waits for so many answers, all at once. */
  maxHolders: 128,
  /** Leases that a client gives back with one answer: about 45 bytes each. */
  maxLeasesGivenBack: 4_096,
  /** Files that a client closes with one request. */
  maxReleasedAtOnce: 32,
  /** Entries of a directory whose listing a client keeps: about 150 bytes each. */
  maxKnownListing: 65_536,
  /** Ranges that one session may hold locked, and its requests for locks that wait or whose decision it has not taken. */
  maxLocks: 16_384,
  maxWaitingLocks: 1_024,
  /** A grace period is not shorter, whatever the lease time: a client tries to come back every 2 s at least. */
  minGraceMs: 5_000,
  /** Locks that status lists, about 150 bytes each. */
  maxListedLocks: 1_024,
  /** Names of a directory that are read ahead, and after how many lookups in it: some 200 bytes each on the wire. */
  maxNamesAhead: 2_048,
  lookupsBeforeNamesAhead: 4,
  /** Names of a directory that come with the reply to its opening. */
  maxListedAtOpen: 128,
  /**
   * Longer ones are read by the client in parts, in bytes of getdents64(2): some 400 names that are looked up, which keep the
   * server's event loop for some 20 ms, or of 1,600 that are not.
   */
  listingPartBytes: 16 * KiB,
  namesPartBytes: 64 * KiB,
  /** Names of one listing that are looked up with it: of a directory with more, most would only push out other leases. */
  maxListedWithAttributes: 8_192,
  /** Extended attributes that a client keeps of an inode, and the largest: ACLs, capabilities, security labels. */
  maxKnownXattrs: 8,
  /** Names of extended attributes of which it is known how their absence is said. */
  maxAbsentXattrs: 64,
  /** Answers to SEEK_DATA and SEEK_HOLE that a client keeps of a file. */
  maxKnownSeeks: 16,
  maxKnownXattrBytes: 1_024,
  /** Identities for which a client remembers that they may open a file. */
  maxKnownOpeners: 8,
  /** A file up to this size comes with the reply to its open: what one small-lane message carries. */
  maxFirstBytes: 64 * KiB,
  /** Bytes gathered by write-behind that the server has not answered for, of one mount. */
  maxDirtyBytes: 64 * MiB,
  /** Of them, of one file: what keeps a fast line busy. More is fresh memory, with its page faults, and no faster. */
  maxDirtyBytesOfFile: 16 * MiB,
  /** Places in a file that one request writes to: a MiB of pages. Each costs the server a system call. */
  maxExtents: 256,
  /** Blocks of 64 KiB that a mount keeps of files that are open for writing: 64 MiB. */
  maxCachedBlocks: 1_024,
  /**
   * How long one is kept at most. Its recall comes when somebody changes it; this is for what nobody can see on the server's
   * machine: stores through a mapping there, or a local write in the microseconds of a client's.
   */
  blockUseMs: 5_000,
  /** Blocks of one file of which a client remembers that they were read from, before it keeps them. */
  maxTouchedBlocks: 1_024,
  /** Pages of one file, and of a mount, that are remembered as the kernel was given them: 1 MiB and 4 MiB. Beyond, pages are written back whole. */
  maxTwinsOfFile: 256,
  maxTwins: 1024,
  /** How long gathered bytes may wait for more. */
  writeBehindMs: 500,
  /** How long a new file that is being written may be here alone, before it is made at the server; and with how many bytes. */
  unmadeMs: 10,
  maxUnmadeBytes: 64 * KiB,
  /** New files of a mount that wait to be made. */
  maxUnmade: 256,
  /** Directories in which a client makes files behind; and when it lets others look into one again without being asked. */
  maxAlone: 4_096,
  aloneIdleMs: 10_000,
  /**
   * Inodes watched for local changes, and names remembered of one. fs.inotify.max_user_watches may be less: what has no
   * watch is not leased.
   */
  maxWatches: 200_000,
  maxWatchedNames: 65_536,
  /** Inodes a client remembers after its kernel has dropped them. */
  maxIdleNodes: 32_768,
  /** How long connecting and `hello` may take on either side: `weft mount` is to give up within 10 s, its start included. */
  helloTimeoutMs: 6000,
  /** Connections of the server, of one address and of one credential: a mount has two, and addresses are shared by NAT. */
  maxConnections: 8192,
  maxConnectionsPerAddress: 2048,
  maxConnectionsPerCredential: 512,
  /** Connections that have not said hello yet: some for everybody, so that one address cannot take all. If they are, the addresses share them. */
  maxHalfOpen: 1024,
  maxHalfOpenPerAddress: 256,
  /** Wrong tokens of one address before it has to wait, and how long until one is forgotten. */
  maxGuesses: 20,
  guessForgottenMs: 500,
  maxFailingAddresses: 4096,
  /**
   * How long a mount whose credential was refused waits before it shows it again: it may have got another, or that may be
   * good again. Many of them behind one address stay below what is forgotten.
   */
  deniedRetryMs: 30_000,
  /** How often the server looks whether the grants of its sessions still hold. */
  grantCheckMs: 500,
  /** A connection that is silent for this long is asked (ping); silent for twice as long, it is dead. */
  heartbeatMs: 15_000,
} as const;
