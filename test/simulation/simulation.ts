/**
 * One run of the whole system: the real server and the real clients, down to the transports and the store, over a
 * simulated network, disk and clock. Processes on the clients' machines do what chance tells them (workload.ts) while
 * things go wrong; then everything must end, and what was answered must be explained by an order of the calls (history.ts).
 */
import { pino } from 'pino';
import type { ServerAddress } from '../../client-fuse/transport/server-address.ts';
import { ServerSession } from '../../client-fuse/transport/server-session.ts';
import { RemoteFilesystem } from '../../client-fuse/vfs/remote-filesystem.ts';
import type { Export } from '../../server/export.ts';
import { LeaseManager } from '../../server/leases/lease-manager.ts';
import type { LocalChanges } from '../../server/leases/local-changes.ts';
import { Server } from '../../server/server.ts';
import { ClientList } from '../../server/session/client-list.ts';
import { RequestJournal } from '../../server/session/request-journal.ts';
import type { Inode } from '../../server/store/inode.ts';
import { limits } from '../../shared/limits.ts';
import { FORGETFUL_KERNEL } from '../support/fixture.ts';
import { KeptChangesInMemory, KeptClients, KeptJournal } from '../support/kept-state.ts';
import { type Content, History } from './history.ts';
import { Random } from './random.ts';
import type { Fault, Scenario } from './scenario.ts';
import { SeededCrypto } from './seeded-crypto.ts';
import { type DiskFile, SimulatedDisk, SimulatedStore } from './simulated-disk.ts';
import { type Machine, SimulatedNetwork } from './simulated-network.ts';
import { Stamps } from './stamps.ts';
import { settle, VirtualTime } from './virtual-time.ts';
import {
  COUNTER,
  COUNTER_BYTES,
  FILES,
  LOG,
  NAMES,
  pause,
  RANGE_BYTES,
  rangeStart,
  tagsOf,
  Workload,
} from './workload.ts';

const silent = pino({ level: 'silent' });
/** Longer than every patience of client and server together. */
const LONGEST_MS = 20 * 60_000;
const KILLED_FOR_MS = 300;
/** Longer than any fault, and what is left to do after it. */
const QUIET_MS = 20_000;
/** Processes that make stamps are numbered from here. */
const STAMPS = 100;

/** A defect for a test to plant: called with each server that was started. */
export type Sabotage = (server: Server, leases: LeaseManager) => void;

interface Client extends Machine {
  session: ServerSession | undefined;
  filesystem: RemoteFilesystem | undefined;
}

export interface Outcome {
  /** Empty: nothing is wrong. */
  readonly violations: string[];
  readonly steps: number;
  /** What was called and answered, in order. */
  readonly history: string[];
  /** Of every message, when and where it arrived. */
  readonly digest: string;
}

