/** Operations on what an inode is: attributes, size, target of a symbolic link, statistics of the whole filesystem. */
import type { AttributeChanges } from '../../vfs/filesystem.ts';
import type { NativeRequest } from '../native-request.ts';
import type { Mounted, Operation } from '../operation.ts';
import { PERMISSIONS } from './names.ts';

/** chown(2): this one stays. */
const UNCHANGED = 0xffffffff;

export const getattr: Operation = async (request, { filesystem, caller, resolver }) => {
  using held = await resolver.resolve(request.path);
  // The lookup has just said it, except for the root, which is not looked up.
  const attributes = held.attributes ?? (await filesystem.getattr(caller, held.node)).attributes;
  request.putAttributes(attributes);
  return 0;
};

export const fgetattr: Operation = async (request, { filesystem, caller, files }) => {
  const { node, handle } = files.get(request.file);
  request.putAttributes((await filesystem.getattr(caller, node, handle)).attributes);
  return 0;
};

async function change(request: NativeRequest, mounted: Mounted, changes: AttributeChanges): Promise<number> {
  using held = await mounted.resolver.resolve(request.path);
  await mounted.filesystem.setattr(mounted.caller, held.node, changes);
  return 0;
}

export const chmod: Operation = async (request, mounted) =>
  change(request, mounted, { mode: request.mode & PERMISSIONS });

export const chown: Operation = async (request, mounted) => {
  const { uid, gid } = request;
  return change(request, mounted, { ...(uid !== UNCHANGED && { uid }), ...(gid !== UNCHANGED && { gid }) });
};

/** Both times, in whole milliseconds; a change of only one libfuse drops without asking (docs/fuse-native.md). */
export const utimens: Operation = async (request, mounted) =>
  change(request, mounted, { atime: request.atime, mtime: request.mtime });

export const truncate: Operation = async (request, mounted) =>
  change(request, mounted, { size: request.offset, killSuidgid: mounted.mayBeAnybody });

export const ftruncate: Operation = async (request, { filesystem, caller, files, mayBeAnybody }) => {
  const size = request.offset;
  const { node, handle } = files.get(request.file);
  await filesystem.setattr(caller, node, { size, killSuidgid: mayBeAnybody }, handle);
  return 0;
};

export const readlink: Operation = async (request, { filesystem, caller, resolver }) => {
  using held = await resolver.resolve(request.path);
  request.putLinkTarget(await filesystem.readlink(caller, held.node));
  return 0;
};

export const statfs: Operation = async (request, { filesystem, caller, resolver }) => {
  using held = await resolver.resolve(request.path);
  request.putStatistics(await filesystem.statfs(caller, held.node));
  return 0;
};
