/**
 * Encryption of an open image ("Encryption" and "Full disk encryption header pointer" of the
 * specification): finding the key, and the cipher that data-io.ts uses.
 *
 * - LUKS: header and key slots lie in the clusters that the header extension names; sectors are
 *   numbered by their place in the file (host offset / 512), so that a cluster that moves is
 *   encrypted anew.
 * - AES (legacy): the key is the password itself; sectors are numbered by guest offset / 512.
 * - Compressed clusters are stored without encryption, as QEMU has it.
 *
 * Invariant E1: nothing reads or writes outside the clusters that the extension names.
 */
import { checkFormat, encryptOptions, secretId } from '../../block/crypto/encrypt-option.js';
import type { LuksStorage } from '../../block/crypto/luks.js';
import type { SectorCipher } from '../../block/crypto/sector-cipher.js';
import type { OpenContext } from '../../block/driver.js';
import { BlockError } from '../../block/errors.js';
import { Iov } from '../../lib/iov.js';
import type { CryptoBlock, Qcow2Image } from './image.js';
import type { CryptoExt } from './layout.js';

const SECTOR = 512;
const formats = ['', 'aes', 'luks'] as const;

/**
 * Unlocks the image. Without I/O to guest data (`info`) only the LUKS header is read, and no key
 * is asked for. Throws BlockError or OptionError with QEMU's texts.
 */
export async function openEncryption(context: OpenContext, image: Qcow2Image): Promise<void> {
  const format = formats[image.header.fields.crypt_method] ?? '';
  const options = encryptOptions(image.settings.encrypt);
  checkFormat(format, options);
  if (format === '') return;
  const { noIo } = context.flags;
  const { graph } = context;
  if (format === 'luks') {
    const extension = image.header.extensions.crypto;
    if (extension === undefined) throw new BlockError('EINVAL');
    const storage = headerStorage(image, extension);
    const { openLuks, readLuksHeader } = await import('../../block/crypto/luks.js');
    if (noIo) {
      image.luks = { header: await readLuksHeader(storage), volume: undefined };
      return;
    }
    const password = await graph.secret(secretId(options));
    const { random, clock } = context.host;
    const host = { crypto: await graph.crypto(), random, clock };
    const volume = await openLuks(host, storage, password);
    image.luks = { header: volume.header, volume };
    image.crypto = cryptoBlock(volume.cipher, true);
    return;
  }
  if (noIo) return;
  const { openLegacyAes } = await import('../../block/crypto/legacy-aes.js');
  image.crypto = cryptoBlock(await openLegacyAes(graph, 'qcow2', secretId(options)), false);
}

/** Access to the clusters of the LUKS header (E1). */
export function headerStorage(image: Qcow2Image, extension: CryptoExt): LuksStorage {
  const place = (offset: number, bytes: number): number => {
    if (offset + bytes > extension.length) {
      throw new BlockError('EINVAL', 'Request for data outside of extension header');
    }
    return extension.offset + offset;
  };
  return {
    read: async (offset, out) => image.readMeta(place(offset, out.byteLength), Iov.of(out)),
    write: async (offset, data) => image.file.write(place(offset, data.byteLength), Iov.of(data)),
    flush: () => image.file.flush(),
  };
}

function cryptoBlock(cipher: SectorCipher, hostOffsets: boolean): CryptoBlock {
  return {
    sectorBytes: SECTOR,
    hostOffsets,
    encryptSectors: (offset, data) => cipher.encrypt(data, offset / SECTOR),
    decryptSectors: (offset, data) => cipher.decrypt(data, offset / SECTOR),
  };
}
