#!/usr/bin/env node
/** What mount(8) calls for `mount -t weft URL MOUNTPOINT` and fstab lines: see mount-helper.ts. */
process.env.UV_THREADPOOL_SIZE ??= '32';
const program: string = './bundle/main.js';
void import(program).then(({ mainOfHelper }) => mainOfHelper(process.argv));
