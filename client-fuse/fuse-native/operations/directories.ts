/**
 * Operations on open directories. The whole listing is handed to libfuse at the first read, and again after each rewind:
 * so its positions are libfuse's own, and a directory that changes while it is read is listed as of its start.
 */
import type { U64 } from '../../../shared/attributes.ts';
import { limits } from '../../../shared/limits.ts';
import type { Operation } from '../operation.ts';

export const opendir: Operation = async (request, { filesystem, caller, resolver, files }) => {
  const held = await resolver.resolve(request.path);
  try {
    const { handle } = await filesystem.opendir(caller, held.node);
    request.setFile(files.add(handle, held, (last) => filesystem.releasedir(last)));
  } catch (error) {
    held[Symbol.dispose]();
    throw error;
  }
  return 0;
};

export const readdir: Operation = async (request, { filesystem, caller, files }) => {
  const { handle } = files.get(request.file);
  for (let cookie: U64 = 0; ; ) {
    const entries = await filesystem.readdir(caller, handle, cookie, limits.maxDirectoryBytes, false);
    const last = entries.at(-1);
    if (last === undefined) return 0;
    for (const { name, ino, type } of entries) request.addDirectoryEntry(name, ino, type);
    cookie = last.cookie;
  }
};
