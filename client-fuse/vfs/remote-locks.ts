/**
 * Locks of programs (fcntl, flock), held at the server. A lock that must be waited for is a request that is answered at
 * once, and decided later under its ticket: see docs/decisions/0010. All of it goes over the small lane, whose order is
 * the order in which things are asked for.
 */
import type { U64 } from '../../shared/attributes.ts';
import { errno, FsError } from '../../shared/errno.ts';
import { ALL_BYTES } from '../../shared/range-map.ts';
import type { Caller, FoundLock, Lock, LockOwner, LockRange } from './filesystem.ts';
import { HeldLocks } from './held-locks.ts';
import type { Node, OpenHandle } from './node.ts';
import type { RemoteContext } from './remote-context.ts';

/** `forgotten`: nobody knows of the ticket any more. */
type Outcome = number | 'forgotten';

interface Waiting {
  readonly decided: Promise<Outcome>;
  readonly resolve: (outcome: Outcome) => void;
  outcome: Outcome | undefined;
}

export class RemoteLocks {
  readonly #context: RemoteContext;
  readonly #waiting = new Map<number, Waiting>();
  /** Nodes whose locks are not all given back. */
  readonly #locked = new Set<Node>();
  #lastTicket = 0;

  constructor(context: RemoteContext) {
    this.#context = context;
    context.session.onGranted = (ticket, code) => this.#waiting.get(ticket)?.resolve(code);
  }

