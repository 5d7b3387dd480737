/**
 * A benchmark's report as one HTML file that needs nothing else: no script, no font, no address; a content security
 * policy forbids what it does not contain. Light and dark follow the reader's system.
 */
import os from 'node:os';
import { formatCount, formatNumber } from './bench-text.ts';
import { type MeasureReport, measureTable } from './measure-bench.ts';
import type { OverlapResult } from './overlap-bench.ts';
import { overlapText } from './overlap-text.ts';
import { escapeHtml, latencyPlot, linePlot } from './svg-plot.ts';
import { STEP_MS } from './throughput-series.ts';

const STYLE = `
:root { color-scheme: light dark; --ink: #1d2430; --soft: #5c6675; --paper: #fbfaf7; --rule: #dcd8cf; --good: #1a7f4b; --bad: #b3261e;
  --s0: #2563a8; --s1: #c4661f; --s2: #4a8a3c; --s3: #8a4fa3; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e3dc; --soft: #9aa3b0; --paper: #15181d; --rule: #343a43; --good: #5fce93;
  --bad: #ff8a80; --s0: #7ab2ee; --s1: #f0a062; --s2: #93cc83; --s3: #cf9be6; } }
body { margin: 2rem auto; max-width: 60rem; padding: 0 1rem; color: var(--ink); background: var(--paper); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.4rem; } .verdict { font-size: 1.15rem; font-weight: 600; } .good { color: var(--good); } .bad { color: var(--bad); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; } .wide { overflow-x: auto; }
th, td { padding: .25rem .8rem .25rem 0; text-align: right; border-bottom: 1px solid var(--rule); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
pre { overflow-x: auto; font-size: .85rem; border: 1px solid var(--rule); padding: .8rem; }
figure { margin: 1.5rem 0; } figcaption { font-weight: 600; } svg { width: 100%; height: auto; }
.legend span { font-weight: 400; color: var(--soft); margin-left: 1rem; } .key { display: inline-block; width: .8em; height: .8em; margin-right: .3em; }
.tick { fill: var(--soft); font-size: 11px; } .grid { stroke: var(--rule); } .line { fill: none; stroke-width: 1.5; } .bar { opacity: .75; }
.s0 { --c: var(--s0); } .s1 { --c: var(--s1); } .s2 { --c: var(--s2); } .s3 { --c: var(--s3); }
.line { stroke: var(--c); } .bar { fill: var(--c); } .key { background: var(--c); }
footer { color: var(--soft); font-size: .85rem; margin-top: 2rem; }`;

function page(title: string, passed: boolean, verdict: string, body: readonly string[]): string {
  const cpus = os.cpus();
  const machine = `${os.type()} ${os.release()}, ${cpus.length} x ${cpus[0]?.model ?? 'cpu'}, Node ${process.version}, load ${(os.loadavg()[0] ?? 0).toFixed(2)}`;
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>${escapeHtml(title)}</title><style>${STYLE}</style></head><body>
<h1>${escapeHtml(title)}</h1>
<p class="verdict ${passed ? 'good' : 'bad'}">${escapeHtml(verdict)}</p>
${body.join('\n')}
<footer>${escapeHtml(new Date().toISOString())}, ${escapeHtml(machine)}</footer>
</body></html>
`;
}

function htmlTable(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const cells = (tag: string, row: readonly string[]) =>
    `<tr>${row.map((cell) => `<${tag}>${escapeHtml(cell)}</${tag}>`).join('')}</tr>`;
  return `<div class="wide"><table>${cells('th', head)}${rows.map((row) => cells('td', row)).join('')}</table></div>`;
}

export function overlapHtml({ report, outcome }: OverlapResult): string {
  const perSecond = (values: readonly number[], unit: number) => values.map((value) => (value * 1000) / STEP_MS / unit);
  const both = [
    { name: 'writes', tally: outcome.writes },
    { name: 'reads', tally: outcome.reads },
  ].filter(({ tally }) => tally.calls > 0);
  const step = STEP_MS / 1000;
  const rows = [
    ['torn reads', report.torn],
    ['stale reads', report.stale],
    ['reads back in time', report.backward],
    ['mixed pages', report.mixedPages],
    ['places with wrong final content', report.finalStates.filter((state) => state.fault).length],
  ] as const;
  return page(`weft bench overlap: ${report.targets.join(', ')}`, report.passed, report.verdict, [
    htmlTable(
      ['fault', 'count'],
      rows.map(([name, count]) => [name, formatCount(count)]),
    ),
    linePlot(
      'Throughput',
      'MiB/s',
      step,
      both.map(({ name, tally }) => ({ name, values: perSecond(tally.series.bytes, 2 ** 20) })),
    ),
    linePlot(
      'Calls',
      'per second',
      step,
      both.map(({ name, tally }) => ({ name, values: perSecond(tally.series.calls, 1) })),
    ),
    latencyPlot(
      'Latency',
      both.map(({ name, tally }) => ({ name, bars: tally.latency.bars() })),
    ),
    `<pre>${escapeHtml(overlapText(report))}</pre>`,
  ]);
}

export function measureHtml(report: MeasureReport, title: string): string {
  const { head, rows } = measureTable(report);
  const plots = report.measurements.map(({ name, bars, callsPerSecond }) => {
    return latencyPlot(`${name}: ${formatNumber(callsPerSecond)} per second`, [{ name: 'latency', bars }]);
  });
  return page(`${title}: ${report.directories.join(', ')}`, report.passed, report.verdict, [
    htmlTable(head, rows),
    ...plots,
  ]);
}
