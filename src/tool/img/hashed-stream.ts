/** A stream that can be recognised again after it has gone by. */
import { createHash } from 'node:crypto';
import type { Backend } from '../../block/backend.js';
import type { ByteSource } from '../../host/node/decompress.js';
import type { ProgressMeter } from '../../job/operation.js';
import { streamOut } from '../../job/stream-out.js';

/** Fast on 64-bit machines, and no two streams have the same. */
const ALGORITHM = 'blake2b512';

export class HashedStream {
  readonly #stream: ByteSource;
  readonly #hash = createHash(ALGORITHM);
  #bytes = 0;

  constructor(stream: ByteSource) {
    this.#stream = stream;
  }

  /** The stream; can be read once. */
  async *pieces(): ByteSource {
    for await (const piece of this.#stream) {
      this.#hash.update(piece);
      this.#bytes += piece.byteLength;
      yield piece;
    }
  }

  /** Whether an image begins with the bytes that have gone by. Throws BlockError. */
  async matches(image: Backend, meter: ProgressMeter): Promise<boolean> {
    if (image.size < this.#bytes) return false;
    const hash = createHash(ALGORITHM);
    const part = { backend: image, from: 0, bytes: this.#bytes };
    await streamOut(
      [part],
      (piece) => {
        hash.update(piece);
        return Promise.resolve();
      },
      meter,
    );
    return hash.digest('hex') === this.#hash.digest('hex');
  }
}
