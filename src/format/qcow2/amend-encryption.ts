/** `amend` of encryption keys. */
import type { AmendContext } from '../../block/driver.js';
import { BlockError } from '../../block/errors.js';
import type { CreateValues } from '../../options/create-options.js';
import type { Qcow2Image } from './image.js';

/**
 * Changes the key slots of a LUKS image as the `encrypt.…` members of `values` say. Throws
 * BlockError.
 */
export function amendEncryption(
  image: Qcow2Image,
  values: CreateValues,
  context: AmendContext,
): Promise<void> {
  void [image, values, context];
  return Promise.reject(
    new BlockError('ENOTSUP', 'Key slots of encrypted qcow2 images cannot be changed yet'),
  );
}
