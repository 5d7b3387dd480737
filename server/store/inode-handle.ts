/**
 * What names an inode on the wire. A client can pass on only what the server made: every handle ends in a MAC under
 * the server's key, so a handle that somebody makes up opens nothing, inside the export or outside.
 *
 *   0        1            9                          n-16            n
 *   +--------+------------+--------------------------+---------------+
 *   | kind   | filesystem | kernel handle or counter | MAC, 16 bytes |
 *   +--------+------------+--------------------------+---------------+
 *   kind 1: the kernel's file handle (survives renames and restarts); filesystem 0: the export's own, else see Mounts
 *   kind 2: a counter of this server process, for servers that may not use kernel handles
 */
import { createHmac, timingSafeEqual } from 'node:crypto';

export const handleKind = { KERNEL: 1, COUNTER: 2 } as const;

const HEAD_BYTES = 9;
const MAC_BYTES = 16;

export interface HandleContent {
  readonly kind: number;
  readonly filesystem: number;
  readonly body: Buffer;
}

/** Signs and opens handles of one export. */
export class HandleSigner {
  readonly #key: Buffer;

  /** `key` is the server's secret; the scope names the export and its directory, and keeps handles of two exports apart. */
  constructor(key: Buffer, scope: string) {
    this.#key = createHmac('sha256', key).update(scope).digest();
  }

  sign(content: HandleContent): Buffer {
    const handle = Buffer.allocUnsafe(HEAD_BYTES + content.body.length + MAC_BYTES); // all of it is set below
    handle[0] = content.kind;
    handle.writeBigUInt64LE(BigInt(content.filesystem), 1);
    content.body.copy(handle, HEAD_BYTES);
    this.#mac(handle).copy(handle, handle.length - MAC_BYTES);
    return handle;
  }

  /** The content of a handle that this server signed; undefined for any other bytes. */
  open(handle: Uint8Array): HandleContent | undefined {
    if (handle.length < HEAD_BYTES + MAC_BYTES) return undefined;
    const bytes = Buffer.from(handle.buffer, handle.byteOffset, handle.length);
    if (!timingSafeEqual(this.#mac(bytes), bytes.subarray(bytes.length - MAC_BYTES))) return undefined;
    return {
      kind: bytes[0] as number,
      filesystem: Number(bytes.readBigUInt64LE(1)),
      body: Buffer.from(bytes.subarray(HEAD_BYTES, bytes.length - MAC_BYTES)),
    };
  }

  #mac(handle: Buffer): Buffer {
    const signed = handle.subarray(0, handle.length - MAC_BYTES);
    return createHmac('sha256', this.#key).update(signed).digest().subarray(0, MAC_BYTES);
  }
}

/** What an inode is remembered by. */
export function keyOfHandle(handle: Uint8Array): string {
  return Buffer.from(handle.buffer, handle.byteOffset, handle.length).toString('latin1');
}
