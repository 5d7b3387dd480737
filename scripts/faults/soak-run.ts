/**
 * One soak from the first mount to the verdict: starts everything, watches the callers and the memory, stops, and compares what
 * is there with what must be there: through each mount, through another one, and in the exported directory.
 */
import fs from 'node:fs';
import path from 'node:path';
import { formatCount } from '../bench/bench-text.ts';
import { Random } from '../bench/random.ts';
import { WatchedChild } from '../bench/watched-child.ts';
import { FaultProxy } from './fault-proxy.ts';
import { MemoryWatch } from './memory-watch.ts';
import { RandomFaults } from './random-faults.ts';
import type { CallerCounts } from './soak-caller.ts';
import type { LookOrder, SoakMessage, SoakTask } from './soak-child.ts';
import { type Contents, contentsOf, differences, prepareShared, sharedFaults } from './soak-contents.ts';
import { SoakSite } from './soak-site.ts';

/** A call that takes longer hangs: a lock is waited for by all callers at most, each of them held up by a stall. */
const HANG_MS = 120_000;
const SAMPLES = 40;
const LEAST_SAMPLE_MS = 3_000;
/** Beyond it memory is not flat. What is under way at a sample counts, at a client up to some MiB of gathered writes. */
const MOST_GROWTH_BYTES = { server: 8 * 2 ** 20, client: 16 * 2 ** 20 };
const MOST_COMPLAINTS = 10;

export interface SoakOutcome {
  readonly operations: number;
  readonly cuts: number;
  readonly stalls: number;
  readonly elapsedMs: number;
  readonly longestMs: number;
  readonly memory: readonly string[];
  readonly faults: readonly string[];
}

type Progress = Extract<SoakMessage, { kind: 'progress' }>;

/** The callers of one mount, as far as the parent knows. */
class Worker {
  readonly callers: readonly string[];
  readonly child: WatchedChild<SoakTask, SoakMessage>;
  readonly errors: string[] = [];
  progress: Progress = { kind: 'progress', operations: 0, oldest: undefined };
  longestMs = 0;
  isReady = false;
  finished: Extract<SoakMessage, { kind: 'finished' }> | undefined;
  seen: Contents | undefined;
  /** It is over, and why before its time; null: it has done what it was to do. */
  end: string | null | undefined;

  constructor(root: string, callers: readonly string[], seed: number) {
    this.callers = callers;
    this.child = new WatchedChild<SoakTask, SoakMessage>(
      { root, callers, seed },
      {
        module: '../faults/soak-child.js',
        stallMs: HANG_MS,
        threads: 4 + 2 * callers.length,
        message: (message) => this.#heard(message),
      },
    );
    void this.child.ended.then((reason) => {
      this.end = reason;
    });
  }

  #heard(message: SoakMessage): void {
    if (message.kind === 'ready') this.isReady = true;
    else if (message.kind === 'error') this.errors.push(message.text);
    else if (message.kind === 'finished') this.finished = message;
    else if (message.kind === 'seen') this.seen = message.contents;
    else {
      this.progress = message;
      this.longestMs = Math.max(this.longestMs, message.oldest?.ageMs ?? 0);
    }
  }

  /** What keeps it from going on. */
  get failure(): string | undefined {
    const { oldest } = this.progress;
    if (oldest && oldest.ageMs > HANG_MS) return `${oldest.caller}: ${oldest.what}: hangs`;
    return typeof this.end === 'string' ? `${this.callers[0]}: ${this.end}` : undefined;
  }
}

export class SoakRun {
  readonly #mountCount: number;
  readonly #callerCount: number;
  readonly #seed: number;
  readonly #site: SoakSite;
  readonly #faults: RandomFaults;
  readonly #workers: Worker[] = [];
  #proxy: FaultProxy | undefined;
  #before = 0;
  readonly #memory = new Map<number, MemoryWatch>();

  constructor(mountCount: number, callerCount: number, seed: number, logs?: string) {
    this.#site = new SoakSite(logs);
    this.#mountCount = mountCount;
    this.#callerCount = callerCount;
    this.#seed = seed;
    this.#faults = new RandomFaults(new Random(seed));
  }

