/** Handlers that list directories. */
import { FsError } from '../../shared/errno.ts';
import { limits } from '../../shared/limits.ts';
import type { ReplyOf, WireEntry } from '../../shared/protocol/messages.ts';
import { readEntries } from '../store/directory-stream.ts';
import type { Inode } from '../store/inode.ts';
import { wrongKind } from './attributes.ts';
import { entryOf, type Handlers, type RequestContext } from './handler.ts';

export const directoryHandlers: Handlers<'readdir'> = {
  readdir: {
    mutates: false,
    handle: (context, { handle, cookie, sizeBytes, plus }): ReplyOf<'readdir'> => {
      const file = context.session.file(handle);
      if (!file.isDirectory) throw wrongKind(false);
      const leased = plus && context.leases.grantNames(context.session, file.inode);
      const { entries, end } = readEntries(file.fd, cookie, Math.min(sizeBytes, limits.maxDirectoryBytes));
      const withEntry = (name: Buffer) => (plus ? lookedUp(context, file.inode, name) : undefined);
      return { entries: entries.map((one) => ({ ...one, entry: withEntry(one.name) })), end, leased };
    },
  },
};

const DOT = 0x2e;

function isDotOrDotDot(name: Buffer): boolean {
  return name[0] === DOT && (name.length === 1 || (name.length === 2 && name[1] === DOT));
}

/** Nothing for an entry that has gone, or that the caller may not look up: the listing itself goes on. */
function lookedUp(context: RequestContext, parent: Inode, name: Buffer): WireEntry | undefined {
  if (isDotOrDotDot(name)) return undefined;
  try {
    const found = context.store.lookup(context.identity, parent, name);
    context.leases.saidName(parent, name, found.inode);
    return entryOf(context, found);
  } catch (error) {
    if (error instanceof FsError) return undefined;
    throw error;
  }
}
