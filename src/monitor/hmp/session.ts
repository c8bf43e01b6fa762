/**
 * One client of the human monitor: a prompt, lines, and what they print. As in QEMU the client's
 * bytes are echoed with line editing, whatever the client is, and lines end with CR LF.
 */
import type { ByteStream } from '../../host/socket.js';
import type { VersionInfo } from '../context.js';
import { LineEditor } from './line-editor.js';
import type { HmpSink } from './run.js';

/** What a session needs of the monitor that it belongs to. */
export interface HmpHost {
  readonly version: VersionInfo;
  /** Carries out one line when all earlier commands, of all clients, are done. */
  executeLine(line: string, sink: HmpSink): Promise<void>;
}

/** Bytes that a client has not taken; with more it is cut off. */
const MAX_UNSENT = 64 * 1024 * 1024;

const encoder = new TextEncoder();

export class HmpSession {
  /** Called once when the client is gone. */
  onGone: (() => void) | undefined;
  readonly #host: HmpHost;
  readonly #stream: ByteStream;
  readonly #editor: LineEditor;
  /** Bytes that came while a command was carried out. */
  #waiting: Uint8Array[] = [];
  #running: Promise<void> | undefined;
  #finished = false;
  #closed = false;
  #unsent = 0;

  constructor(host: HmpHost, stream: ByteStream) {
    this.#host = host;
    this.#stream = stream;
    this.#editor = new LineEditor({
      prompt: '(qemu) ',
      write: (text) => {
        this.#write(text);
      },
      onLine: (line) => {
        this.#running = this.#carryOut(line);
      },
    });
    stream.onData = (piece): void => {
      this.#waiting.push(piece);
      if (this.#running === undefined) this.#take();
      else stream.pause();
    };
    stream.onClose = (): void => {
      this.#finished = true;
      if (this.#running === undefined) this.#end();
    };
    const { major, minor, micro } = host.version.qemu;
    const release = `${String(major)}.${String(minor)}.${String(micro)}`;
    this.#write(`QEMU ${release} monitor - type 'help' for more information\n`);
    this.#editor.prompt();
  }

  /** No line is taken any more. */
  stop(): void {
    this.#waiting.length = 0;
    this.#closed = true;
  }

  /** No line is taken any more; resolves when the one in work has ended and all is sent. */
  async close(): Promise<void> {
    this.stop();
    await this.#running;
    await this.#stream.end();
  }

  #take(): void {
    for (let piece = this.#waiting.shift(); piece !== undefined; piece = this.#waiting.shift()) {
      for (const [at, byte] of piece.entries()) {
        if (this.#closed) return;
        this.#editor.type(byte);
        if (this.#running === undefined) continue;
        if (at + 1 < piece.length) this.#waiting.unshift(piece.subarray(at + 1));
        return;
      }
    }
    this.#stream.resume();
    if (this.#finished) this.#end();
  }

  async #carryOut(line: string): Promise<void> {
    // Not before the editor has done with the byte that ended the line.
    await Promise.resolve();
    await this.#host.executeLine(line, {
      history: this.#editor.history,
      print: (text) => {
        this.#write(text);
      },
    });
    this.#running = undefined;
    if (this.#closed) return;
    this.#editor.prompt();
    this.#take();
  }

  #end(): void {
    if (this.#closed) return;
    this.#closed = true;
    void this.#stream.end();
    this.onGone?.();
  }

  #write(text: string): void {
    const bytes = encoder.encode(text.replaceAll('\n', '\r\n'));
    this.#unsent += bytes.byteLength;
    this.#stream.write([bytes], () => {
      this.#unsent -= bytes.byteLength;
    });
    if (this.#unsent > MAX_UNSENT) this.#stream.destroy();
  }
}
