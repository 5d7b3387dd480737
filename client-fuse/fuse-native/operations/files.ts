/** Operations on open files. libfuse copies data to and from the kernel itself; `request.data` is its memory. */
import { errno, FsError } from '../../../shared/errno.ts';
import type { NativeRequest } from '../native-request.ts';
import type { Operation } from '../operation.ts';
import { HeldNode } from '../path-resolver.ts';
import { modeOfNewFile, PERMISSIONS } from './names.ts';

export const open: Operation = async (request, { filesystem, caller, resolver, files, mayBeAnybody }) => {
  const flags = request.openFlags;
  const held = await resolver.resolve(request.path);
  try {
    const { handle } = await filesystem.open(caller, held.node, flags, mayBeAnybody);
    request.setFile(files.add(handle, held, (last) => filesystem.release(last)));
  } catch (error) {
    held[Symbol.dispose]();
    throw error;
  }
  return 0;
};

export const create: Operation = async (request, mounted) => {
  const { filesystem, caller, resolver, files } = mounted;
  const flags = request.openFlags;
  const mode = modeOfNewFile(request.mode & PERMISSIONS, mounted);
  using at = await resolver.resolveParent(request.path);
  const { entry, opened } = await filesystem.create(caller, at.parent, at.name, mode, 0, flags);
  const held = new HeldNode(filesystem, entry);
  request.setFile(files.add(opened.handle, held, (last) => filesystem.release(last)));
  return 0;
};

export const read: Operation = async (request, { filesystem, caller, files }) => {
  const { handle } = files.get(request.file);
  const room = request.data.length;
  const bytes = await filesystem.read(caller, handle, request.offset, room);
  if (bytes.length > room) throw new FsError(errno.EIO, 'read: too much data');
  request.data.set(bytes);
  return bytes.length;
};

export const write: Operation = async (request, { filesystem, caller, files, mayBeAnybody }) => {
  const { handle } = files.get(request.file);
  return filesystem.write(caller, handle, request.offset, request.data, request.openFlags, mayBeAnybody);
};

export const release: Operation = async (request, { files }) => {
  files.release(request.file);
  return 0;
};

const isDataOnly = (request: NativeRequest) => request.mode !== 0;

export const fsync: Operation = async (request, { filesystem, caller, files }) => {
  await filesystem.fsync(caller, files.get(request.file).handle, isDataOnly(request));
  return 0;
};

export const fsyncdir: Operation = async (request, { filesystem, caller, files }) => {
  await filesystem.fsyncdir(caller, files.get(request.file).handle, isDataOnly(request));
  return 0;
};
