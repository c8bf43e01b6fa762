/** Reads the host's files; a few stay open (F3, F4). */
import { BlockError } from '../../block/errors.js';
import type { HostFile, HostFiles } from '../../host/file.js';
import type { Iov } from '../../lib/iov.js';
import type { FatNode } from './tree.js';

/** Files that stay open though no request is using them. */
export const MOST_OPEN = 16;

interface OpenFile {
  readonly file: Promise<HostFile>;
  users: number;
}

export class FileContents {
  readonly #files: HostFiles;
  /** The one that was used last comes last. */
  readonly #open = new Map<FatNode, OpenFile>();

  constructor(files: HostFiles) {
    this.#files = files;
  }

  /** Fills `iov` from [offset, offset + iov.bytes) of the file, which lies inside its size. */
  async read(node: FatNode, offset: number, iov: Iov): Promise<void> {
    const open = this.#take(node);
    try {
      const file = await open.file;
      const got = await file.read(offset, iov);
      if (got === iov.bytes) return;
      throw changed(node, `it ends at ${offset + got}, expected ${node.size} bytes`);
    } finally {
      open.users--;
      await this.#shrink();
    }
  }

  #take(node: FatNode): OpenFile {
    const known = this.#open.get(node);
    const open = known ?? { file: this.#openFile(node), users: 0 };
    open.users++;
    this.#open.delete(node);
    this.#open.set(node, open);
    return open;
  }

  async #openFile(node: FatNode): Promise<HostFile> {
    try {
      // Opening a pipe would wait for its other end.
      const { kind } = await this.#files.stat(node.path);
      if (kind !== 'regular') throw changed(node, 'it is no file any more');
      const options = { writable: false, direct: false, engine: 'auto' } as const;
      const file = await this.#files.open(node.path, options);
      if (file.kind === 'regular') return file;
      await file.close();
      throw changed(node, 'it is no file any more');
    } catch (error) {
      this.#open.delete(node);
      throw error;
    }
  }

  /** Closes what was not used for longest. */
  async #shrink(): Promise<void> {
    if (this.#open.size <= MOST_OPEN) return;
    for (const [node, open] of this.#open) {
      if (open.users > 0) continue;
      this.#open.delete(node);
      await open.file.then(
        (file) => file.close(),
        () => undefined,
      );
      if (this.#open.size <= MOST_OPEN) return;
    }
  }

  async close(): Promise<void> {
    const all = [...this.#open.values()];
    this.#open.clear();
    await Promise.allSettled(all.map(async ({ file }) => (await file).close()));
  }
}

function changed(node: FatNode, why: string): BlockError {
  return new BlockError('EIO', `Cannot read '${node.path}': ${why}`);
}
