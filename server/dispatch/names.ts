/**
 * Handlers of operations on names: one call of the store each, synchronous, hence atomic against each other. What others
 * know of the names under a lease is recalled before.
 */
import { errno, FsError } from '../../shared/errno.ts';
import type { Eventually } from '../../shared/eventually.ts';
import { RENAME } from '../../shared/linux/constants.ts';
import type { ReplyOf, RequestOf, WireEntry } from '../../shared/protocol/messages.ts';
import type { Change } from '../leases/lease-manager.ts';
import type { Identity } from '../store/identity.ts';
import type { Inode } from '../store/inode.ts';
import type { FoundInode } from '../store/inode-table.ts';
import type { Store } from '../store/store.ts';
import { DONE, entryOf, type Handlers, type RequestContext } from './handler.ts';
import { makeOnce } from './replays.ts';

/** A client may forget what an earlier server named to it; the others of its list count all the same. */
function resolveIfKnown(store: Store, handle: Uint8Array): Inode | undefined {
  try {
    return store.resolve(handle);
  } catch (error) {
    if (error instanceof FsError) return undefined;
    throw error;
  }
}

export const nameHandlers: Handlers<
  'lookup' | 'readlink' | 'mknod' | 'mkdir' | 'symlink' | 'link' | 'unlink' | 'rmdir' | 'rename' | 'forget'
> = {
  lookup: {
    mutates: false,
    handle: (context, { parent, name }) => {
      const { session, store, leases, identity } = context;
      const directory = store.resolve(parent);
      const answer = (): Eventually<ReplyOf<'lookup'>> => {
        const others = leases.settled(session, directory);
        if (others) return others.then(answer);
        const leased = leases.grantNames(session, directory);
        const found = lookUp(store, identity, directory, name);
        const waits = found && leases.settled(session, found.inode);
        if (waits) return waits.then(answer); // and looked up again: the name may mean another inode by then
        leases.saidName(directory, name, found?.inode ?? null);
        return { found: found && entryOf(context, found), leased };
      };
      return answer();
    },
  },
  readlink: {
    mutates: false,
    handle: ({ store }, { inode }) => ({ target: store.readlink(store.resolve(inode)) }),
  },
  mknod: {
    mutates: true,
    handle: (context, { parent, name, mode, rdev, umask }) =>
      addName(context, parent, name, undefined, ({ store, identity }, directory) =>
        store.mknod(identity, directory, name, mode, rdev, umask),
      ),
  },
  mkdir: {
    mutates: true,
    handle: (context, { parent, name, mode, umask, wantsAlone }) => {
      const { session, leases } = context;
      const make = ({ store, identity }: RequestContext, directory: Inode) =>
        store.mkdir(identity, directory, name, mode, umask);
      return addName(context, parent, name, undefined, make, (reply, made) => ({
        ...reply,
        alone: wantsAlone && leases.grantAlone(session, made),
      }));
    },
  },
  symlink: {
    mutates: true,
    handle: (context, { parent, name, target }) =>
      addName(context, parent, name, undefined, ({ store, identity }, directory) =>
        store.symlink(identity, directory, name, target),
      ),
  },
  link: {
    mutates: true,
    handle: (context, { inode: handle, parent, name }) => {
      const inode = context.store.resolve(handle);
      return addName(context, parent, name, inode, ({ store, identity }, directory) =>
        store.link(identity, inode, directory, name),
      );
    },
  },
  unlink: {
    mutates: true,
    handle: (context, { parent, name }) => removeName(context, parent, name, 'unlink'),
  },
  rmdir: {
    mutates: true,
    handle: (context, { parent, name }) => removeName(context, parent, name, 'rmdir'),
  },
  rename: { mutates: true, handle: rename },
  forget: {
    mutates: false,
    handle: ({ session, store }, { inodes }) => {
      if (session.exported.usesKernelHandles) return DONE;
      for (const { inode, entries } of inodes) {
        const known = resolveIfKnown(store, inode);
        if (known) session.forget(known, entries);
      }
      return DONE;
    },
  },
};

