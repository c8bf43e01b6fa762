/** Standard input and output as one stream of the socket port. */
import type { ByteStream } from '../socket.js';

const nothing = (): void => undefined;

class StdioStream implements ByteStream {
  onData: (piece: Uint8Array) => void = nothing;
  onClose: (error: Error | undefined) => void = nothing;
  onDrain: () => void = nothing;
  readonly peerName = 'stdio';
  readonly tlsIdentity = undefined;
  #closed = false;

  constructor() {
    process.stdin.on('data', (piece: Buffer | string) => {
      const bytes = typeof piece === 'string' ? Buffer.from(piece) : piece;
      this.onData(new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength));
    });
    process.stdin.on('end', () => {
      this.#close(undefined);
    });
    process.stdin.on('error', (error) => {
      this.#close(error);
    });
    process.stdout.on('drain', () => {
      this.onDrain();
    });
    // Whoever reads may go at any time.
    process.stdout.on('error', nothing);
  }

  write(pieces: readonly Uint8Array[], sent?: (taken: boolean) => void): boolean {
    return process.stdout.write(Buffer.concat(pieces), (error) => {
      sent?.(error === undefined || error === null);
    });
  }

  pause(): void {
    process.stdin.pause();
  }

  resume(): void {
    process.stdin.resume();
  }

  end(): Promise<void> {
    process.stdin.pause();
    if (process.stdout.writableLength === 0) return Promise.resolve();
    return new Promise((resolve) => {
      process.stdout.write('', () => {
        resolve();
      });
    });
  }

  destroy(): void {
    process.stdin.pause();
    this.#close(undefined);
  }

  startTls(): Promise<ByteStream> {
    return Promise.reject(new Error('standard input has no TLS'));
  }

  #close(error: Error | undefined): void {
    if (this.#closed) return;
    this.#closed = true;
    this.onClose(error);
  }
}

/** The one stream over standard input and output; made once. */
export function stdio(): ByteStream {
  return new StdioStream();
}
