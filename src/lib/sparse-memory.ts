/** A sparse array of bytes: pages by number, absent ones read as zeroes. Offsets in bytes. */
import type { Iov } from './iov.js';

/** A compromise between waste for scattered small writes and overhead for long ones. */
const PAGE = 64 * 1024;

export class SparseMemory {
  readonly #pages = new Map<number, Uint8Array>();
  #bytes: number;

  constructor(bytes = 0) {
    this.#bytes = bytes;
  }

  /** Length. */
  get bytes(): number {
    return this.#bytes;
  }

  get allocatedBytes(): number {
    return this.#pages.size * PAGE;
  }

  /** Fills `iov`; zeroes past the end. */
  read(offset: number, iov: Iov): void {
    let at = offset;
    for (const buf of iov.bufs) {
      for (let done = 0; done < buf.byteLength;) {
        const inPage = at % PAGE;
        const n = Math.min(PAGE - inPage, buf.byteLength - done);
        const page = this.#pages.get((at - inPage) / PAGE);
        if (page === undefined) buf.fill(0, done, done + n);
        else buf.set(page.subarray(inPage, inPage + n), done);
        at += n;
        done += n;
      }
    }
  }

  /** Stores `iov`, growing if needed. */
  write(offset: number, iov: Iov): void {
    let at = offset;
    for (const buf of iov.bufs) {
      for (let done = 0; done < buf.byteLength;) {
        const inPage = at % PAGE;
        const n = Math.min(PAGE - inPage, buf.byteLength - done);
        this.#page((at - inPage) / PAGE).set(buf.subarray(done, done + n), inPage);
        at += n;
        done += n;
      }
    }
    if (at > this.#bytes) this.#bytes = at;
  }

  #page(index: number): Uint8Array {
    let page = this.#pages.get(index);
    if (page === undefined) this.#pages.set(index, (page = new Uint8Array(PAGE)));
    return page;
  }

  /** Makes a range zero, growing if needed; whole pages are given back. */
  zero(offset: number, bytes: number): void {
    const end = offset + bytes;
    if (end > this.#bytes) this.#bytes = end;
    this.#clear(offset, end);
  }

  #clear(start: number, end: number): void {
    const first = Math.floor(start / PAGE);
    const last = Math.ceil(end / PAGE);
    if (last - first > this.#pages.size) {
      for (const index of [...this.#pages.keys()]) {
        if (index >= first && index < last) this.#clearPage(index, start, end);
      }
      return;
    }
    for (let index = first; index < last; index++) this.#clearPage(index, start, end);
  }

  #clearPage(index: number, start: number, end: number): void {
    const from = Math.max(0, start - index * PAGE);
    const to = Math.min(PAGE, end - index * PAGE);
    if (from === 0 && to === PAGE) this.#pages.delete(index);
    else this.#pages.get(index)?.fill(0, from, to);
  }

  /** Sets the length; what is cut off is forgotten, what is added is zero. */
  resize(bytes: number): void {
    if (bytes < this.#bytes) {
      this.#clear(bytes, Math.ceil(this.#bytes / PAGE) * PAGE);
    }
    this.#bytes = bytes;
  }

  /** The run at `offset` (below the length) that is stored or not; at most `limit` bytes. */
  runAt(offset: number, limit: number): { data: boolean; bytes: number } {
    const end = Math.min(offset + limit, this.#bytes);
    const first = Math.floor(offset / PAGE);
    const data = this.#pages.has(first);
    let next = first + 1;
    if (!data && end / PAGE - first > this.#pages.size) {
      next = Infinity;
      for (const index of this.#pages.keys()) if (index > first && index < next) next = index;
    } else {
      while (next * PAGE < end && this.#pages.has(next) === data) next++;
    }
    return { data, bytes: Math.min(next * PAGE, end) - offset };
  }

  /** A copy that changes on its own. */
  clone(): SparseMemory {
    const copy = new SparseMemory(this.#bytes);
    for (const [index, page] of this.#pages) copy.#pages.set(index, page.slice());
    return copy;
  }
}
