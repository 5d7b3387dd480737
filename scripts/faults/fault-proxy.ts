/**
 * A TCP proxy that knows where WebSocket messages begin and end (RFC 6455, section 5.2), and asks a plan what is to happen
 * to each: it passes, it is delayed or stalled together with what follows it, or the connection is cut before, inside or
 * after it. Messages are counted per direction over all connections; control frames pass with what is beside them.
 */
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';

export type Direction = 'to server' | 'to client';
export type Fault = 'pass' | 'cut before' | 'cut inside' | 'cut after' | { readonly delayMs: number };
/** `index` counts from 0. */
export type Plan = (direction: Direction, index: number) => Fault;

const END_OF_HEAD = '\r\n\r\n';
const CONTROL_OPCODE = 8;

/** Cuts a stream into the HTTP head, and messages with all their frames. */
export class MessageSplitter {
  #bytes = Buffer.alloc(0);
  #isOpen = false;

  /** What is complete now, in order. */
  push(bytes: Buffer): { readonly bytes: Buffer; readonly isMessage: boolean }[] {
    this.#bytes = Buffer.concat([this.#bytes, bytes]);
    const parts: { bytes: Buffer; isMessage: boolean }[] = [];
    if (!this.#isOpen) {
      const end = this.#bytes.indexOf(END_OF_HEAD);
      if (end < 0) return parts;
      this.#isOpen = true;
      parts.push({ bytes: this.#take(end + END_OF_HEAD.length), isMessage: false });
    }
    for (let end = 0; ; ) {
      const frame = frameAt(this.#bytes, end);
      if (frame === undefined) return parts;
      end += frame.length;
      if (!frame.isLast) continue;
      parts.push({ bytes: this.#take(end), isMessage: !frame.isControl });
      end = 0;
    }
  }

  #take(length: number): Buffer {
    const taken = this.#bytes.subarray(0, length);
    this.#bytes = this.#bytes.subarray(length);
    return taken;
  }
}

/** The whole frame at `start`, if it is there. A control frame between the frames of a message ends nothing. */
function frameAt(bytes: Buffer, start: number) {
  if (bytes.length < start + 2) return undefined;
  const [first = 0, second = 0] = bytes.subarray(start, start + 2);
  const short = second & 0x7f;
  const sizeBytes = short === 126 ? 2 : short === 127 ? 8 : 0;
  if (bytes.length < start + 2 + sizeBytes) return undefined;
  const payload =
    sizeBytes === 0
      ? short
      : sizeBytes === 2
        ? bytes.readUInt16BE(start + 2)
        : Number(bytes.readBigUInt64BE(start + 2));
  const length = 2 + sizeBytes + (second & 0x80 ? 4 : 0) + payload;
  if (bytes.length < start + length) return undefined;
  const isControl = (first & 0x0f) >= CONTROL_OPCODE;
  return { length, isControl, isLast: (first & 0x80) !== 0 && (!isControl || start === 0) };
}

export class FaultProxy implements AsyncDisposable {
  readonly #server: Server;
  readonly #plan: Plan;
  readonly #sockets = new Set<Socket>();
  readonly messages: Record<Direction, number> = { 'to server': 0, 'to client': 0 };
  cuts = 0;

  private constructor(server: Server, plan: Plan) {
    this.#server = server;
    this.#plan = plan;
  }

  static open(targetPort: () => number, plan: Plan): Promise<FaultProxy> {
    const server = createServer();
    const proxy = new FaultProxy(server, plan);
    server.on('connection', (client) => proxy.#pair(client, connect(targetPort(), '127.0.0.1')));
    return new Promise((resolve) => server.listen(0, '127.0.0.1', () => resolve(proxy)));
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  #pair(client: Socket, server: Socket): void {
    this.#pass(client, server, 'to server');
    this.#pass(server, client, 'to client');
  }

  #pass(from: Socket, to: Socket, direction: Direction): void {
    const splitter = new MessageSplitter();
    let isCut = false;
    let last = Promise.resolve();
    this.#sockets.add(from);
    from.setNoDelay(true);
    from.on('error', () => {});
    from.on('close', () => {
      this.#sockets.delete(from);
      void last.then(() => to.end());
    });
    const cut = (part: Buffer) => {
      isCut = true;
      this.cuts++;
      // What is before the cut arrives: the end follows it. The other side learns of it at once.
      to.end(part);
      from.resetAndDestroy();
    };
    const handle = (bytes: Buffer, fault: Fault): Promise<void> | undefined => {
      if (isCut) return undefined;
      if (fault === 'cut before') cut(Buffer.alloc(0));
      else if (fault === 'cut inside') cut(bytes.subarray(0, bytes.length >> 1));
      else if (fault === 'cut after') cut(bytes);
      else {
        const write = () => void to.write(bytes);
        if (fault === 'pass') write();
        else return new Promise((resolve) => setTimeout(resolve, fault.delayMs)).then(write);
      }
      return undefined;
    };
    from.on('data', (chunk: Buffer) => {
      for (const { bytes, isMessage } of splitter.push(chunk)) {
        const fault = isMessage ? this.#plan(direction, this.messages[direction]++) : 'pass';
        last = last.then(() => handle(bytes, fault));
      }
    });
  }

  [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    return new Promise((resolve) => this.#server.close(() => resolve()));
  }
}
