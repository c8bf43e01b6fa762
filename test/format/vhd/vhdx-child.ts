// Differencing VHDX, built field by field.
import { guidBytes } from '../../../src/format/vhdx/guid.js';
import { tryHeader } from '../../../src/format/vhdx/header.js';
import {
  Guid,
  HEADER_FIELDS,
  ItemFlag,
  LOCATOR_FIELDS,
  METADATA_FIELDS,
} from '../../../src/format/vhdx/layout.js';
import { Bat } from '../../../src/format/vhdx/table.js';
import { crc32c } from '../../../src/lib/crc32c.js';
import { decodeFields, encodeFields, writeU64 } from '../../../src/lib/fields.js';
import type { Random } from '../../support/index.js';
import { KiB, MiB, utf16 } from './support.js';

const SECTOR = 512;

/** What the current header of a VHDX names as the identity of its data. */
export function dataGuid(image: Uint8Array): Uint8Array {
  const found = [64, 128].map((k) => tryHeader(image.subarray(k * KiB, (k + 4) * KiB), crc32c));
  const [a, b] = found;
  const newer = (a?.sequence_number ?? -1n) > (b?.sequence_number ?? -1n) ? a : b;
  return decodeFields(HEADER_FIELDS, image, newer === a ? 64 * KiB : 128 * KiB, 'little')
    .data_write_guid;
}

/** A child VHDX, made of a new image: a parent locator, and blocks of every state. */
export function vhdxChild(
  random: Random,
  fresh: Uint8Array,
  disk: Uint8Array,
  link: string,
  relative: string,
): Uint8Array {
  const size = disk.length;
  const m = { blockSize: MiB, size, sectorBytes: 512, hasParent: true, parent: new Map() };
  const bat = new Bat(m, 2 * MiB);
  const blocks = Math.ceil(size / MiB);
  const out = new Uint8Array(4 * MiB + (blocks + 1) * MiB);
  out.set(fresh.subarray(0, 4 * MiB));
  const metadata = 3 * MiB;
  const view = new DataView(out.buffer);
  // The flag of the file parameters, a sixth item, and its content.
  view.setUint32(metadata + 64 * KiB + 4, 2, true);
  view.setUint16(metadata + 10, 6, true);
  const pairs = [
    ['parent_linkage', `{${link}}`],
    ['relative_path', relative],
  ] as const;
  const locator = new Uint8Array(1024);
  locator.set(guidBytes(Guid.vhdxLocator), 0);
  new DataView(locator.buffer).setUint16(18, pairs.length, true);
  let at = 200;
  pairs.forEach(([key, value], i) => {
    const k = utf16(key);
    const v = utf16(value);
    const entry = {
      key_offset: at,
      value_offset: at + k.length,
      key_length: k.length,
      value_length: v.length,
    };
    encodeFields(LOCATOR_FIELDS, entry, locator, 20 + i * 12, 'little');
    locator.set(k, at);
    locator.set(v, at + k.length);
    at += k.length + v.length;
  });
  out.set(locator, metadata + 65 * KiB);
  const item = {
    item_id: guidBytes(Guid.parentLocator),
    offset: 65 * KiB,
    length: locator.length,
    flags: ItemFlag.required,
  };
  encodeFields(METADATA_FIELDS, item, out, metadata + 32 + 5 * 32, 'little');
  out.fill(0, 2 * MiB, 3 * MiB);
  const bitmap = 4 * MiB;
  const entry = (index: number, state: number, offset: number): void => {
    writeU64(view, 2 * MiB + index * 8, offset + state, true);
  };
  entry(bat.chunk, 6, bitmap);
  for (let block = 0; block < blocks; block++) {
    const state = random.pick([0, 1, 2, 3, 6, 7, 7]);
    const place = bitmap + (block + 1) * MiB;
    entry(block, state, state >= 6 ? place : 0);
    const end = Math.min(size, (block + 1) * MiB);
    if (state === 0) continue;
    if (state <= 3) {
      disk.fill(0, block * MiB, end);
      continue;
    }
    random.fill(out.subarray(place, place + MiB));
    for (let from = block * MiB; from < end; from += SECTOR) {
      const s = from / SECTOR;
      if (state === 7 && random.chance()) continue;
      out[bitmap + (s >> 3)]! |= 1 << (s & 7);
      const inside = from - block * MiB;
      disk.set(out.subarray(place + inside, place + inside + SECTOR), from);
    }
  }
  return out;
}