/** A name that is absent is an answer, not a failure. */
function lookUp(store: Store, as: Identity, directory: Inode, name: Uint8Array): FoundInode | undefined {
  try {
    return store.lookup(as, directory, name);
  } catch (error) {
    if (error instanceof FsError && error.code === errno.ENOENT) return undefined;
    throw error;
  }
}

type Added = ReplyOf<'mknod'>;

/** Makes a name; leases on its directory, and on the inode that it is linked to, are recalled before. `finish`: in the same turn. */
function addName<R = Added>(
  context: RequestContext,
  parent: Uint8Array,
  name: Uint8Array,
  linked: Inode | undefined,
  make: (context: RequestContext, directory: Inode) => FoundInode,
  finish: (reply: Added, made: Inode) => R = (reply) => reply as R,
): Eventually<R> {
  const { session, store, leases } = context;
  const directory = store.resolve(parent);
  return leases.during(session, linked ? [directory, linked] : [directory], (change) => {
    const found = makeOnce(context, directory, name, () => make(context, directory), linked);
    leases.madeName(directory, name, found.inode);
    const ofDirectory = leases.attributesForHolder(session, change, directory);
    return finish({ entry: entryOf(context, found), directory: ofDirectory }, found.inode);
  });
}

/** Removes a name; leases on its directory and on what it names are recalled before. */
function removeName(
  context: RequestContext,
  parent: Uint8Array,
  name: Uint8Array,
  how: 'unlink' | 'rmdir',
): Eventually<ReplyOf<'unlink'>> {
  const { session, store, leases, identity } = context;
  const directory = store.resolve(parent);
  const victim = store.find(directory, name);
  const inodes = victim ? [directory, victim] : [directory];
  return leases.during(session, inodes, (change) => {
    // While leases were recalled, the name may have come to mean another inode.
    if (change.hasWaited && store.find(directory, name) !== victim) return removeName(context, parent, name, how);
    context.request.applying();
    store[how](identity, directory, name, victim);
    context.request.applied();
    context.sinceStart.removed(directory, name);
    leases.madeName(directory, name, null);
    const ofDirectory = leases.attributesForHolder(session, change, directory);
    return { directory: ofDirectory, changed: alsoChanged(context, change, [victim]) };
  });
}

/** What else a change of names changed, for its author: not a new reference, as other entries are. */
function alsoChanged(
  { session, leases }: RequestContext,
  change: Change,
  inodes: readonly (Inode | null)[],
): WireEntry[] {
  const changed: WireEntry[] = [];
  for (const inode of inodes) {
    // Of one that has no name any more, who has it open is to forget what it knows; nobody asks about the others.
    if (inode === null || inode.isGone) continue;
    const attributes = leases.attributesAfter(change, inode);
    changed.push({ inode: inode.handle, attributes, leased: !inode.isRemoved && session.holdsLease(inode) });
  }
  return changed;
}

function rename(context: RequestContext, request: RequestOf<'rename'>): Eventually<ReplyOf<'rename'>> {
  const { session, store, leases, identity } = context;
  const { name, newName, flags } = request;
  const from = store.resolve(request.parent);
  const to = store.resolve(request.newParent);
  const moved = store.find(from, name);
  const replaced = store.find(to, newName);
  const inodes = [from, to, moved, replaced].filter((inode) => inode !== null);
  const isAsItWas = () => store.find(from, name) === moved && store.find(to, newName) === replaced;
  return leases.during(session, inodes, (change) => {
    if (change.hasWaited && !isAsItWas()) return rename(context, request);
    context.request.applying();
    store.rename(identity, from, name, to, newName, flags, replaced);
    context.request.applied();
    context.sinceStart.removed(from, name);
    context.sinceStart.removed(to, newName);
    // Of two names of one inode both stay as they are.
    if (moved !== replaced) {
      leases.madeName(to, newName, moved);
      if (flags & RENAME.EXCHANGE) leases.madeName(from, name, replaced);
      else leases.madeName(from, name, flags & RENAME.WHITEOUT ? store.find(from, name) : null);
    }
    return {
      directory: leases.attributesForHolder(session, change, from),
      newDirectory: leases.attributesForHolder(session, change, to),
      changed: alsoChanged(context, change, [moved, replaced]),
    };
  });
}
