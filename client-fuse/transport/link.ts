/**
 * One connection to the server: opened, greeted, and then frames both ways. Owned by a ServerSession, which opens a new
 * one when it breaks. The mask of a client's frames is zero: `ws` then skips the masking loop (twice the throughput).
 */
import type { IncomingMessage } from 'node:http';
import type { TLSSocket } from 'node:tls';
import { WebSocket } from 'ws';
import { errno, FsError } from '../../shared/errno.ts';
import { limits } from '../../shared/limits.ts';
import { decodeFrame, encodeFrame } from '../../shared/protocol/frame.ts';
import {
  frameKind,
  GOODBYE,
  operations,
  PROTOCOL_VERSION,
  type ReplyOf,
  recalled,
  recalledBlocks,
} from '../../shared/protocol/messages.ts';
import { counter, inodeHandle, optional, ProtocolError, u32 } from '../../shared/protocol/schema.ts';
import { PayloadReader } from '../../shared/transport/payload-reader.ts';
import type { Transport, TransportEvents } from '../../shared/transport/transport.ts';
import { WebSocketTransport, webSocketOptions } from '../../shared/transport/websocket-transport.ts';
import { authorization, CredentialError, openTls } from './credentials.ts';
import { type ServerAddress, socketHost } from './server-address.ts';

export type HelloReply = ReplyOf<'hello'> & {
  readonly session: Buffer;
  readonly instance: Buffer;
  readonly boot: Buffer;
};

/** What a connection is for: bulk data never hold up a small reply. */
export type Lane = 'small' | 'bulk';

export interface LinkEvents {
  reply(frame: unknown[]): void;
  /** Leases are to be given back; null: all of them. Answered by `recalled`. */
  recall(link: Link, id: number, inodes: readonly Uint8Array[] | null): void;
  /** Blocks of a file's data are to be given back; null: all of them. Answered by `recalled`. */
  recallBlocks(link: Link, id: number, inode: Uint8Array, blocks: readonly number[] | null): void;
  share(link: Link, id: number, directory: Uint8Array): void;
  /** A lock that was waited for is decided: 0, or an errno. Answered by GRANT_TAKEN. */
  granted(link: Link, ticket: number, errno: number): void;
  /** New locks may be asked for. */
  graceOver(): void;
  /** Once, after it was open. */
  closed(link: Link, reason: string): void;
}

/**
 * Reaches the server, and gives the way to take the connection over: at once, in the same turn, or a message is missed.
 * Rejects with FsError (errno of the network), or RefusedError.
 */
export type Connector = (address: ServerAddress, timeoutMs: number) => Promise<(events: TransportEvents) => Transport>;

/** The server was reached and said no. */
export class RefusedError extends Error {
  override readonly name = 'RefusedError';
  /** It does not know this client, or not any more. */
  readonly isDenied: boolean;

  constructor(message: string, isDenied = false) {
    super(message);
    this.isDenied = isDenied;
  }
}

const HELLO_SEQ = 0;

export class Link {
  readonly #transport: Transport;
  readonly hello: HelloReply;
  #isClosed = false;

  private constructor(transport: Transport, hello: HelloReply) {
    this.#transport = transport;
    this.hello = hello;
  }

  /**
   * Connects and says hello, going on with `session` if the server still knows it. Rejects with RefusedError when the
   * server says no, with FsError (errno of the network) otherwise.
   */
  static async open(
    address: ServerAddress,
    client: string,
    lane: Lane,
    session: Uint8Array | undefined,
    events: LinkEvents,
    connect: Connector = connectWebSocket,
  ): Promise<Link> {
    const deadlineMs = performance.now() + limits.helloTimeoutMs;
    const attach = await connect(address, limits.helloTimeoutMs);
    return new Promise<Link>((resolve, reject) => {
      let link: Link | undefined;
      let bye: string | undefined;
      const fail = (error: Error) => {
        clearTimeout(timer);
        reject(error);
        transport.terminate();
      };
      const remainingMs = deadlineMs - performance.now();
      const timer = setTimeout(() => fail(new FsError(errno.ETIMEDOUT, 'hello')), remainingMs);
      const transport = attach({
        message: (fragments) => {
          try {
            const frame = decodeFrame(fragments);
            if (frame[0] === frameKind.BYE) bye = String(frame[1]);
            else if (frame[0] === frameKind.RECALL && link) {
              events.recall(link, counter.decode(frame[1]), optional(recalled).decode(frame[2]) ?? null);
            } else if (frame[0] === frameKind.RECALL_BLOCKS && link) {
              const blocks = optional(recalledBlocks).decode(frame[3]) ?? null;
              events.recallBlocks(link, counter.decode(frame[1]), inodeHandle.decode(frame[2]), blocks);
            } else if (frame[0] === frameKind.SHARE && link) {
              events.share(link, counter.decode(frame[1]), inodeHandle.decode(frame[2]));
            } else if (frame[0] === frameKind.GRANTED && link) {
              events.granted(link, counter.decode(frame[1]), u32.decode(frame[2]));
            } else if (frame[0] === frameKind.GRACE_OVER && link) {
              events.graceOver();
            } else if (frame[0] !== frameKind.REPLY)
              throw new ProtocolError(`frame kind ${String(frame[0])} is not known`);
            else if (link) events.reply(frame);
            else {
              link = new Link(transport, helloReplyOf(frame));
              clearTimeout(timer);
              resolve(link);
            }
          } catch (error) {
            if (link) transport.close(String(error));
            else fail(error as Error);
          }
        },
        closed: (reason) => {
          if (link) {
            link.#isClosed = true;
            events.closed(link, bye ?? reason);
          } else fail(new FsError(errno.ECONNRESET, bye ?? reason));
        },
      });
      transport.send(encodeFrame(helloFrame(address, client, lane, session)).head);
    });
  }

