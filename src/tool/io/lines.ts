/** Lines of standard input, one at a time, with a prompt before each. */
import { read } from 'node:fs';
import { createInterface } from 'node:readline';
import type { IoOutput } from './output.js';

/** Gives the next line without its end, or undefined at the end of the input. */
export interface LineSource {
  next(): Promise<string | undefined>;
  close(): void;
}

const PIECE_BYTES = 64 * 1024;
/** How long to wait before a descriptor that has nothing yet is asked again. */
const RETRY_MS = 10;

/** Lines of a file or pipe. The prompt is printed, as scripts expect; nothing is echoed. */
export class StreamLines implements LineSource {
  readonly #output: IoOutput;
  readonly #prompt: string;
  readonly #fd: number;
  #rest = Buffer.alloc(0);
  #ended = false;

  constructor(output: IoOutput, prompt: string, fd = 0) {
    this.#output = output;
    this.#prompt = prompt;
    this.#fd = fd;
  }

  async next(): Promise<string | undefined> {
    this.#output.out(this.#prompt);
    this.#output.flush();
    for (;;) {
      const end = this.#rest.indexOf(0x0a);
      if (end >= 0) return this.#take(end, end + 1);
      if (this.#ended) return this.#rest.length === 0 ? undefined : this.#take(this.#rest.length);
      const more = await readSome(this.#fd);
      if (more.length === 0) this.#ended = true;
      else this.#rest = Buffer.concat([this.#rest, more]);
    }
  }

  #take(end: number, from = end): string {
    const line = this.#rest.toString('utf8', 0, end);
    this.#rest = this.#rest.subarray(from);
    return line;
  }

  close(): void {
    // A read that is under way ends with the process.
  }
}

async function readSome(fd: number): Promise<Buffer> {
  const buffer = Buffer.alloc(PIECE_BYTES);
  for (;;) {
    const got = await new Promise<number | undefined>((resolve) => {
      read(fd, buffer, 0, buffer.length, null, (error, bytes) => {
        if (error === null) resolve(bytes);
        else resolve(error.code === 'EAGAIN' ? undefined : 0);
      });
    });
    if (got !== undefined) return buffer.subarray(0, got);
    await new Promise((done) => setTimeout(done, RETRY_MS));
  }
}

/** What {@link TerminalLines} are made of. */
export interface TerminalInit {
  readonly input: NodeJS.ReadableStream;
  readonly output: NodeJS.WritableStream;
  readonly prompt: string;
  /** First words that the Tab key completes. */
  readonly names: readonly string[];
  /** Ctrl-C was typed; the terminal is as it was before. */
  readonly onInterrupt: () => void;
}

/** Lines typed at a terminal, with editing, history and completion. */
export class TerminalLines implements LineSource {
  readonly #interface;
  readonly #waiting: ((line: string | undefined) => void)[] = [];
  readonly #typed: string[] = [];
  #closed = false;

  constructor({ input, output, prompt, names, onInterrupt }: TerminalInit) {
    this.#interface = createInterface({
      input,
      output,
      terminal: true,
      historySize: 100,
      removeHistoryDuplicates: true,
      prompt,
      completer: (line: string) => [
        names.filter((name) => name.startsWith(line)).map((name) => `${name} `),
        line,
      ],
    });
    this.#interface.on('line', (line) => {
      const waiting = this.#waiting.shift();
      if (waiting === undefined) this.#typed.push(line);
      else waiting(line);
    });
    this.#interface.on('SIGINT', () => {
      this.#interface.close();
      onInterrupt();
    });
    this.#interface.on('close', () => {
      this.#closed = true;
      for (const waiting of this.#waiting.splice(0)) {
        output.write('\n');
        waiting(undefined);
      }
    });
  }

  async next(): Promise<string | undefined> {
    const line = this.#typed.shift();
    if (line !== undefined) return line;
    if (this.#closed) return undefined;
    this.#interface.prompt();
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  close(): void {
    this.#interface.close();
  }
}
