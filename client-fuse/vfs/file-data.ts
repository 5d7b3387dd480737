/**
 * Reads and writes of open files: which request a read(2) or write(2) becomes. Writes go to the server one call, one
 * request, hence whole; reads are read ahead when sequential, and shared among callers that wait for the same bytes.
 * Requests run as the handle's opener: the right to read or write was checked when the file was opened.
 */
import { MiB } from '../../shared/limits.ts';
import { O } from '../../shared/linux/constants.ts';
import type { ServerSession } from '../transport/server-session.ts';
import type { OpenHandle } from './open-handle.ts';
import { ReadAhead, ReadAheadBudget, type VersionedData } from './read-ahead.ts';
import { SharedReads } from './shared-reads.ts';

const READ_AHEAD_BYTES = 64 * MiB;

export class FileData {
  readonly #session: ServerSession;
  readonly #shared = new SharedReads();
  readonly #budget = new ReadAheadBudget(READ_AHEAD_BYTES);

  constructor(session: ServerSession) {
    this.#session = session;
  }

  readAheadFor(open: OpenHandle): ReadAhead | undefined {
    if ((open.flags & O.ACCMODE) !== O.RDONLY) return undefined;
    return new ReadAhead((offset, size, known) => this.#readVersioned(open, offset, size, known), this.#budget);
  }

  read(open: OpenHandle, offset: number, size: number): Promise<Uint8Array> {
    const ahead = open.readAhead?.read(offset, size);
    if (ahead) return ahead;
    return this.#shared.read(`${open.node.id} ${open.epoch} ${offset} ${size}`, () => this.#read(open, offset, size));
  }

  async #read(open: OpenHandle, offset: number, size: number): Promise<Uint8Array> {
    const request = { handle: open.server, offset, size, knownVersion: undefined };
    const { bulk } = await this.#session.callForBulk('read', open.opener, request);
    return bulk;
  }

  async #readVersioned(open: OpenHandle, offset: number, size: number, knownVersion: number): Promise<VersionedData> {
    const request = { handle: open.server, offset, size, knownVersion };
    const { reply, bulk } = await this.#session.callForBulk('read', open.opener, request);
    return { version: reply.version, unchanged: reply.unchanged, data: bulk };
  }

  async write(
    open: OpenHandle,
    offset: number,
    data: Uint8Array,
    flags: number,
    killSuidgid: boolean,
  ): Promise<number> {
    const request = { handle: open.server, offset, append: (flags & O.APPEND) !== 0, sync: syncOf(flags), killSuidgid };
    const { written } = await this.#session.call('write', open.opener, request, { bulk: data });
    return written;
  }
}

/** O_SYNC contains the bit of O_DSYNC. */
function syncOf(flags: number): 'none' | 'data' | 'all' {
  if ((flags & O.SYNC) === O.SYNC) return 'all';
  return flags & O.DSYNC ? 'data' : 'none';
}
