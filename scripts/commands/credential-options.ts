/** How a client shows who it is, for the verbs that connect: options that become `-o` options, which the client process gets. */
import { resolve } from 'node:path';
import type { Command } from 'commander';
import { tokenFileWarning } from '../../client-fuse/transport/credentials.ts';
import type { Credentials } from '../../client-fuse/transport/server-address.ts';

export interface CredentialOptions {
  readonly tokenFile?: string;
  readonly fingerprint?: string;
  readonly tlsCert?: string;
  readonly tlsKey?: string;
}

export function withCredentialOptions(command: Command): Command {
  return command
    .option('--token-file <FILE>', 'the token that `weft token create` printed (or in WEFT_TOKEN)')
    .option('--fingerprint <SHA256:...>', "pins the server's certificate: what `weft serve` prints")
    .option('--tls-cert <FILE>', 'a certificate to show instead of a token')
    .option('--tls-key <FILE>', 'its key');
}

/** By the process that has the terminal. */
export function warnOfTokenFile(credentials: Credentials): void {
  const warning = tokenFileWarning(credentials);
  if (warning !== undefined) console.error(`weft: ${warning}`);
}

export function credentialLists({ tokenFile, fingerprint, tlsCert, tlsKey }: CredentialOptions): string[] {
  const lists: string[] = [];
  const add = (name: string, value: string | undefined) => {
    if (value === undefined) return;
    if (value.includes(',')) throw new Error(`"${value}": a comma cannot be part of it; rename the file`);
    lists.push(`${name}=${value}`);
  };
  const path = (file: string | undefined) => (file === undefined ? undefined : resolve(file));
  add('tokenfile', path(tokenFile));
  add('fingerprint', fingerprint);
  add('cert', path(tlsCert));
  add('key', path(tlsKey));
  return lists;
}
