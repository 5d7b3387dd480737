/** Accepts WebSocket connections on one address. Anything else that speaks HTTP gets a line that says what this is. */
import { createServer, type Server as HttpServer, type IncomingMessage } from 'node:http';
import type { AddressInfo } from 'node:net';
import { type WebSocket, WebSocketServer } from 'ws';
import type { Transport, TransportEvents } from '../../shared/transport/transport.ts';
import { WebSocketTransport, webSocketOptions } from '../../shared/transport/websocket-transport.ts';

export interface ListenAddress {
  readonly host: string;
  /** 0: any free port. */
  readonly port: number;
}

/** Makes the transport of an accepted connection, which reports to `events`. */
export type Accept = (transport: (events: TransportEvents) => Transport, peer: string) => void;

export class Listener {
  readonly #http: HttpServer;
  readonly #sockets: WebSocketServer;

  private constructor(accept: Accept) {
    this.#http = createServer((_request, response) => {
      response.writeHead(426, { 'content-type': 'text/plain', upgrade: 'websocket' });
      response.end('This is a weft server. Mount it with: weft mount ws://HOST:PORT/ MOUNTPOINT\n');
    });
    this.#sockets = new WebSocketServer({ server: this.#http, ...webSocketOptions });
    this.#sockets.on('connection', (socket: WebSocket, request: IncomingMessage) => {
      const { remoteAddress, remotePort } = request.socket;
      accept((events) => new WebSocketTransport(socket, events), `${remoteAddress}:${remotePort}`);
    });
  }

  static open(address: ListenAddress, accept: Accept): Promise<Listener> {
    const listener = new Listener(accept);
    return new Promise((resolve, reject) => {
      // `ws` hands the HTTP server's errors on to its own listeners.
      listener.#sockets.once('error', reject);
      listener.#http.listen(address.port, address.host, () => {
        listener.#sockets.off('error', reject);
        // An accept that fails (too many open files) is the business of whoever connects, who sees it closed.
        listener.#sockets.on('error', () => {});
        resolve(listener);
      });
    });
  }

  get port(): number {
    return (this.#http.address() as AddressInfo).port;
  }

  stopAccepting(): void {
    this.#http.close();
  }

  async close(): Promise<void> {
    for (const socket of this.#sockets.clients) socket.terminate();
    await new Promise<void>((resolve) => this.#sockets.close(() => resolve()));
    this.#http.closeAllConnections();
  }
}
