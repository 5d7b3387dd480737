/**
 * Operation: how one kind of request is served. `call` decodes the arguments and calls the filesystem, without waiting;
 * `encode` puts the result into the reply; `undo` gives back what a result holds (a lookup count, a handle) when the
 * kernel did not take the reply in. The table of them is operations/table.ts.
 */
import type { Eventually, Filesystem } from '../vfs/filesystem.ts';
import type { Features } from './init.ts';
import type { Reply } from './reply.ts';
import type { Request } from './request.ts';

/** What operations need of their mount. */
export interface Mounted {
  readonly filesystem: Filesystem;
  readonly features: Features;
}

export interface Operation<T> {
  call(request: Request, mounted: Mounted): Eventually<T>;
  encode?(reply: Reply, result: T, request: Request): void;
  undo?(result: T, mounted: Mounted): void;
}

/** Types an operation by its result. */
export function operation<T>(definition: Operation<T>): Operation<unknown> {
  return definition as Operation<unknown>;
}

/** `change(value)`, now or when it is there. */
export function mapEventually<T, U>(value: Eventually<T>, change: (value: T) => U): Eventually<U> {
  return value instanceof Promise ? value.then(change) : change(value);
}
