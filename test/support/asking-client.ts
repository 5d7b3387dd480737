/** A client of a temporary directory whose requests are noted, and another one beside it; with a kernel that keeps nothing. */
import { expect, type MockInstance, vi } from 'vitest';
import type { ServerSession } from '../../client-fuse/transport/server-session.ts';
import { type Caller, type NodeId, ROOT_NODE } from '../../client-fuse/vfs/filesystem.ts';
import { RemoteFilesystem } from '../../client-fuse/vfs/remote-filesystem.ts';
import { FORGETFUL_KERNEL, type TemporaryDirectory, TestServer } from './fixture.ts';

export class AskingClient implements AsyncDisposable {
  readonly server: TestServer;
  readonly session: ServerSession;
  readonly other: ServerSession;
  readonly filesystem: RemoteFilesystem;
  /** Operations that the server was asked for; a test may empty it. */
  asked: string[] = [];

  private constructor(server: TestServer, session: ServerSession, other: ServerSession) {
    this.server = server;
    this.session = session;
    this.other = other;
    this.filesystem = new RemoteFilesystem(session);
    this.filesystem.attachKernel(FORGETFUL_KERNEL);
    const call = session.callForBulk.bind(session);
    vi.spyOn(session, 'callForBulk').mockImplementation((operation, ...rest) => {
      this.asked.push(operation);
      return call(operation, ...rest);
    });
  }

  static async start(directory: TemporaryDirectory): Promise<AskingClient> {
    const server = await TestServer.start(directory.path);
    return new AskingClient(server, await server.connect(), await server.connect());
  }

  /** The line is said to take so long. */
  slow(ms: number): MockInstance<() => number> {
    return vi.spyOn(this.session.roundTrip, 'ms', 'get').mockReturnValue(ms);
  }

  count(operation: string): number {
    return this.asked.filter((one) => one === operation).length;
  }

  /** Everything is answered. */
  async quiet(): Promise<void> {
    await vi.waitFor(() => expect(this.session.inFlight).toBe(0));
  }

  async nodeOf(caller: Caller, path: readonly string[]): Promise<NodeId> {
    let node: NodeId = ROOT_NODE;
    for (const name of path) ({ node } = await this.filesystem.lookup(caller, node, Buffer.from(name)));
    return node;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    vi.restoreAllMocks();
    this.session.close();
    this.other.close();
    await this.server[Symbol.asyncDispose]();
  }
}
