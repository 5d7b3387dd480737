/**
 * The server's key and certificate: named by whoever starts it, or made once and kept in the state directory. Node's
 * crypto makes no certificates, and every system that has TLS has openssl(1).
 */
import { execFileSync } from 'node:child_process';
import { X509Certificate } from 'node:crypto';
import { chmodSync, existsSync, mkdirSync, readFileSync, renameSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { createSecureContext } from 'node:tls';

export interface TlsMaterial {
  readonly key: Buffer;
  readonly cert: Buffer;
  /** Whose signatures on clients' certificates count. */
  readonly clientCa?: Buffer;
}

/** As `weft mount --fingerprint` takes it: of the whole certificate, base64 without padding, like ssh's. */
export function fingerprintOf(certificate: Buffer): string {
  const sha256 = new X509Certificate(certificate).fingerprint256.replaceAll(':', '');
  return `SHA256:${Buffer.from(sha256, 'hex').toString('base64').replace(/=+$/, '')}`;
}

/** Throws an Error that names the file. */
export function loadTls(certFile: string, keyFile: string, clientCaFile: string | undefined): TlsMaterial {
  const read = (file: string) => {
    try {
      return readFileSync(file);
    } catch (error) {
      throw new Error(`cannot read ${file}: ${(error as Error).message}`);
    }
  };
  const [cert, key] = [read(certFile), read(keyFile)];
  usable(`${certFile} and ${keyFile} are no certificate and its key`, () => createSecureContext({ cert, key }));
  if (clientCaFile === undefined) return { cert, key };
  const clientCa = read(clientCaFile);
  usable(`${clientCaFile} is no certificate`, () => new X509Certificate(clientCa));
  return { cert, key, clientCa };
}

function usable(otherwise: string, use: () => unknown): void {
  try {
    use();
  } catch (error) {
    throw new Error(`${otherwise} (${(error as Error).message})`);
  }
}

/** Made at the first start; both files are the owner's only. */
export function automaticTlsFiles(stateDirectory: string): { cert: string; key: string } {
  const [cert, key] = [join(stateDirectory, 'tls.crt'), join(stateDirectory, 'tls.key')];
  if (existsSync(cert) && existsSync(key)) return { cert, key };
  mkdirSync(stateDirectory, { recursive: true, mode: 0o700 });
  const [newCert, newKey] = [`${cert}.${process.pid}`, `${key}.${process.pid}`];
  const request = ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'];
  const subject = ['-days', '3650', '-subj', '/CN=weft', '-addext', `subjectAltName=DNS:${hostname()},DNS:localhost`];
  try {
    execFileSync('openssl', [...request, ...subject, '-keyout', newKey, '-out', newCert], { stdio: 'pipe' });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    throw new Error('--tls auto needs openssl: install it, or name a certificate by --tls-cert and --tls-key');
  }
  for (const file of [newCert, newKey]) chmodSync(file, 0o600);
  renameSync(newKey, key);
  renameSync(newCert, cert);
  return { cert, key };
}
