/**
 * Who carries an overlap run out: processes of their own over directories, or callers side by side in this process over
 * any target. The run itself (phases, checker, report) is the same for both.
 */
import type { CallerJob, CallerReport } from './overlap-caller.ts';
import type { FileInspection } from './overlap-file.ts';

/** A caller of the next phase; it works through the target of that index. */
export interface CallerPlan {
  readonly target: number;
  readonly job: Omit<CallerJob, 'endNs'>;
}

/** A caller that did not get to its end: why, in words. */
export interface CallerFailure {
  readonly caller: number;
  readonly target: number;
  readonly hung: boolean;
  readonly reason: string;
}

export interface CallerPhase {
  readonly plans: readonly CallerPlan[];
  readonly durationMs: number;
  /** All callers have the file open, writers first; called right before they start. */
  started(startNs: number): void;
  report(report: CallerReport): void;
}

export interface OverlapDriver {
  readonly labels: readonly string[];
  /** Makes and fills the file through the first target. */
  prepare(): Promise<void>;
  /** Runs all callers of the phase at once. */
  run(phase: CallerPhase): Promise<readonly CallerFailure[]>;
  inspect(target: number): Promise<FileInspection>;
  /** Removes the file and ends what still runs. Never fails, never waits for long. */
  cleanUp(): Promise<void>;
}

export interface OverlapFileSetup {
  readonly fileName: string;
  readonly fileUnits: number;
  readonly runNonce: number;
  readonly direct: boolean;
}
