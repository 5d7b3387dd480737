/**
 * One run of the whole system: the real server and the real clients, down to the transports and the store, over a
 * simulated network, disk and clock. Processes on the clients' machines do what chance tells them while things go wrong;
 * then everything must end, and what was answered must be explained by an order of the calls.
 *
 * A server that was started anew knows no replies of before. So whatever changes names, or appends, and was under way
 * when the server's process ended, may have been done and done again: the result says nothing of names, and the checker is
 * given such a call twice.
 */
import { pino } from 'pino';
import type { ServerAddress } from '../../client-fuse/transport/server-address.ts';
import { ServerSession } from '../../client-fuse/transport/server-session.ts';
import { type Caller, ROOT_NODE } from '../../client-fuse/vfs/filesystem.ts';
import { RemoteFilesystem } from '../../client-fuse/vfs/remote-filesystem.ts';
import type { Export } from '../../server/export.ts';
import { LeaseManager } from '../../server/leases/lease-manager.ts';
import type { LocalChanges } from '../../server/leases/local-changes.ts';
import { Server } from '../../server/server.ts';
import type { Inode } from '../../server/store/inode.ts';
import { errno, FsError } from '../../shared/errno.ts';
import { PAGE_SIZE } from '../../shared/limits.ts';
import { O } from '../../shared/linux/constants.ts';
import { type Call, violations } from './linearizability.ts';
import {
  type DataCall,
  type DataResult,
  directoryObject,
  type NameCall,
  type NameResult,
  rangeObject,
} from './objects.ts';
import { Random } from './random.ts';
import type { Fault, Scenario } from './scenario.ts';
import { SimulatedDisk, SimulatedStore } from './simulated-disk.ts';
import { type Machine, SimulatedNetwork } from './simulated-network.ts';
import { settle, VirtualTime } from './virtual-time.ts';

const silent = pino({ level: 'silent' });
const NAMES = ['a', 'b', 'c'];
const FILES = ['x', 'y'];
const LOG = 'log';
const RANGE_BYTES = 2 * PAGE_SIZE;
const RECORD_BYTES = 4;
/** Longer than every patience of client and server together. */
const LONGEST_MS = 10 * 60_000;
/** Longer than any fault, and what is left to do after it. */
const QUIET_MS = 20_000;

/** A defect for a test to plant: called with each server that was started. */
export type Sabotage = (server: Server, leases: LeaseManager) => void;

interface Client extends Machine {
  filesystem: RemoteFilesystem | undefined;
  hasCrashed: boolean;
}

interface Observed<Argument, Result> extends Call<Argument, Result> {
  result: Result | undefined;
  ended: number;
}

export interface Outcome {
  /** Empty: nothing is wrong. */
  readonly violations: string[];
  readonly steps: number;
  /** What was called and answered, in order. */
  readonly history: string[];
}

export async function simulate(scenario: Scenario, sabotage: Sabotage = () => {}): Promise<Outcome> {
  using time = new VirtualTime();
  const run = new Run(scenario, sabotage, time);
  return await run.carryOut();
}

class Run {
  readonly #scenario: Scenario;
  readonly #sabotage: Sabotage;
  readonly #time: VirtualTime;
  readonly #random: Random;
  readonly #disk: SimulatedDisk;
  readonly #network: SimulatedNetwork;
  readonly #clients: Client[] = [];
  readonly #names: Observed<NameCall, NameResult>[] = [];
  readonly #data: Observed<DataCall, DataResult>[] = [];
  readonly #appended = new Map<number, 'under way' | 'done' | 'unknown'>();
  readonly #history: string[] = [];
  readonly #broken = new Set<string>();
  #store!: SimulatedStore;
  #leases: LeaseManager | undefined;
  #serverStarts = 0;
  #isServerDown = false;
  #openProcesses = 0;
  #events = 0;
  #lastTag = 0;

