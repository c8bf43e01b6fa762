/** Writing new images: header and block map; for a static image the file gets its full length. */
import type { Backend } from '../../block/backend.js';
import type { CreateContext } from '../../block/driver.js';
import { BlockError } from '../../block/errors.js';
import { filePreallocation } from '../../block/truncate.js';
import { Iov } from '../../lib/iov.js';
import { typedValues } from '../../options/create-options.js';
import { vdiCreateOptions } from './create-options.js';
import type { VdiHeader } from './header.js';
import { newHeader, tooLarge } from './header.js';
import { Limit, MIB, SECTOR } from './layout.js';

/** The map is written in pieces of this many bytes. */
const PIECE = 4 * MIB;

/** Creates an image. Throws BlockError or OptionError. */
export async function createVdi(context: CreateContext): Promise<void> {
  const o = typedValues(vdiCreateOptions, context.values);
  const asked = o.size ?? 0;
  const size = asked + ((SECTOR - (asked % SECTOR)) % SECTOR);
  if (asked > Limit.maxDiskSize) throw new BlockError('ENOTSUP', tooLarge(asked));
  const prealloc = filePreallocation(context.values['preallocation']);
  const random = new Uint8Array(32);
  context.host.random.fill(random);
  const header = newHeader({ size, blockSize: MIB, static: o.static, random });
  const file = await context.createFile(0);
  try {
    const { fields } = header;
    const blocks = o.static ? fields.blocks_in_image : 0;
    const bytes = fields.offset_data + blocks * fields.block_size;
    await file.truncate(bytes, { exact: false, prealloc });
    await writeMap(file, header, o.static);
    await file.write(0, Iov.of(header.bytes));
    await file.flush();
  } finally {
    await file.close();
  }
}

/** Every block in its place for a static image, else none in any. */
async function writeMap(file: Backend, { fields }: VdiHeader, isStatic: boolean): Promise<void> {
  const count = fields.blocks_in_image;
  const bytes = fields.offset_data - fields.offset_bmap;
  for (let at = 0; at < bytes; at += PIECE) {
    const piece = new DataView(new ArrayBuffer(Math.min(PIECE, bytes - at)));
    const first = at / 4;
    const entries = Math.min(count - first, piece.byteLength / 4);
    for (let i = 0; i < entries; i++)
      piece.setUint32(i * 4, isStatic ? first + i : 0xffff_ffff, true);
    await file.write(fields.offset_bmap + at, Iov.of(new Uint8Array(piece.buffer)));
  }
}
