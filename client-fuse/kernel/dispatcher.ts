/**
 * Dispatcher: takes each request of the channel, calls the filesystem by the table of operations, and answers, now or when the
 * result is there. Owned by the driver. Invariants: every request that wants an answer is answered exactly once, and
 * what an undelivered result holds is given back. Interrupts: see `#interrupt`; source: fs/fuse/dev.c of the kernel.
 */
import { errno, errnoOf, FsError, MAX_ERRNO } from '../../shared/errno.ts';
import type { Filesystem } from '../vfs/filesystem.ts';
import type { KernelChannel, Message } from './channel.ts';
import { opcode, opcodeName } from './constants.ts';
import { Counters } from './counters.ts';
import { type Features, type InitWishes, negotiate } from './init.ts';
import type { Log } from './log.ts';
import type { Mounted, Operation } from './operation.ts';
import { operations } from './operations/table.ts';
import { Reply } from './reply.ts';
import { BODY, Request } from './request.ts';
import { batchForgetIn, forgetIn, forgetOne, inHeader, initIn, initOut, interruptIn } from './structures.ts';
import type { TaskInspector } from './task.ts';

export interface DispatcherParts {
  readonly channel: KernelChannel;
  readonly filesystem: Filesystem;
  readonly wishes: InitWishes;
  readonly tasks: TaskInspector;
  readonly log: Log;
  /** A request waits now, and none did before: `scanCallers` is due now and then. */
  readonly onPending: () => void;
  /** INIT is answered: the mount works. */
  readonly onAgreed: (features: Features) => void;
  /** INIT cannot be answered: the mount is of no use. */
  readonly onRefused: (reason: string) => void;
}

const h = inHeader.fields;
/** The connection is gone (unmounted or aborted), or the request is: nothing to report. */
const SILENT_REFUSALS: ReadonlySet<number> = new Set([errno.ENOENT, errno.ENODEV, errno.ECONNABORTED, errno.EPERM]);

export class Dispatcher {
  readonly counters = new Counters();
  readonly #parts: DispatcherParts;
  readonly #reply = new Reply();
  /** Requests whose result is not there yet, by their unique number. */
  readonly #pending = new Map<number, Request>();
  readonly #recycle = (message: Message): void => this.#parts.channel.recycle(message);
  #mounted: Mounted | undefined;

  constructor(parts: DispatcherParts) {
    this.#parts = parts;
  }

  /** Requests whose result is not there yet. */
  get inFlight(): number {
    return this.#pending.size;
  }

  /** One request of the kernel. True when its message stays in use. */
  readonly receive = (message: Message): boolean => {
    const code = h.opcode.get(message.view, 0);
    this.counters.count(code);
    switch (code) {
      case opcode.FORGET:
      case opcode.BATCH_FORGET:
        this.#guarded(() => this.#forget(code, message));
        return false;
      case opcode.INTERRUPT:
        this.#guarded(() => this.#interrupt(message));
        return false;
      case opcode.INIT:
        this.#init(message);
        return false;
      default:
        return this.#operate(message);
    }
  };

  // --- operations --------------------------------------------------------------------------------------------------------