export async function simulate(scenario: Scenario, sabotage: Sabotage = () => {}): Promise<Outcome> {
  using time = new VirtualTime();
  using _crypto = new SeededCrypto(scenario.seed);
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
  readonly #history = new History();
  readonly #workload: Workload;
  readonly #stamps: Stamps;
  #store!: SimulatedStore;
  #leases: LeaseManager | undefined;
  #machineStarts = 1;
  #journal = new KeptJournal();
  readonly #kept = new KeptClients();
  #changes = new KeptChangesInMemory();
  #notes = 0;
  #isServerDown = false;
  #openProcesses = 0;

  constructor(scenario: Scenario, sabotage: Sabotage, time: VirtualTime) {
    this.#scenario = scenario;
    this.#sabotage = sabotage;
    this.#time = time;
    this.#random = new Random(scenario.seed);
    this.#disk = new SimulatedDisk(this.#random);
    this.#network = new SimulatedNetwork(this.#random);
    this.#workload = new Workload(this.#random, this.#history, scenario);
    this.#stamps = new Stamps(this.#random, this.#history);
    this.#disk.hasPageCache = scenario.readsAgain === true;
    const ranges = FILES.map((name) => [name, rangeStart(name, scenario) + RANGE_BYTES] as const);
    for (const [name, bytes] of [...ranges, [LOG, 0] as const, [COUNTER, COUNTER_BYTES] as const]) {
      const file = this.#disk.add(false);
      file.data = Buffer.alloc(bytes);
      file.durable = Buffer.alloc(bytes);
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
    if (this.#openProcesses > 0) this.#history.broke(`${this.#openProcesses} processes do not end`);
    // What crashed clients had sent is still being done, perhaps on a slow disk.
    const quietMs = performance.now() + QUIET_MS;
    while (performance.now() < quietMs) {
      await this.#time.step();
      steps++;
    }
    this.#leases?.close();
    // Servers that ended without a word have not taken theirs away.
    process.removeAllListeners('SIGIO');
    return { violations: this.#check(), steps, history: this.#history.lines, digest: this.#network.digest };
  }

  // --- machines

  async #startServer(): Promise<void> {
    this.#isServerDown = false;
    this.#history.serverStarted();
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
    this.#changes = this.#changes.ofNextProcess();
    this.#journal = this.#journal.ofNextProcess();
    this.#journal.onNote = (session) => {
      if (++this.#notes === this.#scenario.killAtNote) this.#killAtNote(session);
    };
    const boot = Buffer.alloc(16, this.#machineStarts);
    const journal = new RequestJournal(this.#journal, boot, Date.now());
    const clients = new ClientList(this.#kept);
    // Whatever it does not expect is a defect, of the server or of what is simulated here: its clients are told EIO.
    const write = (line: string) => {
      const { msg, err } = JSON.parse(line) as { msg: string; err?: Error };
      this.#history.broke(`the server says: ${msg}: ${err?.message}`);
    };
    const log = pino({ level: 'error' }, { write });
    const options = { exports: [exported], listen, log, pollUs: 0, journal, clients, changes: this.#changes, boot };
    const server = await Server.start(options, this.#network.listen);
    this.#sabotage(server, leases);
  }

  #killAtNote(session: Buffer): void {
    const { lateAfterKillMs: forMs } = this.#scenario;
    this.#crashServer(false, KILLED_FOR_MS);
    const client = this.#clients.findIndex(
      (one) => one.session && session.equals(one.session.hello.session.subarray(0, 8)),
    );
    if (forMs !== undefined && client >= 0) this.#happen({ kind: 'partition', atMs: 0, forMs, client });
  }

  #crashServer(isMachine: boolean, forMs: number): void {
    if (this.#isServerDown) return;
    this.#isServerDown = true;
    this.#history.note(isMachine ? 'the server machine ends' : 'the server process ends');
    this.#journal.hasEnded = this.#changes.hasEnded = true;
    this.#network.crashServer();
    this.#store.crash();
    this.#leases?.close();
    this.#history.serverEnded(isMachine);
    if (isMachine) this.#crashDisk();
    if (isMachine) this.#machineStarts++;
    // No machine starts before the leases that it gave have ended.
    const downMs = isMachine && this.#scenario.readsAgain ? Math.max(forMs, limits.leaseUseMs) : forMs;
    setTimeout(() => void this.#startServer(), downMs);
  }

  #crashDisk(): void {
    const lost = new Set(this.#disk.crashMachine());
    const contents = FILES.filter((name) => lost.has(this.#file(name))).map((name) => this.#content(name));
    const counter = this.#file(COUNTER);
    this.#history.machineEnded(contents, lost.has(counter) ? counter.data.readUInt32LE() : undefined);
  }

  #startClient(index: number): void {
    const client: Client = {
      name: `client ${index}`,
      cut: { client: false, server: false },
      stoppedUntilMs: 0,
      session: undefined,
      filesystem: undefined,
      hasCrashed: false,
    };
    this.#clients.push(client);
    const { processes, operations, stamps } = this.#scenario;
    this.#openProcesses += this.#processesOfClient;
    void this.#connect(client).then(() => {
      for (let process = 0; process < processes; process++) {
        void this.#process(client, index * processes + process, this.#workload, operations);
      }
      if (stamps) void this.#process(client, STAMPS + index, this.#stamps, stamps);
    });
  }

  /** As a mount that is tried again until there is a server. */
  async #connect(client: Client): Promise<void> {
    const address: ServerAddress = { host: 'simulated', port: 1, exportName: '/', url: 'ws://simulated:1/' };
    for (;;) {
      try {
        const connector = this.#network.connectorOf(client);
        const session = await ServerSession.connect(address, silent, undefined, { connector });
        client.session = session;
        client.filesystem = new RemoteFilesystem(session);
        if (this.#scenario.hasKernel) client.filesystem.attachKernel(FORGETFUL_KERNEL);
        return;
      } catch {
        await pause(100);
      }
    }
  }

  #happen({ kind, client: index, forMs }: Fault): void {
    const client = this.#clients[index % this.#clients.length] as Client;
    this.#history.note(`${kind} ${client.name} for ${forMs} ms`);
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
        this.#disk.isFull = this.#kept.isFull = true;
        setTimeout(() => {
          this.#disk.isFull = this.#kept.isFull = false;
        }, forMs);
        return;
      case 'clockJump':
        return this.#time.jump(this.#random.chance(0.5) ? forMs * 60 : -forMs * 60);
    }
  }

  #crashClient(client: Client): void {
    if (client.hasCrashed) return;
    this.#network.crashClient(client);
    this.#openProcesses -= this.#processesOfClient - (this.#ended.get(client) ?? 0);
  }

  readonly #ended = new Map<Client, number>();

  // --- processes

  get #processesOfClient(): number {
    return this.#scenario.processes + (this.#scenario.stamps ? 1 : 0);
  }

  async #process(client: Client, id: number, workload: Workload | Stamps, operations: number): Promise<void> {
    const program = { id, filesystem: client.filesystem as RemoteFilesystem, hasCrashed: () => client.hasCrashed };
    for (let done = 0; done < operations && !client.hasCrashed; done++) {
      await pause(1 + this.#random.below(60));
      if (client.hasCrashed) return;
      await workload.operate(program);
    }
    if (client.hasCrashed) return;
    this.#ended.set(client, (this.#ended.get(client) ?? 0) + 1);
    this.#openProcesses--;
  }

  // --- checks

  #checkLeases(): void {
    for (const { leases, ino } of this.#store.inodes) {
      if (leases.exclusive !== undefined && leases.holders.size > 1) {
        this.#history.broke(`an exclusive lease beside others on inode ${ino}`);
      }
    }
  }

  #check(): string[] {
    const names = NAMES.map((name) => [name, this.#disk.root.names?.get(name)?.ino ?? 0] as const);
    const contents = FILES.map((name) => this.#content(name));
    const counter = this.#file(COUNTER).data.readUInt32LE();
    return this.#history.check(new Map(names), contents, counter, this.#file(LOG).data);
  }

  #file(name: string): DiskFile {
    return this.#disk.root.names?.get(name) as DiskFile;
  }

  #content(name: string): Content {
    return { file: name, tags: tagsOf(this.#file(name).data.subarray(rangeStart(name, this.#scenario))) };
  }
}

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
