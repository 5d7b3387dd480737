/**
 * What a client has shown itself to be, and what that allows. Made when a connection is accepted; a session keeps the
 * credential that opened it, and only the same one joins it again.
 */
import { ANONYMOUS } from '../store/identity.ts';

/** Whose identity a request has: as sent, always the same, or by a table (who is not in it is nobody). */
export type IdentityRule =
  | { readonly kind: 'trusted' }
  | { readonly kind: 'fixed'; readonly uid: number; readonly gid: number }
  | {
      readonly kind: 'mapped';
      readonly uids: Readonly<Record<string, number>>;
      readonly gids: Readonly<Record<string, number>>;
    };

export interface Credential {
  /** The same for two connections that showed the same. No secret. */
  readonly id: string;
  /** For people: logs and refusals. */
  readonly name: string;
  /** Names of exports; undefined: all. */
  readonly exports?: readonly string[];
  readonly readOnly: boolean;
  readonly identity: IdentityRule;
}

/** Of everybody, where nobody is asked. */
export const ANYONE: Credential = { id: 'anyone', name: 'anyone', readOnly: false, identity: { kind: 'trusted' } };

export function mayUse({ exports }: Credential, exportName: string): boolean {
  return exports === undefined || exports.includes(exportName);
}

/** The wire's [uid, gid, ...groups] as the credential lets it stand; the export's squash comes after it. */
export function admittedCaller({ identity }: Credential, caller: readonly number[]): readonly number[] {
  if (identity.kind === 'trusted') return caller;
  if (identity.kind === 'fixed') return [identity.uid, identity.gid];
  const [uid, ...gids] = caller;
  const mapped = (table: Readonly<Record<string, number>>, id: number | undefined, otherwise: number) =>
    id !== undefined && Object.hasOwn(table, id) ? (table[id] as number) : otherwise;
  return [mapped(identity.uids, uid, ANONYMOUS.uid), ...gids.map((gid) => mapped(identity.gids, gid, ANONYMOUS.gid))];
}
