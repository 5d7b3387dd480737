/**
 * Accepts WebSocket connections on one address, with TLS or without. Who connects shows a token or a certificate with the
 * upgrade, and is refused by HTTP before there is a WebSocket. Anything else that speaks HTTP gets a line that says what
 * this is. A connection that has not said hello in time is ended, at whatever stage it is.
 */
import { createServer, type Server as HttpServer, type IncomingMessage, STATUS_CODES } from 'node:http';
import { createServer as createSecureServer } from 'node:https';
import { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import type { TLSSocket } from 'node:tls';
import type { Logger } from 'pino';
import { WebSocketServer } from 'ws';
import { limits } from '../../shared/limits.ts';
import { type Accepted, close } from '../../shared/linux/libc.ts';
import { PayloadReader, pooledPayload } from '../../shared/transport/payload-reader.ts';
import type { Transport, TransportEvents } from '../../shared/transport/transport.ts';
import { WebSocketTransport, webSocketOptions } from '../../shared/transport/websocket-transport.ts';
import type { AccessControl, Shown } from '../access/access-control.ts';
import { Admission, type Ticket } from '../access/admission.ts';
import type { Credential } from '../access/credential.ts';
import type { TlsMaterial } from '../access/tls-files.ts';
import { Acceptor } from './acceptor.ts';

export interface ListenAddress {
  readonly host: string;
  /** 0: any free port. */
  readonly port: number;
}

/** Who connected. */
export interface Visitor {
  readonly peer: string;
  readonly credential: Credential;
  /** Hello was answered: it is not half open any more. */
  established(): void;
  /** It does not speak the protocol. Where such connections come from, more are not welcome for a while. */
  failed(): void;
}

/** Makes the transport of an accepted connection, which reports to `events`. */
export type Accept = (transport: (events: TransportEvents) => Transport, visitor: Visitor) => void;

export interface ListenerOptions {
  readonly address: ListenAddress;
  readonly tls?: TlsMaterial;
  readonly access: AccessControl;
  readonly log: Logger;
}

const AFTER_CONNECTION_MS = 500;

interface Refusal {
  readonly status: 401 | 403 | 429 | 503;
  readonly reason: string;
}

interface Entered {
  readonly ticket: Ticket;
  readonly reader: PayloadReader | undefined;
}

/** What accepts connections, until it is closed with all of them. */
export interface Listening {
  readonly port: number;
  stopAccepting(): void;
  close(): Promise<void>;
}

/** Starts to accept. Rejects with a Node error when it cannot. */
export type Listen = (options: ListenerOptions, accept: Accept) => Promise<Listening>;

export class Listener implements Listening {
  /** In front of HTTP and TLS, which cost many times what it costs to accept a connection: who may not enter has neither. */
  readonly #front: Acceptor;
  readonly #http: HttpServer;
  readonly #speaksTls: boolean;
  readonly #sockets = new WebSocketServer({ noServer: true, ...webSocketOptions });
  readonly #admission = new Admission();
  /** By the address and port of the peer: TLS puts a socket of its own over the one that was accepted. */
  readonly #entered = new Map<string, Entered>();
  readonly #raw = new Set<Socket>();
  readonly #access: AccessControl;
  readonly #log: Logger;
  /** Refusals are logged once a second an address and reason, so that refusing does not become the work. */
  readonly #logged = new Map<string, { atMs: number; unsaid: number }>();

  private constructor(front: Acceptor, { tls, access, log }: ListenerOptions, accept: Accept) {
    this.#front = front;
    this.#speaksTls = tls !== undefined;
    this.#access = access;
    this.#log = log;
    const timeouts = { headersTimeout: limits.helloTimeoutMs, requestTimeout: limits.helloTimeoutMs };
    this.#http = tls
      ? createSecureServer({
          ...timeouts,
          key: tls.key,
          cert: tls.cert,
          minVersion: 'TLSv1.2',
          handshakeTimeout: limits.helloTimeoutMs,
          // Who shows no certificate, or another's, may still have a token: `authorized` says which it was.
          ...(tls.clientCa ? { ca: tls.clientCa, requestCert: true, rejectUnauthorized: false } : {}),
        })
      : createServer(timeouts);
    this.#http.on('request', (_request, response) => {
      const scheme = tls ? 'wss' : 'ws';
      response.writeHead(426, { 'content-type': 'text/plain', upgrade: 'websocket', connection: 'close' });
      response.end(`This is a weft server. Mount it with: weft mount ${scheme}://HOST:PORT/ MOUNTPOINT\n`);
    });
    this.#http.on('upgrade', (request: IncomingMessage, socket: Duplex, head: Buffer) =>
      this.#upgrade(request, socket, head, accept),
    );
  }

  static async open(options: ListenerOptions, accept: Accept): Promise<Listener> {
    const { host, port } = options.address;
    const front = await Acceptor.listen(host, port);
    try {
      const listener = new Listener(front, options, accept);
      front.start((accepted) => listener.#enter(accepted));
      return listener;
    } catch (error) {
      front.close();
      throw error;
    }
  }

  #enter({ fd, address, port }: Accepted): void {
    const peer = `${address}:${port}`;
    const ticket = this.#enterOrRefuse(address, () => {
      this.#refused(address, peer, 'no hello yet, and its place was needed');
      socket.destroy();
    });
    if ('status' in ticket) {
      // To answer costs ten times as much as all the rest.
      if (!this.#refused(address, peer, ticket.reason) || this.#speaksTls) return close(fd);
      const refused = new Socket({ fd, readable: true, writable: true });
      refused.on('error', () => {});
      refused.end(httpAnswer(ticket), () => refused.destroy());
      return;
    }
    const reader = this.#speaksTls ? undefined : new PayloadReader(pooledPayload);
    const socket = reader?.accept(fd) ?? new Socket({ fd, readable: true, writable: true });
    socket.setNoDelay(true);
    // As it will be asked for. It may be gone already; then there is nothing to come.
    const key = `${socket.remoteAddress}:${socket.remotePort}`;
    this.#entered.set(key, { ticket, reader });
    this.#raw.add(socket);
    // The later one of two: a Connection that hears no hello says so to its client. This one sees TLS and the upgrade, too.
    const timer = setTimeout(() => {
      if (!ticket.isHalfOpen) return;
      this.#refused(address, peer, 'no hello in time');
      socket.destroy();
    }, limits.helloTimeoutMs + AFTER_CONNECTION_MS);
    socket.once('close', () => {
      clearTimeout(timer);
      // Another connection may have come from the same port meanwhile.
      if (this.#entered.get(key)?.ticket === ticket) this.#entered.delete(key);
      this.#raw.delete(socket);
      if (!ticket.hasAsked) this.#failed(address);
      this.#admission.leave(ticket);
    });
    this.#http.emit('connection', socket);
  }

  /** Where nobody is asked who it is, everybody is trusted, whatever comes. */
  #failed(address: string): void {
    if (!this.#access.isOpen) this.#admission.failed(address, Date.now());
  }

  #enterOrRefuse(address: string, end: () => void): Ticket | Refusal {
    if (this.#admission.isFailing(address, Date.now())) {
      return {
        status: 429,
        reason: 'too many wrong tokens or broken connections came from this address: wait a minute',
      };
    }
    const ticket = this.#admission.enter(address, end);
    return typeof ticket === 'string' ? { status: 503, reason: ticket } : ticket;
  }

  #upgrade(request: IncomingMessage, socket: Duplex, head: Buffer, accept: Accept): void {
    const { remoteAddress, remotePort } = request.socket;
    const peer = `${remoteAddress}:${remotePort}`;
    const entered = this.#entered.get(peer);
    socket.on('error', () => {});
    if (entered === undefined) return void socket.destroy();
    const { ticket, reader } = entered;
    ticket.hasAsked = true;
    const answer = this.#admit(request, ticket);
    if ('status' in answer) {
      this.#refused(ticket.address, peer, answer.reason);
      socket.end(httpAnswer(answer), () => socket.destroy());
      return;
    }
    this.#sockets.handleUpgrade(request, socket, head, (webSocket) => {
      this.#log.info({ peer, credential: answer.name }, 'connection');
      reader?.follow(webSocket);
      accept((events) => new WebSocketTransport(webSocket, events), {
        peer,
        credential: answer,
        established: () => this.#admission.established(ticket),
        failed: () => this.#failed(ticket.address),
      });
    });
  }

  #admit(request: IncomingMessage, ticket: Ticket): Credential | Refusal {
    // Browsers say so, and let any page of any site open a WebSocket to this machine.
    if (request.headers.origin !== undefined) return { status: 403, reason: 'web pages are not served here' };
    const nowMs = Date.now();
    const answer = this.#access.admit(shownBy(request), nowMs);
    if ('refusal' in answer) {
      this.#admission.failed(ticket.address, nowMs);
      return { status: 401, reason: answer.refusal };
    }
    if (this.#access.isOpen) return answer.credential;
    const reason = this.#admission.claim(ticket, answer.credential.id);
    return reason === undefined ? answer.credential : { status: 503, reason };
  }

  /** True when it was logged. */
  #refused(address: string, peer: string, reason: string): boolean {
    const nowMs = Date.now();
    const key = `${address} ${reason}`;
    const last = this.#logged.get(key);
    if (last && nowMs - last.atMs < 1000) {
      last.unsaid++;
      return false;
    }
    if (this.#logged.size >= limits.maxFailingAddresses) this.#logged.clear();
    this.#logged.set(key, { atMs: nowMs, unsaid: 0 });
    this.#log.warn({ peer, reason, unsaid: last?.unsaid ?? 0 }, 'connection refused');
    return true;
  }

  get port(): number {
    return this.#front.port;
  }

  stopAccepting(): void {
    this.#front.close();
  }

  async close(): Promise<void> {
    for (const socket of this.#sockets.clients) socket.terminate();
    for (const socket of this.#raw) socket.destroy();
    this.#front.close();
    await new Promise<void>((resolve) => this.#sockets.close(() => resolve()));
  }
}

function shownBy({ headers, socket }: IncomingMessage): Shown {
  const [, token] = /^Bearer (\S+)$/.exec(headers.authorization ?? '') ?? [];
  if (token !== undefined) return { token };
  const { authorized, getPeerCertificate } = socket as Partial<TLSSocket>;
  if (!authorized || getPeerCertificate === undefined) return {};
  const name: unknown = getPeerCertificate.call(socket)?.subject?.CN;
  return typeof name === 'string' ? { certificate: name } : {};
}

function httpAnswer({ status, reason }: Refusal): string {
  const length = Buffer.byteLength(reason);
  const fields = `Connection: close\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: ${length}`;
  return `HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\n${fields}\r\n\r\n${reason}`;
}
