/**
 * A process that makes files as tar does: written, their times set and permissions added in any order, gathered by its
 * client. Nobody else changes them: once close(2) has said that all is at the server, everybody sees what they became.
 */
import { setMaxListeners } from 'node:events';
import { type Caller, ROOT_NODE } from '../../client-fuse/vfs/filesystem.ts';
import { FsError } from '../../shared/errno.ts';
import { O } from '../../shared/linux/constants.ts';
import type { History } from './history.ts';
import type { Random } from './random.ts';
import { WRITTEN_SEC } from './simulated-disk.ts';
import { type Program, pause } from './workload.ts';

const CALLER: Caller = { uid: 0, gid: 0, pid: 2, groups: [], signal: new AbortController().signal };
setMaxListeners(0, CALLER.signal);
const MOST_STEPS = 6;
/** Longer than gathered writes wait, and than some faults. */
const LONG_MS = 2_000;

interface Stamp {
  readonly name: string;
  readonly mode: number;
  /** The time of modification that was set last, or the disk's for what was written after that. */
  readonly sec: number;
}

export class Stamps {
  readonly #random: Random;
  readonly #history: History;
  readonly #closed: Stamp[] = [];
  /** The file that was made last, perhaps not closed yet. */
  #newest = '';
  #last = WRITTEN_SEC;

  constructor(random: Random, history: History) {
    this.#random = random;
    this.#history = history;
  }

  async operate(program: Program): Promise<void> {
    await this.#told(program, () => this.#make(program, `stamp ${++this.#last}`));
    if (this.#random.chance(0.5)) await this.#told(program, () => this.#see(program, this.#newest));
    const stamp = this.#random.pick(this.#closed.length > 0 ? this.#closed : [undefined]);
    if (stamp) await this.#told(program, () => this.#check(program, stamp));
  }

  async #make(program: Program, name: string): Promise<void> {
    const { filesystem } = program;
    const { entry, opened } = await filesystem.create(
      CALLER,
      ROOT_NODE,
      Buffer.from(name),
      0o600,
      0,
      O.WRONLY | O.EXCL,
    );
    this.#newest = name;
    let [mode, sec] = [0o600, WRITTEN_SEC];
    let written = 0;
    try {
      for (let step = this.#random.below(MOST_STEPS); step >= 0; step--) {
        switch (this.#random.below(4)) {
          case 0:
            written += await filesystem.write(CALLER, opened.handle, written, Buffer.from(name), O.WRONLY, false);
            sec = WRITTEN_SEC;
            break;
          case 1:
            sec = ++this.#last;
            await filesystem.setattr(CALLER, entry.node, { mtime: { sec, nsec: 0 } });
            break;
          case 2:
            mode |= 1 << this.#random.below(9);
            await filesystem.setattr(CALLER, entry.node, { mode });
            break;
          default:
            await pause(this.#random.below(this.#random.chance(0.2) ? LONG_MS : 20));
        }
      }
      await filesystem.flush(CALLER, opened.handle, program.id);
    } finally {
      filesystem.release(opened.handle);
    }
    if (program.hasCrashed()) return;
    this.#history.note(`${program.id} has closed ${name}: ${mode.toString(8)} ${sec}`);
    this.#closed.push({ name, mode, sec });
  }

  async #check(program: Program, { name, mode, sec }: Stamp): Promise<void> {
    const seen = await this.#see(program, name);
    if (seen === undefined || program.hasCrashed()) return;
    if ((seen.mode & 0o7777) === mode && seen.mtime.sec === sec) return;
    const is = `${(seen.mode & 0o7777).toString(8)} ${seen.mtime.sec}`;
    this.#history.broke(`attributes of a closed file: ${is}, not ${mode.toString(8)} ${sec}`);
  }

  async #see({ filesystem }: Program, name: string) {
    const { node } = await filesystem.lookup(CALLER, ROOT_NODE, Buffer.from(name));
    return node === 0 ? undefined : (await filesystem.getattr(CALLER, node)).attributes;
  }

  /** An error other than a Linux one is a violation; of those, each says that nothing is certain. */
  async #told(program: Program, work: () => Promise<unknown>): Promise<void> {
    try {
      await work();
    } catch (error) {
      if (!(error instanceof FsError)) this.#history.broke(`a stamp: ${String(error)}`);
      else if (!program.hasCrashed()) this.#history.note(`${program.id} stamp ${String(error)}`);
    }
  }
}
