/**
 * Buffers that begin on a page. O_DIRECT wants them, and FUSE too: a 1 MiB write(2) from a buffer that is not page
 * aligned touches 257 pages, so the kernel splits it in two requests and the write is no longer one transaction.
 * The memory of WebAssembly is page aligned (it is reserved with mmap) and is freed with its last view.
 */

/** The types of Node 20 do not declare it. */
declare const WebAssembly: { Memory: new (size: { initial: number }) => { readonly buffer: ArrayBuffer } };

const WASM_PAGE_BYTES = 65536;

export function alignedBuffer(sizeBytes: number): Uint8Array<ArrayBuffer> {
  const memory = new WebAssembly.Memory({ initial: Math.max(1, Math.ceil(sizeBytes / WASM_PAGE_BYTES)) });
  return new Uint8Array(memory.buffer, 0, sizeBytes);
}
