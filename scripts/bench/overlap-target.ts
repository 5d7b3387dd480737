/**
 * Where an overlap run takes place: a directory, a server, or a test's memory. What the benchmark asks of each is one
 * file that several callers open, write and read, one call at a time per opened file.
 */

export interface OverlapFile {
  /** One write call; returns the bytes written, which may be fewer. `data` starts on a page of memory. */
  write(offsetBytes: number, data: Uint8Array): Promise<number>;
  /** One read call into `into`; returns the bytes read, fewer at the end of the file. */
  read(offsetBytes: number, into: Uint8Array): Promise<number>;
  close(): Promise<void>;
}

export interface OverlapTarget {
  /** For people: the directory, the URL. */
  readonly label: string;
  /** Makes an empty file; fails if there is one of that name. */
  createFile(name: string): Promise<void>;
  /** Opens a file that exists. `direct`: around the page cache, where the target knows such a thing. */
  openFile(name: string, access: 'read' | 'write', direct: boolean): Promise<OverlapFile>;
  removeFile(name: string): Promise<void>;
  close(): Promise<void>;
}
