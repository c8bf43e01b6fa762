/** Copying bytes from one image into another as they are, zeroes too. */
import type { Backend } from '../block/backend.js';
import { BlockError, errorCode, messageOf } from '../block/errors.js';
import { Iov } from '../lib/iov.js';

const PIECE = 1024 * 1024;
/** Pieces in flight. */
const PARALLEL = 4;

/**
 * Copies `bytes` bytes of `source` from `from` on to the start of `target`. Throws BlockError
 * with `op` read or write, when nothing is in flight any more.
 */
export async function copyBlocks(
  source: Backend,
  from: number,
  target: Backend,
  bytes: number,
): Promise<void> {
  let next = 0;
  let failure: { readonly error: BlockError } | undefined;
  const lane = async (): Promise<void> => {
    const buffer = new Uint8Array(Math.min(PIECE, bytes));
    while (next < bytes && failure === undefined) {
      const at = next;
      const n = Math.min(PIECE, bytes - at);
      next += n;
      const part = Iov.of(buffer.subarray(0, n));
      await step('read', () => source.read(from + at, part));
      await step('write', () => target.write(at, part));
    }
  };
  const step = async (op: 'read' | 'write', work: () => Promise<void>): Promise<void> => {
    if (failure !== undefined) return;
    try {
      await work();
    } catch (e) {
      failure ??= { error: new BlockError(errorCode(e), messageOf(e), { op, cause: e }) };
    }
  };
  await Promise.all(Array.from({ length: PARALLEL }, lane));
  if (failure !== undefined) throw failure.error;
}
