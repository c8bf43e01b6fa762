/**
 * `amend` of encryption keys: the slots of the LUKS header change as in a volume of the luks
 * format; see block/crypto/luks.ts for the order of writes (L1, L2), which lie in the clusters
 * that the header extension names (E1) and nowhere else.
 */
import { amendLuks } from '../../block/crypto/luks-options.js';
import type { AmendContext } from '../../block/driver.js';
import { BlockError } from '../../block/errors.js';
import type { CreateValues } from '../../options/create-options.js';
import type { Qcow2Image } from './image.js';

/**
 * Changes the key slots of a LUKS image as the `encrypt.…` members of `values` say. Throws
 * BlockError; nothing has changed then, or the image can be opened with what was there before.
 */
export async function amendEncryption(
  image: Qcow2Image,
  values: CreateValues,
  context: AmendContext,
): Promise<void> {
  const volume = image.luks?.volume;
  if (volume === undefined) {
    throw new BlockError('EINVAL', "Parameter 'encrypt.key-secret' is required for cipher");
  }
  const value = (name: string): CreateValues[string] => values[`encrypt.${name}`];
  const secret = (id: string): Promise<Uint8Array> => image.graph.secret(id);
  await image.exclusive(() => amendLuks(volume, value, secret, context.force));
}
