/** What a process on a client's machine does: one operation after the other, by chance, noted in the history. */
import { setMaxListeners } from 'node:events';
import type { Caller } from '../../client-fuse/vfs/filesystem.ts';
import { ROOT_NODE } from '../../client-fuse/vfs/filesystem.ts';
import type { RemoteFilesystem } from '../../client-fuse/vfs/remote-filesystem.ts';
import { errno, FsError } from '../../shared/errno.ts';
import { BLOCK_BYTES, PAGE_SIZE } from '../../shared/limits.ts';
import { O } from '../../shared/linux/constants.ts';
import { ALL_BYTES } from '../../shared/range-map.ts';
import type { History } from './history.ts';
import type { DataCall, DataResult, Listing, ModeCall, NameCall, NameResult } from './objects.ts';
import type { Random } from './random.ts';
import type { Scenario } from './scenario.ts';

export const NAMES = ['a', 'b', 'c'];
export const FILES = ['x', 'y'];
export const LOG = 'log';
/** A number that is incremented under a lock. */
export const COUNTER = 'counter';
export const RANGE_BYTES = 2 * PAGE_SIZE;
export const COUNTER_BYTES = 4;
const RECORD_BYTES = 4;
/** So long is gathered what is not synchronized at once: longer than some faults. */
const LATE_MS = 6_000;
const MOST_READS = 12;
const LATE_READ_MS = 400;
/** Modes that are set are counted from here: none is what a file has at first. */
const FIRST_MODE = 0o1000;
/** More than the listing of a run's directory. */
const LISTING_BYTES = 65_536;

/** Its signal is listened to by every call of a run. */
const CALLER: Caller = { uid: 0, gid: 0, pid: 1, groups: [], signal: new AbortController().signal };
setMaxListeners(0, CALLER.signal);

/** A process on a machine. */
export interface Program {
  readonly id: number;
  readonly filesystem: RemoteFilesystem;
  /** Its machine is gone: nobody takes note of what it is answered. */
  hasCrashed(): boolean;
}

/** Where in a file of FILES its range begins: in the second one in one block, and in the next one. */
export function rangeStart(file: string, { readsAgain }: Pick<Scenario, 'readsAgain'>): number {
  return readsAgain && file === FILES[1] ? BLOCK_BYTES - PAGE_SIZE : 0;
}

export class Workload {
  readonly #random: Random;
  readonly #history: History;
  readonly #scenario: Scenario;
  #lastTag = 0;
  #lastMode = FIRST_MODE;

  constructor(random: Random, history: History, scenario: Scenario) {
    this.#random = random;
    this.#history = history;
    this.#scenario = scenario;
  }