  constructor(scenario: Scenario, sabotage: Sabotage, time: VirtualTime) {
    this.#scenario = scenario;
    this.#sabotage = sabotage;
    this.#time = time;
    this.#random = new Random(scenario.seed);
    this.#disk = new SimulatedDisk(this.#random);
    this.#network = new SimulatedNetwork(this.#random);
    for (const name of [...FILES, LOG]) {
      const file = this.#disk.add(false);
      file.data = Buffer.alloc(name === LOG ? 0 : RANGE_BYTES);
      file.durable = Buffer.from(file.data);
      this.#disk.root.names?.set(name, file);
    }
  }

  async carryOut(): Promise<Outcome> {
    void this.#startServer();
    await settle();
    for (let index = 0; index < this.#scenario.clients; index++) this.#startClient(index);
    for (const fault of this.#scenario.faults) setTimeout(() => this.#happen(fault), fault.atMs);
    await settle();
    let steps = 0;
    while (this.#openProcesses > 0 && performance.now() < LONGEST_MS) {
      await this.#time.step();
      steps++;
      this.#checkLeases();
    }
    if (this.#openProcesses > 0) this.#broken.add(`${this.#openProcesses} processes do not end`);
    // What crashed clients had sent is still being done, perhaps on a slow disk.
    const quietMs = performance.now() + QUIET_MS;
    while (performance.now() < quietMs) {
      await this.#time.step();
      steps++;
    }
    this.#leases?.close();
    // Servers that ended without a word have not taken theirs away.
    process.removeAllListeners('SIGIO');
    this.#checkEnd();
    return { violations: [...this.#broken], steps, history: this.#history };
  }

  // --- machines

  async #startServer(): Promise<void> {
    this.#serverStarts++;
    this.#isServerDown = false;
    this.#store = new SimulatedStore(this.#disk);
    const store = this.#store.asStore;
    const leases = new LeaseManager(store, noLocalChanges(), silent);
    this.#leases = leases;
    const exported: Export = {
      name: '/',
      directory: '/',
      readOnly: false,
      squash: 'none',
      store,
      leases,
      usesKernelHandles: true,
    };
    const listen = { host: 'simulated', port: 1 };
    const server = await Server.start({ exports: [exported], listen, log: silent, pollUs: 0 }, this.#network.listen);
    this.#sabotage(server, leases);
  }

  #crashServer(isMachine: boolean, forMs: number): void {
    if (this.#isServerDown) return;
    this.#isServerDown = true;
    this.#note(isMachine ? 'the server machine ends' : 'the server process ends');
    this.#network.crashServer();
    this.#store.crash();
    this.#leases?.close();
    if (isMachine) this.#disk.crashMachine();
    setTimeout(() => void this.#startServer(), forMs);
  }

  #startClient(index: number): void {
    const client: Client = {
      name: `client ${index}`,
      cut: { client: false, server: false },
      stoppedUntilMs: 0,
      filesystem: undefined,
      hasCrashed: false,
    };
    this.#clients.push(client);
    const { processes } = this.#scenario;
    this.#openProcesses += processes;
    void this.#connect(client).then(() => {
      for (let process = 0; process < processes; process++) void this.#process(client, index * processes + process);
    });
  }

  /** As a mount that is tried again until there is a server. */
  async #connect(client: Client): Promise<void> {
    const address: ServerAddress = { host: 'simulated', port: 1, exportName: '/', url: 'ws://simulated:1/' };
    for (;;) {
      try {
        const connector = this.#network.connectorOf(client);
        const session = await ServerSession.connect(address, silent, undefined, { connector });
        client.filesystem = new RemoteFilesystem(session);
        if (this.#scenario.hasKernel) client.filesystem.attachKernel(FORGETFUL_KERNEL);
        return;
      } catch {
        await new Promise((resolve) => setTimeout(resolve, 100));
      }
    }
  }

  #happen({ kind, client: index, forMs }: Fault): void {
    const client = this.#clients[index % this.#clients.length] as Client;
    this.#note(`${kind} ${client.name} for ${forMs} ms`);
    const cut = (server: boolean, towardsClient: boolean) => {
      client.cut.server ||= server;
      client.cut.client ||= towardsClient;
      setTimeout(() => {
        if (server) client.cut.server = false;
        if (towardsClient) client.cut.client = false;
      }, forMs);
    };
    switch (kind) {
      case 'loseConnection':
        return this.#network.loseOne(client);
      case 'partition':
        return cut(true, true);
      case 'cutToServer':
        return cut(true, false);
      case 'cutToClient':
        return cut(false, true);
      case 'stopClient':
        client.stoppedUntilMs = Math.floor(performance.now()) + forMs;
        return;
      case 'crashClient':
        return this.#crashClient(client);
      case 'crashServer':
        return this.#crashServer(false, forMs);
      case 'crashMachine':
        return this.#crashServer(true, forMs);
      case 'slowDisk':
        this.#disk.slowMs = 50;
        setTimeout(() => {
          this.#disk.slowMs = 0;
        }, forMs);
        return;
      case 'fullDisk':
        this.#disk.isFull = true;
        setTimeout(() => {
          this.#disk.isFull = false;
        }, forMs);
        return;
      case 'clockJump':
        return this.#time.jump(this.#random.chance(0.5) ? forMs * 60 : -forMs * 60);
    }
  }

  #crashClient(client: Client): void {
    if (client.hasCrashed) return;
    client.hasCrashed = true;
    this.#network.crashClient(client);
    this.#openProcesses -= this.#scenario.processes - (this.#ended.get(client) ?? 0);
  }

  readonly #ended = new Map<Client, number>();

  // --- processes

  async #process(client: Client, process: number): Promise<void> {
    for (let done = 0; done < this.#scenario.operations && !client.hasCrashed; done++) {
      await new Promise((resolve) => setTimeout(resolve, 1 + this.#random.below(60)));
      if (client.hasCrashed) return;
      await this.#operate(client.filesystem as RemoteFilesystem, client, process);
    }
    if (client.hasCrashed) return;
    this.#ended.set(client, (this.#ended.get(client) ?? 0) + 1);
    this.#openProcesses--;
  }

  #operate(filesystem: RemoteFilesystem, client: Client, process: number): Promise<void> {
    const name = this.#random.pick(NAMES);
    const file = this.#random.pick(FILES);
    switch (this.#random.below(8)) {
      case 0:
        return this.#name(client, process, { kind: 'make', name }, async () => {
          const entry = await filesystem.mknod(CALLER, ROOT_NODE, Buffer.from(name), 0o100644, 0, 0);
          return Number(entry.attributes.ino);
        });
      case 1:
        return this.#name(client, process, { kind: 'remove', name }, async () => {
          await filesystem.unlink(CALLER, ROOT_NODE, Buffer.from(name));
          return 1;
        });
      case 2: {
        const newName = this.#random.pick(NAMES.filter((one) => one !== name));
        return this.#name(client, process, { kind: 'rename', name, newName }, async () => {
          await filesystem.rename(CALLER, ROOT_NODE, Buffer.from(name), ROOT_NODE, Buffer.from(newName), 0);
          return 1;
        });
      }
      case 3:
      case 4:
        return this.#name(client, process, { kind: 'lookup', name }, async () => {
          const entry = await filesystem.lookup(CALLER, ROOT_NODE, Buffer.from(name));
          return 'attributes' in entry ? Number(entry.attributes.ino) : 0;
        });
      case 5: {
        const tag = ++this.#lastTag;
        return this.#onData(client, process, { file, tag }, () =>
          this.#write(filesystem, file, words(tag, RANGE_BYTES), 0),
        );
      }
      case 6:
        return this.#onData(client, process, { file }, () => this.#read(filesystem, file));
      default:
        return this.#append(filesystem, client, ++this.#lastTag);
    }
  }

  async #name(client: Client, process: number, argument: NameCall, work: () => Promise<NameResult>): Promise<void> {
    await this.#observe(this.#names, client, process, argument, argument.kind !== 'lookup', async (isCertain) => {
      let result: NameResult | undefined;
      try {
        result = await work();
      } catch (error) {
        if (!(error instanceof FsError)) throw error;
        if (error.code === errno.ENOENT || error.code === errno.EEXIST) result = 0;
      }
      return isCertain() ? result : undefined;
    });
  }

  #onData(client: Client, process: number, argument: DataCall, work: () => Promise<DataResult>): Promise<void> {
    return this.#observe(this.#data, client, process, argument, argument.tag !== undefined, async () => {
      try {
        return await work();
      } catch (error) {
        if (!(error instanceof FsError)) throw error;
        return undefined;
      }
    });
  }

  async #observe<A, R>(
    calls: Observed<A, R>[],
    client: Client,
    process: number,
    argument: A,
    isChange: boolean,
    work: (isCertain: () => boolean) => Promise<R | undefined>,
  ): Promise<void> {
    const starts = this.#serverStarts;
    const isCertain = () => !isChange || (starts === this.#serverStarts && !this.#isServerDown);
    const call: Observed<A, R> = {
      process,
      argument,
      began: ++this.#events,
      ended: Number.POSITIVE_INFINITY,
      result: undefined,
    };
    calls.push(call);
    this.#note(`${process} > ${JSON.stringify(argument)}`);
    let result: R | undefined;
    try {
      result = await work(isCertain);
    } catch (error) {
      this.#broken.add(`${JSON.stringify(argument)}: ${String(error)}`);
    }
    // Done and done again.
    if (!isCertain()) calls.push({ ...call });
    if (client.hasCrashed) return;
    this.#note(`${process} < ${JSON.stringify(argument)} ${String(result)}`);
    if (result === undefined) return;
    call.result = result;
    call.ended = ++this.#events;
  }

  async #withFile<T>(
    filesystem: RemoteFilesystem,
    name: string,
    flags: number,
    work: (handle: number) => Promise<T>,
  ): Promise<T> {
    const { node } = await filesystem.lookup(CALLER, ROOT_NODE, Buffer.from(name));
    const { handle } = await filesystem.open(CALLER, node, flags, false);
    try {
      return await work(handle);
    } finally {
      filesystem.release(handle);
    }
  }

  /** Synchronized before it counts as written: what is gathered, or on a disk whose machine ends, may be lost until then. */
  #write(filesystem: RemoteFilesystem, name: string, data: Buffer, flags: number): Promise<'written'> {
    return this.#withFile<'written'>(filesystem, name, O.WRONLY | flags, async (handle) => {
      const written = await filesystem.write(CALLER, handle, 0, data, O.WRONLY | flags, false);
      if (written !== data.length) throw new FsError(errno.ENOSPC, 'write');
      await filesystem.fsync(CALLER, handle, true);
      return 'written';
    });
  }

  #read(filesystem: RemoteFilesystem, name: string): Promise<DataResult> {
    return this.#withFile(filesystem, name, O.RDONLY, async (handle) =>
      tagOf(await filesystem.read(CALLER, handle, 0, RANGE_BYTES)),
    );
  }

  async #append(filesystem: RemoteFilesystem, client: Client, tag: number): Promise<void> {
    const starts = this.#serverStarts;
    this.#appended.set(tag, 'under way');
    this.#note(`append ${tag}`);
    const isDone = await this.#write(filesystem, LOG, words(tag, RECORD_BYTES), O.APPEND).then(
      () => true,
      () => false,
    );
    if (client.hasCrashed) return;
    this.#appended.set(tag, isDone && starts === this.#serverStarts ? 'done' : 'unknown');
  }

  // --- checks

  #checkLeases(): void {
    for (const { leases, ino } of this.#store.inodes) {
      if (leases.exclusive !== undefined && leases.holders.size > 1) {
        this.#broken.add(`an exclusive lease beside others on inode ${ino}`);
      }
    }
  }

  #checkEnd(): void {
    const hasLostMachine = this.#scenario.faults.some(({ kind }) => kind === 'crashMachine');
    // Of what nobody had synchronized yet, pages may be old: only then are unfinished writes torn.
    const wasCut = (file: string) =>
      hasLostMachine && this.#data.some(({ argument, result }) => argument.file === file && argument.tag && !result);
    for (const file of FILES) {
      const content = this.#disk.root.names?.get(file)?.data as Buffer;
      const began = ++this.#events;
      const result = tagOf(content);
      this.#data.push({ process: -1, argument: { file }, began, ended: ++this.#events, result });
    }
    for (const name of NAMES) {
      const began = ++this.#events;
      const result = this.#disk.root.names?.get(name)?.ino ?? 0;
      this.#names.push({ process: -1, argument: { kind: 'lookup', name }, began, ended: ++this.#events, result });
    }
    if (violations(directoryObject, this.#names, () => '/').length > 0) this.#broken.add('names are not linearizable');
    const hasCrash = this.#scenario.faults.some(({ kind }) => kind === 'crashServer' || kind === 'crashMachine');
    for (const file of violations(rangeObject, this.#data, ({ file: one }) => one)) {
      // A process that ends in the middle of a write leaves a part of it.
      if (
        !wasCut(file) &&
        !(hasCrash && this.#data.some(({ argument, result }) => argument.file === file && result === 'torn'))
      )
        this.#broken.add(`file ${file} is not linearizable`);
    }
    this.#checkLog();
  }

  #checkLog(): void {
    const data = this.#disk.root.names?.get(LOG)?.data as Buffer;
    const counts = new Map<number, number>();
    for (let at = 0; at + RECORD_BYTES <= data.length; at += RECORD_BYTES) {
      const tag = data.readUInt32LE(at);
      counts.set(tag, (counts.get(tag) ?? 0) + 1);
    }
    for (const [tag, state] of this.#appended) {
      const count = counts.get(tag) ?? 0;
      if (state === 'done' && count === 0) this.#broken.add(`the appended record ${tag} is lost`);
      if (count > 1 && this.#serverStarts === 1) this.#broken.add(`the record ${tag} was appended ${count} times`);
    }
  }

  #note(what: string): void {
    this.#history.push(`${Math.round(performance.now())} ${what}`);
  }
}

const CALLER: Caller = { uid: 0, gid: 0, pid: 1, groups: [], signal: new AbortController().signal };

/** It keeps nothing, so there is nothing to take back. */
const FORGETFUL_KERNEL = {
  notifier: {
    invalidateInode: () => Promise.resolve(true),
    invalidateEntry: () => Promise.resolve(),
    incrementEpoch: () => Promise.resolve(),
  },
  epochs: true,
  hasMountsInside: () => Promise.resolve(false),
};

/** Programs on the server's machine change nothing here. */
function noLocalChanges(): LocalChanges {
  const nothing = () => {};
  const watch = (inode: Inode, { mode }: { mode: number }) => {
    inode.watch ??= { inode, names: (mode & 0o170000) === 0o040000 ? new Map() : undefined };
    return true;
  };
  const fake = { isAvailable: true, onChange: nothing, watch, said: nothing, made: nothing, saidAttributes: nothing };
  return { ...fake, isAsSaid: () => true, ownChange: nothing, close: nothing } as unknown as LocalChanges;
}

function words(tag: number, bytes: number): Buffer {
  const data = Buffer.alloc(bytes);
  for (let at = 0; at < bytes; at += 4) data.writeUInt32LE(tag, at);
  return data;
}

function tagOf(data: Uint8Array): number | 'torn' {
  const bytes = Buffer.from(data);
  if (bytes.length !== RANGE_BYTES) return 'torn';
  const tag = bytes.readUInt32LE(0);
  return bytes.equals(words(tag, RANGE_BYTES)) ? tag : 'torn';
}