  /** The connection is gone: nothing that is sent arrives. */
  get isClosed(): boolean {
    return this.#isClosed;
  }

  send(elements: unknown[], bulk?: Uint8Array): void {
    const frame = encodeFrame(elements, bulk);
    this.#transport.send(frame.head, frame.bulk);
  }

  /** Says that this client will not come back. */
  close(): void {
    this.#transport.close(GOODBYE);
  }
}

function helloFrame(address: ServerAddress, client: string, lane: Lane, session: Uint8Array | undefined): unknown[] {
  const { code, request } = operations.hello;
  const body = request.encode({ protocol: PROTOCOL_VERSION, export: address.exportName, session, client, lane });
  return [frameKind.REQUEST, HELLO_SEQ, 0, code, [], body];
}

function helloReplyOf(frame: unknown[]): HelloReply {
  const [, , code, result] = frame;
  if (code !== 0) throw new RefusedError(typeof result === 'string' ? result : `refused with errno ${String(code)}`);
  const reply = operations.hello.reply.decode(result);
  if (reply.protocol !== PROTOCOL_VERSION) {
    throw new RefusedError(
      `the server speaks version ${reply.protocol} of the protocol, this client ${PROTOCOL_VERSION}`,
    );
  }
  // The frame's buffer goes away with the frame; these stay.
  return {
    ...reply,
    session: Buffer.from(reply.session),
    instance: Buffer.from(reply.instance),
    boot: Buffer.from(reply.boot),
    root: { ...reply.root, inode: Buffer.from(reply.root.inode) },
  };
}

const connectWebSocket: Connector = async (address, timeoutMs) => {
  let headers: Record<string, string>;
  let secured: TLSSocket | undefined;
  try {
    headers = authorization(address);
    secured = address.url.startsWith('wss:') ? await openTls(address) : undefined;
  } catch (error) {
    if (error instanceof CredentialError) throw new RefusedError(error.message);
    throw connectError(error as NodeJS.ErrnoException);
  }
  const reader = new PayloadReader();
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(address.url, {
      ...webSocketOptions,
      headers,
      createConnection: () => secured ?? reader.connect(socketHost(address), address.port),
      generateMask: (mask: Buffer) => {
        mask.fill(0);
      },
    });
    // Not by `handshakeTimeout`: the error of `ws` has no code that tells it from others.
    const timer = setTimeout(() => {
      reject(new FsError(errno.ETIMEDOUT, 'connect'));
      socket.terminate();
    }, timeoutMs);
    socket.once('open', () => {
      clearTimeout(timer);
      socket.removeAllListeners('error');
      if (!secured) reader.follow(socket);
      resolve((events) => new WebSocketTransport(socket, events));
    });
    socket.once('unexpected-response', (_request, response) => {
      void refusalIn(response).then((refused) => {
        clearTimeout(timer);
        socket.terminate();
        reject(refused);
      });
    });
    socket.once('error', (error: NodeJS.ErrnoException) => {
      clearTimeout(timer);
      reject(connectError(error));
    });
  });
};

function connectError(error: NodeJS.ErrnoException): FsError {
  const code = error.code as keyof typeof errno | undefined;
  return new FsError(code && code in errno ? errno[code] : errno.EHOSTUNREACH, 'connect', { cause: error });
}

const REASON_CHARACTERS = 300;

/** A weft server says in the answer's text why it refuses. */
async function refusalIn(response: IncomingMessage): Promise<RefusedError> {
  const { statusCode } = response;
  if (statusCode !== 401 && statusCode !== 429 && statusCode !== 503)
    return new RefusedError(`HTTP ${statusCode}: something else than a weft server answers there`);
  let text = '';
  try {
    for await (const chunk of response) {
      text += String(chunk);
      if (text.length > REASON_CHARACTERS) break;
    }
  } catch {
    // cut off: what came must do
  }
  const line = text.replace(/[^\x20-\x7e]+/g, ' ').slice(0, REASON_CHARACTERS);
  return new RefusedError(line || `HTTP ${statusCode}`, statusCode === 401);
}
