import { errno, FsError } from '../../shared/errno.ts';
/**
 * A weft server as a target, without a mount: one client session, whose files are opened, written and read by messages.
 * This measures the server and its page-range locks alone, with as many clients as fit into one process.
 */

import fs from 'node:fs';
import type { Logger } from 'pino';
import type { ServerAddress } from '../../client-fuse/transport/server-address.ts';
import { ServerSession } from '../../client-fuse/transport/server-session.ts';
import type { OverlapFile, OverlapTarget } from './overlap-target.ts';

const { O_CREAT, O_EXCL, O_RDONLY, O_RDWR } = fs.constants;
const CREATE_MODE = 0o600;

/** Whoever runs the benchmark: uid, gid, supplementary groups. */
function callerIdentity(): number[] {
  return [process.getuid?.() ?? 0, process.getgid?.() ?? 0, ...(process.getgroups?.() ?? [])];
}

class ServerFile implements OverlapFile {
  readonly #session: ServerSession;
  readonly #handle: number;

  constructor(session: ServerSession, handle: number) {
    this.#session = session;
    this.#handle = handle;
  }

  async write(offsetBytes: number, data: Uint8Array): Promise<number> {
    const request = {
      handle: this.#handle,
      offset: offsetBytes,
      append: false,
      sync: 'none',
      killSuidgid: false,
      behind: false,
      extents: undefined,
      attributes: undefined,
    } as const;
    const { written } = await this.#session.call('write', callerIdentity(), request, { bulk: data });
    return written;
  }

  async read(offsetBytes: number, into: Uint8Array): Promise<number> {
    const request = {
      handle: this.#handle,
      offset: offsetBytes,
      size: into.length,
      knownVersion: undefined,
      wantsLease: false,
      wantsBlock: false,
    };
    const { bulk } = await this.#session.callForBulk('read', callerIdentity(), request);
    into.set(bulk);
    return bulk.length;
  }

  async close(): Promise<void> {
    await this.#session.call('release', callerIdentity(), { handles: [this.#handle] });
  }
}

export class ServerTarget implements OverlapTarget {
  readonly label: string;
  readonly #session: ServerSession;

  private constructor(label: string, session: ServerSession) {
    this.label = label;
    this.#session = session;
  }

  /** Rejects with an Error whose message names the address and the next step. */
  static async connect(address: ServerAddress, client: number, log: Logger): Promise<ServerTarget> {
    const session = await ServerSession.connect(address, log);
    return new ServerTarget(`${address.url} client ${client}`, session);
  }

  async createFile(name: string): Promise<void> {
    const request = {
      parent: this.#root,
      name: Buffer.from(name),
      mode: CREATE_MODE,
      umask: 0,
      flags: O_RDWR | O_CREAT | O_EXCL,
      wants: 'none' as const,
    };
    const { handle } = await this.#session.call('create', callerIdentity(), request);
    await this.#session.call('release', callerIdentity(), { handles: [handle] });
  }

  async openFile(name: string, access: 'read' | 'write'): Promise<OverlapFile> {
    const { found } = await this.#session.call('lookup', callerIdentity(), {
      parent: this.#root,
      name: Buffer.from(name),
    });
    if (found === undefined) throw new FsError(errno.ENOENT, name);
    const flags = access === 'write' ? O_RDWR : O_RDONLY;
    const { handle } = await this.#session.call('open', callerIdentity(), {
      inode: found.inode,
      flags,
      killSuidgid: false,
      wants: 'none' as const,
      firstBytes: 0,
    });
    return new ServerFile(this.#session, handle);
  }

  async removeFile(name: string): Promise<void> {
    await this.#session.call('unlink', callerIdentity(), { parent: this.#root, name: Buffer.from(name) });
  }

  async close(): Promise<void> {
    this.#session.close();
  }

  get #root() {
    return this.#session.hello.root.inode;
  }
}
