/**
 * Puts the modules of the `weft` command, ours and those of the packages that it uses, into a few files below dist/scripts/bundle:
 * a mount is three starts of it, and half of a start was finding and reading two hundred files. Native packages
 * stay outside. The licences of what is inside are put beside it. Called by `npm run build`.
 *
 * The files lie as deep as those of dist/scripts/commands, so that what these find by `import.meta.url` they find from there too.
 */
import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join, resolve, sep } from 'node:path';
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

/** Directories. The bundler puts some lines of its own in. */
const packages = new Set([resolve('node_modules/rolldown')]);
for (const { moduleIds = [] } of output) {
  for (const id of moduleIds) {
    const at = id.lastIndexOf(`${sep}node_modules${sep}`);
    if (at < 0) continue;
    const inside = id.slice(at).split(sep);
    packages.add(id.slice(0, at) + inside.slice(0, inside[2].startsWith('@') ? 4 : 3).join(sep));
  }
}

function licenceOf(directory) {
  const { name, version, license } = JSON.parse(readFileSync(join(directory, 'package.json'), 'utf8'));
  const file = readdirSync(directory).find((one) => /^(licen[cs]e|copying)/i.test(one));
  const text = file ? readFileSync(join(directory, file), 'utf8').trim() : license;
  return `${name} ${version} (${license})\n\n${text}\n`;
}
writeFileSync(
  join(target, 'LICENSES.txt'),
  [...packages]
    .sort()
    .map(licenceOf)
    .join(`\n${'-'.repeat(80)}\n\n`),
);
