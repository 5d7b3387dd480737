/** Scenarios that failed once, as `scripts/simulate` printed them; the default tests run them again. */
import type { Scenario } from './scenario.ts';

export const regressions: readonly Scenario[] = [];
