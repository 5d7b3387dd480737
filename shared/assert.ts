/**
 * Assertions that stay on in production. They guard what cannot happen by the rules of the program; an expected
 * failure (bad input, a full disk, a lost connection) is an FsError or a ProtocolError instead.
 */

/** Throws when an invariant of the program is broken. */
export function assert(condition: unknown, invariant: string): asserts condition {
  if (!condition) throw new AssertionError(invariant);
}

/** The default branch of a switch over a closed set: compiles only when every case is handled. */
export function assertNever(value: never, what: string): never {
  throw new AssertionError(`${what}: unhandled case ${String(value)}`);
}

export class AssertionError extends Error {
  override readonly name = 'AssertionError';
}
