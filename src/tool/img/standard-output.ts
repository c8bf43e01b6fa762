/** An image that goes to standard output. */
import { write } from 'node:fs';
import { BlockError } from '../../block/errors.js';
import { Failure } from '../program.js';
import { isTerminal } from '../terminal.js';

/** Refuses what cannot go to a pipe, and to write an image to a terminal. */
export function checkStandardOutput(format: string): void {
  if (isTerminal(1)) throw new Failure('An image is not written to a terminal');
  if (format !== 'raw') {
    throw new Failure(
      `Format '${format}' cannot be written to a pipe: its parts change after they were written`,
    );
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
