/**
 * Overlap callers as processes, one each, spread over directories that show the same files. Whatever may hang in the
 * kernel happens in a WatchedChild, the file's creation, inspection and removal included.
 */
import { monotonicClock } from './monotonic-clock.ts';
import type { ChildMessage, ChildStart, ChildTask } from './overlap-child.ts';
import type { CallerFailure, CallerPhase, CallerPlan, OverlapDriver, OverlapFileSetup } from './overlap-driver.ts';
import type { FileInspection } from './overlap-file.ts';
import { WatchedChild } from './watched-child.ts';

const CLEAN_UP_MS = 10_000;

type Child = WatchedChild<ChildTask, ChildMessage>;
type WhatToDo =
  | { readonly kind: 'prepare' | 'inspect' | 'remove' }
  | { readonly kind: 'call'; readonly plan: CallerPlan };

export class ProcessDriver implements OverlapDriver {
  readonly labels: readonly string[];
  readonly #setup: OverlapFileSetup;
  readonly #clockBase: bigint;
  readonly #stallMs: number;
  readonly #running = new Set<Child>();

  constructor(directories: readonly string[], setup: OverlapFileSetup, clockBase: bigint, stallMs: number) {
    this.labels = directories;
    this.#setup = setup;
    this.#clockBase = clockBase;
    this.#stallMs = stallMs;
  }

  async prepare(): Promise<void> {
    await this.#once(0, 'prepare', this.#stallMs);
  }

  async inspect(target: number): Promise<FileInspection> {
    let found: FileInspection | undefined;
    await this.#once(target, 'inspect', this.#stallMs, (message) => {
      if (message.kind === 'inspection') found = message.inspection;
    });
    if (!found) throw new Error('the final content was not read');
    return found;
  }

  async cleanUp(): Promise<void> {
    for (const child of this.#running) child.kill('ended by the benchmark');
    // Another directory is tried when the first hangs or fails: they show the same files.
    for (const target of this.labels.keys()) {
      const removed = await this.#once(target, 'remove', CLEAN_UP_MS).then(
        () => true,
        () => false,
      );
      if (removed) return;
    }
  }

  async run(phase: CallerPhase): Promise<readonly CallerFailure[]> {
    const failures: CallerFailure[] = [];
    const callers = new Set<Child>();
    const ends: Promise<void>[] = [];
    // Writers open first: a filesystem may treat a file differently once somebody has it open for writing.
    for (const role of ['write', 'read'] as const) {
      const opened = phase.plans
        .filter((plan) => plan.job.role === role)
        .map((plan) => this.#startCaller(plan, phase, callers, ends, failures));
      await Promise.all(opened);
      // Without all callers it would not be the run that was asked for.
      if (failures.length > 0) return this.#abandon(callers, failures);
    }
    const startNs = monotonicClock(this.#clockBase)();
    phase.started(startNs);
    const start: ChildStart = { endNs: startNs + phase.durationMs * 1e6 };
    for (const child of callers) child.send(start);
    await Promise.all(ends);
    return failures;
  }

  #abandon(callers: Set<Child>, failures: readonly CallerFailure[]): readonly CallerFailure[] {
    const why = [...failures];
    for (const child of callers) child.kill('another caller could not begin');
    return why;
  }

  /** Resolves when the caller has the file open, or has failed. */
  #startCaller(
    plan: CallerPlan,
    phase: CallerPhase,
    callers: Set<Child>,
    ends: Promise<void>[],
    failures: CallerFailure[],
  ): Promise<void> {
    return new Promise((resolve) => {
      const child = this.#fork(plan.target, { kind: 'call', plan }, this.#stallMs, (message) => {
        if (message.kind === 'ready') resolve();
        if (message.kind === 'report') phase.report(message.report);
      });
      callers.add(child);
      const ended = child.ended.then((reason) => {
        if (reason !== null) failures.push({ caller: plan.job.caller, target: plan.target, hung: child.hung, reason });
        callers.delete(child);
        resolve();
      });
      ends.push(ended);
    });
  }

  async #once(
    target: number,
    kind: 'prepare' | 'inspect' | 'remove',
    stallMs: number,
    message: (message: ChildMessage) => void = () => {},
  ): Promise<void> {
    const reason = await this.#fork(target, { kind }, stallMs, message).ended;
    if (reason !== null) throw new Error(`${this.labels[target]}: ${reason}`);
  }

  #fork(target: number, what: WhatToDo, stallMs: number, message: (message: ChildMessage) => void): Child {
    const task: ChildTask = {
      directory: this.labels[target] as string,
      clockBase: this.#clockBase,
      setup: this.#setup,
      ...what,
    };
    const child: Child = new WatchedChild(task, { module: '../bench/overlap-child.js', stallMs, message });
    this.#running.add(child);
    void child.ended.then(() => this.#running.delete(child));
    return child;
  }
}
