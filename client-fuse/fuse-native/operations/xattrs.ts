/** Operations on extended attributes. With no room, a reader asks for the length. */
import { errno, FsError } from '../../../shared/errno.ts';
import type { NativeRequest } from '../native-request.ts';
import type { Operation } from '../operation.ts';

function put(request: NativeRequest, bytes: Uint8Array): number {
  if (request.xattrRoom === 0) return bytes.length;
  if (bytes.length > request.xattrRoom) throw new FsError(errno.ERANGE, 'xattr');
  request.data.set(bytes);
  return bytes.length;
}

export const getxattr: Operation = async (request, { filesystem, caller, resolver }) => {
  const { path, name } = request;
  using held = await resolver.resolve(path);
  return put(request, await filesystem.getxattr(caller, held.node, name));
};

export const listxattr: Operation = async (request, { filesystem, caller, resolver }) => {
  using held = await resolver.resolve(request.path);
  return put(request, await filesystem.listxattr(caller, held.node));
};

export const setxattr: Operation = async (request, { filesystem, caller, resolver, mayBeAnybody }) => {
  const { path, name, flags, data } = request;
  using held = await resolver.resolve(path);
  // An ACL change by somebody outside of the file's group takes set-group-ID away.
  const killSgid = mayBeAnybody && name.equals(ACCESS_ACL);
  await filesystem.setxattr(caller, held.node, name, data, flags, killSgid);
  return 0;
};

const ACCESS_ACL = Buffer.from('system.posix_acl_access');

export const removexattr: Operation = async (request, { filesystem, caller, resolver }) => {
  const { path, name } = request;
  using held = await resolver.resolve(path);
  await filesystem.removexattr(caller, held.node, name);
  return 0;
};
