/**
 * Writes docs/PROTOCOL.md from the messages' declarations; with --check it only compares, and fails when they differ.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { limits } from '../shared/limits.ts';
import { type OperationName, operationNames, operations, PROTOCOL_VERSION } from '../shared/protocol/messages.ts';
import type { Fields } from '../shared/protocol/schema.ts';

const file = fileURLToPath(new URL('../../docs/PROTOCOL.md', import.meta.url));

function fieldsOf(fields: Fields): string {
  const rows = Object.entries(fields).map(([name, type]) => `${name}: ${type.description}`);
  return rows.length === 0 ? 'nothing' : rows.join('<br>').replaceAll('|', '\\|');
}

function rowOf(name: OperationName): string {
  const { code, request, reply, idempotent, bulk } = operations[name];
  const traits = [idempotent ? 'idempotent' : '', bulk === 'none' ? '' : `bulk data in the ${bulk}`].filter(Boolean);
  return `| ${code} | \`${name}\` | ${fieldsOf(request.fields)} | ${fieldsOf(reply.fields)} | ${traits.join(', ')} |`;
}

function protocolDocument(): string {
  return `# The protocol, version ${PROTOCOL_VERSION}

Made from \`shared/protocol/messages.ts\` by \`npm run protocol-doc\`; a test compares the two. Do not edit.

Messages are msgpack arrays in binary WebSocket messages of at most ${limits.maxDataBytes + limits.maxHeaderBytes} bytes. Records are fixed arrays, in the
order of the fields below. Bulk data is the last element of its frame, a \`bin 32\`, sent as a second fragment.

| frame | elements |
|---|---|
| request, client to server | \`1, seq, slot, operation, caller, arguments, bulk?\` |
| cancel, client to server | \`2, seq\` |
| reply, server to client | \`3, seq, errno, result, bulk?\` |
| bye, server to client | \`4, reason\` |
| recall, server to client | \`5, id, inode\`, or nil for all |
| recalled, client to server | \`6, id, inodes\` |
| granted, server to client | \`7, ticket, errno\` |
| grant taken, client to server | \`8, ticket\` |
| recall of blocks, server to client | \`10, id, inode, blocks\`, or nil for all; answered by recalled |
| given back, client to server | \`11, inodes\`: their leases, unasked |
| grace over, server to client | \`9, late\`: so many clients have lost their locks |

\`seq\` counts up in a session. A \`slot\` holds one request at a time: the next one in it says that the reply to the last was
taken. \`caller\` is uid, gid, then supplementary groups. \`errno\` is Linux's, 0 for success.

| code | operation | arguments | result | |
|---|---|---|---|---|
${operationNames.map(rowOf).join('\n')}
`;
}

const text = protocolDocument();
if (process.argv.includes('--check')) {
  let written = '';
  try {
    written = readFileSync(file, 'utf8');
  } catch {
    // compared as empty
  }
  if (written !== text) {
    console.error('docs/PROTOCOL.md differs from shared/protocol/messages.ts: run `npm run protocol-doc`');
    process.exitCode = 1;
  }
} else {
  writeFileSync(file, text);
}