  #operate(message: Message): boolean {
    const request = new Request(message, this.#parts.tasks, this.#recycle);
    const operation = operations[request.opcode];
    const mounted = this.#mounted;
    if (operation === undefined || mounted === undefined) {
      this.#answerUnserved(request);
      return false;
    }
    let result: unknown;
    try {
      result = operation.call(request, mounted);
    } catch (error) {
      this.#fail(request, error);
      return false;
    }
    if (!(result instanceof Promise)) {
      this.#finish(request, operation, result, mounted);
      return request.settled();
    }
    if (this.#pending.size === 0) this.#parts.onPending();
    this.#pending.set(request.unique, request);
    result.then(
      (value) => {
        this.#pending.delete(request.unique);
        if (request.holdsMessage && !request.settled()) this.#recycle(request.message);
        this.#finish(request, operation, value, mounted);
      },
      (error) => {
        // Its message is not used again: of what was given up the bytes may be on their way to the server yet.
        this.#pending.delete(request.unique);
        this.#fail(request, error);
      },
    );
    return request.holdsMessage;
  }

  #finish(request: Request, operation: Operation<unknown>, result: unknown, mounted: Mounted): void {
    if (request.answered) {
      this.#guarded(() => operation.undo?.(result, mounted));
      return;
    }
    const reply = this.#reply;
    reply.begin();
    try {
      operation.encode?.(reply, result, request);
    } catch (error) {
      this.#guarded(() => operation.undo?.(result, mounted));
      this.#fail(request, error);
      return;
    }
    if (request.opcode === opcode.READ) this.counters.bytesRead += reply.payload?.length ?? 0;
    else if (request.opcode === opcode.WRITE) this.counters.bytesWritten += result as number;
    reply.seal(request.unique, 0);
    request.answered = true;
    const refused = this.#parts.channel.reply(reply);
    if (refused === 0) return;
    this.#guarded(() => operation.undo?.(result, mounted));
    this.#refused(request, refused);
  }

