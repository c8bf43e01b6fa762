/** Reads in flight on one node, for whoever changes what is below it and must wait for them. */
import type { Iov } from '../lib/iov.js';
import type { BlockNode } from './node.js';

interface Read {
  readonly from: number;
  readonly to: number;
  readonly done: Promise<unknown>;
}

export class ReadWatch {
  readonly #active = new Set<Read>();
  #users = 0;

  /** From now on the node's reads are noted. */
  static start(node: BlockNode): ReadWatch {
    const watch = (node.readWatch ??= new ReadWatch());
    watch.#users++;
    return watch;
  }

  /** Gives back what `start` gave; with the last one the node's reads are noted no more. */
  stop(node: BlockNode): void {
    if (--this.#users === 0) node.readWatch = undefined;
  }

  /** Runs a read of [offset, offset + iov.bytes). */
  async run(offset: number, iov: Iov, read: () => Promise<void>): Promise<void> {
    const done = read();
    const entry = { from: offset, to: offset + iov.bytes, done };
    this.#active.add(entry);
    try {
      await done;
    } finally {
      this.#active.delete(entry);
    }
  }

  /** Resolves when the reads that are in flight now and touch the range have ended, however. */
  async ended(offset: number, bytes: number): Promise<void> {
    const inTheWay = [...this.#active].filter(({ from, to }) => {
      return from < offset + bytes && offset < to;
    });
    await Promise.allSettled(inTheWay.map(({ done }) => done));
  }
}
