/** Changing the length of a file, with QEMU's preallocation modes and texts. */
import { BlockError, isNotSupported, withErrno } from '../../block/errors.js';
import type { Preallocation } from '../../block/types.js';
import type { HostFile } from '../../host/file.js';
import { Iov } from '../../lib/iov.js';

/** Zeroes are written in pieces of this size when all of a file is to be preallocated. */
const FULL_PIECE = 1024 * 1024;
/** Size of the first write into a new file: a page, or a sector where that is too much. */
const FIRST_BLOCK = 4096;
const SECTOR = 512;

/**
 * Sets the length of a regular file. New bytes read as zeroes. When it throws, the file
 * has its old length again.
 */
export async function truncateRegular(
  file: HostFile,
  bytes: number,
  prealloc: Preallocation,
): Promise<void> {
  const old = await file.size();
  if (bytes < old && prealloc !== 'off') {
    throw new BlockError('ENOTSUP', "Preallocation can't be used for shrinking files");
  }
  switch (prealloc) {
    case 'off':
      await truncateTo(file, bytes);
      break;
    case 'falloc':
      await allocateTo(file, old, bytes);
      break;
    case 'full':
      await writeTo(file, old, bytes);
      return;
    case 'metadata':
      throw new BlockError('ENOTSUP', `Unsupported preallocation mode: ${prealloc}`);
  }
  if (old === 0 && bytes > 0) await allocateFirstBlock(file, bytes);
}

async function truncateTo(file: HostFile, bytes: number): Promise<void> {
  try {
    await file.truncate(bytes);
  } catch (e) {
    throw withErrno('Could not resize file', e);
  }
}

async function allocateTo(file: HostFile, old: number, bytes: number): Promise<void> {
  if (bytes === old) return;
  try {
    await file.allocate(old, bytes - old);
  } catch (e) {
    await restore(file, old);
    throw withErrno('Could not preallocate data for the new file', e);
  }
}

async function writeTo(file: HostFile, old: number, bytes: number): Promise<void> {
  await truncateTo(file, bytes);
  try {
    const align = file.limits.requestAlignment;
    const zeroes = new Uint8Array(FULL_PIECE);
    for (let at = old; at < bytes;) {
      const end = Math.min(at - (at % FULL_PIECE) + FULL_PIECE, bytes);
      const misfit = at % align !== 0 || end % align !== 0;
      // What O_DIRECT cannot reach stays a hole of less than one block at an odd end.
      if (!misfit) await file.write(at, Iov.of(zeroes.subarray(0, end - at)));
      at = end;
    }
  } catch (e) {
    await restore(file, old);
    throw withErrno('Could not write zeros for preallocation', e);
  }
  try {
    await file.flush();
  } catch (e) {
    await restore(file, old);
    throw withErrno('Could not flush file to disk', e);
  }
}

async function restore(file: HostFile, bytes: number): Promise<void> {
  try {
    await file.truncate(bytes);
  } catch {
    // The error that led here is the one to tell.
  }
}

/**
 * A file without any block cannot tell which alignment O_DIRECT will need later, so a new
 * file gets its first block at once, as QEMU does it. Failing is not an error.
 */
async function allocateFirstBlock(file: HostFile, bytes: number): Promise<void> {
  let n = bytes < FIRST_BLOCK ? Math.min(SECTOR, bytes) : FIRST_BLOCK;
  n -= n % file.limits.requestAlignment;
  if (n === 0) return;
  try {
    await file.write(0, Iov.alloc(n));
  } catch {
    // A later write will tell.
  }
}

/** A device has the length it has. */
export async function truncateDevice(
  file: HostFile,
  bytes: number,
  options: { readonly exact: boolean; readonly prealloc: Preallocation },
): Promise<void> {
  if (options.prealloc !== 'off') {
    throw new BlockError(
      'ENOTSUP',
      `Preallocation mode '${options.prealloc}' unsupported for this non-regular file`,
    );
  }
  const size = await file.size();
  if (bytes !== size && options.exact) {
    throw new BlockError('ENOTSUP', 'Cannot resize device files');
  }
  if (bytes > size) throw new BlockError('EINVAL', 'Cannot grow device files');
}

/** Whether an error of fallocate means "not here", so that another way should be tried. */
export function isNoSuchCall(e: unknown): boolean {
  if (isNotSupported(e)) return true;
  const code = typeof e === 'object' && e !== null && 'code' in e ? e.code : undefined;
  return code === 'ENOSYS' || code === 'ENOTTY' || code === 'ENODEV';
}
