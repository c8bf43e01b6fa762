/** Where the exerciser's text goes: a terminal, files, a monitor. */
import { writeSync } from 'node:fs';

export interface IoOutput {
  /** Results and most complaints. */
  out(text: string): void;
  /** Errors of the program. */
  err(text: string): void;
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

  out(text: string): void {
    const bytes = Buffer.from(text);
    this.#held.push(bytes);
    this.#heldBytes += bytes.length;
    if (!this.#buffered) this.flush();
    else if (this.#heldBytes >= BUFFER_BYTES) this.#write(this.#heldBytes % BUFFER_BYTES);
  }

  err(text: string): void {
    writeAll(2, Buffer.from(text));
  }

  flush(): void {
    if (this.#heldBytes > 0) this.#write(0);
  }

  /** Writes what is held but for the last `keep` bytes. */
  #write(keep: number): void {
    const all = Buffer.concat(this.#held);
    const rest = all.subarray(all.length - keep);
    this.#held = keep === 0 ? [] : [rest];
    this.#heldBytes = keep;
    writeAll(1, all.subarray(0, all.length - keep));
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
