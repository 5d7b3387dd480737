/** A TCP proxy that breaks connections where a test wants it: in the middle of frames, on either side, in any direction. */
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';

export class CuttingProxy implements AsyncDisposable {
  readonly #server: Server;
  readonly #pairs = new Set<readonly [Socket, Socket]>();
  /** Bytes that may still pass before the next cut. */
  #budget = Number.POSITIVE_INFINITY;
  /** Asked after each cut, for the bytes until the next. */
  #next: () => number = () => Number.POSITIVE_INFINITY;
  cuts = 0;
  /** True: connections are accepted and closed at once. */
  refusing = false;
  /** Answers that do not arrive, for as long as it is set. */
  #kept: (() => void)[] | undefined;

  private constructor(server: Server) {
    this.#server = server;
  }

  static open(targetPort: () => number): Promise<CuttingProxy> {
    const server = createServer();
    const proxy = new CuttingProxy(server);
    server.on('connection', (client) => proxy.#pair(client, targetPort()));
    return new Promise((resolve) => server.listen(0, '127.0.0.1', () => resolve(proxy)));
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  get connections(): number {
    return this.#pairs.size;
  }

  /** Cuts again and again: `next` says after how many bytes. Ends when it says Infinity. */
  cutEvery(next: () => number): void {
    this.#next = next;
    this.#budget = next();
  }

  /** What servers say is kept back from now on. Returns what lets it go. */
  silence(): () => void {
    const kept: (() => void)[] = [];
    this.#kept = kept;
    return () => {
      this.#kept = undefined;
      for (const pass of kept) pass();
    };
  }

  cutNow(): void {
    for (const pair of this.#pairs) this.#cut(pair);
  }

  #pair(client: Socket, targetPort: number): void {
    if (this.refusing) {
      client.destroy();
      return;
    }
    const server = connect(targetPort, '127.0.0.1');
    const pair = [client, server] as const;
    this.#pairs.add(pair);
    for (const [from, to] of [pair, [server, client] as const]) {
      from.setNoDelay(true);
      from.on('error', () => {});
      from.on('close', () => {
        this.#pairs.delete(pair);
        to.end(); // what arrived before the end is delivered
      });
      from.on('data', (bytes: Buffer) => {
        if (this.#kept && from === server) {
          this.#kept.push(() => to.write(bytes));
          return;
        }
        if (bytes.length <= this.#budget) {
          this.#budget -= bytes.length;
          to.write(bytes);
          return;
        }
        // The part before the cut arrives, so frames break in the middle.
        to.end(bytes.subarray(0, this.#budget));
        this.#budget = this.#next();
        this.#cut(pair, to);
      });
    }
  }

  #cut([client, server]: readonly [Socket, Socket], finishing?: Socket): void {
    this.cuts++;
    for (const socket of [client, server]) if (socket !== finishing) socket.resetAndDestroy();
  }

  [Symbol.asyncDispose](): Promise<void> {
    for (const [client, server] of this.#pairs) {
      client.destroy();
      server.destroy();
    }
    return new Promise((resolve) => this.#server.close(() => resolve()));
  }
}