  async run(durationMs: number, progress: (elapsedMs: number, text: string) => void): Promise<SoakOutcome> {
    await this.#start(progress);
    if (this.#isBroken) throw new Error(this.#failures().join('; '));
    // What was done while the last mounts were started does not count.
    this.#before = this.#operations;
    const startMs = performance.now();
    const sampleMs = Math.max(LEAST_SAMPLE_MS, durationMs / SAMPLES);
    this.#faults.isOn = true;
    for (let nextSampleMs = startMs; ; ) {
      const elapsedMs = performance.now() - startMs;
      if (elapsedMs >= durationMs || this.#isBroken) break;
      if (performance.now() >= nextSampleMs) {
        nextSampleMs += sampleMs;
        await this.#sample();
      }
      progress(elapsedMs, this.#line(elapsedMs));
      await pause(500);
    }
    const elapsedMs = performance.now() - startMs;
    const operations = this.#operations;
    const contents = this.#isBroken ? [] : await this.#compare();
    return {
      operations,
      elapsedMs,
      cuts: this.#proxy?.cuts ?? 0,
      stalls: this.#faults.stalls,
      longestMs: Math.max(...this.#workers.map(({ longestMs }) => longestMs)),
      memory: this.#memoryLines(),
      faults: [...this.#failures(), ...contents, ...this.#grown()],
    };
  }

  async cleanUp(): Promise<void> {
    this.#faults.isOn = false;
    for (const worker of this.#workers) if (worker.end === undefined) worker.child.kill('ended by the soak');
    await this.#site.cleanUp();
    await this.#proxy?.[Symbol.asyncDispose]();
  }

  async #start(progress: (elapsedMs: number, text: string) => void): Promise<void> {
    await this.#site.serve();
    await prepareShared(this.#site.exported);
    const proxy = await FaultProxy.open(
      () => this.#site.port,
      () => this.#faults.next(performance.now()),
    );
    this.#proxy = proxy;
    // One after the other: a mount gives up when its first answer takes 20 s, on a busy machine too.
    for (let index = 0; index < this.#mountCount; index++) {
      progress(0, `mount ${index + 1} of ${this.#mountCount}`);
      await this.#site.mount(`m${index}`, proxy.port);
    }
    for (const [index, root] of this.#site.mounts.entries()) {
      progress(0, `callers of mount ${index + 1} of ${this.#mountCount}`);
      const callers = Array.from({ length: this.#callerCount }, (_, caller) => `${path.basename(root)}-${caller}`);
      this.#workers.push(new Worker(root, callers, this.#seed + index * this.#callerCount));
      await this.#until((worker) => worker.isReady);
    }
  }

  get #operations(): number {
    return this.#workers.reduce((sum, { progress }) => sum + progress.operations, -this.#before);
  }

  /** To go on would be of no use. */
  get #isBroken(): boolean {
    return this.#workers.some(({ failure }) => failure !== undefined) || this.#site.ended.length > 0;
  }

  #failures(): string[] {
    const errors = this.#workers.flatMap(({ errors: own, failure }) => [...own, ...(failure ? [failure] : [])]);
    return [...errors, ...this.#site.ended, ...this.#site.complaints.slice(0, MOST_COMPLAINTS)];
  }

  #line(elapsedMs: number): string {
    const perSecond = Math.round(this.#operations / Math.max(1, elapsedMs / 1000));
    const oldest = this.#workers
      .flatMap(({ progress }) => (progress.oldest ? [progress.oldest] : []))
      .sort((a, b) => b.ageMs - a.ageMs)[0];
    const waits = oldest ? `, ${oldest.what} for ${(oldest.ageMs / 1000).toFixed(1)} s` : '';
    const clients = this.#clientWatches.map(({ latestBytes }) => latestBytes);
    const memory = `heap: server ${mib(this.#serverWatch.latestBytes)}, clients up to ${mib(Math.max(...clients))} MiB`;
    const errors = this.#workers.reduce((sum, worker) => sum + worker.errors.length, 0);
    return `${formatCount(this.#operations)} operations, ${perSecond}/s, ${this.#proxy?.cuts} cuts, ${this.#faults.stalls} stalls, ${errors} errors${waits}; ${memory}`;
  }

  // --- memory

  async #sample(): Promise<void> {
    const pids = [this.#site.serverPid, ...this.#site.clientPids];
    const sizes = await this.#site.heapBytes(pids);
    pids.forEach((pid, index) => {
      const watch = this.#memory.get(pid) ?? new MemoryWatch();
      this.#memory.set(pid, watch);
      watch.add(sizes[index] as number);
    });
  }

  get #serverWatch(): MemoryWatch {
    return this.#memory.get(this.#site.serverPid) ?? new MemoryWatch();
  }

  get #clientWatches(): MemoryWatch[] {
    return [...this.#memory].filter(([pid]) => pid !== this.#site.serverPid).map(([, watch]) => watch);
  }

  #memoryLines(): string[] {
    if (this.#clientWatches.length === 0) return ['memory was not looked at'];
    const { fromBytes, toBytes } = this.#serverWatch.growth;
    const growths = this.#clientWatches.map(({ growth }) => growth.growthBytes);
    const resident = [...this.#memory.keys()].map(residentBytes);
    const [server = 0, ...clients] = resident;
    return [
      `server: ${mib(fromBytes)} -> ${mib(toBytes)} MiB after collections, resident ${mib(server)} MiB`,
      `clients: grew by ${mib(Math.min(...growths))} to ${mib(Math.max(...growths))} MiB, resident up to ${mib(Math.max(...clients))} MiB`,
    ];
  }

  #grown(): string[] {
    return [...this.#memory].flatMap(([pid, { growth }]) => {
      const bound = pid === this.#site.serverPid ? MOST_GROWTH_BYTES.server : MOST_GROWTH_BYTES.client;
      if (growth.growthBytes <= bound) return [];
      return [`process ${pid} grew from ${mib(growth.fromBytes)} to ${mib(growth.toBytes)} MiB`];
    });
  }

  // --- the end

  async #compare(): Promise<string[]> {
    for (const { child } of this.#workers) child.send({});
    await this.#until((worker) => worker.finished !== undefined);
    this.#faults.isOn = false;
    if (this.#isBroken) return [];
    const expected: Contents = Object.assign({}, ...this.#workers.map(({ finished }) => finished?.expected));
    // Who met an error does not know what there must be.
    const good = this.#workers.filter(({ errors }) => errors.length === 0);
    if (good.length < this.#workers.length) return [];
    this.#workers.forEach(({ child, callers }, index) => {
      const { callers: others } = this.#workers[(index + 1) % this.#workers.length] as Worker;
      const order: LookOrder = { callers: [...new Set([...callers, ...others])] };
      child.send(order);
    });
    await this.#until((worker) => worker.end !== undefined);
    const local = await contentsOf(this.#site.exported, Object.keys(expected));
    const counts: CallerCounts[] = this.#workers.flatMap(({ finished }) => finished?.counts ?? []);
    return [
      ...this.#workers.flatMap(({ seen, callers }) => differences(`mount of ${callers[0]}`, seen ?? {}, expected)),
      ...differences('the exported directory', local, expected),
      ...(await sharedFaults(this.#site.exported, counts)),
    ];
  }

  async #until(fact: (worker: Worker) => boolean): Promise<void> {
    while (!this.#isBroken && !this.#workers.every(fact)) await pause(100);
  }
}

function residentBytes(pid: number): number {
  try {
    return 1024 * Number(/VmRSS:\s+(\d+)/.exec(fs.readFileSync(`/proc/${pid}/status`, 'latin1'))?.[1]);
  } catch {
    return 0;
  }
}

const mib = (bytes: number) => (bytes / 2 ** 20).toFixed(1);

const pause = (ms: number) => new Promise((done) => setTimeout(done, ms));
