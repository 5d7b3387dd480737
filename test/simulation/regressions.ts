/** Scenarios that failed once, as `scripts/simulate` printed them; the default tests run them again. */
import type { Scenario } from './scenario.ts';

export const regressions: readonly Scenario[] = [
  // The simulation looked at a write that was under way: its client had crashed.
  {
    seed: 6233,
    clients: 2,
    processes: 2,
    operations: 6,
    hasKernel: false,
    faults: [
      { kind: 'crashClient', atMs: 323, forMs: 7549, client: 0 },
      { kind: 'slowDisk', atMs: 359, forMs: 998, client: 1 },
      { kind: 'crashClient', atMs: 566, forMs: 7641, client: 1 },
    ],
  },
];
