/** An image that goes to standard output. */
import { write } from 'node:fs';
import { BlockError } from '../../block/errors.js';
import { Failure } from '../program.js';
import { isTerminal } from '../terminal.js';
import { namelessFile, pathOf } from './unpack.js';

/** Refuses to write an image to a terminal. */
export function checkStandardOutput(): void {
  if (isTerminal(1)) throw new Failure('An image is not written to a terminal');
}

/** Bytes that are read from a finished image and written at a time. */
const PIECE = 1024 * 1024;

/**
 * Writes an image to a pipe whose format changes parts that it has written already: `make` makes
 * it in a temporary file without a name, at the path that it is given. Throws what `make` throws
 * and BlockError, ECANCELED once `signal` is aborted.
 */
export async function throughFile(
  make: (path: string) => Promise<void>,
  signal: AbortSignal,
): Promise<void> {
  const file = await namelessFile();
  try {
    await make(pathOf(file));
    const piece = new Uint8Array(PIECE);
    for (let at = 0; ;) {
      if (signal.aborted) throw new BlockError('ECANCELED');
      const { bytesRead } = await file.read(piece, 0, PIECE, at);
      if (bytesRead === 0) return;
      await writePiece(piece.subarray(0, bytesRead));
      at += bytesRead;
    }
  } finally {
    await file.close();
  }
}

/** Writes all of a piece. Throws BlockError, EPIPE when nobody reads any more. */
export async function writePiece(piece: Uint8Array): Promise<void> {
  for (let at = 0; at < piece.byteLength;) at += await writeSome(piece.subarray(at));
}

function writeSome(bytes: Uint8Array): Promise<number> {
  return new Promise((resolve, reject) => {
    write(1, bytes, (e, written) => {
      if (e === null) resolve(written);
      else if (e.code === 'EAGAIN') setTimeout(resolve, 5, 0);
      else {
        const cause = new BlockError(e.code ?? 'EIO');
        const text = `error while writing to standard output: ${cause.message}`;
        reject(new BlockError(e.code ?? 'EIO', text, { op: 'write', cause: e }));
      }
    });
  });
}
