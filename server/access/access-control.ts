/**
 * Decides who a client is when it connects, by token or certificate, and whether that still holds later. Owned by the
 * server, which asks `refresh` and `stillHolds` from its timer. Secrets go in, and only names come out.
 */
import { isDeepStrictEqual } from 'node:util';
import type { Logger } from 'pino';
import { ANYONE, type Credential } from './credential.ts';
import { type Grant, grantFileStamp, grantOfToken, readGrants } from './grant-file.ts';

export interface Shown {
  readonly token?: string;
  /** Common name of a certificate that the client CA has signed. */
  readonly certificate?: string;
}

export type Access = { readonly credential: Credential } | { readonly refusal: string };

/** Says nothing about the file. */
const PASSING: ReadonlySet<string> = new Set(['EMFILE', 'ENFILE', 'ENOMEM', 'EINTR', 'EAGAIN']);

const NEXT_STEP = 'give one that `weft token create` printed on the server, by --token-file or WEFT_TOKEN';

export class AccessControl {
  readonly #path: string | undefined;
  readonly #log: Logger;
  /** Undefined: to be read, whatever the file looks like. */
  #stamp: string | undefined;
  #grants: readonly Grant[] = [];
  /** Why they could not be read the last time. */
  #trouble: string | undefined;

  /** `path` undefined: nobody is asked. Throws when the file is damaged. */
  constructor(path: string | undefined, log: Logger) {
    this.#path = path;
    this.#log = log;
    if (path === undefined) return;
    this.#stamp = grantFileStamp(path);
    this.#grants = readGrants(path) ?? [];
  }

  get isOpen(): boolean {
    return this.#path === undefined;
  }

  admit({ token, certificate }: Shown, nowMs: number): Access {
    if (this.isOpen) return { credential: ANYONE };
    this.refresh();
    if (token !== undefined) {
      const grant = grantOfToken(this.#grants, token);
      if (grant === undefined) return { refusal: `the server does not know this token: ${NEXT_STEP}` };
      return admitted(grant, nowMs);
    }
    if (certificate !== undefined) {
      const grant = this.#grants.find((one) => one.certificate === certificate);
      if (grant !== undefined) return admitted(grant, nowMs);
      return {
        refusal: `the server grants nothing to certificate "${certificate}": \`weft token create NAME --certificate\` there`,
      };
    }
    return { refusal: `the server asks for a token: ${NEXT_STEP}` };
  }

  /**
   * The grant is there as it was: one that was taken back, changed or expired ends what it opened. As of the last
   * `refresh`, for this is asked about every connection.
   */
  stillHolds(credential: Credential, nowMs: number): boolean {
    if (this.isOpen) return true;
    const grant = this.#grants.find(({ id }) => id === credential.id);
    return grant !== undefined && !isExpired(grant, nowMs) && isDeepStrictEqual(grant, credential);
  }

  /** Reads the grants again if they were changed. */
  refresh(): void {
    if (this.#path === undefined) return;
    try {
      const stamp = grantFileStamp(this.#path);
      if (stamp === this.#stamp) return;
      this.#grants = readGrants(this.#path) ?? [];
      this.#stamp = stamp;
      this.#trouble = undefined;
      this.#log.info({ grants: this.#grants.length }, 'grants read again');
    } catch (error) {
      this.#cannotRead(error as Error);
    }
  }

  /** It is tried again at each `refresh`. */
  #cannotRead(error: Error): void {
    this.#stamp = undefined;
    // Who opens too many files must not lock the others out. Otherwise nobody is let in on a guess.
    const isPassing = PASSING.has((error as NodeJS.ErrnoException).code ?? '');
    if (!isPassing) this.#grants = [];
    if (error.message === this.#trouble) return;
    this.#trouble = error.message;
    const what = isPassing ? 'those of before hold' : 'nobody is let in';
    this.#log.error({ reason: error.message }, `grants cannot be read: ${what}`);
  }
}

const isExpired = ({ expiresMs }: Grant, nowMs: number) => expiresMs !== undefined && nowMs >= expiresMs;

function admitted(grant: Grant, nowMs: number): Access {
  if (isExpired(grant, nowMs)) return { refusal: `"${grant.name}" has expired: ${NEXT_STEP}` };
  return { credential: grant };
}
