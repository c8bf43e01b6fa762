/** Reads tables of one size in a known order, several at once. */
import { Iov } from '../../lib/iov.js';
import type { TableSource } from './snapshot-table.js';

/** Memory for tables that were read and not yet taken. */
const MAX_BYTES = 4 * 1024 * 1024;
const MAX_TABLES = 64;
/** Neighbouring tables are read in one request of at most this many bytes. */
const MAX_REQUEST = 1024 * 1024;

interface Ahead {
  readonly offset: number;
  readonly bytes: Promise<Uint8Array>;
}

export class ReadAhead {
  readonly #file: TableSource;
  readonly #tableBytes: number;
  readonly #order: Iterator<number>;
  readonly #queue: Ahead[] = [];
  readonly #depth: number;
  /** An offset that was looked at to see whether it joins the request before. */
  #pending: number | undefined;

  constructor(file: TableSource, tableBytes: number, order: Iterable<number>) {
    this.#file = file;
    this.#tableBytes = tableBytes;
    this.#order = order[Symbol.iterator]();
    this.#depth = Math.max(2, Math.min(MAX_TABLES, Math.floor(MAX_BYTES / tableBytes)));
  }

  /** The table at `offset`, which need not be the next in order. Throws what the read throws. */
  async take(offset: number): Promise<Uint8Array> {
    this.#fill();
    const at = this.#queue.findIndex((ahead) => ahead.offset === offset);
    if (at >= 0) {
      const { bytes } = this.#queue[at]!;
      // Takers follow the order: who skipped a table does not come back for it.
      this.#queue.splice(0, at + 1);
      return bytes;
    }
    const bytes = new Uint8Array(this.#tableBytes);
    await this.#file.read(offset, Iov.of(bytes));
    return bytes;
  }

  #fill(): void {
    while (this.#queue.length < this.#depth) {
      const first = this.#next();
      if (first === undefined) return;
      this.#request(first);
    }
  }

  #next(): number | undefined {
    const pending = this.#pending;
    if (pending !== undefined) {
      this.#pending = undefined;
      return pending;
    }
    const step = this.#order.next();
    return step.done === true ? undefined : step.value;
  }

  /** One read for the table at `first` and those that follow it in order and in the file. */
  #request(first: number): void {
    const size = this.#tableBytes;
    const offsets = [first];
    while (offsets.length * size < MAX_REQUEST && offsets.length < this.#depth) {
      const next = this.#next();
      if (next === undefined) break;
      if (next !== first + offsets.length * size) {
        this.#pending = next;
        break;
      }
      offsets.push(next);
    }
    const all = new Uint8Array(offsets.length * size);
    const read = this.#file.read(first, Iov.of(all));
    offsets.forEach((offset, i) => {
      const bytes = read.then(() => all.subarray(i * size, (i + 1) * size));
      // A table that nobody takes must not end the program; who takes it gets the error.
      bytes.catch(() => undefined);
      this.#queue.push({ offset, bytes });
    });
  }
}
