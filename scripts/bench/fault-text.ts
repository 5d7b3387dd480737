/**
 * A fault of the overlap checker in words, for a person who wants to see that it is one: where, which writes, which
 * units, and the contradiction step by step.
 */
import type { FaultExample } from './overlap-checker.ts';
import type { OrderStep } from './serial-order.ts';
import { GARBLED, UNIT_BYTES, type WriteTag } from './tagged-unit.ts';

const MAX_RUNS = 12;

export function describeFault({ fault, read, verdict }: FaultExample): string {
  const who = read.reader === 0 ? 'the final content' : `reader ${read.reader}`;
  const lines = [`${fault}: ${who} read bytes ${rangeText(read)} in one call and saw`];
  for (const run of read.runs.slice(0, MAX_RUNS)) {
    const what = run.tag.writer === GARBLED ? 'units that no write can have left like this' : writeText(run.tag);
    lines.push(`    bytes ${rangeText(run)}: ${what}`);
  }
  if (read.runs.length > MAX_RUNS) lines.push(`    and ${read.runs.length - MAX_RUNS} more pieces`);
  if (verdict.cycle.length > 0) lines.push('  which no order of whole writes gives:', ...verdict.cycle.map(stepText));
  return lines.join('\n');
}

function rangeText({ startUnit, unitCount }: { readonly startUnit: number; readonly unitCount: number }): string {
  return `[${startUnit * UNIT_BYTES}, ${(startUnit + unitCount) * UNIT_BYTES})`;
}

function writeText(tag: WriteTag): string {
  if (tag.writer === 0) return 'the initial content';
  return `write ${tag.writer}#${tag.sequence} of bytes ${rangeText(tag)}`;
}

function nameText(tag: WriteTag): string {
  return tag.writer === 0 ? 'the initial content' : `${tag.writer}#${tag.sequence}`;
}

function stepText({ before, after, why }: OrderStep): string {
  const [from, to] = [nameText(before), nameText(after)];
  if (before === after) return `    ${from} shows, although ${why}`;
  return `    ${from} came before ${to}: ${why}`;
}
