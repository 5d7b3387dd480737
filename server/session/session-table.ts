/**
 * All sessions of the server, by id. A session whose client has been away for the session lease is ended by `expire`,
 * which the server calls from a timer; the table itself has no clock.
 */
import { limits } from '../../shared/limits.ts';
import { ANYONE } from '../access/credential.ts';
import type { Export } from '../export.ts';
import { Session } from './session.ts';

export class SessionTable {
  readonly #sessions = new Map<string, Session>();

  get all(): Iterable<Session> {
    return this.#sessions.values();
  }

  get size(): number {
    return this.#sessions.size;
  }

  /** The session with this id on this export, if the same credential opened it, or a new one. */
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
      return { session: known, resumed: true };
    }
    const session = new Session(exported, client, nowMs, credential);
    session.connections = 1;
    this.#sessions.set(session.id.toString('hex'), session);
    return { session, resumed: false };
  }

  detach(session: Session, nowMs: number): void {
    session.connections--;
    if (session.connections === 0) session.absentSinceMs = nowMs;
  }

  /** Ends the session now: the client said goodbye. */
  end(session: Session): void {
    session.close();
    this.#sessions.delete(session.id.toString('hex'));
  }

  /** Ends the sessions whose clients stayed away; returns them. */
  expire(nowMs: number): Session[] {
    const expired = [...this.#sessions.values()].filter(
      ({ absentSinceMs }) => absentSinceMs !== undefined && nowMs - absentSinceMs >= limits.sessionLeaseMs,
    );
    for (const session of expired) this.end(session);
    return expired;
  }
}
