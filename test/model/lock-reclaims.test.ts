/**
 * Sessions, the list of clients, and the grace period under crashes: one exclusive lock, clients that come and go, servers
 * that end at any moment and start with what is durable, and a disk that is full at times. Two things must hold: nobody is
 * granted the lock that somebody else still has a right to, and nobody takes it again when another has had it since.
 */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { Export } from '../../server/export.ts';
import { ClientList } from '../../server/session/client-list.ts';
import type { Session } from '../../server/session/session.ts';
import { SessionTable } from '../../server/session/session-table.ts';
import { LockTable } from '../../server/state/file-locks.ts';
import { FsError } from '../../shared/errno.ts';
import { limits } from '../../shared/limits.ts';
import { ALL_BYTES } from '../../shared/range-map.ts';
import { KeptClients } from '../support/kept-state.ts';

const CLIENTS = 3;
const LEASE_MS = 10_000;
const exported = { name: '/' } as unknown as Export;

interface Client {
  readonly name: string;
  id: Buffer | undefined;
  /** The server's run of which it knows. */
  run: number;
  session: Session | undefined;
  /** The number of the grant by which it holds the lock, as it believes. */
  holds: number | undefined;
  /** Id of the session that was granted it. */
  holder: string | undefined;
  mustReclaim: boolean;
  seq: number;
}

class World {
  readonly durable = new KeptClients();
  readonly clients: Client[] = Array.from({ length: CLIENTS }, (_, index) => ({
    name: `client ${index}`,
    id: undefined,
    run: 0,
    session: undefined,
    holds: undefined,
    holder: undefined,
    mustReclaim: false,
    seq: 0,
  }));
  #table!: SessionTable;
  #locks!: LockTable;
  #run = 0;
  #nowMs = 0;
  #lastGrant = 0;
  /** Ids of sessions that have been ended, or were not back in time. */
  readonly #ended = new Set<string>();
  reclaims = 0;
  fenced = 0;

  constructor() {
    this.crash();
  }

  crash(): void {
    this.#run++;
    this.#locks = new LockTable('posix');
    this.#table = new SessionTable({
      leaseMs: LEASE_MS,
      clients: new ClientList(this.durable),
      nowMs: this.#nowMs,
    });
    this.#table.onExpired = ({ key }) => this.#ended.add(key);
    this.#table.onGraceOver = (late) => {
      for (const { id } of late) this.#ended.add(id);
    };
    for (const client of this.clients) client.session = undefined;
  }

  #live({ session }: Client): Session | undefined {
    return session?.isClosed ? undefined : session;
  }

  /** `isHeard`: the reply arrives; else the connection breaks before. */
  connect(client: Client, isHeard: boolean): void {
    if (client.session && !client.session.isClosed) return;
    const { session } = this.#table.attach(client.id, exported, client.name, 0);
    if (!isHeard) return this.#table.detach(session, this.#nowMs);
    const isSameRun = client.run === this.#run;
    if (client.id && !(isSameRun && session.id.equals(client.id))) {
      if (isSameRun) client.holds = undefined;
      else client.mustReclaim = true;
    }
    client.id = session.id;
    client.run = this.#run;
    client.session = session;
    session.begin(0, ++client.seq, () => {});
  }

  leave(client: Client): void {
    const session = this.#live(client);
    if (session) this.#table.detach(session, this.#nowMs);
    client.session = undefined;
  }

  goodbye(client: Client): void {
    const session = this.#live(client);
    if (session === undefined) return;
    this.leave(client);
    this.#table.end(session);
    Object.assign(client, { id: undefined, holds: undefined, mustReclaim: false });
  }

  reclaim(client: Client): void {
    const session = this.#live(client);
    if (session === undefined || !client.mustReclaim) return;
    if (client.holds !== undefined) {
      if (this.#take(session, true)) {
        this.reclaims++;
        expect(client.holds, 'somebody else has had it since').toBe(this.#lastGrant);
      } else client.holds = undefined;
    }
    session.reclaimed();
    client.mustReclaim = false;
  }

  lock(client: Client): void {
    const session = this.#live(client);
    if (session === undefined || client.mustReclaim || client.holds !== undefined) return;
    if (!this.#take(session, false)) return;
    for (const other of this.clients) {
      if (other === client || other.holds === undefined) continue;
      this.fenced++;
      expect(this.#ended, 'somebody else has a right to it').toContain(other.holder);
    }
    client.holds = ++this.#lastGrant;
    client.holder = session.key;
  }

  unlock(client: Client): void {
    const session = this.#live(client);
    if (session === undefined || client.mustReclaim || client.holds === undefined) return;
    session.locks.unlock(this.#locks, '1', ALL_BYTES);
    client.holds = undefined;
  }

  pass(ms: number): void {
    this.#nowMs += ms;
    this.#table.expire(this.#nowMs);
  }

  #take(session: Session, isReclaim: boolean): boolean {
    try {
      session.admitLock(isReclaim);
      return session.locks.lock(this.#locks, { ...ALL_BYTES, owner: '1', pid: 1, mode: 'exclusive' }, undefined);
    } catch (error) {
      if (error instanceof FsError) return false;
      throw error;
    }
  }
}

const one = fc.nat(CLIENTS - 1);
const step = fc.oneof(
  { weight: 4, arbitrary: fc.record({ what: fc.constant('connect' as const), who: one, isHeard: fc.boolean() }) },
  { weight: 5, arbitrary: fc.record({ what: fc.constantFrom('reclaim' as const, 'lock', 'lock'), who: one }) },
  {
    weight: 3,
    arbitrary: fc.record({ what: fc.constantFrom('unlock' as const, 'leave', 'leave', 'goodbye'), who: one }),
  },
  {
    weight: 3,
    arbitrary: fc.record({ what: fc.constant('pass' as const), ms: fc.constantFrom(500, 4_000, LEASE_MS) }),
  },
  { weight: 1, arbitrary: fc.record({ what: fc.constant('crash' as const) }) },
  { weight: 1, arbitrary: fc.record({ what: fc.constant('disk' as const), isFull: fc.nat(3).map((it) => it === 0) }) },
);

test('no lock has two owners, over crashes of the server and clients that stay away', () => {
  let [reclaims, fenced] = [0, 0];
  const property = fc.property(fc.array(step, { minLength: 40, maxLength: 120, size: 'max' }), (steps) => {
    const world = new World();
    for (const now of steps) {
      const client = world.clients['who' in now ? now.who : 0] as Client;
      if (now.what === 'connect') world.connect(client, now.isHeard);
      else if (now.what === 'pass') world.pass(now.ms);
      else if (now.what === 'crash') world.crash();
      else if (now.what === 'disk') world.durable.isFull = now.isFull;
      else world[now.what](client);
    }
    reclaims += world.reclaims;
    fenced += world.fenced;
  });
  fc.assert(property, { numRuns: 2_000, seed: limits.sessionLeaseMs });
  // It was about something.
  expect(reclaims).toBeGreaterThan(100);
  expect(fenced).toBeGreaterThan(100);
});
