/**
 * All sessions of the server, by id, and what becomes of those whose clients are away. Until the session lease is over
 * they keep everything. Then they keep it as a courtesy, until somebody asks for it (a lock), or for too long, or too
 * many do. The server calls `expire` from a timer; the table itself has no clock. Its times are performance.now().
 * Source: "courteous server" in RFC 8881, 8.4.2.4 and 8.4.3, and the Linux server's nfs4_laundromat().
 */
import { limits } from '../../shared/limits.ts';
import { ANYONE } from '../access/credential.ts';
import type { Export } from '../export.ts';
import { Session } from './session.ts';

export class SessionTable {
  readonly leaseMs: number;
  readonly #sessions = new Map<string, Session>();
  /** Ended because its client stayed away. */
  onExpired: (session: Session) => void = () => {};

  constructor(leaseMs: number = limits.sessionLeaseMs) {
    this.leaseMs = leaseMs;
  }

  get all(): Iterable<Session> {
    return this.#sessions.values();
  }

  get size(): number {
    return this.#sessions.size;
  }

  /** The session with this id on this export, if the same credential opened it, or a new one, made at `nowMs` since 1970. */
  attach(
    id: Uint8Array | undefined,
    exported: Export,
    client: string,
    nowMs: number,
    credential = ANYONE,
  ): { session: Session; resumed: boolean } {
    const known = id && this.#sessions.get(Buffer.from(id).toString('hex'));
    if (known && known.exported === exported && known.credential.id === credential.id) {
      known.connections++;
      known.absentSinceMs = undefined;
      known.isCourtesy = false;
      return { session: known, resumed: true };
    }
    const session = new Session(exported, client, nowMs, credential);
    session.connections = 1;
    session.onContested = () => {
      if (session.isCourtesy) this.#expired(session);
    };
    this.#sessions.set(session.id.toString('hex'), session);
    return { session, resumed: false };
  }

  /** One connection less. `heardMs`: when its client was last heard. */
  detach(session: Session, heardMs: number): void {
    session.connections--;
    if (session.connections === 0) session.absentSinceMs = heardMs;
  }

  /** Ends the session now: the client said goodbye, or may be here no more. */
  end(session: Session): void {
    session.close();
    this.#sessions.delete(session.id.toString('hex'));
  }

  /** Ends what nobody waits for any more, or somebody does. */
  expire(nowMs: number): void {
    const kept: { session: Session; absentMs: number }[] = [];
    for (const session of [...this.#sessions.values()]) {
      if (session.absentSinceMs === undefined) continue;
      const absentMs = nowMs - session.absentSinceMs;
      if (absentMs < this.leaseMs) continue;
      session.isCourtesy = true;
      // One that never asked for anything holds nothing.
      const isOver = absentMs >= limits.maxCourtesyMs || session.requests === 0 || session.locks.isInTheWay;
      if (isOver) this.#expired(session);
      else kept.push({ session, absentMs });
    }
    if (kept.length <= limits.maxCourtesySessions) return;
    kept.sort((one, other) => other.absentMs - one.absentMs);
    for (const { session } of kept.slice(0, -limits.maxCourtesySessions)) this.#expired(session);
  }

  #expired(session: Session): void {
    this.onExpired(session);
    this.end(session);
  }
}
