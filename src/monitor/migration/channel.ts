/** What carries the state of a machine: a connection, a program's pipe, a file. */
import { BlockError } from '../../block/errors.js';
import type { HostFile } from '../../host/file.js';
import type { ByteStream } from '../../host/socket.js';
import { Iov } from '../../lib/iov.js';
import type { StateSink, StateSource } from '../../machine/state/stream.js';

export interface Channel extends StateSink, StateSource {
  /** The peer can answer. */
  readonly answers: boolean;
  /** All that was written is on its way for good; nothing may follow. */
  finish(): Promise<void>;
  /** Ends at once; what waits fails. */
  destroy(): void;
}

/** Bytes that may have come and not been read yet. */
const HIGH_WATER = 4 << 20;

/** A connection, or the pipe to a program. */
export class StreamChannel implements Channel {
  readonly answers: boolean;
  readonly #stream: ByteStream;
  #pieces: Uint8Array[] = [];
  #held = 0;
  #closed = false;
  #error: Error | undefined;
  /** Somebody waits for more, or for the end. */
  #wake: (() => void) | undefined;
  readonly #writers = new Set<(error: Error) => void>();

  constructor(stream: ByteStream, answers: boolean) {
    this.#stream = stream;
    this.answers = answers;
    stream.onData = (piece): void => {
      this.#pieces.push(piece);
      this.#held += piece.length;
      if (this.#held > HIGH_WATER) stream.pause();
      this.#wake?.();
    };
    stream.onClose = (error): void => {
      this.#closed = true;
      this.#error ??= error;
      this.#wake?.();
      // With no error the peer has only ended its half.
      if (error !== undefined) for (const fail of [...this.#writers]) fail(error);
    };
  }

  async write(bytes: Uint8Array): Promise<void> {
    if (this.#error !== undefined) throw this.#error;
    await new Promise<void>((resolve, reject) => {
      const fail = (error: Error): void => {
        this.#writers.delete(fail);
        reject(error);
      };
      this.#writers.add(fail);
      this.#stream.write([bytes], (taken) => {
        this.#writers.delete(fail);
        if (taken) resolve();
        else reject(this.#error ?? new BlockError('EPIPE'));
      });
    });
  }

  async read(out: Uint8Array): Promise<number> {
    let at = 0;
    while (at < out.length) {
      const piece = this.#pieces[0];
      if (piece === undefined) {
        if (this.#error !== undefined) throw this.#error;
        if (this.#closed) return at;
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
        continue;
      }
      const n = Math.min(piece.length, out.length - at);
      out.set(piece.subarray(0, n), at);
      at += n;
      if (n === piece.length) this.#pieces.shift();
      else this.#pieces[0] = piece.subarray(n);
      const before = this.#held;
      this.#held -= n;
      if (before > HIGH_WATER && this.#held <= HIGH_WATER) this.#stream.resume();
    }
    return at;
  }

  async finish(): Promise<void> {
    await this.#stream.end();
    if (this.#error !== undefined) throw this.#error;
  }

  destroy(): void {
    this.#error ??= new BlockError('ECANCELED');
    this.#stream.destroy();
    this.#wake?.();
    for (const fail of [...this.#writers]) fail(this.#error);
  }
}

/** A file, from an offset on. */
export class FileChannel implements Channel {
  readonly answers = false;
  readonly #file: HostFile;
  #at: number;

  constructor(file: HostFile, offset: number) {
    this.#file = file;
    this.#at = offset;
  }

  async write(bytes: Uint8Array): Promise<void> {
    await this.#file.write(this.#at, Iov.of(bytes));
    this.#at += bytes.length;
  }

  async read(out: Uint8Array): Promise<number> {
    const got = await this.#file.read(this.#at, Iov.of(out));
    this.#at += got;
    return got;
  }

  async finish(): Promise<void> {
    if (this.#file.writable) await this.#file.flush();
    await this.#file.close();
  }

  destroy(): void {
    void this.#file.close().catch(() => undefined);
  }
}