  async find({ signal }: Caller, handle: number, { owner, mode, start, end }: Lock): Promise<FoundLock | undefined> {
    await this.#grace(signal);
    const { lock } = await this.#context.withOpen(handle, (open) =>
      this.#context.session.call('getlk', open.opener, { handle: open.server, owner, mode, start, end }),
    );
    return lock && { ...lock, start: BigInt(lock.start), end: BigInt(lock.end) };
  }

  async lock(caller: Caller, handle: number, lock: Lock, waits: boolean): Promise<() => void> {
    const open = this.#context.handles.get(handle);
    const { node } = open;
    // It may be a downgrade, and then others read what was written.
    if (lock.mode === 'shared') await this.#written(node);
    this.#heldOf(node).asked(lock, open);
    if (waits) await this.#wait(caller, open, lock);
    else await this.#first(caller, open, () => this.#ask(open, lock, undefined));
    this.#heldOf(node).granted(lock, open);
    const giveBack = () => void this.#unlock(open, lock, lock).catch(() => {});
    try {
      // What mappings show from now on was read under the lock.
      await this.#context.mapped.drop(node);
    } catch (error) {
      giveBack();
      throw error;
    }
    return giveBack;
  }

  /** The server has what was written, and what was stored through mappings. */
  async #written(node: Node): Promise<void> {
    const { mapped, session } = this.#context;
    await mapped.drop(node)?.catch((err) => session.log.error({ err }, 'pages could not be written back'));
    await this.#context.written(node);
  }

  unlock(handle: number, owner: LockOwner, range: LockRange): Promise<void> {
    return this.#unlock(this.#context.handles.get(handle), owner, range);
  }

  /** A program closed the file. Undefined: it never asked for a lock there. */
  closed(open: OpenHandle, owner: U64): Promise<void> | undefined {
    const posix = { kind: 'posix', owner } as const;
    if (!open.node.locks?.forget(posix)) return undefined;
    this.#forgetIfFree(open.node);
    return this.#giveBack(open, posix);
  }

  /** Nobody has the handle any more, and what was locked through it goes. */
  released(open: OpenHandle): void {
    const { node } = open;
    for (const owner of node.locks?.through(open) ?? []) {
      node.locks?.forget(owner);
      this.#giveBack(open, owner).catch(() => {});
    }
    this.#forgetIfFree(node);
  }

  /**
   * The server has no locks of ours. One that was started anew has nobody's, and they are to be taken again, by opening
   * these handles. Of one that ended the session, others may have had them since.
   */
  forgotten(isSameServer: boolean): Iterable<OpenHandle> {
    const handles = new Set<OpenHandle>();
    for (const node of this.#locked) {
      for (const owner of node.locks?.all ?? []) {
        if (owner.ranges.size > 0) for (const open of owner.handles) handles.add(open);
      }
    }
    if (isSameServer && handles.size > 0) {
      const openFiles = handles.size;
      this.#context.session.log.error({ openFiles }, 'locks are lost: the server ended the session');
    }
    if (isSameServer) for (const open of handles) open.hasLostLocks = true;
    for (const { resolve } of this.#waiting.values()) resolve('forgotten');
    return handles;
  }

  /** Who held something before the server was started anew comes first. */
  async #grace(signal: AbortSignal): Promise<void> {
    const { session } = this.#context;
    for (let { grace } = session; grace !== undefined; { grace } = session) {
      if ((await session.expect(unlessAborted(grace, signal), 'lock')) === 'aborted')
        throw new FsError(errno.EINTR, 'grace period');
    }
  }

  async #wait(caller: Caller, open: OpenHandle, lock: Lock): Promise<void> {
    for (;;) {
      const ticket = ++this.#lastTicket;
      try {
        const waiting = await this.#first(caller, open, () => this.#askWithTicket(open, lock, ticket));
        if (waiting === undefined) return;
        const outcome = await this.#outcome(caller, open, lock, ticket, waiting);
        if (outcome === 0) return;
        if (outcome !== 'forgotten') throw new FsError(outcome, 'lock');
      } finally {
        this.#waiting.delete(ticket);
      }
    }
  }

  /** Asks for what was not held before. */
  #first<T>({ signal }: Caller, open: OpenHandle, ask: () => Promise<T>): Promise<T> {
    return this.#context.withHandle(open, async () => {
      await this.#grace(signal);
      return ask();
    });
  }

  /** Undefined: granted. */
  async #askWithTicket(open: OpenHandle, lock: Lock, ticket: number): Promise<Waiting | undefined> {
    // The decision may be here before the reply is looked at.
    const waiting = newWaiting();
    this.#waiting.set(ticket, waiting);
    return (await this.#ask(open, lock, ticket)) ? undefined : waiting;
  }

  async #ask(open: OpenHandle, lock: Lock, ticket: number | undefined): Promise<boolean> {
    const { kind, owner, pid, mode, start, end } = lock;
    const request = { handle: open.server, kind, owner, pid, mode, start, end, ticket, reclaim: false };
    try {
      return (await this.#context.session.call('lock', open.opener, request)).granted;
    } catch (error) {
      // The server may have granted it, or do so yet.
      if (isTimeout(error)) void this.#giveUp(open, lock, ticket);
      throw error;
    }
  }

  /** A soft mount: its caller was told ETIMEDOUT. What is sent here reaches the server when it is back. Never rejects. */
  async #giveUp(open: OpenHandle, lock: Lock, ticket: number | undefined): Promise<void> {
    if (ticket !== undefined) this.#context.session.call('cancelLock', [], { ticket }).catch(() => {});
    await this.#unlock(open, lock, lock).catch(() => {});
  }

  /** A caller that gives up settles it with the server: a grant may be on its way. */
  async #outcome(caller: Caller, open: OpenHandle, lock: Lock, ticket: number, waiting: Waiting): Promise<Outcome> {
    const { session } = this.#context;
    try {
      const outcome = await session.expect(unlessAborted(waiting.decided, caller.signal), 'lock');
      if (outcome !== 'aborted') return outcome;
      const { errno: code } = await session.call('cancelLock', [], { ticket });
      const decided = waiting.outcome === 'forgotten' ? undefined : waiting.outcome;
      return decided ?? code ?? errno.EINTR;
    } catch (error) {
      if (isTimeout(error)) void this.#giveUp(open, lock, ticket);
      throw error;
    }
  }

  async #unlock(open: OpenHandle, owner: LockOwner, range: LockRange): Promise<void> {
    const { node } = open;
    // Who takes the lock next sees it, even if this client should die now.
    await this.#written(node);
    // Not while the file is opened again: that takes again what was held when it began.
    if (open.reopening) await open.reopening.catch(() => {});
    node.locks?.unlocked(owner, range);
    await this.#send(node, owner, range);
  }

  async #giveBack({ node, reopening }: OpenHandle, owner: Pick<LockOwner, 'kind' | 'owner'>): Promise<void> {
    if (reopening) await reopening.catch(() => {});
    await this.#send(node, owner, ALL_BYTES);
  }

  async #send(node: Node, { kind, owner }: Pick<LockOwner, 'kind' | 'owner'>, range: LockRange): Promise<void> {
    const { start, end } = range;
    await this.#context.session.call('unlock', [], { inode: this.#context.inodeOf(node), kind, owner, start, end });
  }

  #heldOf(node: Node): HeldLocks<OpenHandle> {
    node.locks ??= new HeldLocks();
    this.#locked.add(node);
    return node.locks;
  }

  #forgetIfFree(node: Node): void {
    if (!node.locks?.isEmpty) return;
    node.locks = undefined;
    this.#locked.delete(node);
  }
}

function isTimeout(error: unknown): boolean {
  return error instanceof FsError && error.code === errno.ETIMEDOUT;
}

/** `promise` does not reject. */
function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T | 'aborted'> {
  return new Promise((resolve) => {
    const abort = () => resolve('aborted');
    if (signal.aborted) return abort();
    signal.addEventListener('abort', abort, { once: true });
    void promise.then((value) => {
      signal.removeEventListener('abort', abort);
      resolve(value);
    });
  });
}

function newWaiting(): Waiting {
  let resolve: Waiting['resolve'] = () => {};
  const decided = new Promise<Outcome>((settle) => {
    resolve = settle;
  });
  const waiting: Waiting = {
    decided,
    resolve: (outcome) => {
      waiting.outcome ??= outcome;
      resolve(outcome);
    },
    outcome: undefined,
  };
  return waiting;
}
