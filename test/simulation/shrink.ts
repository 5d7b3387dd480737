/** Makes a scenario that fails smaller, as long as it fails: faults go first, then operations. */
import type { Scenario } from './scenario.ts';
import { type Outcome, type Sabotage, simulate } from './simulation.ts';

export async function shrink(
  from: Scenario,
  sabotage?: Sabotage,
): Promise<{ readonly scenario: Scenario; readonly outcome: Outcome }> {
  let scenario = from;
  let outcome = await simulate(from, sabotage);
  for (;;) {
    let smaller: Scenario | undefined;
    for (const candidate of smallerThan(scenario)) {
      const tried = await simulate(candidate, sabotage);
      if (tried.violations.length === 0) continue;
      smaller = candidate;
      outcome = tried;
      break;
    }
    if (smaller === undefined) return { scenario, outcome };
    scenario = smaller;
  }
}

function smallerThan(scenario: Scenario): Scenario[] {
  const { faults, operations, stamps = 0, readsAgain, looksAgain } = scenario;
  const withoutOne = faults.map((_fault, index) => ({
    ...scenario,
    faults: faults.filter((_one, at) => at !== index),
  }));
  const fewer =
    operations > 1
      ? [
          { ...scenario, operations: operations >> 1 },
          { ...scenario, operations: operations - 1 },
        ]
      : [];
  const fewerStamps = stamps > 0 ? [{ ...scenario, stamps: stamps - 1 }] : [];
  const once = readsAgain ? [{ ...scenario, readsAgain: false }] : [];
  const lookedOnce = looksAgain ? [{ ...scenario, looksAgain: false }] : [];
  return [...withoutOne, ...fewer, ...fewerStamps, ...once, ...lookedOnce];
}
