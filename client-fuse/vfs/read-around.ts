/**
 * Reading around: of a file that is read here and there through the kernel's page cache, regions that are read from much are brought
 * whole, and given to the kernel unasked. What is decided is in missed-regions.ts; a recall waits until the kernel has what it is
 * being given (KernelCaches.storePages). One a mount.
 */
import { PAGE_SIZE } from '../../shared/limits.ts';
import { MissedRegions, REGION_BYTES } from './missed-regions.ts';
import type { Node, OpenHandle } from './node.ts';
import type { RemoteContext } from './remote-context.ts';

/** On their way to the kernel at once: what keeps the line busy, and leaves room on it. */
const AT_ONCE = 2;
/** How much the last region counts in what one takes. */
const WEIGHT = 0.25;

/** Reads from the server, and says what the lease needs to know of it. */
export type ReadRegion = (open: OpenHandle, offset: number, size: number) => Promise<Uint8Array>;

export class ReadAround {
  readonly #context: RemoteContext;
  readonly #read: ReadRegion;
  #underWay = 0;
  /** What a region takes, in milliseconds. */
  #regionMs = 0;

  constructor(context: RemoteContext, read: ReadRegion) {
    this.#context = context;
    this.#read = read;
  }

  /** Pages at `offset` are asked for that are not read from front to back, under a lease that covers them. */
  missed(open: OpenHandle, offset: number): void {
    const { node } = open;
    const index = Math.floor(offset / REGION_BYTES);
    node.missed ??= new MissedRegions();
    const roundTripMs = this.#context.session.roundTrip.ms;
    const price = roundTripMs > 0 ? this.#regionMs / roundTripMs : 0;
    if (!node.missed.missed(index, price) || this.#underWay >= AT_ONCE) return;
    node.missed.brings(index);
    // Looked at again after twice as many reads: to ask for the memory is a trip to /proc.
    if (!this.#isRoomFor(node)) return;
    this.#underWay++;
    const done = () => this.#underWay--;
    // Whoever wants the pages asks for them, and is told what is wrong.
    this.#bring(open, index * REGION_BYTES).then(done, done);
  }

  /** The kernel can keep all of the file, beside others. */
  #isRoomFor(node: Node): boolean {
    const size = this.#context.leases.knownAttributes(node)?.size;
    return size !== undefined && size <= process.availableMemory() / 2;
  }

  async #bring(open: OpenHandle, offset: number): Promise<void> {
    const { leases, kernel } = this.#context;
    const { node } = open;
    const asOf = leases.clock;
    const beganMs = performance.now();
    const data = await this.#read(open, offset, REGION_BYTES);
    const wholePages = data.subarray(0, data.length - (data.length % PAGE_SIZE));
    if (wholePages.length > 0) await kernel.storePages(node, offset, wholePages, () => leases.hasCovered(node, asOf));
    const tookMs = performance.now() - beganMs;
    this.#regionMs += (tookMs - this.#regionMs) * (this.#regionMs === 0 ? 1 : WEIGHT);
  }
}
