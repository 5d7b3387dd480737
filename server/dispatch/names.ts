/** Handlers of operations on names: one call of the store each, synchronous, hence atomic against each other. */
import { FsError } from '../../shared/errno.ts';
import type { Inode } from '../store/inode.ts';
import type { Store } from '../store/store.ts';
import { DONE, entryOf, type Handlers } from './handler.ts';

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
      const { store, identity } = context;
      return entryOf(context, store.lookup(identity, store.resolve(parent), name));
    },
  },
  readlink: {
    mutates: false,
    handle: ({ store }, { inode }) => ({ target: store.readlink(store.resolve(inode)) }),
  },
  mknod: {
    mutates: true,
    handle: (context, { parent, name, mode, rdev, umask }) => {
      const { store, identity } = context;
      return entryOf(context, store.mknod(identity, store.resolve(parent), name, mode, rdev, umask));
    },
  },
  mkdir: {
    mutates: true,
    handle: (context, { parent, name, mode, umask }) => {
      const { store, identity } = context;
      return entryOf(context, store.mkdir(identity, store.resolve(parent), name, mode, umask));
    },
  },
  symlink: {
    mutates: true,
    handle: (context, { parent, name, target }) => {
      const { store, identity } = context;
      return entryOf(context, store.symlink(identity, store.resolve(parent), name, target));
    },
  },
  link: {
    mutates: true,
    handle: (context, { inode, parent, name }) => {
      const { store, identity } = context;
      return entryOf(context, store.link(identity, store.resolve(inode), store.resolve(parent), name));
    },
  },
  unlink: {
    mutates: true,
    handle: ({ store, identity }, { parent, name }) => {
      store.unlink(identity, store.resolve(parent), name);
      return DONE;
    },
  },
  rmdir: {
    mutates: true,
    handle: ({ store, identity }, { parent, name }) => {
      store.rmdir(identity, store.resolve(parent), name);
      return DONE;
    },
  },
  rename: {
    mutates: true,
    handle: ({ store, identity }, { parent, name, newParent, newName, flags }) => {
      store.rename(identity, store.resolve(parent), name, store.resolve(newParent), newName, flags);
      return DONE;
    },
  },
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
