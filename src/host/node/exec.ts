/** A program's standard input and output as one stream of the socket port. */
import { spawn } from 'node:child_process';
import type { ChildProcessByStdio } from 'node:child_process';
import type { Readable, Writable } from 'node:stream';
import type { ByteStream } from '../socket.js';
import { toHostError } from './errors.js';

const nothing = (): void => undefined;

class ProgramStream implements ByteStream {
  onData: (piece: Uint8Array) => void = nothing;
  onClose: (error: Error | undefined) => void = nothing;
  onDrain: () => void = nothing;
  readonly peerName: string;
  readonly tlsIdentity = undefined;
  readonly #child: ChildProcessByStdio<Writable, Readable, null>;
  readonly #gone: Promise<void>;
  #closed = false;
  #error: Error | undefined;

  constructor(argv: readonly string[]) {
    const [program = '', ...args] = argv;
    this.peerName = argv.join(' ');
    this.#child = spawn(program, args, { stdio: ['pipe', 'pipe', 'inherit'] });
    const { stdin, stdout } = this.#child;
    stdout.on('data', (piece: Uint8Array) => {
      this.onData(new Uint8Array(piece.buffer, piece.byteOffset, piece.byteLength));
    });
    stdin.on('drain', () => {
      this.onDrain();
    });
    // A program need not read all that it is given: whoever writes is told by `sent`.
    stdin.on('error', nothing);
    stdout.on('error', nothing);
    this.#gone = new Promise((resolve) => {
      this.#child.on('error', (error) => {
        this.#error = toHostError(error);
        this.#close();
        resolve();
      });
      this.#child.on('close', () => {
        this.#close();
        resolve();
      });
    });
  }

  write(pieces: readonly Uint8Array[], sent?: (taken: boolean) => void): boolean {
    return this.#child.stdin.write(Buffer.concat(pieces), (error) => {
      sent?.(error === undefined || error === null);
    });
  }

  pause(): void {
    this.#child.stdout.pause();
  }

  resume(): void {
    this.#child.stdout.resume();
  }

  end(): Promise<void> {
    this.#child.stdin.end();
    this.#child.stdout.resume();
    return this.#gone;
  }

  destroy(): void {
    this.#child.stdin.destroy();
    this.#child.stdout.destroy();
    this.#child.kill('SIGTERM');
    this.#close();
  }

  startTls(): Promise<ByteStream> {
    return Promise.reject(new Error('a program has no TLS'));
  }

  #close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.onClose(this.#error);
  }
}

/** Starts a program; its path and arguments. What cannot be started closes with the error. */
export function exec(argv: readonly string[]): ByteStream {
  return new ProgramStream(argv);
}
