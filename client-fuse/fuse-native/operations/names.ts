/** Operations on names: making, linking, renaming and removing them. The kernel has applied the caller's umask already. */
import { mode as S } from '../../../shared/attributes.ts';
import type { Entry } from '../../vfs/filesystem.ts';
import type { Mounted, Operation } from '../operation.ts';

export const PERMISSIONS = 0o7777;
const NO_UMASK = 0;

/** Permission bits for a new file, which will belong to the mounting user. */
export function modeOfNewFile(mode: number, mounted: Mounted): number {
  return mounted.mayBeAnybody ? mode & ~(S.S_ISUID | S.S_ISGID) : mode;
}

/** libfuse looks the name up itself: the count that came with the answer goes back. */
function forgetEntry(entry: Entry, { filesystem }: Mounted): number {
  filesystem.forget(entry.node, 1);
  return 0;
}

export const mknod: Operation = async (request, mounted) => {
  const { filesystem, caller, resolver } = mounted;
  const { device } = request;
  const mode = modeOfNewFile(request.mode, mounted);
  using at = await resolver.resolveParent(request.path);
  return forgetEntry(await filesystem.mknod(caller, at.parent, at.name, mode, device, NO_UMASK), mounted);
};

export const mkdir: Operation = async (request, mounted) => {
  const { filesystem, caller, resolver } = mounted;
  const mode = request.mode & PERMISSIONS;
  using at = await resolver.resolveParent(request.path);
  return forgetEntry(await filesystem.mkdir(caller, at.parent, at.name, mode, NO_UMASK), mounted);
};

export const symlink: Operation = async (request, mounted) => {
  const { filesystem, caller, resolver } = mounted;
  const target = request.path;
  using at = await resolver.resolveParent(request.destination);
  return forgetEntry(await filesystem.symlink(caller, at.parent, at.name, target), mounted);
};

export const link: Operation = async (request, mounted) => {
  const { filesystem, caller, resolver } = mounted;
  const { path, destination } = request;
  using held = await resolver.resolve(path);
  using at = await resolver.resolveParent(destination);
  return forgetEntry(await filesystem.link(caller, held.node, at.parent, at.name), mounted);
};

export const unlink: Operation = async (request, { filesystem, caller, resolver }) => {
  using at = await resolver.resolveParent(request.path);
  await filesystem.unlink(caller, at.parent, at.name);
  return 0;
};

export const rmdir: Operation = async (request, { filesystem, caller, resolver }) => {
  using at = await resolver.resolveParent(request.path);
  await filesystem.rmdir(caller, at.parent, at.name);
  return 0;
};

/** Without flags: the protocol of libfuse 2 has none, and the kernel answers EINVAL to whoever gives some. */
export const rename: Operation = async (request, { filesystem, caller, resolver }) => {
  const { path, destination } = request;
  using from = await resolver.resolveParent(path);
  using to = await resolver.resolveParent(destination);
  await filesystem.rename(caller, from.parent, from.name, to.parent, to.name, 0);
  return 0;
};
