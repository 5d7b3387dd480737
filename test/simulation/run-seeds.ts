/** Runs seeds in this process: `node run-seeds.js FIRST COUNT MINUTES`. Prints each that fails, and the tally last. */
import { scenarioOf } from './scenario.ts';
import { shrink } from './shrink.ts';
import { simulate } from './simulation.ts';

const [first = 1, count = 1000, minutes = 10] = process.argv.slice(2).map(Number);
const untilMs = Date.now() + minutes * 60_000;
let done = 0;
let failed = 0;
for (let seed = first; seed < first + count && Date.now() < untilMs; seed++) {
  const outcome = await simulate(scenarioOf(seed));
  done++;
  if (outcome.violations.length === 0) continue;
  failed++;
  const { scenario, outcome: smallest } = await shrink(scenarioOf(seed));
  console.log(`seed ${seed}: ${outcome.violations.join('; ')}`);
  console.log(`  as a row: ${JSON.stringify(scenario)}`);
  if (failed <= 3) console.log(smallest.history.map((line) => `    ${line}`).join('\n'));
}
console.log(`${done} seeds, ${failed} failed`);
process.exit(failed > 0 ? 1 : 0);
