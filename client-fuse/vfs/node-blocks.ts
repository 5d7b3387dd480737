/** Blocks of one file that SharedBlocks keeps, and what it has to know of the file to keep them. */

export interface Block {
  readonly blocks: NodeBlocks;
  readonly index: number;
  /** Shorter where the file ends. Never changed: it may be on its way to the kernel. */
  readonly data: Buffer;
  readonly goodUntilMs: number;
  /** It was read since it was looked at last whether it is to go. */
  isUsed: boolean;
}

/** What is kept of one node. */
export interface NodeBlocks {
  readonly known: Map<number, Block>;
  /** How many times blocks were read from that are not here. */
  readonly touched: Map<number, number>;
  readonly ownWrites: Set<OwnWrite>;
  /** What was written and not answered: the server may do it yet, whenever, and would not recall what it changes. */
  unanswered: Bytes | undefined;
  changedAt: number;
  /** Open handles that read past the page cache. */
  readonly handles: Set<{ readonly epoch: number }>;
}

/** [start, end) */
export interface Bytes {
  readonly start: number;
  readonly end: number;
}

/** A write of this mount that is under way. */
export interface OwnWrite extends Bytes {
  /** What was here of it. */
  readonly taken: readonly Block[];
  readonly changedAt: number;
}
