#!/usr/bin/env node
/**
 * What mount(8) calls for `mount -t weft URL MOUNTPOINT` and fstab lines: `mount.weft URL MOUNTPOINT [-sfnv] [-o OPTIONS]`.
 * The same as `weft mount URL MOUNTPOINT -o OPTIONS`.
 */
process.env.UV_THREADPOOL_SIZE ??= '32';
const [node = '', script = '', source = '', mountpoint = '', ...rest] = process.argv;
const at = rest.indexOf('-o');
const options = at >= 0 && rest[at + 1] ? ['-o', rest[at + 1] as string] : [];
const program: string = './bundle/main.js';
void import(program).then(({ main }) => main([node, script, 'mount', source, mountpoint, ...options]));
