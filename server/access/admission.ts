/**
 * How many connections there may be, of one address, of one credential and in all, and how many of them may be half open
 * (TLS, upgrade and hello not done yet). Pure: counts and times come in, a reason for refusal or undefined goes out.
 */
import { limits } from '../../shared/limits.ts';

class Tally {
  readonly #counts = new Map<string, number>();

  of(key: string): number {
    return this.#counts.get(key) ?? 0;
  }

  add(key: string, change: 1 | -1): void {
    const count = this.of(key) + change;
    if (count === 0) this.#counts.delete(key);
    else this.#counts.set(key, count);
  }
}

/** One connection's place, from accept to close. */
export class Ticket {
  readonly address: string;
  credential: string | undefined;
  isHalfOpen = true;
  /** It came as far as asking for a WebSocket. */
  hasAsked = false;
  /** Ends the connection, for another's sake. */
  readonly #end: () => void;

  constructor(address: string, end: () => void) {
    this.address = address;
    this.#end = end;
  }

  end(): void {
    this.#end();
  }
}

export class Admission {
  readonly #open = new Tally();
  /** By address, the oldest first. */
  readonly #halfOpen = new Map<string, Set<Ticket>>();
  readonly #ofCredential = new Tally();
  /** Wrong credentials and broken connections of an address, which are forgotten with time; the oldest entry goes when there are too many. */
  readonly #failures = new Map<string, { count: number; sinceMs: number }>();
  #total = 0;
  #totalHalfOpen = 0;

  /** `end` is called when it has to make room for a connection of another address. */
  enter(address: string, end: () => void): Ticket | string {
    const halfOpen = this.#halfOpen.get(address) ?? new Set();
    if (this.#total >= limits.maxConnections) return 'the server has too many connections';
    if (this.#open.of(address) >= limits.maxConnectionsPerAddress) return 'too many connections from this address';
    if (halfOpen.size >= limits.maxHalfOpenPerAddress) return 'too many half-open connections from this address';
    if (this.#totalHalfOpen >= limits.maxHalfOpen && !this.#makeRoom(halfOpen.size))
      return 'the server has too many half-open connections';
    const ticket = new Ticket(address, end);
    this.#total++;
    this.#totalHalfOpen++;
    this.#open.add(address, 1);
    this.#halfOpen.set(address, halfOpen.add(ticket));
    return ticket;
  }

  /**
   * A few addresses that say nothing must not keep all others out. Whoever has less than its share of the places gets the
   * one of the oldest connection of the address that has the most. Each is looked at only then: an attacker that has its
   * share is refused at once.
   */
  #makeRoom(own: number): boolean {
    if ((own + 1) * (this.#halfOpen.size + 1) > limits.maxHalfOpen) return false;
    let most = new Set<Ticket>();
    for (const tickets of this.#halfOpen.values()) if (tickets.size > most.size) most = tickets;
    const [oldest] = most;
    if (oldest === undefined || most.size <= own + 1) return false;
    this.established(oldest);
    oldest.end();
    return true;
  }

  /** The client is known; returns why it may not come in nevertheless. */
  claim(ticket: Ticket, credential: string): string | undefined {
    if (this.#ofCredential.of(credential) >= limits.maxConnectionsPerCredential)
      return 'too many connections with this credential';
    ticket.credential = credential;
    this.#ofCredential.add(credential, 1);
    return undefined;
  }

  /** It is not half open any more: hello was answered. */
  established(ticket: Ticket): void {
    if (!ticket.isHalfOpen) return;
    ticket.isHalfOpen = false;
    this.#totalHalfOpen--;
    const halfOpen = this.#halfOpen.get(ticket.address);
    halfOpen?.delete(ticket);
    if (halfOpen?.size === 0) this.#halfOpen.delete(ticket.address);
  }

  leave(ticket: Ticket): void {
    this.established(ticket);
    this.#total--;
    this.#open.add(ticket.address, -1);
    if (ticket.credential !== undefined) this.#ofCredential.add(ticket.credential, -1);
  }

  /** A wrong credential was shown, or something else than the protocol spoken. */
  failed(address: string, nowMs: number): void {
    const count = this.#failuresOf(address, nowMs) + 1;
    this.#failures.delete(address);
    this.#failures.set(address, { count, sinceMs: nowMs });
    const [oldest] = this.#failures.keys();
    if (this.#failures.size > limits.maxFailingAddresses && oldest !== undefined) this.#failures.delete(oldest);
  }

  /** It is not even looked at what this address sends. */
  isFailing(address: string, nowMs: number): boolean {
    return this.#failuresOf(address, nowMs) >= limits.maxGuesses;
  }

  #failuresOf(address: string, nowMs: number): number {
    const known = this.#failures.get(address);
    if (known === undefined) return 0;
    return Math.max(0, known.count - (nowMs - known.sinceMs) / limits.guessForgottenMs);
  }
}
