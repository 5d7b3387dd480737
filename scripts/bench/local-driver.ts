/**
 * Overlap callers side by side in this process, each with a file of its own opened on one of the targets: for servers
 * without a mount (hundreds of clients) and for the tests of the checker.
 */
import { monotonicClock } from './monotonic-clock.ts';
import { runCaller } from './overlap-caller.ts';
import type { CallerFailure, CallerPhase, CallerPlan, OverlapDriver, OverlapFileSetup } from './overlap-driver.ts';
import { type FileInspection, fillFile, inspectFile } from './overlap-file.ts';
import type { OverlapFile, OverlapTarget } from './overlap-target.ts';

const WATCH_EVERY_MS = 250;
const CLEAN_UP_MS = 10_000;

export class LocalDriver implements OverlapDriver {
  readonly labels: readonly string[];
  readonly #targets: readonly OverlapTarget[];
  readonly #setup: OverlapFileSetup;
  readonly #clockBase: bigint;
  readonly #stallMs: number;

  constructor(targets: readonly OverlapTarget[], setup: OverlapFileSetup, clockBase: bigint, stallMs: number) {
    this.#targets = targets;
    this.labels = targets.map((target) => target.label);
    this.#setup = setup;
    this.#clockBase = clockBase;
    this.#stallMs = stallMs;
  }

  async prepare(): Promise<void> {
    await within(this.#stallMs, 'the file could not be made', async () => {
      const target = this.#target(0);
      await target.createFile(this.#setup.fileName);
      const file = await target.openFile(this.#setup.fileName, 'write', false);
      await fillFile(file, this.#setup.fileUnits, this.#setup.runNonce);
      await file.close();
    });
  }

  async run(phase: CallerPhase): Promise<readonly CallerFailure[]> {
    const failures: CallerFailure[] = [];
    const clock = monotonicClock(this.#clockBase);
    const opened: { readonly plan: CallerPlan; readonly file: OverlapFile }[] = [];
    // Writers are first in the plans: see ProcessDriver.
    for (const plan of phase.plans) {
      const file = this.#target(plan.target).openFile(this.#setup.fileName, plan.job.role, this.#setup.direct);
      opened.push({ plan, file: await within(this.#stallMs, 'the file could not be opened', () => file) });
    }
    const startNs = clock();
    phase.started(startNs);
    const endNs = startNs + phase.durationMs * 1e6;
    await Promise.all(
      opened.map(async ({ plan, file }) => {
        const watch = new CallerWatch(this.#stallMs);
        const working = runCaller({ ...plan.job, endNs }, file, clock, (report) => {
          // Given up: what comes late ends the caller instead of counting.
          if (watch.isOver) return Promise.reject(new StalledError('given up'));
          watch.heard();
          phase.report(report);
          // The other callers, sockets and signals of this process get their turn even if no call ever waits.
          return new Promise((resolve) => setImmediate(resolve));
        });
        try {
          await Promise.race([working.then(() => file.close()), watch.stalled]);
        } catch (error) {
          const reason = error instanceof Error ? error.message : String(error);
          failures.push({ caller: plan.job.caller, target: plan.target, hung: error instanceof StalledError, reason });
        } finally {
          watch.end();
        }
      }),
    );
    return failures;
  }

  async inspect(target: number): Promise<FileInspection> {
    return within(this.#stallMs, 'the final content could not be read', async () => {
      const file = await this.#target(target).openFile(this.#setup.fileName, 'read', false);
      const inspection = await inspectFile(
        file,
        this.#setup.fileUnits,
        this.#setup.runNonce,
        monotonicClock(this.#clockBase),
      );
      await file.close();
      return inspection;
    });
  }

  async cleanUp(): Promise<void> {
    const removed = within(CLEAN_UP_MS, 'the file could not be removed', () =>
      this.#target(0).removeFile(this.#setup.fileName),
    );
    await removed.catch(() => {});
    await Promise.all(this.#targets.map((target) => target.close().catch(() => {})));
  }

  #target(index: number): OverlapTarget {
    return this.#targets[index] as OverlapTarget;
  }
}

class StalledError extends Error {
  override readonly name = 'StalledError';
}

/** Rejects `stalled` when heard() has not been called for `stallMs`. */
class CallerWatch {
  readonly stalled: Promise<never>;
  readonly #timer: NodeJS.Timeout;
  #lastHeardMs = Date.now();
  isOver = false;

  constructor(stallMs: number) {
    let reject: (error: Error) => void = () => {};
    this.stalled = new Promise((_, rejectStalled) => {
      reject = rejectStalled;
    });
    this.#timer = setInterval(() => {
      const silentMs = Date.now() - this.#lastHeardMs;
      if (silentMs >= stallMs) reject(new StalledError(`hung: no sign of life for ${Math.round(silentMs / 1000)} s`));
    }, WATCH_EVERY_MS);
  }

  heard(): void {
    this.#lastHeardMs = Date.now();
  }

  end(): void {
    this.isOver = true;
    clearInterval(this.#timer);
  }
}

async function within<T>(limitMs: number, what: string, work: () => Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const tooLong = new Promise<never>((_, reject) => {
    timer = setTimeout(
      () => reject(new StalledError(`${what}: no answer for ${Math.round(limitMs / 1000)} s`)),
      limitMs,
    );
  });
  try {
    return await Promise.race([work(), tooLong]);
  } finally {
    clearTimeout(timer);
  }
}
