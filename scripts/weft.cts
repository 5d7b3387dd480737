#!/usr/bin/env node
/**
 * The `weft` command's first steps. CommonJS, because they come before anything else is loaded: the size of libuv's thread
 * pool counts only if it is set before the pool's first use, and loading an ES module is one; blocking reads of /dev/fuse
 * each hold a thread.
 */
process.env.UV_THREADPOOL_SIZE ??= '32';
/**
 * A mount's first thousands of operations are most of what many mounts ever do, and V8 optimises a function only after
 * 132 KiB of its bytecode were run. This is sooner; sooner still, and the compiler takes the processors from a stream of
 * data. Node 20 alone: later ones have a compiler for the time in between.
 */
if (process.versions.v8.startsWith('11.')) {
  process.getBuiltinModule('node:v8').setFlagsFromString('--interrupt-budget=40000');
}
/** Made by scripts/bundle.mjs. */
const program: string = './bundle/main.js';
void import(program).then(({ main }) => main(process.argv));
