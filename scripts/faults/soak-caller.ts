/**
 * One caller of a soak: makes calls of all kinds through one mount, one after the other, and knows what each must give. It has
 * a directory of its own, whose content it keeps in mind, and works with all others on shared files in ways that show
 * when an operation was lost, made twice or torn. A call that gives what it must not is an Error.
 */
import { randomUUID } from 'node:crypto';
import fs from 'node:fs/promises';
import path from 'node:path';
import { lockFileAsync } from '../../shared/linux/libc.ts';
import { Random } from '../bench/random.ts';

export const SHARED = 'shared';
export const TOKENS = 24;
export const LOCK_KINDS = ['flock', 'fcntl'] as const;
/** Tokens are in one of these, never in both or none. */
export const TOKEN_PLACES = ['left', 'right'] as const;
export const BOARD_BYTES = 64 * 1024;
const MOST_FILES = 12;
const MOST_BYTES = 200_000;

/** How often, what. */
type Kind = readonly [number, string, () => Promise<void>];

export interface CallerCounts {
  readonly caller: string;
  readonly records: number;
  readonly increments: Readonly<Record<string, number>>;
}

type Alone = (work: () => Promise<void>) => Promise<void>;

export class SoakCaller {
  readonly name: string;
  readonly #root: string;
  readonly #alone: Alone;
  readonly #random: Random;
  readonly #files = new Map<string, Buffer>();
  readonly #increments = { flock: 0, fcntl: 0 };
  #open: { readonly name: string; readonly file: fs.FileHandle } | undefined;
  #records = 0;
  #lastName = 0;
  operations = 0;
  /** What is under way, and since when (performance.now()). */
  now: { readonly what: string; readonly sinceMs: number } | undefined;

  /** `alone`: around each look at the board, and each write of it, where the filesystem does not keep them apart (ext4 does not). */
  constructor(root: string, name: string, seed: number, alone: Alone = (work) => work()) {
    this.#root = root;
    this.name = name;
    this.#random = new Random(seed);
    this.#alone = alone;
  }

