/** What a client shows the server, and by what it knows the server. Files are read when a connection is opened. */
export interface Credentials {
  readonly tokenFile?: string;
  /** SHA-256 of the server's certificate, lower-case hexadecimal. */
  readonly fingerprint?: string;
  readonly certFile?: string;
  readonly keyFile?: string;
}

/** Where a server is and which export is meant: `ws://HOST:PORT/EXPORT` (or wss://), as the command line and fstab give it. */
export interface ServerAddress {
  readonly host: string;
  readonly port: number;
  /** `/` for a server's only export. */
  readonly exportName: string;
  /** What the WebSocket connects to. */
  readonly url: string;
  /** Absent: a token of the environment, if there is one, and the system's CAs. */
  readonly credentials?: Credentials;
}

export const DEFAULT_PORT = 7333;

/** An IPv6 address has no brackets there. */
export function socketHost({ host }: ServerAddress): string {
  return host.replace(/^\[|\]$/g, '');
}

/** Throws an Error whose message says what is wrong with `text`. */
export function parseServerAddress(text: string): ServerAddress {
  const example = 'an address looks like ws://HOST:7333/ or ws://HOST:7333/EXPORT';
  let url: URL;
  try {
    url = new URL(text.includes('://') ? text : `ws://${text}`);
  } catch {
    throw new Error(`"${text}" is not an address: ${example}`);
  }
  if (url.protocol !== 'ws:' && url.protocol !== 'wss:')
    throw new Error(`"${text}": ${url.protocol}// is not supported: ${example}`);
  if (url.username !== '' || url.password !== '')
    throw new Error('an address holds no user and no password, for others would see them: use --token-file');
  if (/[?#]/.test(text))
    throw new Error(`"${text}": nothing goes after an export's name (in it, ? is written %3F and # %23): ${example}`);
  if (url.hostname === '') throw new Error(`"${text}" names no host: ${example}`);
  // The URL leaves out a port that is the scheme's own.
  const port = url.port === '' ? implicitPort(url.protocol, text) : Number(url.port);
  const exportName = decoded(url.pathname, text).replace(/^\/+|\/+$/g, '') || '/';
  return { host: url.hostname, port, exportName, url: `${url.protocol}//${url.hostname}:${port}/` };
}

/** An address, and what is shown and known there. Throws an Error when the one cannot do what the other asks for. */
export function serverAddressWith(text: string, credentials: Credentials): ServerAddress {
  const address = parseServerAddress(text);
  const { fingerprint, certFile, keyFile } = credentials;
  const what = fingerprint ? 'a fingerprint' : certFile || keyFile ? 'a certificate' : undefined;
  if (what === undefined || address.url.startsWith('wss:')) return { ...address, credentials };
  throw new Error(`${what} needs wss://: "${text}" is an address without encryption`);
}

function implicitPort(protocol: string, text: string): number {
  const schemes = protocol === 'wss:' ? 443 : 80;
  return new RegExp(`:0*${schemes}(?:/|$)`).test(text) ? schemes : DEFAULT_PORT;
}

function decoded(pathname: string, text: string): string {
  try {
    return decodeURIComponent(pathname);
  } catch {
    throw new Error(`"${text}" is not an address: a % in an export's name is written %25`);
  }
}
