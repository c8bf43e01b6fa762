/** The encryption header of a new LUKS image; loaded only for those. */
import type { Backend } from '../../block/backend.js';
import type { LuksCreateOptions } from '../../block/crypto/luks.js';
import { createLuks } from '../../block/crypto/luks.js';
import type { BlockGraph } from '../../block/graph.js';
import { Iov } from '../../lib/iov.js';
import type { NewLayout } from './create-layout.js';

/** Writes header and first key slot to the clusters that the layout has for them. */
export async function writeLuksHeader(
  graph: BlockGraph,
  file: Backend,
  layout: NewLayout,
  password: Uint8Array,
  options: LuksCreateOptions,
): Promise<void> {
  const { random, clock } = graph.host;
  const at = layout.cryptoOffset;
  const storage = {
    read: (offset: number, out: Uint8Array) => file.read(at + offset, Iov.of(out)),
    write: (offset: number, data: Uint8Array) => file.write(at + offset, Iov.of(data)),
    flush: () => file.flush(),
  };
  await createLuks({ crypto: await graph.crypto(), random, clock }, storage, password, options);
}
