/** The header of a Parallels image: parsing with its checks. Pure. */
import { BlockError } from '../../block/errors.js';
import { MAX_LENGTH } from '../../block/types.js';
import { decodeFields } from '../../lib/fields.js';
import type { ParallelsHeaderFields } from './layout.js';
import { HEADER_BYTES, HEADER_FIELDS, Limit, Magic, SECTOR, VERSION } from './layout.js';

export interface ParallelsHeader {
  readonly fields: ParallelsHeaderFields;
  /** Virtual size in bytes. */
  readonly size: number;
  readonly clusterBytes: number;
  /** Bytes for which an entry of the BAT counts. */
  readonly entryUnit: number;
  /** First byte of data, as it has to be where the header is wrong. */
  readonly dataStart: number;
  /** What the header says about that cannot be. */
  readonly isDataOffWrong: boolean;
}

function magicOf(head: Uint8Array): string {
  return String.fromCharCode(...head.subarray(0, 16));
}

/** Whether `head` begins a Parallels image. */
export function isParallels(head: Uint8Array): boolean {
  if (head.byteLength < HEADER_BYTES) return false;
  const magic = magicOf(head);
  if (magic !== Magic.old && magic !== Magic.ext) return false;
  return new DataView(head.buffer, head.byteOffset).getUint32(16, true) === VERSION;
}

/** Parses and checks the first 64 bytes. Throws BlockError with QEMU's texts. */
export function parseHeader(bytes: Uint8Array, fileSize: number): ParallelsHeader {
  if (!isParallels(bytes)) throw new BlockError('EINVAL', 'Image not in Parallels format');
  const fields = decodeFields(HEADER_FIELDS, bytes, 0, 'little');
  const isExt = magicOf(bytes) === Magic.ext;
  const { tracks, nb_bat_entries: entries } = fields;
  if (tracks === 0) throw new BlockError('EINVAL', 'Invalid image: Zero sectors per track');
  if (tracks > Limit.maxTracks) {
    throw new BlockError('EFBIG', 'Invalid image: Too big cluster');
  }
  if (entries > Limit.maxEntries) throw new BlockError('EFBIG', 'Catalog too large');
  const sectors = isExt ? fields.nb_sectors : fields.nb_sectors % 2 ** 32;
  if (sectors * SECTOR > MAX_LENGTH) {
    const text = `Invalid image: nb_sectors is ${String(BigInt(sectors))}, too large`;
    throw new BlockError('EFBIG', text);
  }
  return {
    fields,
    size: sectors * SECTOR,
    clusterBytes: tracks * SECTOR,
    entryUnit: isExt ? tracks * SECTOR : SECTOR,
    ...dataStart(fields, isExt, fileSize),
  };
}

/** Where data begins ("data_off"). */
function dataStart(
  { nb_bat_entries: entries, tracks, data_off: given }: ParallelsHeaderFields,
  isExt: boolean,
  fileSize: number,
): Pick<ParallelsHeader, 'dataStart' | 'isDataOffWrong'> {
  const sectors = Math.ceil((HEADER_BYTES + entries * 4) / SECTOR);
  const least = isExt ? Math.ceil(sectors / tracks) * tracks : sectors;
  if (given === 0 && !isExt) return { dataStart: least * SECTOR, isDataOffWrong: false };
  const isWrong = given < least || given > Math.floor(fileSize / SECTOR);
  return { dataStart: (isWrong ? least : given) * SECTOR, isDataOffWrong: isWrong };
}
