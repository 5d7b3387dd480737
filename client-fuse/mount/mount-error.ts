/**
 * MountError: a mount or unmount that failed for a reason a person can act on. The message is one line that names the thing
 * and the next step; whoever runs the command prints it without a stack.
 */
export class MountError extends Error {
  override readonly name = 'MountError';
}