  /** A success that the kernel did not take in. It may be our mistake: then the caller must not wait for ever. */
  #refused(request: Request, code: number): void {
    this.counters.undelivered++;
    if (SILENT_REFUSALS.has(code)) return;
    this.counters.unexpectedErrors++;
    const operation = opcodeName(request.opcode);
    this.#parts.log.error({ operation, errno: code }, 'the kernel refused a reply');
    this.#writeError(request.unique, errno.EIO);
  }

  /** The one place where errors of the filesystem become error numbers. */
  #fail(request: Request, error: unknown): void {
    const expected = error instanceof FsError;
    if (!expected) {
      this.counters.unexpectedErrors++;
      this.#parts.log.error({ err: error, operation: opcodeName(request.opcode) }, 'unexpected error of an operation');
    }
    if (!request.answered) this.#answerError(request, expected ? kernelErrno(errnoOf(error)) : errno.EIO);
  }

  #answerError(request: Request, code: number): void {
    request.answered = true;
    this.#writeError(request.unique, code);
  }

  #writeError(unique: number, code: number): void {
    this.counters.errors++;
    this.#reply.begin();
    this.#reply.seal(unique, code);
    this.#parts.channel.reply(this.#reply);
  }

  #answerUnserved(request: Request): void {
    if (request.opcode === opcode.DESTROY) this.#answerError(request, 0);
    // The kernel would make ENOTTY of ENOSYS by itself, but only on newer versions.
    else if (request.opcode === opcode.IOCTL) this.#answerError(request, errno.ENOTTY);
    else this.#answerError(request, this.#mounted ? errno.ENOSYS : errno.EIO);
  }

  // --- what gets no answer -------------------------------------------------------------------------------------------------

  #forget(code: number, message: Message): void {
    const filesystem = this.#parts.filesystem;
    const { view } = message;
    if (code === opcode.FORGET) {
      filesystem.forget(h.nodeid.get(view, 0), forgetIn.fields.nlookup.get(view, BODY));
      return;
    }
    const { nodeid, nlookup } = forgetOne.fields;
    const count = batchForgetIn.fields.count.get(view, BODY);
    let base = BODY + batchForgetIn.bytes;
    for (let index = 0; index < count && base + forgetOne.bytes <= message.length; index++) {
      filesystem.forget(nodeid.get(view, base), nlookup.get(view, base));
      base += forgetOne.bytes;
    }
  }

  /**
   * The kernel sends INTERRUPT once a request, at the first signal of its caller, whatever the signal does. A caller
   * that is being killed is answered at once, so that it can die while the server is away. For any other signal the
   * filesystem decides which waits end. A SIGKILL that follows sends no second INTERRUPT: `scanCallers` finds it.
   */
  #interrupt(message: Message): void {
    this.counters.interrupts++;
    const request = this.#pending.get(interruptIn.fields.unique.get(message.view, BODY));
    if (request === undefined) {
      // Answered already, then the kernel says ENOENT to this; or not read yet (no channel of ours does that): then it
      // queues the INTERRUPT again.
      this.#writeError(h.unique.get(message.view, 0), errno.EAGAIN);
      return;
    }
    if (request.answered) return;
    if (this.#parts.tasks.isBeingKilled(request.pid)) this.#answerKilled(request);
    else request.abort();
  }

  /** Answers the callers that are being killed while their request waits. Called now and then while requests wait. */
  scanCallers(): void {
    for (const request of this.#pending.values()) {
      // The first scan passes over young requests, so that quick ones cost nothing.
      if (request.answered || request.scans++ === 0) continue;
      if (this.#parts.tasks.isBeingKilled(request.pid)) this.#answerKilled(request);
    }
  }

  #answerKilled(request: Request): void {
    this.counters.killedCallers++;
    this.#answerError(request, errno.EINTR);
    this.#guarded(() => request.abort());
  }

  // --- the connection ------------------------------------------------------------------------------------------------------

  #init(message: Message): void {
    const { view } = message;
    const unique = h.unique.get(view, 0);
    const f = initIn.fields;
    const hasFlags2 = message.length >= BODY + f.flags2.offset + 4;
    const offer = {
      major: f.major.get(view, BODY),
      minor: f.minor.get(view, BODY),
      maxReadahead: f.maxReadahead.get(view, BODY),
      flags: f.flags.get(view, BODY),
      flags2: hasFlags2 ? f.flags2.get(view, BODY) : 0,
    };
    const negotiation = negotiate(offer, this.#parts.wishes);
    this.#parts.log.debug({ offer, negotiation }, 'FUSE connection negotiated');
    if (negotiation.kind === 'refused') {
      this.#writeError(unique, negotiation.errno);
      this.#parts.onRefused(negotiation.reason);
      return;
    }
    const { answer } = negotiation;
    const reply = this.#reply;
    reply.begin();
    const base = reply.claimZeroed(initOut.bytes);
    const o = initOut.fields;
    o.major.set(reply.view, base, answer.major);
    o.minor.set(reply.view, base, answer.minor);
    o.maxReadahead.set(reply.view, base, answer.maxReadahead);
    o.flags.set(reply.view, base, answer.flags);
    o.flags2.set(reply.view, base, answer.flags2);
    o.maxBackground.set(reply.view, base, answer.maxBackground);
    o.congestionThreshold.set(reply.view, base, answer.congestionThreshold);
    o.maxWrite.set(reply.view, base, answer.maxWrite);
    o.timeGran.set(reply.view, base, answer.timeGran);
    o.maxPages.set(reply.view, base, answer.maxPages);
    reply.seal(unique, 0);
    if (negotiation.kind === 'agreed') {
      // Before the reply: from then on the kernel wants buffers of this size.
      this.#parts.channel.setMaxWrite(negotiation.features.maxWriteBytes);
      this.#mounted = { filesystem: this.#parts.filesystem, features: negotiation.features };
    }
    const refused = this.#parts.channel.reply(reply);
    if (refused !== 0) this.#parts.onRefused(`the kernel refused the INIT reply (errno ${refused})`);
    else if (negotiation.kind === 'agreed') this.#parts.onAgreed(negotiation.features);
  }

  /** The connection has ended: whoever still works for it may stop. */
  abortAll(): void {
    for (const request of this.#pending.values()) {
      request.answered = true;
      this.#guarded(() => request.abort());
    }
  }

  /** Runs what must not throw into the loop that reads requests. */
  #guarded(work: () => void): void {
    try {
      work();
    } catch (error) {
      this.counters.unexpectedErrors++;
      this.#parts.log.error({ err: error }, 'unexpected error in the kernel driver');
    }
  }
}

/**
 * ENOSYS of a filesystem must not reach the kernel: it would stop asking for good (for ACCESS even permit everything).
 * Numbers outside of what the kernel takes would be refused, and the caller would wait for ever.
 */
function kernelErrno(code: number): number {
  if (code === errno.ENOSYS) return errno.EOPNOTSUPP;
  return code > 0 && code <= MAX_ERRNO ? code : errno.EIO;
}
