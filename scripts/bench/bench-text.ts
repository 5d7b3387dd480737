/**
 * Numbers and tables as a person reads them.
 */
import Table from 'cli-table3';

export function formatCount(count: number): string {
  return Math.round(count).toLocaleString('en-US');
}

export function formatSize(bytes: number): string {
  for (const [unit, size] of [
    ['GiB', 2 ** 30],
    ['MiB', 2 ** 20],
    ['KiB', 1024],
  ] as const) {
    if (bytes >= size) return `${Number((bytes / size).toFixed(1))} ${unit}`;
  }
  return `${bytes} B`;
}

/** Rates and latencies: three significant digits, thousands separated. */
export function formatNumber(value: number): string {
  if (value >= 100) return formatCount(value);
  return String(Number(value.toPrecision(3)));
}

export function plural(count: number, noun: string, nouns = `${noun}s`): string {
  return `${formatCount(count)} ${count === 1 ? noun : nouns}`;
}

/** The first column is text, the others are numbers. */
export function formatTable(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = { mid: '', 'left-mid': '', 'mid-mid': '', 'right-mid': '' };
  const frame = {
    top: '',
    'top-mid': '',
    'top-left': '',
    'top-right': '',
    bottom: '',
    'bottom-mid': '',
    'bottom-left': '',
    'bottom-right': '',
  };
  const table = new Table({
    head: [...head],
    chars: { ...frame, ...line, left: '', right: '', middle: '  ' },
    style: { 'padding-left': 0, 'padding-right': 0, head: [], border: [] },
    colAligns: head.map((_, index) => (index === 0 ? 'left' : 'right')),
  });
  for (const row of rows) table.push([...row]);
  return table
    .toString()
    .split('\n')
    .map((each) => each.trimEnd())
    .join('\n');
}
