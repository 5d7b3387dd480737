import { describe, expect, test } from 'vitest';
import { overlapHtml } from '../../scripts/bench/html-report.ts';
import { LocalDriver } from '../../scripts/bench/local-driver.ts';
import { monotonicBase } from '../../scripts/bench/monotonic-clock.ts';
import { benchDriver, checkOverlapOptions, overlapSetup } from '../../scripts/bench/overlap-bench.ts';
import type { OverlapOptions } from '../../scripts/bench/overlap-run.ts';
import type { OverlapFile, OverlapTarget } from '../../scripts/bench/overlap-target.ts';

const options: OverlapOptions = {
  writers: 3,
  readers: 3,
  sizesBytes: [4096, 16384],
  spanBytes: 32768,
  durationMs: 250,
  seed: 7,
  disjoint: false,
  direct: false,
};

const turn = () => new Promise<void>((resolve) => setImmediate(resolve));

/** One file in memory, seen through any number of targets. Each call takes effect at one moment, with waits around it. */
class MemoryFile {
  content = Buffer.alloc(0);
  writes = 0;

  async write(offset: number, data: Uint8Array): Promise<number> {
    await turn();
    this.apply(offset, data);
    await turn();
    return data.length;
  }

  async read(offset: number, into: Uint8Array): Promise<number> {
    await turn();
    const got = this.content.copy(into, 0, offset, offset + into.length);
    await turn();
    return got;
  }

  apply(offset: number, data: Uint8Array): void {
    this.writes++;
    const size = Math.max(this.content.length, offset + data.length);
    if (size > this.content.length)
      this.content = Buffer.concat([this.content, Buffer.alloc(size - this.content.length)]);
    this.content.set(data, offset);
  }
}

/** Copies in two steps, and lets others in between: what a filesystem without range locks does. */
class TearingFile extends MemoryFile {
  override async write(offset: number, data: Uint8Array): Promise<number> {
    const half = data.length / 2;
    await turn();
    this.apply(offset, data.subarray(0, half));
    await turn();
    this.apply(offset + half, data.subarray(half));
    return data.length;
  }
}

/** Acknowledges some writes without making them. */
class LosingFile extends MemoryFile {
  #asked = 0;

  override apply(offset: number, data: Uint8Array): void {
    if (this.#asked++ % 20 === 19) return;
    super.apply(offset, data);
  }
}

/** Reads come from a copy that is renewed now and then, as from a cache without leases. */
class StaleFile extends MemoryFile {
  #cached = Buffer.alloc(0);
  #reads = 0;

  override async read(offset: number, into: Uint8Array): Promise<number> {
    await turn();
    if (this.#reads++ % 40 === 0) this.#cached = Buffer.from(this.content);
    return this.#cached.copy(into, 0, offset, offset + into.length);
  }
}

/** Puts one write in twenty at the wrong place. */
class MisplacingFile extends MemoryFile {
  override apply(offset: number, data: Uint8Array): void {
    super.apply(this.writes % 20 === 19 && offset >= 32 ? offset - 32 : offset, data);
  }
}

class FailingFile extends MemoryFile {
  override async write(offset: number, data: Uint8Array): Promise<number> {
    if (this.writes % 10 === 9) {
      this.writes++;
      throw new Error('EIO: planted');
    }
    return super.write(offset, data);
  }
}

class MemoryTarget implements OverlapTarget {
  readonly label: string;
  readonly file: MemoryFile;

  constructor(label: string, file: MemoryFile) {
    this.label = label;
    this.file = file;
  }

