/**
 * Connections between simulated machines: each in order, both ways, after delays of chance; two connections overtake each
 * other. One may be lost, with what is on its way, and each end learns of it on its own; the network may be cut, also in
 * one direction, and then silence ends a connection as the heartbeat of a real one does.
 */
import { createHash } from 'node:crypto';
import type { Connector } from '../../client-fuse/transport/link.ts';
import { ANYONE } from '../../server/access/credential.ts';
import type { Accept, Listen } from '../../server/transport/listener.ts';
import { errno, FsError } from '../../shared/errno.ts';
import { limits } from '../../shared/limits.ts';
import type { Transport, TransportEvents } from '../../shared/transport/transport.ts';
import type { Random } from './random.ts';

type Side = 'client' | 'server';

const other = (side: Side): Side => (side === 'client' ? 'server' : 'client');

/** The client's machine, as the network sees it. */
export interface Machine {
  readonly name: string;
  /** Directions in which nothing arrives: towards the server, towards the client. */
  readonly cut: Record<Side, boolean>;
  /** Its processes get no events until then. */
  stoppedUntilMs: number;
  /** For good. */
  hasCrashed: boolean;
}

class End implements Transport {
  readonly #wire: Wire;
  readonly #side: Side;
  events: TransportEvents | undefined;
  isClosed = false;
  #held: (() => void)[] | undefined;
  queuedBytes = 0;

  constructor(wire: Wire, side: Side) {
    this.#wire = wire;
    this.#side = side;
  }

  send(head: Uint8Array, bulk?: Uint8Array, flushed?: () => void): void {
    if (this.isClosed) return flushed?.();
    const fragments = [Buffer.from(head), ...(bulk ? [Buffer.from(bulk)] : [])];
    flushed?.();
    this.#wire.carry(other(this.#side), (end) => {
      this.#wire.note(other(this.#side), fragments);
      end.take(() => end.events?.message(fragments));
    });
  }

  take(work: () => void): void {
    if (this.#held) this.#held.push(work);
    else if (!this.isClosed) work();
  }

  pause(): void {
    this.#held ??= [];
  }

  resume(): void {
    const held = this.#held ?? [];
    this.#held = undefined;
    for (const work of held) this.take(work);
  }

  close(reason: string): void {
    if (this.isClosed) return;
    this.#wire.carry(other(this.#side), (end) => end.closed(reason));
    this.closed(reason);
  }

  terminate(): void {
    this.close('connection lost');
  }

  closed(reason: string): void {
    if (this.isClosed) return;
    this.isClosed = true;
    // As a socket tells: not before whoever closed it goes on.
    setTimeout(() => this.events?.closed(reason), 0);
  }
}

class Wire {
  readonly machine: Machine;
  readonly #network: SimulatedNetwork;
  readonly #number: number;
  readonly ends: Record<Side, End> = { client: new End(this, 'client'), server: new End(this, 'server') };
  readonly #queues: Record<Side, ((end: End) => void)[]> = { client: [], server: [] };

  constructor(network: SimulatedNetwork, number: number, machine: Machine) {
    this.#network = network;
    this.#number = number;
    this.machine = machine;
  }

  note(to: Side, fragments: readonly Buffer[]): void {
    this.#network.note(`${this.#number} ${to} ${performance.now()}`, fragments);
  }

  /** Delivers to one side after a delay, and in order. What is cut off is lost, and the connection with it, by and by. */
  carry(to: Side, deliver: (end: End) => void): void {
    this.#queues[to].push(deliver);
    // A machine that is stopped sends nothing: its timers, which fire here, are those of when it goes on.
    const stoppedMs = to === 'server' ? Math.max(0, Math.ceil(this.machine.stoppedUntilMs - performance.now())) : 0;
    setTimeout(() => this.#arrive(to), stoppedMs + this.#network.delayMs());
  }

  /** The oldest message arrives, whichever timer it was that ended. */
  #arrive(to: Side): void {
    const end = this.ends[to];
    if (end.isClosed) return;
    const waitMs = to === 'client' ? Math.ceil(this.machine.stoppedUntilMs - performance.now()) : 0;
    if (waitMs > 0) {
      setTimeout(() => this.#arrive(to), waitMs);
      return;
    }
    const deliver = this.#queues[to].shift();
    if (this.machine.cut[to]) {
      this.#queues[to].length = 0;
      this.#network.lose(this, 2 * limits.heartbeatMs);
    } else deliver?.(end);
  }
}

export class SimulatedNetwork {
  readonly #random: Random;
  readonly #wires = new Set<Wire>();
  #accept: Accept | undefined;
  #lastWire = 0;
  readonly #trace = createHash('sha256');

  constructor(random: Random) {
    this.#random = random;
  }

  /** Every message that arrived, byte for byte, with its time and place. To be asked for once, in the end. */
  get digest(): string {
    return this.#trace.digest('hex');
  }

  note(place: string, fragments: readonly Buffer[]): void {
    this.#trace.update(place);
    for (const fragment of fragments) this.#trace.update(fragment);
  }

  /** Mostly quick, sometimes not. */
  delayMs(): number {
    return 1 + this.#random.below(this.#random.chance(0.05) ? 200 : 4);
  }

  /** Both ends learn of it, each at a time of its own, within `mostMs`. */
  lose(wire: Wire, mostMs: number): void {
    for (const end of [wire.ends.client, wire.ends.server]) {
      setTimeout(() => end.closed('connection lost'), 1 + this.#random.below(mostMs));
    }
  }

  /** One of the connections of `machine`, or of anybody. */
  loseOne(machine?: Machine): void {
    const open = [...this.#wires].filter(
      ({ machine: one, ends }) => !ends.client.isClosed && (machine === undefined || one === machine),
    );
    if (open.length > 0) this.lose(this.#random.pick(open), 20);
  }

  /** The server's process is gone: its system closes its connections, and nobody of it is told. */
  crashServer(): void {
    this.#accept = undefined;
    for (const wire of this.#wires) {
      wire.ends.server.events = undefined;
      wire.ends.server.isClosed = true;
      wire.carry('client', (end) => end.closed('connection lost'));
    }
    this.#wires.clear();
  }

  /** What still happens in its processes has no effect. */
  crashClient(machine: Machine): void {
    machine.hasCrashed = true;
    for (const wire of this.#wires) {
      if (wire.machine !== machine) continue;
      wire.ends.client.events = undefined;
      wire.ends.client.isClosed = true;
      wire.carry('server', (end) => end.closed('connection lost'));
    }
  }

  readonly listen: Listen = (_address, accept) => {
    this.#accept = accept;
    const stopAccepting = () => {
      if (this.#accept === accept) this.#accept = undefined;
    };
    return Promise.resolve({ port: 1, stopAccepting, close: async () => {} });
  };

  connectorOf(machine: Machine): Connector {
    return async () => {
      await new Promise((resolve) => setTimeout(resolve, 2 * this.delayMs()));
      if (machine.hasCrashed) return new Promise(() => {});
      const accept = this.#accept;
      if (machine.cut.client || machine.cut.server) throw new FsError(errno.EHOSTUNREACH, 'connect');
      if (accept === undefined) throw new FsError(errno.ECONNREFUSED, 'connect');
      const wire = new Wire(this, ++this.#lastWire, machine);
      this.#wires.add(wire);
      const attach = (end: End) => (events: TransportEvents) => {
        end.events = events;
        return end;
      };
      accept(attach(wire.ends.server), {
        peer: machine.name,
        credential: ANYONE,
        established: () => {},
        failed: () => {},
      });
      return attach(wire.ends.client);
    };
  }
}
