/**
 * The content after the run, read through every target once more. It is judged like any read, with every write over
 * before it began: so it must show, unit by unit, a last write (nothing lost), be explained by one order of whole writes,
 * and be the same everywhere.
 */
import { describeFault } from './fault-text.ts';
import { OverlapChecker } from './overlap-checker.ts';
import type { OverlapDriver } from './overlap-driver.ts';
import type { FileInspection } from './overlap-file.ts';
import type { FinalFault, FinalState } from './overlap-report.ts';
import type { WriteHistory } from './write-history.ts';

/** `hung`: targets that are not asked any more. */
export async function finalStates(
  driver: Pick<OverlapDriver, 'labels' | 'inspect'>,
  history: WriteHistory,
  hung: ReadonlySet<number>,
): Promise<FinalState[]> {
  const states: FinalState[] = [];
  for (const [target, label] of driver.labels.entries()) {
    states.push(
      hung.has(target)
        ? unreadable(label, 'not tried: a caller hung there')
        : await finalState(driver, target, label, history),
    );
  }
  const first = states.find((state) => state.fault !== 'unreadable');
  return states.map((state) => {
    if (!first || state.fault || state.sha256 === first.sha256) return state;
    return { ...state, fault: 'differs' as const, detail: `differs from the content in ${first.label}` };
  });
}

async function finalState(
  driver: Pick<OverlapDriver, 'labels' | 'inspect'>,
  target: number,
  label: string,
  history: WriteHistory,
): Promise<FinalState> {
  try {
    return judgeFinal(label, await driver.inspect(target), history);
  } catch (error) {
    return unreadable(label, error instanceof Error ? error.message : String(error));
  }
}

function unreadable(label: string, detail: string): FinalState {
  return { label, sizeBytes: 0, sha256: '', fault: 'unreadable', detail };
}

export function judgeFinal(
  label: string,
  { read, sizeBytes, sha256 }: FileInspection,
  history: WriteHistory,
): FinalState {
  const checker = new OverlapChecker(history);
  const { fault } = checker.judge(read);
  const [example] = checker.examples.values();
  const state = { label, sizeBytes, sha256, detail: example ? describeFault(example) : null };
  const shown = read.runs.reduce((sum, run) => sum + run.unitCount, 0);
  if (shown < read.unitCount) return { ...state, fault: 'lost', detail: `the file is only ${sizeBytes} bytes long` };
  if (fault) return { ...state, fault: finalFaults[fault] };
  return { ...state, fault: checker.counts.mixedPages > 0 ? 'mixed' : null };
}

/** Nothing is written any more: what an earlier read had shown, and an acknowledged write, are lost if they do not show. */
const finalFaults: Record<'torn' | 'stale' | 'backward', FinalFault> = {
  torn: 'unexplained',
  stale: 'lost',
  backward: 'lost',
};
