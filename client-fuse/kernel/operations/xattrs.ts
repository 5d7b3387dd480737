/**
 * Operations on extended attributes. A size of 0 asks how long the value is; a size that is too small is ERANGE. POSIX ACLs are
 * among them as plain values (system.posix_acl_*): the server's kernel enforces them.
 */
import { errno, FsError } from '../../../shared/errno.ts';
import { SETXATTR_ACL_KILL_SGID } from '../constants.ts';
import { operation } from '../operation.ts';
import type { Reply } from '../reply.ts';
import { BODY, type Request } from '../request.ts';
import { getxattrIn, getxattrOut, setxattrCompatIn, setxattrIn } from '../structures.ts';

function putValue(reply: Reply, value: Uint8Array, request: Request): void {
  if (request.room === 0) {
    const base = reply.claimZeroed(getxattrOut.bytes);
    getxattrOut.fields.size.set(reply.view, base, value.length);
    return;
  }
  if (value.length > request.room) throw new FsError(errno.ERANGE, 'getxattr');
  reply.payload = value;
}

export const getxattr = operation<Uint8Array>({
  encode: putValue,
  call(request, { filesystem }) {
    request.expect(getxattrIn.bytes);
    request.room = getxattrIn.fields.size.get(request.view, BODY);
    return filesystem.getxattr(request, request.node, request.string(BODY + getxattrIn.bytes));
  },
});

export const listxattr = operation<Uint8Array>({
  encode: putValue,
  call(request, { filesystem }) {
    request.expect(getxattrIn.bytes);
    request.room = getxattrIn.fields.size.get(request.view, BODY);
    return filesystem.listxattr(request, request.node);
  },
});

export const setxattr = operation<void>({
  call(request, { filesystem, features }) {
    const fixed = features.setxattrExtended ? setxattrIn.bytes : setxattrCompatIn.bytes;
    request.expect(fixed);
    const { size, flags, setxattrFlags } = setxattrIn.fields;
    const { view } = request;
    const name = request.string(BODY + fixed);
    const value = request.copy(BODY + fixed + name.length + 1, size.get(view, BODY));
    const extra = features.setxattrExtended ? setxattrFlags.get(view, BODY) : 0;
    const killSgid = (extra & SETXATTR_ACL_KILL_SGID) !== 0;
    return filesystem.setxattr(request, request.node, name, value, flags.get(view, BODY), killSgid);
  },
});

export const removexattr = operation<void>({
  call: (request, { filesystem }) => filesystem.removexattr(request, request.node, request.string(BODY)),
});
