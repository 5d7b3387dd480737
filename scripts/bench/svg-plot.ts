/**
 * Plots as inline SVG: lines over time, bars over a logarithmic axis. Colours are CSS classes of html-report.ts, so one
 * picture serves light and dark. No namespace attribute: inside HTML the parser adds it, and the page names no address.
 */
import { formatNumber } from './bench-text.ts';

const WIDTH = 720;
const HEIGHT = 240;
const LEFT = 56;
const BOTTOM = 34;
const TOP = 10;
const RIGHT = 10;
const GRID_LINES = 4;

export interface PlotSeries {
  readonly name: string;
  readonly values: readonly number[];
}

/** Evenly spaced values from time 0 on, `stepSeconds` apart. */
export function linePlot(title: string, yLabel: string, stepSeconds: number, series: readonly PlotSeries[]): string {
  const steps = Math.max(2, ...series.map((each) => each.values.length));
  const top = niceTop(Math.max(0, ...series.flatMap((each) => thinOut(each.values, 2000))));
  const x = (index: number) => LEFT + (index / (steps - 1)) * (WIDTH - LEFT - RIGHT);
  const lines = series.map(({ values }, number) => {
    const stride = Math.max(1, Math.ceil(values.length / 2000));
    const points = thinOut(values, 2000).map(
      (value, index) => `${x(index * stride).toFixed(1)},${y(value, top).toFixed(1)}`,
    );
    return `<polyline class="line s${number % 4}" points="${points.join(' ')}"/>`;
  });
  const ticks = [0, 0.25, 0.5, 0.75, 1].map((part) => {
    const at = LEFT + part * (WIDTH - LEFT - RIGHT);
    return `<text class="tick" x="${at}" y="${HEIGHT - 18}" text-anchor="middle">${formatNumber(part * (steps - 1) * stepSeconds)}</text>`;
  });
  return figure(
    title,
    series.map((each) => each.name),
    [...grid(top), ...lines, ...ticks, axisLabels('seconds', yLabel)],
  );
}

export interface PlotBar {
  readonly fromMs: number;
  readonly toMs: number;
  readonly count: number;
}

/** Latency histogram: each bar is a step of the logarithmic axis. The series share the axis. */
export function latencyPlot(
  title: string,
  series: readonly { readonly name: string; readonly bars: readonly PlotBar[] }[],
): string {
  const all = series.flatMap((each) => each.bars);
  if (all.length === 0) return '';
  const from = Math.log2(Math.min(...all.map((bar) => bar.fromMs)));
  const to = Math.log2(Math.max(...all.map((bar) => bar.toMs)));
  const x = (ms: number) => LEFT + ((Math.log2(ms) - from) / (to - from)) * (WIDTH - LEFT - RIGHT);
  const top = niceTop(Math.max(...all.map((bar) => bar.count)));
  const rects = series.flatMap(({ bars }, number) =>
    bars.map(({ fromMs, toMs, count }) => {
      const [left, upper] = [x(fromMs), y(count, top)];
      const size = `width="${Math.max(1, x(toMs) - left - 0.5).toFixed(1)}" height="${(HEIGHT - BOTTOM - upper).toFixed(1)}"`;
      return `<rect class="bar s${number % 4}" x="${left.toFixed(1)}" y="${upper.toFixed(1)}" ${size}><title>${formatNumber(fromMs)}-${formatNumber(toMs)} ms: ${count}</title></rect>`;
    }),
  );
  const ticks: string[] = [];
  for (let power = Math.ceil(from / Math.log2(10)); power <= to / Math.log2(10); power++) {
    ticks.push(
      `<text class="tick" x="${x(10 ** power).toFixed(1)}" y="${HEIGHT - 18}" text-anchor="middle">${10 ** power}</text>`,
    );
  }
  return figure(
    title,
    series.map((each) => each.name),
    [...grid(top), ...rects, ...ticks, axisLabels('milliseconds', 'calls')],
  );
}

function figure(title: string, names: readonly string[], parts: readonly string[]): string {
  const legend = names
    .map((name, number) => `<span><i class="key s${number % 4}"></i>${escapeHtml(name)}</span>`)
    .join('');
  const svg = `<svg viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" aria-label="${escapeHtml(title)}">${parts.join('')}</svg>`;
  return `<figure><figcaption>${escapeHtml(title)} <span class="legend">${legend}</span></figcaption>${svg}</figure>`;
}

function y(value: number, top: number): number {
  return HEIGHT - BOTTOM - (value / top) * (HEIGHT - BOTTOM - TOP);
}

function grid(top: number): string[] {
  return Array.from({ length: GRID_LINES + 1 }, (_, index) => {
    const value = (top * index) / GRID_LINES;
    const at = y(value, top).toFixed(1);
    const label = `<text class="tick" x="${LEFT - 6}" y="${Number(at) + 4}" text-anchor="end">${formatNumber(value)}</text>`;
    return `<line class="grid" x1="${LEFT}" x2="${WIDTH - RIGHT}" y1="${at}" y2="${at}"/>${label}`;
  });
}

function axisLabels(xLabel: string, yLabel: string): string {
  const below = `<text class="tick" x="${(LEFT + WIDTH - RIGHT) / 2}" y="${HEIGHT - 3}" text-anchor="middle">${escapeHtml(xLabel)}</text>`;
  const middle = (HEIGHT - BOTTOM + TOP) / 2;
  return `${below}<text class="tick" transform="translate(12 ${middle}) rotate(-90)" text-anchor="middle">${escapeHtml(yLabel)}</text>`;
}

/** 1, 2, 2.5, 5 or 10 times a power of ten, at least `value`. */
function niceTop(value: number): number {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return (([1, 2, 2.5, 5, 10].find((step) => step * power >= value) as number) ?? 10) * power;
}

/** Means of neighbours, so that at most `limit` points are left. */
function thinOut(values: readonly number[], limit: number): number[] {
  const stride = Math.max(1, Math.ceil(values.length / limit));
  const thinned: number[] = [];
  for (let index = 0; index < values.length; index += stride) {
    const group = values.slice(index, index + stride);
    thinned.push(group.reduce((sum, value) => sum + value, 0) / group.length);
  }
  return thinned;
}

export function escapeHtml(text: string): string {
  return text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
}
