/** Creating a LUKS volume in a new file. */
import { createLuks, luksPayloadOffset } from '../../block/crypto/luks.js';
import type { CreateContext } from '../../block/driver.js';
import { BlockError } from '../../block/errors.js';
import { filePreallocation } from '../../block/truncate.js';
import { Iov } from '../../lib/iov.js';
import { volumeOptions } from './create-options.js';
import { luksHost } from './open.js';

/** Writes header, first key slot and payload area of `values.size` bytes. */
export async function createLuksImage(context: CreateContext): Promise<void> {
  const { values, graph } = context;
  const id = values['key-secret'];
  if (typeof id !== 'string') {
    throw new BlockError('EINVAL', "Parameter 'key-secret' is required for cipher");
  }
  const options = volumeOptions(values);
  const detached = values['detached-header'] === true;
  const bytes = values.size;
  if (bytes === undefined && !detached) {
    throw new BlockError('EINVAL', 'Image creation needs a size parameter');
  }
  // There is no metadata but the header, which is always written.
  const mode = values['preallocation'];
  const prealloc = mode === 'metadata' ? 'off' : filePreallocation(mode);
  const password = await graph.secret(id);
  const payload = luksPayloadOffset(options);
  const sectors = Math.ceil((bytes ?? 0) / 512) * 512;
  // Of blockdev-create: a node for the header, and maybe one for the payload.
  const headerName = values['header'] === true ? 'header' : undefined;
  if (headerName !== undefined && values['payload'] === true) {
    const file = await context.createFile(0);
    try {
      await file.truncate(sectors, { prealloc });
    } finally {
      await file.close();
    }
  }
  const backend = await context.createFile(0, headerName);
  try {
    await backend.truncate(detached ? payload : payload + sectors, detached ? {} : { prealloc });
    const storage = {
      read: (offset: number, out: Uint8Array) => backend.read(offset, Iov.of(out)),
      write: (offset: number, data: Uint8Array) => backend.write(offset, Iov.of(data)),
      flush: () => backend.flush(),
    };
    await createLuks(await luksHost(graph), storage, password, options, detached);
  } finally {
    await backend.close();
  }
}
