/**
 * `create` for storage that cannot be made, only used: devices and what servers export. The
 * target must be there and long enough; what it held is hidden by clearing its first sector.
 */
import { createOptions } from '../options/create-options.js';
import type { CreateContext } from './driver.js';
import { BlockError, errorCode, messageOf } from './errors.js';
import { defaultFlags } from './node-options.js';
import { Perm, Req } from './types.js';

export const existingCreateOptions = createOptions({
  size: { type: 'size', help: 'Virtual disk size' },
  preallocation: { type: 'str', help: 'Preallocation mode (allowed values: off)' },
});

/** Bytes in which formats are recognised. */
const FIRST_SECTOR = 512;

/**
 * Takes the target into use. Throws BlockError when it cannot be opened, when it is too short
 * and cannot grow, or when its first sector cannot be cleared.
 */
export async function createOnExisting(context: CreateContext, driver: string): Promise<void> {
  const { graph, filename, values } = context;
  const preallocation = values['preallocation'] ?? 'off';
  if (preallocation !== 'off') {
    const mode = String(preallocation);
    throw new BlockError('ENOTSUP', `Unsupported preallocation mode '${mode}'`);
  }
  const size = values.size ?? 0;
  const backend = await graph
    .openBackend(
      { filename, options: { driver }, flags: { ...defaultFlags, writable: true } },
      { perm: Perm.write | Perm.resize, shared: Perm.all },
    )
    .catch((e: unknown) => {
      const text =
        `Protocol driver '${driver}' does not support creating new images, so an existing ` +
        'image must be selected as the target; however, opening the given target as an ' +
        `existing image failed: ${messageOf(e)}`;
      throw new BlockError(errorCode(e), text, { cause: e });
    });
  try {
    if (backend.size < size) await backend.truncate(size, { exact: false });
    const clear = Math.min(FIRST_SECTOR, backend.size);
    if (clear > 0) await backend.writeZeroes(0, clear, Req.mayUnmap);
  } finally {
    await backend.detach();
  }
}
