/**
 * One connection of a client: frames in, requests to the dispatcher, replies out. The first request must be `hello`,
 * which attaches the connection to a session. A frame that does not fit the protocol ends this connection with a reason
 * and nothing else; requests under way go on, since the session may come back for their replies.
 */
import type { Logger } from 'pino';
import { errno } from '../../shared/errno.ts';
import { limits } from '../../shared/limits.ts';
import { decodeFrame, encodeFrame } from '../../shared/protocol/frame.ts';
import {
  callerIdentity,
  frameKind,
  GOODBYE,
  givenBack,
  operationByCode,
  operations,
  PROTOCOL_VERSION,
} from '../../shared/protocol/messages.ts';
import { counter, ProtocolError } from '../../shared/protocol/schema.ts';
import { recyclePayload } from '../../shared/transport/payload-reader.ts';
import type { Transport, TransportEvents } from '../../shared/transport/transport.ts';
import { type DispatchedOperation, type Dispatcher, NO_BULK } from '../dispatch/dispatcher.ts';
import type { Outcome } from '../session/outcome.ts';
import type { LaneConnection, RecallChannel, Session } from '../session/session.ts';
import type { Visitor } from './listener.ts';
import { ReplyQueue } from './reply-queue.ts';

/** What a connection needs of the server around it. */
export interface ConnectionHost {
  readonly dispatcher: Dispatcher;
  readonly log: Logger;
  /** The session for a hello and its reply, or why it is refused. */
  greet(request: HelloRequest, visitor: Visitor): { session: Session; reply: unknown } | { refusal: string };
  /** A frame was handled: keeps the event loop awake for the next one. */
  active(): void;
  /** `forGood`: the client said that it will not come back. `silentMs`: it had not been heard for so long. */
  closed(connection: Connection, session: Session | undefined, forGood: boolean, silentMs: number): void;
}

export type HelloRequest = ReturnType<typeof operations.hello.request.decode>;

/** The size in the arguments of a read, which are not checked yet. */
function expectedBytes(body: unknown): number {
  const size: unknown = Array.isArray(body) ? body[2] : undefined;
  return typeof size === 'number' && size > 0 && size <= limits.maxDataBytes ? size : 0;
}

export class Connection implements TransportEvents, RecallChannel, LaneConnection {
  readonly #host: ConnectionHost;
  #transport!: Transport;
  readonly visitor: Visitor;
  #session: Session | undefined;
  #helloTimer: NodeJS.Timeout;
  #bytesInFlight = 0;
  #paused = false;
  /** The server has ended it: what still arrives is ignored. */
  #ended = false;
  #replies!: ReplyQueue;

  constructor(host: ConnectionHost, visitor: Visitor) {
    this.#host = host;
    this.visitor = visitor;
    this.#helloTimer = setTimeout(() => this.#end('no hello in time'), limits.helloTimeoutMs);
  }

  get peer(): string {
    return this.visitor.peer;
  }

  /** The transport is this connection's from now on. */
  attach(transport: Transport): void {
    this.#transport = transport;
    this.#replies = new ReplyQueue(transport, (start) => this.#attempt(start));
  }

  message(fragments: readonly Buffer[]): void {
    if (this.#ended) return;
    this.#host.active();
    if (this.#session) this.#session.heard++;
    this.#attempt(() => {
      const frame = decodeFrame(fragments);
      if (frame[0] === frameKind.REQUEST) this.#request(frame);
      else if (frame[0] === frameKind.CANCEL) this.#session?.cancel(counter.decode(frame[1]));
      else if (frame[0] === frameKind.RECALLED)
        this.#session?.recalled(counter.decode(frame[1]), givenBack.decode(frame[2]));
      else if (frame[0] === frameKind.GIVEN_BACK) this.#session?.gaveBack(givenBack.decode(frame[1]));
      else if (frame[0] === frameKind.DOWNGRADED) this.#session?.downgraded(givenBack.decode(frame[1]));
      else if (frame[0] === frameKind.GRANT_TAKEN) this.#session?.locks.taken(counter.decode(frame[1]));
      else throw new ProtocolError(`frame kind ${String(frame[0])} is not known`);
    });
  }

