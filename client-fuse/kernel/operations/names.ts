/**
 * Operations on names: looking up, making, linking, renaming and removing them. Every Entry is one lookup count that the kernel
 * now holds, or that is given back when it does not.
 */
import type { AbsentName, Entry } from '../../vfs/filesystem.ts';
import { type Mounted, operation } from '../operation.ts';
import { putAbsentName, putEntry } from '../reply.ts';
import { BODY } from '../request.ts';
import { linkIn, mkdirIn, mknodIn, rename2In, renameIn } from '../structures.ts';

export const PERMISSIONS = 0o7777;

/** The kernel does not know of this entry: its count goes back. */
export function forgetEntry(entry: Entry, mounted: Mounted): void {
  mounted.filesystem.forget(entry.node, 1);
}

function isAbsent(found: Entry | AbsentName): found is AbsentName {
  return found.node === 0;
}

const entryReply = { encode: putEntry, undo: forgetEntry };

export const lookup = operation<Entry | AbsentName>({
  encode: (reply, found) => (isAbsent(found) ? putAbsentName(reply, found) : putEntry(reply, found)),
  undo: (found, mounted) => {
    if (!isAbsent(found)) forgetEntry(found, mounted);
  },
  call: (request, { filesystem }) => filesystem.lookup(request, request.node, request.string(BODY)),
});

export const mknod = operation<Entry>({
  ...entryReply,
  call(request, { filesystem }) {
    request.expect(mknodIn.bytes);
    const { mode, rdev, umask } = mknodIn.fields;
    const { view } = request;
    const name = request.string(BODY + mknodIn.bytes);
    const device = rdev.get(view, BODY);
    return filesystem.mknod(request, request.node, name, mode.get(view, BODY), device, umask.get(view, BODY));
  },
});

export const mkdir = operation<Entry>({
  ...entryReply,
  call(request, { filesystem }) {
    request.expect(mkdirIn.bytes);
    const { mode, umask } = mkdirIn.fields;
    const name = request.string(BODY + mkdirIn.bytes);
    const permissions = mode.get(request.view, BODY) & PERMISSIONS;
    return filesystem.mkdir(request, request.node, name, permissions, umask.get(request.view, BODY));
  },
});

export const symlink = operation<Entry>({
  ...entryReply,
  call(request, { filesystem }) {
    const name = request.string(BODY);
    const target = request.string(BODY + name.length + 1);
    return filesystem.symlink(request, request.node, name, target);
  },
});

export const link = operation<Entry>({
  ...entryReply,
  call(request, { filesystem }) {
    request.expect(linkIn.bytes);
    const node = linkIn.fields.oldnodeid.get(request.view, BODY);
    return filesystem.link(request, node, request.node, request.string(BODY + linkIn.bytes));
  },
});

export const unlink = operation<void>({
  call: (request, { filesystem }) => filesystem.unlink(request, request.node, request.string(BODY)),
});

export const rmdir = operation<void>({
  call: (request, { filesystem }) => filesystem.rmdir(request, request.node, request.string(BODY)),
});

export const rename = operation<void>({
  call(request, { filesystem }) {
    request.expect(renameIn.bytes);
    const newParent = renameIn.fields.newdir.get(request.view, BODY);
    const name = request.string(BODY + renameIn.bytes);
    const newName = request.string(BODY + renameIn.bytes + name.length + 1);
    return filesystem.rename(request, request.node, name, newParent, newName, 0);
  },
});

export const rename2 = operation<void>({
  call(request, { filesystem }) {
    request.expect(rename2In.bytes);
    const { newdir, flags } = rename2In.fields;
    const newParent = newdir.get(request.view, BODY);
    const name = request.string(BODY + rename2In.bytes);
    const newName = request.string(BODY + rename2In.bytes + name.length + 1);
    return filesystem.rename(request, request.node, name, newParent, newName, flags.get(request.view, BODY));
  },
});
