/**
 * Dispatcher: takes each request of libfuse's threads, runs its operation and wakes the thread with the result. Owned by the
 * mount. Invariants: every request is answered exactly once, for its thread waits without end; nothing is thrown into
 * fuse-native, which would end the process.
 */
import { errno, errnoOf, FsError, MAX_ERRNO } from '../../shared/errno.ts';
import type { FuseNativeBinding, NativeHandler, NativeOperationName } from './binding.ts';
import type { Log } from './log.ts';
import { addressOf } from './native-memory.ts';
import { mountRecordOf, NativeRequest } from './native-request.ts';
import type { Mounted } from './operation.ts';
import { type OperationName, operations } from './operations/table.ts';

/** Where an operation's arguments bring libfuse's memory. */
const DATA_ARGUMENT: { readonly [N in OperationName]?: number } = {
  read: 2,
  write: 2,
  setxattr: 2,
  getxattr: 2,
  listxattr: 1,
};
const NO_DATA = Buffer.alloc(0);
/** binding.gyp leaves room for 35 operations. */
const OPERATION_SLOTS = 35;

export interface DispatcherParts {
  readonly binding: FuseNativeBinding;
  /** The mount's record, which every thread's record must point to. */
  readonly thread: Buffer;
  readonly mounted: Mounted;
  readonly log: Log;
  /** The kernel has agreed: the mount works. Or its records are not what native-request.ts describes. */
  readonly onInit: (isUnderstood: boolean) => void;
}

export class Dispatcher {
  readonly handlers: readonly (NativeHandler | undefined)[];
  readonly implemented: Uint32Array;
  /** Requests that wait for the filesystem. */
  inFlight = 0;
  /** Operations that failed for a reason that is no errno: bugs. */
  unexpectedErrors = 0;
  readonly #parts: DispatcherParts;
  readonly #mountRecord: bigint;

  constructor(parts: DispatcherParts) {
    this.#parts = parts;
    this.#mountRecord = addressOf(parts.thread);
    const handlers: (NativeHandler | undefined)[] = new Array(OPERATION_SLOTS).fill(undefined);
    this.implemented = new Uint32Array(OPERATION_SLOTS);
    const place = (name: NativeOperationName, handler: NativeHandler) => {
      const slot = parts.binding[`op_${name}`];
      handlers[slot] = handler;
      this.implemented[slot] = 1;
    };
    place('init', (locals) => this.#init(locals));
    for (const name of Object.keys(operations) as OperationName[]) {
      place(name, (locals, _operation, ...args) => void this.#serve(name, locals, args));
    }
    this.handlers = handlers;
  }

  #init(locals: Buffer): void {
    this.#parts.binding.fuse_native_signal_init(locals, 0);
    this.#parts.onInit(mountRecordOf(locals) === this.#mountRecord);
  }

  async #serve(name: OperationName, locals: Buffer, args: readonly unknown[]): Promise<void> {
    const index = DATA_ARGUMENT[name];
    const data = index === undefined ? NO_DATA : (args[index] as Buffer);
    let result: number;
    this.inFlight++;
    try {
      if (mountRecordOf(locals) !== this.#mountRecord) throw new FsError(errno.EIO, name);
      result = await operations[name](new NativeRequest(locals, data), this.#parts.mounted);
    } catch (error) {
      result = -this.#errnoOf(name, error);
    }
    this.inFlight--;
    this.#answer(name, locals, result, data);
  }

  /** Data that the request brought must be let go in the same step: afterwards its memory is another's. */
  #answer(name: OperationName, locals: Buffer, result: number, data: Buffer): void {
    const { binding } = this.#parts;
    if (data.length === 0) binding.fuse_native_signal_init(locals, result);
    else if (name === 'read') binding.fuse_native_signal_read(locals, result, 0, data.buffer);
    else if (name === 'write') binding.fuse_native_signal_write(locals, result, 0, data.buffer);
    else if (name === 'setxattr') binding.fuse_native_signal_setxattr(locals, result, data.buffer);
    else if (name === 'getxattr') binding.fuse_native_signal_getxattr(locals, result, data.buffer);
    else binding.fuse_native_signal_listxattr(locals, result, data.buffer);
  }

  /** The one place where errors of the filesystem become error numbers. */
  #errnoOf(name: OperationName, error: unknown): number {
    if (!(error instanceof FsError)) {
      this.unexpectedErrors++;
      this.#parts.log.error({ err: error, operation: name }, 'unexpected error of an operation');
      return errno.EIO;
    }
    const code = errnoOf(error);
    // To ENOSYS the kernel would answer by itself from then on.
    if (code === errno.ENOSYS) return errno.EOPNOTSUPP;
    return code > 0 && code <= MAX_ERRNO ? code : errno.EIO;
  }
}