  /** What the peer did wrong ends this connection, and so does a bug of ours; neither ends the server. */
  #attempt(work: () => void): void {
    try {
      work();
    } catch (error) {
      if (!(error instanceof ProtocolError)) this.#host.log.error({ err: error, peer: this.peer }, 'connection failed');
      if (error instanceof ProtocolError) this.visitor.failed();
      this.#end(error instanceof ProtocolError ? error.message : 'internal error');
    }
  }

  closed(reason: string, silentMs = 0): void {
    clearTimeout(this.#helloTimer);
    for (const { seq, request, start } of this.#replies.takeAll()) {
      // Somebody else may wait for it too, having asked over another connection; or for the pages of this write.
      if (request.answers.length > 1 || request.interrupted) this.#attempt(start);
      else this.#session?.abandon(seq);
    }
    this.#host.log.debug({ peer: this.peer, reason }, 'connection closed');
    this.#session?.detachRecalls(this);
    this.#session?.detachLane(this);
    this.#host.closed(this, this.#session, reason === GOODBYE, silentMs);
  }

  #end(reason: string): void {
    this.#host.log.info({ peer: this.peer, reason }, 'connection ended by the server');
    this.close(reason);
  }

  /** Says why, and closes. */
  close(reason: string): void {
    this.#ended = true;
    this.#transport.send(encodeFrame([frameKind.BYE, reason]).head);
    this.#transport.close(reason);
  }

  /**
   * The client has opened this lane anew. What the network still brings of the old one is older than the new hello: a
   * lease given back there may have been granted again since.
   */
  supersede(): void {
    // One that is told why it ends closes by itself.
    if (this.#ended) return;
    this.#ended = true;
    this.#transport.terminate();
  }

  sendRecall(id: number, inodes: readonly Uint8Array[] | null): void {
    this.#replies.send(encodeFrame([frameKind.RECALL, id, inodes]).head);
  }

  sendRecallBlocks(id: number, inode: Uint8Array, blocks: readonly number[] | null): void {
    this.#replies.send(encodeFrame([frameKind.RECALL_BLOCKS, id, inode, blocks]).head);
  }

  sendShare(id: number, directory: Uint8Array): void {
    this.#replies.send(encodeFrame([frameKind.SHARE, id, directory]).head);
  }

  sendGranted(ticket: number, code: number): void {
    this.#replies.send(encodeFrame([frameKind.GRANTED, ticket, code]).head);
  }

  sendGraceOver(late: number): void {
    this.#replies.send(encodeFrame([frameKind.GRACE_OVER, late]).head);
  }

  #request(frame: unknown[]): void {
    if (frame.length < 6 || frame.length > 7) throw new ProtocolError('a request has six or seven elements');
    const seq = counter.decode(frame[1]);
    const slot = counter.decode(frame[2]);
    if (slot >= limits.maxRequestsInFlight) throw new ProtocolError('too many requests in flight');
    const operation = operationByCode(frame[3]);
    if (operation === undefined) throw new ProtocolError(`operation ${String(frame[3])} is not known`);
    if (operation === 'hello') return this.#hello(seq, frame[5]);
    const session = this.#session;
    if (session === undefined) throw new ProtocolError('the first request is hello');
    const bulk = frame[6] ?? NO_BULK;
    if (!(bulk instanceof Uint8Array)) throw new ProtocolError('bulk data are bytes');
    this.#apply(session, slot, seq, operation, callerIdentity.decode(frame[4]), frame[5], bulk);
  }

  #hello(seq: number, body: unknown): void {
    if (this.#session) throw new ProtocolError('hello comes once');
    const version = Array.isArray(body) ? (body[0] as unknown) : undefined;
    if (version !== PROTOCOL_VERSION) {
      const text = `this server speaks version ${PROTOCOL_VERSION} of the protocol, the client version ${String(version)}: install the same release of weftfs on both`;
      return this.#refuse(seq, errno.EPROTONOSUPPORT, text);
    }
    const hello = operations.hello.request.decode(body);
    const greeting = this.#host.greet(hello, this.visitor);
    if ('refusal' in greeting) return this.#refuse(seq, errno.ENOENT, greeting.refusal);
    clearTimeout(this.#helloTimer);
    this.visitor.established();
    this.#session = greeting.session;
    this.#session.attachLane(hello.lane, this);
    this.#send(seq, { errno: 0, result: greeting.reply });
    // After the reply: recalls that wait for this client come at once, and it takes none before its hello is answered.
    if (hello.lane === 'small') this.#session.attachRecalls(this);
  }

  #refuse(seq: number, code: number, text: string): void {
    this.#ended = true;
    this.#host.log.warn({ peer: this.peer, reason: text }, 'client refused');
    this.#send(seq, { errno: code, result: text });
    this.#transport.close('refused');
  }

  #apply(
    session: Session,
    slot: number,
    seq: number,
    operation: DispatchedOperation,
    caller: readonly number[],
    body: unknown,
    bulk: Uint8Array,
  ): void {
    const request = session.begin(slot, seq, (outcome) => this.#send(seq, outcome, operation === 'read'));
    if (request === undefined) {
      if (this.#replies.isBehind) throw new ProtocolError('replies are asked for again and again, and not taken');
      // Sent again after a broken connection: answered from memory, or together with the first when it is done.
      const kept = session.keptReply(slot, seq);
      if (kept) this.#replies.send(encodeFrame([...kept]).head);
      return;
    }
    // Only now: one that is under way already may be sent again, however many there are.
    if (session.inFlight > limits.maxRequestsInFlight) {
      session.abandon(seq);
      throw new ProtocolError('too many requests in flight');
    }
    this.#received(bulk.length);
    const replyBytes = operation === 'read' ? expectedBytes(body) : 0;
    const answer = (outcome: Outcome) => {
      recyclePayload(bulk);
      this.#answered(bulk.length);
      this.#replies.reading(-replyBytes);
      const keep = operations[operation].idempotent ? undefined : [frameKind.REPLY, seq, outcome.errno, outcome.result];
      session.end(slot, seq, keep, outcome);
      this.#host.active();
    };
    const start = () => {
      this.#replies.reading(replyBytes);
      try {
        const outcome = this.#host.dispatcher.dispatch({ session, operation, caller, body, bulk, request });
        if (outcome instanceof Promise) void outcome.then(answer);
        else answer(outcome);
      } catch (error) {
        session.abandon(seq);
        throw error;
      }
    };
    this.#replies.start({ seq, request, start }, replyBytes > 0);
  }

  #send(seq: number, outcome: Outcome, isRead = false): void {
    const { head, bulk } = encodeFrame([frameKind.REPLY, seq, outcome.errno, outcome.result], outcome.bulk);
    if (isRead && bulk) this.#replies.sendData(head, bulk, outcome.flushed);
    else this.#replies.send(head, bulk, outcome.flushed);
  }

  #received(bytes: number): void {
    this.#bytesInFlight += bytes;
    if (this.#paused || this.#bytesInFlight <= limits.maxBytesInFlight) return;
    this.#paused = true;
    this.#transport.pause();
  }

  #answered(bytes: number): void {
    this.#bytesInFlight -= bytes;
    if (!this.#paused || this.#bytesInFlight > limits.maxBytesInFlight / 2) return;
    this.#paused = false;
    this.#transport.resume();
  }
}