  async createFile(): Promise<void> {}
  async openFile(): Promise<OverlapFile> {
    const { file } = this;
    return {
      write: (offset, data) => file.write(offset, data),
      read: (offset, into) => file.read(offset, into),
      close: async () => {},
    };
  }
  async removeFile(): Promise<void> {}
  async close(): Promise<void> {}
}

async function runOn(files: readonly MemoryFile[], changed: Partial<OverlapOptions> = {}) {
  const all = { ...options, ...changed };
  const setup = overlapSetup(all);
  const targets = files.map((file, index) => new MemoryTarget(`memory ${index + 1}`, file));
  return benchDriver(new LocalDriver(targets, setup, monotonicBase(), 5000), setup, all, () => {});
}

describe('a run', () => {
  test('on an atomic target finds nothing', async () => {
    const file = new MemoryFile();
    const { report, outcome } = await runOn([file, file]);
    expect(report).toMatchObject({
      passed: true,
      torn: 0,
      stale: 0,
      backward: 0,
      mixedPages: 0,
      failures: [],
      examples: [],
    });
    expect(report.verdict).toMatch(/^0 torn in [\d,]+ reads, [\d,]+ writes through 2 places .*whole$/);
    expect(report.finalStates.map((state) => state.fault)).toEqual([null, null]);
    expect(report.writes.calls).toBeGreaterThan(100);
    expect(outcome.checker.judgedReads).toBe(report.reads.calls);
  });

  test('finds torn reads where a write is made in two steps', async () => {
    const { report } = await runOn([new TearingFile()]);
    expect(report.passed).toBe(false);
    expect(report.torn).toBeGreaterThan(10);
    expect(report.examples.find((example) => example.fault === 'torn')?.text).toMatch(
      /came before \d#\d+: it also covers units/,
    );
  });

  test('finds acknowledged writes that are missing', async () => {
    const { report } = await runOn([new LosingFile()]);
    expect(report.passed).toBe(false);
    expect(report.stale).toBeGreaterThan(0);
  });

  test('finds that the last acknowledged write is not in the final content', async () => {
    class ForgettingFile extends MemoryFile {
      override async read(offset: number, into: Uint8Array): Promise<number> {
        this.content.set(this.first, 0);
        return super.read(offset, into);
      }
      first = Buffer.alloc(0);
      override apply(offset: number, data: Uint8Array): void {
        super.apply(offset, data);
        if (this.writes === 1) this.first = Buffer.from(this.content);
      }
    }
    const { report } = await runOn([new ForgettingFile()], { readers: 0 });
    expect(report).toMatchObject({ passed: false, torn: 0 });
    expect(report.finalStates[0]).toMatchObject({ fault: 'lost' });
  });

  test('finds reads from an old copy', async () => {
    const { report } = await runOn([new StaleFile()]);
    expect(report.passed).toBe(false);
    expect(report.stale).toBeGreaterThan(10);
  });

  test('finds data at the wrong place', async () => {
    const { report } = await runOn([new MisplacingFile()]);
    expect(report.passed).toBe(false);
    expect(report.mixedPages).toBeGreaterThan(0);
  });

  test('finds that two places show different files', async () => {
    const [first, second] = [new MemoryFile(), new MemoryFile()];
    second.content = Buffer.alloc(options.spanBytes);
    const { report } = await runOn([first, second], { readers: 0 });
    expect(report.passed).toBe(false);
    expect(report.finalStates[1]?.fault).not.toBe(null);
  });

  test('counts errors and goes on', async () => {
    const { report } = await runOn([new FailingFile()]);
    expect(report).toMatchObject({ passed: false, torn: 0, stale: 0, mixedPages: 0 });
    expect(report.writes.errors).toBeGreaterThan(0);
    expect(report.writes.firstError).toContain('planted');
  });

  test('reports callers whose calls all fail from some time on, and ends', async () => {
    class GoneFile extends MemoryFile {
      override async write(offset: number, data: Uint8Array): Promise<number> {
        if (this.writes > 50) throw new Error('ENOTCONN: planted');
        return super.write(offset, data);
      }
      override async read(offset: number, into: Uint8Array): Promise<number> {
        if (this.writes > 50) throw new Error('ENOTCONN: planted');
        return super.read(offset, into);
      }
    }
    const { report } = await runOn([new GoneFile()], { durationMs: 3_600_000 });
    expect(report).toMatchObject({ passed: false, torn: 0, stale: 0 });
    expect(report.verdict).toContain('6 callers failed');
    for (const { reason } of report.failures)
      expect(reason).toMatch(/^gave up: every call failed for \d+ s, the last with ENOTCONN: planted$/);
  });

  test('reports a caller that hangs, and ends', async () => {
    class HangingFile extends MemoryFile {
      override async write(offset: number, data: Uint8Array): Promise<number> {
        return this.writes > 50 ? new Promise(() => {}) : super.write(offset, data);
      }
    }
    const setup = overlapSetup(options);
    const driver = new LocalDriver([new MemoryTarget('memory', new HangingFile())], setup, monotonicBase(), 600);
    const { report } = await benchDriver(driver, setup, options, () => {});
    expect(report.passed).toBe(false);
    expect(report.failures.length).toBe(options.writers);
    expect(report.failures.every((failure) => failure.hung)).toBe(true);
    expect(report.torn).toBe(0);
  });

  test('disjoint: compares one writer with all, and stays whole', async () => {
    const { report } = await runOn([new MemoryFile()], { disjoint: true, readers: 0, durationMs: 400 });
    expect(report).toMatchObject({ passed: true, mode: 'disjoint' });
    expect(report.scaling?.ratio).toBeGreaterThan(0.5);
    expect(report.finalStates[0]?.sizeBytes).toBe(3 * options.spanBytes);
  });

  test('makes an HTML report that asks for nothing', async () => {
    const html = overlapHtml(await runOn([new TearingFile()]));
    expect(html).toContain('prefers-color-scheme: dark');
    expect(html.match(/<svg /g)?.length).toBe(3);
    expect(html).toContain('which no order of whole writes gives');
    expect(html).not.toMatch(/https?:|\/\/[a-z]|\bsrc=|\bhref=|@import|url\(|<script/i);
    expect(html).not.toMatch(/NaN|Infinity|undefined/);
  });
});

test.each([
  [{ sizesBytes: [100] }, /multiple of 4096/],
  [{ sizesBytes: [65536] }, /does not fit/],
  [{ disjoint: true, writers: 1 }, /--writers 2/],
] as const)('options that contradict each other are refused: %j', (changed, message) => {
  expect(() => checkOverlapOptions({ ...options, ...changed })).toThrow(message);
});
