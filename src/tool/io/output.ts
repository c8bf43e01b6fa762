/** Where the exerciser's text goes: a terminal, files, a monitor. */
import { writeSync } from 'node:fs';

export interface IoOutput {
  /** Results and most complaints; bytes are UTF-8, and the caller may reuse them afterwards. */
  out(text: string | Uint8Array): void;
  /** Errors of the program. */
  err(text: string): void;
  /** What the block layer complains of, where that goes elsewhere than `err` (a monitor). */
  report?(text: string): void;
  /** Everything written so far has left the process afterwards. */
  flush(): void;
}

/** Size of the C library's buffer for a stdout that is no terminal. */
const BUFFER_BYTES = 4096;

/**
 * Standard output and error of this process. As with C's stdio, standard output is buffered
 * unless it is a terminal, so that scripts which merge both streams see the order they know.
 */
export class ProcessOutput implements IoOutput {
  readonly #buffered: boolean;
  #held: Uint8Array[] = [];
  #heldBytes = 0;

  constructor(isTerminal: boolean) {
    this.#buffered = !isTerminal;
  }

  out(text: string | Uint8Array): void {
    const bytes = typeof text === 'string' ? Buffer.from(text) : text;
    const total = this.#heldBytes + bytes.length;
    if (!this.#buffered) {
      writeAll(1, bytes);
    } else if (total < BUFFER_BYTES) {
      this.#hold(typeof text === 'string' ? bytes : bytes.slice());
    } else {
      const end = bytes.length - (total % BUFFER_BYTES);
      this.#writeWith(bytes.subarray(0, end));
      if (end < bytes.length) this.#hold(bytes.slice(end));
    }
  }

  err(text: string): void {
    writeAll(2, Buffer.from(text));
  }

  flush(): void {
    if (this.#heldBytes > 0) this.#writeWith(new Uint8Array(0));
  }

  #hold(bytes: Uint8Array): void {
    this.#held.push(bytes);
    this.#heldBytes += bytes.length;
  }

  /** Writes what is held and `more` at once. */
  #writeWith(more: Uint8Array): void {
    const all = this.#heldBytes === 0 ? more : Buffer.concat([...this.#held, more]);
    this.#held = [];
    this.#heldBytes = 0;
    writeAll(1, all);
  }
}

/** Writes without losing bytes when the reader of a pipe is slow; gives up when it is gone. */
function writeAll(fd: number, bytes: Uint8Array): void {
  let at = 0;
  while (at < bytes.length) {
    try {
      at += writeSync(fd, bytes, at);
    } catch (e) {
      if (!(e instanceof Error && 'code' in e && e.code === 'EAGAIN')) return;
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 5);
    }
  }
}
