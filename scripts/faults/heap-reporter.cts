/**
 * Loaded into a program that is watched (`NODE_OPTIONS=--require`): on SIGUSR2 it collects its garbage and writes what is left,
 * in bytes (heap and buffers), to the file `$HEAP_REPORTS/<pid>`.
 */
const { renameSync, writeFileSync } = require('node:fs') as typeof import('node:fs');
const { setFlagsFromString } = require('node:v8') as typeof import('node:v8');
const { runInNewContext } = require('node:vm') as typeof import('node:vm');

setFlagsFromString('--expose-gc');
const collectGarbage = runInNewContext('gc') as () => void;

process.on('SIGUSR2', () => {
  collectGarbage();
  collectGarbage();
  const { heapUsed, external } = process.memoryUsage();
  const file = `${process.env.HEAP_REPORTS}/${process.pid}`;
  writeFileSync(`${file}.new`, String(heapUsed + external));
  renameSync(`${file}.new`, file);
});
