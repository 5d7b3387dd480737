/** Why a server could not be reached, and what to do. */
import { errno, FsError } from '../../shared/errno.ts';
import { RefusedError } from './link.ts';
import type { ServerAddress } from './server-address.ts';

/** One line for whoever typed the address. */
export function explainConnectError(address: ServerAddress, error: unknown): string {
  const at = `${address.host}:${address.port}`;
  if (error instanceof RefusedError) return `${at}: ${error.message}`;
  const code = error instanceof FsError ? error.code : undefined;
  if (code === errno.ECONNREFUSED) {
    return `${at}: nothing listens there; start the server with \`weft serve DIR --listen ${at}\`, or correct the address`;
  }
  if (code === errno.ETIMEDOUT) return `${at}: no answer; check the address and whether a firewall is in between`;
  if (isHungUp(error) && address.url.startsWith('ws:')) {
    return `${at}: the server hung up; if it wants TLS, write wss:// instead of ws://`;
  }
  const cause = error instanceof Error && error.cause instanceof Error ? error.cause.message : String(error);
  return `${at}: cannot connect (${cause}); check the host name and the network`;
}

/** Before there was a WebSocket: to a server with TLS our first line is noise. */
const isHungUp = (error: unknown) =>
  error instanceof FsError && error.operation === 'connect' && error.code === errno.ECONNRESET;
