/** The files of a mount that the server has not made yet: which, and where. Owned by the RemoteContext. */
import type { Node } from './node.ts';
import type { UnmadeFile } from './unmade-file.ts';

export class UnmadeFiles {
  readonly #byDirectory = new Map<Node, Set<UnmadeFile>>();
  size = 0;

  add(directory: Node, file: UnmadeFile): void {
    const inside = this.#byDirectory.get(directory);
    if (inside) inside.add(file);
    else this.#byDirectory.set(directory, new Set([file]));
    this.size++;
  }

  /** It is made, or cannot be. */
  remove(directory: Node, file: UnmadeFile): void {
    const inside = this.#byDirectory.get(directory);
    if (!inside?.delete(file)) return;
    this.size--;
    if (inside.size === 0) this.#byDirectory.delete(directory);
  }

  has(directory: Node): boolean {
    return this.#byDirectory.has(directory);
  }

  /** Resolves when nothing in the directory is left to be made. Undefined: nothing is. Never rejects. */
  inside(directory: Node): Promise<void> | undefined {
    if (this.size === 0) return undefined;
    const files = this.#byDirectory.get(directory);
    return files && settled(files);
  }

  /** The same of a node, whatever it is; undefined: of any. */
  settled(node: Node | undefined): Promise<void> | undefined {
    if (this.size === 0) return undefined;
    if (node === undefined) return settled([...this.#byDirectory.values()].flatMap((files) => [...files]));
    return node.unmade ? settled([node.unmade]) : this.inside(node);
  }
}

async function settled(files: Iterable<UnmadeFile>): Promise<void> {
  await Promise.allSettled([...files].map((file) => file.made()));
}
