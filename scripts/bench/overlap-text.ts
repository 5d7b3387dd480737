/**
 * The result of an overlap run for a person: the verdict in one line, then what it stands on.
 */
import { formatCount, formatNumber, formatSize, formatTable, plural } from './bench-text.ts';
import type { FaultCounts } from './overlap-checker.ts';
import type { CallSummary, FinalState, OverlapReport } from './overlap-report.ts';

export interface VerdictFacts {
  readonly counts: FaultCounts;
  readonly reads: CallSummary;
  readonly writes: CallSummary;
  readonly finalFaults: number;
  /** Of these, places that could not be read at all. */
  readonly unreadable: number;
  readonly targets: number;
  readonly hung: number;
  readonly failed: number;
  readonly elapsedSeconds: number;
}

/** `0 torn in 12,345 reads, 8,901 writes: ...`; what is wrong comes first. */
export function verdictText({
  counts,
  reads,
  writes,
  finalFaults,
  unreadable,
  targets,
  hung,
  failed,
  elapsedSeconds,
}: VerdictFacts): string {
  const finalWrong = finalFaults - unreadable;
  const wrong = [
    ...(counts.stale > 0 ? [`${formatCount(counts.stale)} stale`] : []),
    ...(counts.backward > 0 ? [`${formatCount(counts.backward)} back in time`] : []),
    ...(counts.mixedPages > 0 ? [`${plural(counts.mixedPages, 'mixed page')}`] : []),
    ...(finalWrong > 0 ? [`final content wrong in ${finalWrong} of ${plural(targets, 'place')}`] : []),
    ...(unreadable > 0 ? [`final content not read in ${unreadable} of ${plural(targets, 'place')}`] : []),
    ...(reads.errors + writes.errors > 0 ? [plural(reads.errors + writes.errors, 'error')] : []),
    ...(reads.short + writes.short > 0 ? [plural(reads.short + writes.short, 'short call')] : []),
    ...(hung > 0 ? [`${plural(hung, 'caller')} hung`] : []),
    ...(failed > 0 ? [`${plural(failed, 'caller')} failed`] : []),
  ];
  const where = targets === 1 ? '' : ` through ${targets} places`;
  const base = `${formatCount(counts.torn)} torn in ${plural(reads.calls, 'read')}, ${plural(writes.calls, 'write')}${where} in ${formatNumber(elapsedSeconds)} s`;
  if (wrong.length > 0) return `${base}; ${wrong.join(', ')}`;
  if (counts.torn > 0) return `${base}; final content whole`;
  return `${base}; every read and the final content whole`;
}

function callRow(name: string, { calls, callsPerSecond, mibPerSecond, latency }: CallSummary): string[] {
  const times = [latency.p50Ms, latency.p95Ms, latency.p99Ms, latency.maxMs].map(formatNumber);
  return [name, formatCount(calls), formatNumber(callsPerSecond), formatNumber(mibPerSecond), ...times];
}

/** With hundreds of clients the places that are whole are one line. */
const FEW_PLACES = 4;

function finalLines(states: readonly FinalState[]): string[] {
  const whole = states.filter((state) => state.fault === null);
  const grouped = whole.length > FEW_PLACES;
  const shown = grouped ? states.filter((state) => state.fault !== null) : states;
  const lines = shown.map(({ label, fault, detail, sha256 }) => {
    return `  final content in ${label}: ${fault ? `${fault.toUpperCase()}: ${detail ?? ''}` : `whole, sha256 ${sha256.slice(0, 16)}`}`;
  });
  if (grouped)
    lines.push(`  final content in ${plural(whole.length, 'place')}: whole, sha256 ${whole[0]?.sha256.slice(0, 16)}`);
  return lines;
}

export function overlapText(report: OverlapReport): string {
  const { writes, reads, scaling } = report;
  const sizes = report.sizesBytes.map(formatSize).join(', ');
  const shape =
    report.mode === 'disjoint'
      ? `${plural(report.writers, 'writer')}, each on its own ${formatSize(report.spanBytes)} of one file`
      : `${plural(report.writers, 'writer')} and ${plural(report.readers, 'reader')} on the same ${formatSize(report.spanBytes)} of one file`;
  const rows = [callRow('write', writes), ...(reads.calls > 0 ? [callRow('read', reads)] : [])];
  const lines = [
    report.verdict,
    '',
    `  ${shape}; ranges of up to ${sizes}${report.direct ? '; O_DIRECT' : ''}; seed ${report.seed}`,
    '',
    formatTable(['', 'calls', 'per s', 'MiB/s', 'p50 ms', 'p95 ms', 'p99 ms', 'max ms'], rows).replace(/^/gm, '  '),
    '',
    `  reads torn ${formatCount(report.torn)}, stale ${formatCount(report.stale)}, back in time ${formatCount(report.backward)}; pages mixed ${formatCount(report.mixedPages)}`,
  ];
  if (scaling) {
    const [one, all] = [formatNumber(scaling.oneWriterMibPerSecond), formatNumber(scaling.allWritersMibPerSecond)];
    lines.push(
      `  1 writer ${one} MiB/s, ${plural(report.writers, 'writer')} ${all} MiB/s together: ratio ${scaling.ratio.toFixed(2)}`,
    );
  }
  lines.push(...finalLines(report.finalStates));
  for (const [what, { errors, short, firstError }] of [
    ['write', writes],
    ['read', reads],
  ] as const) {
    if (errors > 0) lines.push(`  ${plural(errors, `${what} error`)}, the first: ${firstError}`);
    if (short > 0) lines.push(`  ${plural(short, `short ${what}`)}`);
  }
  for (const { caller, target, reason } of report.failures) lines.push(`  caller ${caller} in ${target}: ${reason}`);
  for (const { text } of report.examples) lines.push('', text.replace(/^/gm, '  '));
  return lines.join('\n');
}
