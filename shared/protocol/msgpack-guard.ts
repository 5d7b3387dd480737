/**
 * Looks over a msgpack value before it is decoded: every container must fit into the bytes that are there, nesting is
 * shallow, and only the plain types of the protocol occur (no maps, extensions). So a few hostile bytes cannot make the
 * decoder allocate gigabytes. Source: the msgpack specification, "Formats".
 */
import { limits } from '../limits.ts';
import { ProtocolError } from './schema.ts';

/** entries in a list in a result in a frame, each with an entry with attributes with times: seven levels. */
const MAX_DEPTH = 8;

/** Of the message being looked over. It bounds what the decoder builds: an array in memory is many times its bytes. */
let valuesLeft = 0;

/** Throws ProtocolError unless `bytes` is exactly one acceptable value. */
export function guardMsgpack(bytes: Uint8Array): void {
  valuesLeft = limits.maxMessageValues;
  const end = valueEnd(bytes, 0, 0);
  if (end !== bytes.length) throw new ProtocolError(`${bytes.length - end} bytes after the end of a message`);
}

function valueEnd(bytes: Uint8Array, at: number, depth: number): number {
  if (depth > MAX_DEPTH) throw new ProtocolError('message nested too deeply');
  const head = bytes[at];
  if (head === undefined) throw new ProtocolError('message cut short');
  const next = at + 1;
  if (head <= 0x7f || head >= 0xe0) return next; // fixint
  if (head >= 0xa0 && head <= 0xbf) return skip(bytes, next, head & 0x1f); // fixstr
  if (head >= 0x90 && head <= 0x9f) return arrayEnd(bytes, next, head & 0x0f, depth);
  switch (head) {
    case 0xc0: // nil
    case 0xc2: // false
    case 0xc3: // true
      return next;
    case 0xcc: // u8
    case 0xd0: // s8
      return skip(bytes, next, 1);
    case 0xcd:
    case 0xd1:
      return skip(bytes, next, 2);
    case 0xca: // float32
    case 0xce:
    case 0xd2:
      return skip(bytes, next, 4);
    case 0xcb: // float64
    case 0xcf:
    case 0xd3:
      return skip(bytes, next, 8);
    case 0xc4: // bin8
    case 0xd9: // str8
      return skip(bytes, next + 1, length(bytes, next, 1));
    case 0xc5:
    case 0xda:
      return skip(bytes, next + 2, length(bytes, next, 2));
    case 0xc6:
    case 0xdb:
      return skip(bytes, next + 4, length(bytes, next, 4));
    case 0xdc:
      return arrayEnd(bytes, next + 2, length(bytes, next, 2), depth);
    case 0xdd:
      return arrayEnd(bytes, next + 4, length(bytes, next, 4), depth);
    default:
      throw new ProtocolError(`msgpack type 0x${head.toString(16)} is not used in this protocol`);
  }
}

function arrayEnd(bytes: Uint8Array, from: number, count: number, depth: number): number {
  // Each element takes a byte at least.
  if (count > bytes.length - from) throw new ProtocolError('message cut short');
  valuesLeft -= count;
  if (valuesLeft < 0) throw new ProtocolError('message of too many values');
  let at = from;
  for (let index = 0; index < count; index++) at = valueEnd(bytes, at, depth + 1);
  return at;
}

function skip(bytes: Uint8Array, from: number, count: number): number {
  if (from + count > bytes.length) throw new ProtocolError('message cut short');
  return from + count;
}

function length(bytes: Uint8Array, from: number, width: 1 | 2 | 4): number {
  if (from + width > bytes.length) throw new ProtocolError('message cut short');
  let value = 0;
  for (let index = 0; index < width; index++) value = value * 256 + (bytes[from + index] as number);
  return value;
}
