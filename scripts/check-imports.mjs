/**
 * Checks that imports run one way: server -> shared <- client-fuse, scripts above all three, no circles. Types count too.
 * Prints each import that does not, and exits with 1.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = resolve(dirname(fileURLToPath(import.meta.url)), '..');
const allowed = {
  shared: ['shared'],
  server: ['server', 'shared'],
  'client-fuse': ['client-fuse', 'shared'],
  scripts: ['scripts', 'server', 'client-fuse', 'shared'],
};

function filesBelow(directory) {
  return readdirSync(directory, { withFileTypes: true }).flatMap((one) => {
    const path = join(directory, one.name);
    if (one.isDirectory()) return filesBelow(path);
    return path.endsWith('.ts') ? [path] : [];
  });
}

const problems = [];
const graph = new Map();
for (const room of Object.keys(allowed)) {
  for (const file of filesBelow(join(root, room))) {
    const imports = [...readFileSync(file, 'utf8').matchAll(/(?:from|import\() ?'(\.[^']+)'/g)].map((match) =>
      resolve(dirname(file), match[1]),
    );
    graph.set(file, imports);
    for (const target of imports) {
      const targetRoom = relative(root, target).split('/')[0];
      if (!allowed[room].includes(targetRoom))
        problems.push(`${relative(root, file)} imports ${relative(root, target)}`);
    }
  }
}

const done = new Set();
function visit(file, path) {
  const at = path.indexOf(file);
  if (at >= 0) {
    problems.push(`circle: ${[...path.slice(at), file].map((one) => relative(root, one)).join(' -> ')}`);
    return;
  }
  if (done.has(file)) return;
  for (const target of graph.get(file) ?? []) visit(target, [...path, file]);
  done.add(file);
}
for (const file of graph.keys()) visit(file, []);

for (const problem of problems) console.error(problem);
if (problems.length > 0) process.exit(1);
