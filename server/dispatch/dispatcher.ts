/**
 * From a request to its handler and back to a reply: the one place where errors become errno and are counted. Knows
 * nothing of connections; whoever calls it sends the reply.
 */
import { randomBytes } from 'node:crypto';
import type { Logger } from 'pino';
import { errno, errnoOf, FsError } from '../../shared/errno.ts';
import type { Eventually } from '../../shared/eventually.ts';
import { type OperationName, operations, type ReplyOf, type RequestOf } from '../../shared/protocol/messages.ts';
import { admittedCaller } from '../access/credential.ts';
import { inodeStatusOf } from '../admin/status.ts';
import type { InFlightRequest } from '../session/in-flight-request.ts';
import type { Outcome } from '../session/outcome.ts';
import type { Session } from '../session/session.ts';
import { identityOf } from '../store/identity.ts';
import { attributeHandlers } from './attributes.ts';
import { dataHandlers } from './data.ts';
import { directoryHandlers } from './directories.ts';
import { fileHandlers } from './files.ts';
import { BulkReply, DONE, type Handler, type Handlers, type RequestContext } from './handler.ts';
import { finished } from './interrupted.ts';
import { lockHandlers } from './locks.ts';
import { nameHandlers } from './names.ts';
import { mayBeTried, replayed } from './replays.ts';
import { SinceStart } from './since-start.ts';

/** `hello` is the connection's own business; `status` is answered by the server. */
export type DispatchedOperation = Exclude<OperationName, 'hello'>;

export interface IncomingRequest {
  readonly session: Session;
  readonly operation: DispatchedOperation;
  readonly caller: readonly number[];
  readonly body: unknown;
  readonly bulk: Uint8Array;
  readonly request: InFlightRequest;
}

export const NO_BULK = new Uint8Array(0);

export class Dispatcher {
  readonly #handlers: Handlers<DispatchedOperation>;
  readonly #log: Logger;
  readonly #instance: Buffer;
  readonly #sinceStart: SinceStart;
  /** By operation, for status: requests and failures other than the ordinary. */
  readonly counts = new Map<string, number>();
  unexpectedErrors = 0;

  constructor(
    statusJson: () => string,
    log: Logger,
    instance: Buffer = randomBytes(16),
    sinceStart: SinceStart = new SinceStart(),
  ) {
    this.#sinceStart = sinceStart;
    this.#log = log;
    this.#instance = instance;
    this.#handlers = {
      ...nameHandlers,
      ...attributeHandlers,
      ...fileHandlers,
      ...dataHandlers,
      ...directoryHandlers,
      ...lockHandlers,
      renew: { mutates: false, handle: () => DONE },
      status: { mutates: false, handle: ({ session }) => ({ json: statusFor(session, statusJson) }) },
      inodeStatus: {
        mutates: false,
        handle: ({ session }, { ino }) => ({ json: JSON.stringify(inodeStatusOf(session.exported, BigInt(ino))) }),
      },
    };
  }

  /** Never rejects. Throws ProtocolError when the request's body is not what its operation declares. */
  dispatch(request: IncomingRequest): Eventually<Outcome> {
    const { session, operation } = request;
    this.counts.set(operation, (this.counts.get(operation) ?? 0) + 1);
    const handler = this.#handlers[operation] as Handler<DispatchedOperation>;
    const body = operations[operation].request.decode(request.body) as RequestOf<DispatchedOperation>;
    if (handler.mutates && session.isReadOnly) return { errno: errno.EROFS, result: null };
    const context: RequestContext = {
      session,
      instance: this.#instance,
      sinceStart: this.#sinceStart,
      store: session.exported.store,
      leases: session.exported.leases,
      identity: identityOf(admittedCaller(session.credential, request.caller), session.exported.squash),
      request: request.request,
    };
    const { earlier, interrupted } = request.request;
    const failed = (error: unknown) => this.#failed(operation, error);
    try {
      const reply = interrupted
        ? finished(context, interrupted, operation, body, request.bulk)
        : earlier === undefined || mayBeTried(operation, earlier)
          ? handler.handle(context, body, request.bulk)
          : replayed(context, operation, body, earlier);
      if (!(reply instanceof Promise)) return outcomeOf(operation, reply);
      return reply.then((value) => outcomeOf(operation, value)).catch(failed);
    } catch (error) {
      return failed(error);
    }
  }

  #failed(operation: DispatchedOperation, error: unknown): Outcome {
    if (!(error instanceof FsError)) {
      this.unexpectedErrors++;
      this.#log.error({ err: error, operation }, 'unexpected error in an operation');
    }
    return { errno: errnoOf(error), result: null };
  }
}

/** It tells of all exports and clients: not for those who may see some only. */
function statusFor({ credential }: Session, statusJson: () => string): string {
  if (credential.exports !== undefined) throw new FsError(errno.EACCES, 'status');
  return statusJson();
}

function outcomeOf(
  operation: DispatchedOperation,
  reply: ReplyOf<DispatchedOperation> | BulkReply<ReplyOf<DispatchedOperation>>,
): Outcome {
  const { encode } = operations[operation].reply as { encode(value: unknown): unknown };
  if (reply instanceof BulkReply) {
    return { errno: 0, result: encode(reply.reply), bulk: reply.bulk, flushed: reply.flushed };
  }
  return { errno: 0, result: encode(reply) };
}
