/**
 * A directory as a target, by synchronous calls: each caller is a process of its own, and a synchronous pread(2) or
 * pwrite(2) is exactly one call, without a thread pool between.
 */
import fs from 'node:fs';
import path from 'node:path';
import type { OverlapFile, OverlapTarget } from './overlap-target.ts';

const { O_DIRECT, O_RDONLY, O_RDWR } = fs.constants;

class DirectoryFile implements OverlapFile {
  readonly #fd: number;

  constructor(fd: number) {
    this.#fd = fd;
  }

  async write(offsetBytes: number, data: Uint8Array): Promise<number> {
    return fs.writeSync(this.#fd, data, 0, data.length, offsetBytes);
  }

  async read(offsetBytes: number, into: Uint8Array): Promise<number> {
    return fs.readSync(this.#fd, into, 0, into.length, offsetBytes);
  }

  async close(): Promise<void> {
    fs.closeSync(this.#fd);
  }
}

export class DirectoryTarget implements OverlapTarget {
  readonly label: string;

  constructor(directory: string) {
    this.label = directory;
  }

  async createFile(name: string): Promise<void> {
    fs.closeSync(fs.openSync(path.join(this.label, name), 'wx', 0o600));
  }

  async openFile(name: string, access: 'read' | 'write', direct: boolean): Promise<OverlapFile> {
    const flags = (access === 'write' ? O_RDWR : O_RDONLY) | (direct ? O_DIRECT : 0);
    return new DirectoryFile(fs.openSync(path.join(this.label, name), flags));
  }

  async removeFile(name: string): Promise<void> {
    fs.rmSync(path.join(this.label, name), { force: true });
  }

  async close(): Promise<void> {}
}