  operate(program: Program): Promise<void> {
    const { filesystem } = program;
    const name = this.#random.pick(NAMES);
    const file = this.#random.pick(FILES);
    if (this.#scenario.looksAgain && this.#random.chance(0.5)) return this.#lookAgain(program, name, file);
    switch (this.#random.below(9)) {
      case 0:
        return this.#name(program, { kind: 'make', name }, async () => {
          const entry = await filesystem.mknod(CALLER, ROOT_NODE, Buffer.from(name), 0o100644, 0, 0);
          return Number(entry.attributes.ino);
        });
      case 1:
        return this.#name(program, { kind: 'remove', name }, async () => {
          await filesystem.unlink(CALLER, ROOT_NODE, Buffer.from(name));
          return 1;
        });
      case 2: {
        const newName = this.#random.pick(NAMES.filter((one) => one !== name));
        return this.#name(program, { kind: 'rename', name, newName }, async () => {
          await filesystem.rename(CALLER, ROOT_NODE, Buffer.from(name), ROOT_NODE, Buffer.from(newName), 0);
          return 1;
        });
      }
      case 3:
      case 4:
        return this.#lookUp(program, name);
      case 5:
        return this.#write(program, { file, tag: ++this.#lastTag });
      case 6:
        return this.#read(program, { file });
      case 7:
        return this.#append(program, ++this.#lastTag);
      default:
        return this.#increment(program);
    }
  }

  async #name(program: Program, argument: NameCall, work: () => Promise<NameResult>): Promise<void> {
    const call = this.#history.name(program.id, argument);
    await this.#told(program, argument, call, async () => {
      try {
        return await work();
      } catch (error) {
        if (error instanceof FsError && (error.code === errno.ENOENT || error.code === errno.EEXIST)) return 0;
        throw error;
      }
    });
  }

  #lookUp(program: Program, name: string): Promise<void> {
    return this.#name(program, { kind: 'lookup', name }, async () => {
      const entry = await program.filesystem.lookup(CALLER, ROOT_NODE, Buffer.from(name));
      return 'attributes' in entry ? Number(entry.attributes.ino) : 0;
    });
  }

  /** What is known under leases is looked at until somebody changes it; or this process does. */
  async #lookAgain(program: Program, name: string, file: string): Promise<void> {
    if (this.#random.chance(0.2)) return this.#mode(program, { file, mode: ++this.#lastMode });
    const what = this.#random.below(3);
    for (let times = 1 + this.#random.below(MOST_READS); times > 0 && !program.hasCrashed(); times--) {
      if (what === 0) await this.#lookUp(program, name);
      else if (what === 1) await this.#list(program);
      else await this.#mode(program, { file });
      if (this.#random.chance(0.3)) await pause(this.#random.below(LATE_READ_MS));
    }
  }

  async #mode(program: Program, argument: ModeCall): Promise<void> {
    const { filesystem } = program;
    const call = this.#history.mode(program.id, argument);
    await this.#told(program, argument, call, async () => {
      const { node } = await filesystem.lookup(CALLER, ROOT_NODE, Buffer.from(argument.file));
      const { mode } = argument;
      const { attributes } =
        mode === undefined ? await filesystem.getattr(CALLER, node) : await filesystem.setattr(CALLER, node, { mode });
      return attributes.mode & 0o7777;
    });
  }

  #list(program: Program): Promise<void> {
    const { filesystem } = program;
    const argument: NameCall = { kind: 'list', name: '/' };
    return this.#name(program, argument, async () => {
      const { handle } = await filesystem.opendir(CALLER, ROOT_NODE);
      try {
        const entries = await filesystem.readdir(CALLER, handle, 0, LISTING_BYTES, false);
        const inoOf = (name: string) => Number(entries.find((one) => Buffer.from(name).equals(one.name))?.ino ?? 0);
        argument.seen = Object.fromEntries(NAMES.map((name) => [name, inoOf(name)])) satisfies Listing;
        return 1;
      } finally {
        filesystem.releasedir(handle);
      }
    });
  }

  /** Once; or again and again by one handle, which lets the client keep what was read. */
  async #read(program: Program, argument: DataCall): Promise<void> {
    const times = this.#scenario.readsAgain ? 1 + this.#random.below(MOST_READS) : 1;
    const call = this.#history.data(program.id, argument);
    await this.#told(program, argument, call, () =>
      this.#withFile(program, argument.file, O.RDONLY, async (handle): Promise<DataResult> => {
        for (let again = 1; again < times && !program.hasCrashed(); again++) {
          const one = this.#history.data(program.id, argument);
          await this.#told(program, argument, one, () => this.#readRange(program, argument.file, handle));
          if (this.#random.chance(0.3)) await pause(this.#random.below(LATE_READ_MS));
        }
        return this.#readRange(program, argument.file, handle);
      }),
    );
  }

  async #readRange({ filesystem }: Program, file: string, handle: number): Promise<DataResult> {
    const start = rangeStart(file, this.#scenario);
    const tags = tagsOf(await filesystem.read(CALLER, handle, start, RANGE_BYTES));
    const [tag = 0] = tags;
    return tags.length * PAGE_SIZE === RANGE_BYTES && tags.every((one) => one === tag) ? tag : 'torn';
  }

  /** Synchronized at once, or after a while in which others may come. */
  async #write(program: Program, argument: DataCall & { readonly tag: number }): Promise<void> {
    const { filesystem } = program;
    const call = this.#history.data(program.id, argument);
    await this.#told(program, argument, call, () =>
      this.#withFile(program, argument.file, O.WRONLY, async (handle): Promise<DataResult> => {
        const data = words(argument.tag, RANGE_BYTES);
        const start = rangeStart(argument.file, this.#scenario);
        const written = await filesystem.write(CALLER, handle, start, data, O.WRONLY, false);
        if (written !== data.length) throw new FsError(errno.ENOSPC, 'write');
        if (!program.hasCrashed()) this.#history.wrote(call);
        if (this.#random.chance(0.5)) await pause(this.#random.below(LATE_MS));
        await filesystem.fsync(CALLER, handle, true);
        return 'written';
      }),
    );
  }

  async #append(program: Program, tag: number): Promise<void> {
    const append = this.#history.append(tag);
    await this.#told(program, { append: tag }, undefined, () =>
      this.#withFile(program, LOG, O.WRONLY, async (handle) => {
        const flags = O.WRONLY | O.APPEND;
        const written = await program.filesystem.write(CALLER, handle, 0, words(tag, RECORD_BYTES), flags, false);
        if (written !== RECORD_BYTES) throw new FsError(errno.ENOSPC, 'write');
        await program.filesystem.fsync(CALLER, handle, true);
        if (!program.hasCrashed()) append.isDone = true;
        return tag;
      }),
    );
    if (!program.hasCrashed()) append.isUnderWay = false;
  }

  /** It is done when close(2) has said that all was written. */
  async #increment(program: Program): Promise<void> {
    const { filesystem, id } = program;
    const call = this.#history.increment(id);
    const owner = { kind: 'posix', owner: id, pid: id } as const;
    await this.#told(program, call.argument, call, () =>
      this.#withFile(program, COUNTER, O.RDWR, async (handle) => {
        await filesystem.lock(CALLER, handle, { ...owner, ...ALL_BYTES, mode: 'exclusive' }, true);
        const held = Buffer.from(await filesystem.read(CALLER, handle, 0, COUNTER_BYTES)).readUInt32LE();
        if (!program.hasCrashed()) call.argument.value = held;
        await pause(1 + this.#random.below(this.#random.chance(0.2) ? LATE_MS : 40));
        await filesystem.write(CALLER, handle, 0, words(held + 1, COUNTER_BYTES), O.RDWR, false);
        if (this.#random.chance(0.5)) await filesystem.unlock(CALLER, handle, owner, ALL_BYTES);
        await filesystem.flush(CALLER, handle, id);
        return held;
      }),
    );
  }

  /** Does `work`, and notes what it came to; an error other than a Linux one is a violation. */
  async #told<R>(
    program: Program,
    argument: unknown,
    call: Parameters<History['end']>[0] | undefined,
    work: () => Promise<R>,
  ): Promise<void> {
    this.#history.note(`${program.id} > ${JSON.stringify(argument)}`);
    let result: R | undefined;
    let told: string;
    try {
      result = await work();
      told = String(result);
    } catch (error) {
      told = String(error);
      if (!(error instanceof FsError)) this.#history.broke(`${JSON.stringify(argument)}: ${told}`);
    }
    if (program.hasCrashed()) return;
    this.#history.note(`${program.id} < ${JSON.stringify(argument)} ${told}`);
    if (call) this.#history.end(call, result);
  }

  async #withFile<T>(
    { filesystem }: Program,
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
}

export function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

function words(tag: number, bytes: number): Buffer {
  const data = Buffer.alloc(bytes);
  for (let at = 0; at < bytes; at += 4) data.writeUInt32LE(tag, at);
  return data;
}

/** One of each page; NaN: its words differ. */
export function tagsOf(data: Uint8Array): number[] {
  const bytes = Buffer.from(data.buffer, data.byteOffset, data.byteLength);
  const tags: number[] = [];
  for (let at = 0; at < bytes.length; at += PAGE_SIZE) {
    const page = bytes.subarray(at, at + PAGE_SIZE);
    const tag = page.length === PAGE_SIZE ? page.readUInt32LE(0) : Number.NaN;
    tags.push(page.equals(words(tag || 0, PAGE_SIZE)) ? tag : Number.NaN);
  }
  return tags;
}