  /** By how often each is done. */
  readonly #kinds: readonly Kind[] = [
    [6, 'create', () => this.#create()],
    [6, 'write', () => this.#write()],
    [4, 'write through an open file', () => this.#writeOpen()],
    [4, 'append', () => this.#append()],
    [2, 'truncate', () => this.#truncate()],
    [8, 'read', () => this.#read()],
    [4, 'rename', () => this.#rename()],
    [2, 'rename over', () => this.#renameOver()],
    [4, 'unlink', () => this.#unlink()],
    [2, 'link and unlink', () => this.#link()],
    [4, 'list', () => this.#list()],
    [4, 'stat', () => this.#stat()],
    [4, 'append a record', () => this.#record()],
    [1, 'increment under flock', () => this.#increment('flock')],
    [1, 'increment under fcntl', () => this.#increment('fcntl')],
    [3, 'move a token', () => this.#moveToken()],
    [2, 'mkdir as a lock', () => this.#exclude()],
    [2, 'write the board', () => this.#alone(() => this.#writeBoard())],
    [2, 'read the board', () => this.#alone(() => this.#readBoard())],
    [3, 'look at what others have', () => this.#look()],
  ];

  get counts(): CallerCounts {
    return { caller: this.name, records: this.#records, increments: this.#increments };
  }

  async prepare(): Promise<void> {
    await fs.mkdir(this.#own());
  }

  async step(): Promise<void> {
    const total = this.#kinds.reduce((sum, [weight]) => sum + weight, 0);
    let at = this.#random.below(total);
    const isChosen = ([weight]: Kind) => {
      at -= weight;
      return at < 0;
    };
    const [, what, work] = this.#kinds.find(isChosen) as Kind;
    this.now = { what, sinceMs: performance.now() };
    try {
      await work();
    } catch (error) {
      throw new Error(`${this.name}: ${what}: ${error instanceof Error ? error.message : String(error)}`);
    } finally {
      this.now = undefined;
    }
    this.operations++;
  }

  /** Closes what is open, and returns what its directory must hold: content by name. */
  async finish(): Promise<ReadonlyMap<string, Buffer>> {
    await this.#closeOpen();
    return this.#files;
  }

  // --- its own directory

  #own(name = ''): string {
    return path.join(this.#root, this.name, name);
  }

  #content(): Buffer {
    const length = this.#random.below(4) === 0 ? this.#random.below(MOST_BYTES) : this.#random.below(8192);
    return Buffer.alloc(length, `${this.name} ${this.#random.next()} `);
  }

  #pick(): string {
    return this.#random.pick([...this.#files.keys()]);
  }

  #known(name: string): Buffer {
    return this.#files.get(name) as Buffer;
  }

  async #create(): Promise<void> {
    if (this.#files.size >= MOST_FILES) return this.#unlink();
    const name = `f${++this.#lastName}`;
    const content = this.#content();
    await fs.writeFile(this.#own(name), content, { flag: 'wx' });
    this.#files.set(name, content);
  }

  async #write(): Promise<void> {
    if (this.#files.size === 0) return this.#create();
    const name = this.#pick();
    const [before, data] = [this.#known(name), this.#content()];
    const offset = this.#random.below(before.length + 1);
    await using file = await fs.open(this.#own(name), 'r+');
    await writeAll(file, data, offset);
    if (this.#random.below(8) === 0) await file.sync();
    this.#files.set(name, overwritten(before, data, offset));
  }

  /** Gathered by the client, while nobody else looks. */
  async #writeOpen(): Promise<void> {
    if (this.#files.size === 0) return this.#create();
    if (this.#open && this.#random.below(6) === 0) return this.#closeOpen();
    if (!this.#open) {
      const name = this.#pick();
      this.#open = { name, file: await fs.open(this.#own(name), 'r+') };
    }
    const { name, file } = this.#open;
    const before = this.#known(name);
    const data = Buffer.alloc(1 + this.#random.below(500), 'open');
    const offset = this.#random.below(before.length + 1);
    await writeAll(file, data, offset);
    const after = overwritten(before, data, offset);
    this.#files.set(name, after);
    const from = this.#random.below(after.length);
    const { bytesRead, buffer } = await file.read(Buffer.alloc(1000), 0, 1000, from);
    check(
      buffer.subarray(0, bytesRead).equals(after.subarray(from, from + 1000)),
      'reads something else than was written',
    );
  }

  async #closeOpen(): Promise<void> {
    const { file } = this.#open ?? {};
    this.#open = undefined;
    await file?.close();
  }

  async #append(): Promise<void> {
    if (this.#files.size === 0) return this.#create();
    const name = this.#pick();
    const before = this.#known(name);
    if (before.length > MOST_BYTES) return this.#truncate();
    const data = this.#content();
    await fs.appendFile(this.#own(name), data);
    this.#files.set(name, Buffer.concat([before, data]));
  }

  async #truncate(): Promise<void> {
    if (this.#files.size === 0) return this.#create();
    const name = this.#pick();
    const before = this.#known(name);
    const length = this.#random.below(before.length + 1);
    await fs.truncate(this.#own(name), length);
    this.#files.set(name, before.subarray(0, length));
  }

  async #read(): Promise<void> {
    if (this.#files.size === 0) return this.#create();
    const name = this.#pick();
    const found = await fs.readFile(this.#own(name));
    check(found.equals(this.#known(name)), `${name} has not what was written (${found.length} bytes)`);
  }

  async #rename(): Promise<void> {
    if (this.#files.size === 0) return this.#create();
    const [name, to] = [this.#pick(), `f${++this.#lastName}`];
    await fs.rename(this.#own(name), this.#own(to));
    this.#moved(name, to);
  }

  async #renameOver(): Promise<void> {
    if (this.#files.size < 2) return this.#create();
    const [name, to] = [this.#pick(), this.#pick()];
    if (name === to) return;
    if (this.#open?.name === to) await this.#closeOpen();
    await fs.rename(this.#own(name), this.#own(to));
    this.#moved(name, to);
  }

  #moved(name: string, to: string): void {
    this.#files.set(to, this.#known(name));
    this.#files.delete(name);
    if (this.#open?.name === name) this.#open = { ...this.#open, name: to };
  }

  async #unlink(): Promise<void> {
    if (this.#files.size === 0) return this.#create();
    const name = this.#pick();
    if (this.#open?.name === name) await this.#closeOpen();
    await fs.unlink(this.#own(name));
    this.#files.delete(name);
  }

  async #link(): Promise<void> {
    if (this.#files.size === 0) return this.#create();
    const [name, other] = [this.#pick(), `${this.name}.link`];
    await fs.link(this.#own(name), this.#shared(other));
    const { nlink, size } = await fs.stat(this.#own(name));
    check(nlink === 2 && size === this.#known(name).length, `${name} has ${nlink} links, ${size} bytes`);
    await fs.unlink(this.#shared(other));
  }

  async #list(): Promise<void> {
    const names = (await fs.readdir(this.#own())).sort().join(' ');
    check(names === [...this.#files.keys()].sort().join(' '), `lists ${names}`);
  }

  async #stat(): Promise<void> {
    if (this.#files.size === 0) return this.#create();
    const name = this.#pick();
    const { size } = await fs.stat(this.#own(name));
    check(size === this.#known(name).length, `${name} has ${size} bytes`);
    const gone = await expecting(['ENOENT'], () => fs.stat(this.#own(`absent${this.#random.below(9)}`)));
    check(gone === undefined, 'an absent name is there');
  }

  // --- together with all others

  #shared(...names: string[]): string {
    return path.join(this.#root, SHARED, ...names);
  }

  async #record(): Promise<void> {
    await fs.appendFile(this.#shared('log'), `${this.name} ${this.#records + 1}\n`);
    this.#records++;
  }

  async #increment(kind: (typeof LOCK_KINDS)[number]): Promise<void> {
    await using file = await fs.open(this.#shared(`counter-${kind}`), 'r+');
    await lockFileAsync(file.fd, kind, 'exclusive');
    const { bytesRead, buffer } = await file.read(Buffer.alloc(20), 0, 20, 0);
    await writeAll(file, Buffer.from(String(Number(buffer.toString('latin1', 0, bytesRead)) + 1)), 0);
    await lockFileAsync(file.fd, kind, 'none');
    this.#increments[kind]++;
  }

  async #moveToken(): Promise<void> {
    const token = `token-${this.#random.below(TOKENS)}`;
    const [from, to] = this.#random.below(2) === 0 ? TOKEN_PLACES : TOKEN_PLACES.toReversed();
    await expecting(['ENOENT'], () =>
      fs.rename(this.#shared(from as string, token), this.#shared(to as string, token)),
    );
  }

  /** Who makes the directory has it alone. */
  async #exclude(): Promise<void> {
    const directory = this.#shared('exclusion');
    const made = await expecting(['EEXIST'], () => fs.mkdir(directory).then(() => true));
    if (!made) return;
    const mark = path.join(directory, 'mark');
    await fs.writeFile(mark, this.name, { flag: 'wx' });
    check((await fs.readFile(mark, 'latin1')) === this.name, 'another one is in it');
    await fs.unlink(mark);
    await fs.rmdir(directory);
  }

  /** All of it, with one stamp. */
  async #writeBoard(): Promise<void> {
    await using file = await fs.open(this.#shared('board'), 'r+');
    await writeAll(file, Buffer.alloc(BOARD_BYTES, Buffer.from(randomUUID().replaceAll('-', ''), 'hex')), 0);
  }

  async #readBoard(): Promise<void> {
    // For writing: what was opened only to read may be shown page by page, see docs/SEMANTICS.md.
    await using file = await fs.open(this.#shared('board'), 'r+');
    const { bytesRead, buffer } = await file.read(Buffer.alloc(BOARD_BYTES), 0, BOARD_BYTES, 0);
    const isWhole = buffer.equals(Buffer.alloc(BOARD_BYTES, buffer.subarray(0, 16)));
    check(bytesRead === BOARD_BYTES && isWhole, `a read of ${bytesRead} bytes is torn`);
  }

  /** It may be gone before it is looked at. */
  async #look(): Promise<void> {
    const others = (await fs.readdir(this.#root)).filter((name) => name !== SHARED);
    const directory = path.join(this.#root, this.#random.pick(others));
    const names = await fs.readdir(directory);
    if (names.length === 0) return;
    const file = path.join(directory, this.#random.pick(names));
    await expecting(['ENOENT'], () => fs.stat(file));
    await expecting(['ENOENT'], () => fs.readFile(file));
  }
}

/** One write(2): it is short only when the disk is full. */
async function writeAll(file: fs.FileHandle, data: Buffer, offset: number): Promise<void> {
  const { bytesWritten } = await file.write(data, 0, data.length, offset);
  check(bytesWritten === data.length, `${bytesWritten} of ${data.length} bytes were written`);
}

/** Undefined: it gave one of these errors. */
async function expecting<T>(codes: readonly string[], work: () => Promise<T>): Promise<T | undefined> {
  try {
    return await work();
  } catch (error) {
    if (codes.includes((error as NodeJS.ErrnoException).code ?? '')) return undefined;
    throw error;
  }
}

function check(isSo: boolean, otherwise: string): void {
  if (!isSo) throw new Error(otherwise);
}

function overwritten(before: Buffer, data: Buffer, offset: number): Buffer {
  const after = Buffer.alloc(Math.max(before.length, offset + data.length));
  before.copy(after);
  data.copy(after, offset);
  return after;
}
