#!/usr/bin/env node
/**
 * The `weft` command's first steps. CommonJS, because the size of libuv's thread pool counts only if it is set before the
 * pool's first use, and loading an ES module is one: blocking reads of /dev/fuse each hold a thread.
 */
process.env.UV_THREADPOOL_SIZE ??= '32';
void import('./main.js').then(({ main }) => main(process.argv));
