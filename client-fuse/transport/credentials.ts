/**
 * What a client shows the server, and how it knows the server. Files are read when a connection is opened, so that a token
 * may be replaced under a mount; secrets are in no option and no log.
 */
import { createHash } from 'node:crypto';
import { readFileSync, statSync } from 'node:fs';
import { isIP } from 'node:net';
import { connect, createSecureContext, type SecureContext, type TLSSocket } from 'node:tls';
import { limits } from '../../shared/limits.ts';
import { isLoopback } from '../../shared/loopback.ts';
import { environmentToken } from './environment-token.ts';
import { type Credentials, type ServerAddress, socketHost } from './server-address.ts';

/** The server is not who it should be, or what is to be shown to it is not there; the message is for people. */
export class CredentialError extends Error {
  override readonly name = 'CredentialError';
}

/** Reads `SHA256:` and 43 characters of base64 (as `weft serve` prints it) or 64 hexadecimal digits, with colons or without. */
export function parseFingerprint(text: string): string | undefined {
  const body = text.replace(/^SHA256:/i, '');
  const hex = body.replaceAll(':', '').toLowerCase();
  if (/^[0-9a-f]{64}$/.test(hex)) return hex;
  return /^[A-Za-z0-9+/]{43}=?$/.test(body) ? Buffer.from(body, 'base64').toString('hex') : undefined;
}

function read(file: string, what: string): Buffer {
  try {
    return readFileSync(file);
  } catch (error) {
    throw new CredentialError(`the ${what} ${file} cannot be read (${(error as NodeJS.ErrnoException).code})`);
  }
}

/** A line for people, when others may read the token file. It is used all the same: what mounts secrets into containers makes them so. */
export function tokenFileWarning({ tokenFile }: Credentials): string | undefined {
  if (tokenFile === undefined) return undefined;
  // One that is not there is told of by `authorization`.
  const mode = statSync(tokenFile, { throwIfNoEntry: false })?.mode ?? 0;
  if ((mode & 0o044) === 0) return undefined;
  return `others may read the token file ${tokenFile} (mode ${(mode & 0o777).toString(8)}): \`chmod 600 ${tokenFile}\``;
}

/** The fields of the upgrade. Throws CredentialError. */
export function authorization(address: ServerAddress): Record<string, string> {
  const { tokenFile } = address.credentials ?? {};
  const token = (tokenFile === undefined ? environmentToken() : read(tokenFile, 'token file').toString()).trim();
  if (token === '') {
    if (tokenFile !== undefined) throw new CredentialError(`the token file ${tokenFile} is empty`);
    return {};
  }
  if (!/^[\x21-\x7e]+$/.test(token)) throw new CredentialError('the token is not one line of text');
  if (!address.url.startsWith('wss:') && !isLoopback(address.host)) {
    throw new CredentialError('a token is not sent without encryption: use wss://, and `weft serve --tls auto` there');
  }
  return { authorization: `Bearer ${token}` };
}

/**
 * A connection to a server that is who it should be: by its pinned certificate, else by the system's CAs. Checked before
 * a byte of the upgrade, and so the token, is sent. Rejects with CredentialError or a Node error.
 */
export async function openTls(address: ServerAddress): Promise<TLSSocket> {
  const { fingerprint, certFile, keyFile } = address.credentials ?? {};
  const host = socketHost(address);
  const socket = connect({
    host,
    port: address.port,
    ...(isIP(host) ? {} : { servername: host }),
    rejectUnauthorized: fingerprint === undefined,
    secureContext: secureContext(certFile, keyFile),
  });
  return new Promise((resolve, reject) => {
    const fail = (error: Error) => {
      clearTimeout(timer);
      socket.destroy();
      reject(error);
    };
    const timer = setTimeout(
      () => fail(Object.assign(new Error('TLS handshake'), { code: 'ETIMEDOUT' })),
      limits.helloTimeoutMs,
    );
    socket.once('error', (error: NodeJS.ErrnoException) => fail(explained(error)));
    socket.once('secureConnect', () => {
      const { raw } = socket.getPeerCertificate();
      const shown = createHash('sha256').update(raw).digest();
      if (fingerprint !== undefined && shown.toString('hex') !== fingerprint) {
        const base64 = shown.toString('base64').replace(/=+$/, '');
        return fail(
          new CredentialError(
            `the server's certificate is not the pinned one: its fingerprint is SHA256:${base64}; find out why before you trust it`,
          ),
        );
      }
      clearTimeout(timer);
      socket.removeAllListeners('error');
      resolve(socket);
    });
  });
}

function secureContext(certFile: string | undefined, keyFile: string | undefined): SecureContext {
  if (certFile === undefined && keyFile === undefined) return createSecureContext({ minVersion: 'TLSv1.2' });
  if (certFile === undefined || keyFile === undefined) {
    throw new CredentialError('a certificate and its key go together: give both --tls-cert and --tls-key');
  }
  const [cert, key] = [read(certFile, 'certificate'), read(keyFile, 'key')];
  try {
    return createSecureContext({ minVersion: 'TLSv1.2', cert, key });
  } catch (error) {
    const { message } = error as Error;
    throw new CredentialError(`${certFile} and ${keyFile} are no certificate and its key (${message})`);
  }
}

const UNTRUSTED = /^(ERR_TLS_CERT|CERT_|UNABLE_TO_|DEPTH_ZERO_|SELF_SIGNED_)/;

function explained(error: NodeJS.ErrnoException): Error {
  if (error.code === 'ERR_SSL_WRONG_VERSION_NUMBER') {
    return new CredentialError('no TLS is spoken there: start the server with `--tls auto`, or correct the address');
  }
  if (!UNTRUSTED.test(error.code ?? '')) return error;
  return new CredentialError(
    `the server's certificate is not trusted (${error.code}): pin it with --fingerprint, which \`weft serve\` prints`,
  );
}
