/** Copying from file to file of the host, without bringing the data here. */
import type { FileRun } from '../host/file.js';

/** A node, or who stands for one. */
interface Source {
  tryFileRun(offset: number, bytes: number): FileRun | undefined;
}

interface Target {
  tryWriteFrom(offset: number, run: FileRun): Promise<void> | undefined;
}

/**
 * Whether the bytes were copied; if not, they must be read and written, which also tells which of
 * the two fails. The source must not move them elsewhere meanwhile, or the caller copies again.
 */
export async function copyThrough(
  source: Source,
  target: Target,
  offset: number,
  bytes: number,
): Promise<boolean> {
  const run = source.tryFileRun(offset, bytes);
  const request = run && target.tryWriteFrom(offset, run);
  if (request === undefined) return false;
  try {
    await request;
    return true;
  } catch {
    return false;
  }
}
