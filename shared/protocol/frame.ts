/**
 * Frames to bytes and back. A frame is one msgpack array; bulk data is its last element, a `bin 32`, and is never copied
 * here: it travels as a second fragment of the same message.
 *
 *   fragment 1: [array head, n+1] [element 1] ... [element n] [c6, length u32 big endian]     fragment 2: [bulk bytes]
 *
 * Joined, the two are plain msgpack; so a receiver that gets the message in one piece (a proxy joined it) reads it too.
 */
import { Packr, Unpackr } from 'msgpackr';
import { assert } from '../assert.ts';
import { limits } from '../limits.ts';
import { guardMsgpack } from './msgpack-guard.ts';
import { ProtocolError } from './schema.ts';

const packer = new Packr({ useRecords: false, variableMapSize: true });
const unpacker = new Unpackr({ useRecords: false });

const FIXARRAY = 0x90;
const BIN32 = 0xc6;
const BIN32_HEAD_BYTES = 5;

export interface EncodedFrame {
  readonly head: Uint8Array;
  readonly bulk: Uint8Array | undefined;
}

/** `elements` are at most 14 wire values (numbers, bigints, text, bytes, arrays of these). */
export function encodeFrame(elements: unknown[], bulk?: Uint8Array): EncodedFrame {
  assert(elements.length < 15, 'a frame with bulk data fits into a fixarray head');
  const packed = packer.pack(elements);
  if (bulk === undefined) return { head: packed, bulk };
  const head = Buffer.allocUnsafe(packed.length + BIN32_HEAD_BYTES);
  packed.copy(head);
  head[0] = FIXARRAY | (elements.length + 1);
  head[packed.length] = BIN32;
  head.writeUInt32BE(bulk.length, packed.length + 1);
  return { head, bulk };
}

/**
 * The elements of a frame; bulk data, where there is some, is the last one. Byte strings are views of the fragments:
 * copy what must outlive them. Throws ProtocolError for whatever is not a frame.
 */
export function decodeFrame(fragments: readonly Buffer[]): unknown[] {
  const [first, second] = fragments;
  if (first === undefined) throw new ProtocolError('empty message');
  if (fragments.length === 2 && second !== undefined && endsInBulkHead(first, second.length)) {
    const elements = unpackArray(withoutBulkHead(first));
    elements.push(second);
    return elements;
  }
  return unpackArray(fragments.length === 1 ? first : Buffer.concat(fragments));
}

function endsInBulkHead(head: Buffer, bulkBytes: number): boolean {
  const at = head.length - BIN32_HEAD_BYTES;
  const type = head[0] as number;
  return (
    at >= 1 && type > FIXARRAY && type < FIXARRAY + 16 && head[at] === BIN32 && head.readUInt32BE(at + 1) === bulkBytes
  );
}

/** In place: the head fragment is this receiver's own, and only read once. */
function withoutBulkHead(head: Buffer): Buffer {
  head[0] = (head[0] as number) - 1;
  return head.subarray(0, head.length - BIN32_HEAD_BYTES);
}

function unpackArray(bytes: Buffer): unknown[] {
  if (bytes.length > limits.maxHeaderBytes + limits.maxDataBytes) throw new ProtocolError('message too large');
  guardMsgpack(bytes);
  const value: unknown = unpacker.unpack(bytes);
  if (!Array.isArray(value) || value.length < 2)
    throw new ProtocolError('a message is an array of two elements or more');
  return value;
}
