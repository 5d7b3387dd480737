/**
 * Puts the modules of the `weft` command, ours and those of the packages that it uses, into a few files below dist/scripts/bundle:
 * a mount is three starts of it, and half of a start was finding and reading two hundred files. Native packages
 * stay outside. The licences of what is inside are put beside it. Called by `npm run build`.
 */
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join, sep } from 'node:path';
import { rolldown } from 'rolldown';

const target = 'dist/scripts/bundle';
/** Addons, and what others load if it is there. */
const OUTSIDE = ['koffi', 'fuse-native', 'msgpackr-extract', 'bufferutil', 'utf-8-validate', 'pino-pretty'];

rmSync(target, { recursive: true, force: true });
const bundle = await rolldown({
  input: { main: 'dist/scripts/main.js' },
  platform: 'node',
  external: [/^node:/, ...OUTSIDE],
});
const { output } = await bundle.write({ dir: target, format: 'esm' });
await bundle.close();

const packages = new Set();
for (const { moduleIds = [] } of output) {
  for (const id of moduleIds) {
    const [, inside] = id.split(`${sep}node_modules${sep}`);
    if (inside) packages.add(inside.split(sep, inside.startsWith('@') ? 2 : 1).join('/'));
  }
}

function licenceOf(name) {
  const directory = join('node_modules', name);
  const { version, license } = JSON.parse(readFileSync(join(directory, 'package.json'), 'utf8'));
  const file = readdirSync(directory).find((one) => /^(licen[cs]e|copying)/i.test(one));
  const text = file && existsSync(join(directory, file)) ? readFileSync(join(directory, file), 'utf8').trim() : license;
  return `${name} ${version} (${license})\n\n${text}\n`;
}
writeFileSync(
  join(target, 'LICENSES.txt'),
  [...packages]
    .sort()
    .map(licenceOf)
    .join(`\n${'-'.repeat(80)}\n\n`),
);
