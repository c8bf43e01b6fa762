/** What a SCSI disk tells of itself: inquiry, vital product data, mode pages, capacity. */
import type { BlockSizes } from '../bus/block-properties.js';
import type { DiskInit } from './disk.js';

const encoder = new TextEncoder();
/** Greatest UNMAP, in bytes. */
const MAX_UNMAP = 1024 * 1024 * 1024;

/** Standard inquiry data of a disk: peripheral type 0, SPC-3, commands are queued. */
export function diskInquiry(data: Uint8Array, isRemovable: boolean): Uint8Array {
  data[0] = 0;
  data[1] = isRemovable ? 0x80 : 0;
  data[2] = 5;
  data[3] = 0x12;
  data[7] = 0x02;
  return data;
}

function page(code: number, body: ArrayLike<number>): Uint8Array {
  const out = new Uint8Array(4 + body.length);
  out[1] = code;
  new DataView(out.buffer).setUint16(2, body.length);
  out.set(body, 4);
  return out;
}

/** A page of vital product data; undefined: there is no such page. */
export function vitalPage(code: number, init: DiskInit): Uint8Array | undefined {
  const { names, sizes, rotationRate, drive } = init;
  switch (code) {
    case 0x00:
      return page(0, [0, ...(names.serial === '' ? [] : [0x80]), 0x83, 0xb0, 0xb1, 0xb2]);
    case 0x80:
      return names.serial === '' ? undefined : page(0x80, encoder.encode(names.serial));
    case 0x83: {
      const parts: number[] = [];
      const identity = encoder.encode(names.identity);
      if (identity.length > 0) parts.push(2, 0, 0, identity.length, ...identity);
      if (names.wwn !== 0n) {
        const raw = new DataView(new ArrayBuffer(8));
        raw.setBigUint64(0, names.wwn);
        parts.push(1, 3, 0, 8, ...new Uint8Array(raw.buffer));
      }
      return page(0x83, parts);
    }
    case 0xb0: {
      const view = new DataView(new ArrayBuffer(60));
      const { logical } = sizes;
      view.setUint8(0, 1); // WRITE SAME always has a length
      view.setUint16(2, Math.min(0xffff, Math.floor(sizes.minIo / logical)));
      view.setUint32(8, Math.floor(sizes.optIo / logical));
      view.setUint32(16, MAX_UNMAP / logical);
      view.setUint32(20, 255);
      view.setUint32(24, Math.floor((sizes.discardGranularity ?? 4096) / logical));
      view.setUint32(36, MAX_UNMAP / logical);
      return page(0xb0, new Uint8Array(view.buffer));
    }
    case 0xb1: {
      const body = new Uint8Array(60);
      new DataView(body.buffer).setUint16(0, rotationRate);
      return page(0xb1, body);
    }
    case 0xb2: {
      const isThin = drive.isInserted && drive.backend.node.flags.unmap;
      return page(0xb2, [0, 0xe0, isThin ? 2 : 1, 0]);
    }
    default:
      return undefined;
  }
}

/** READ CAPACITY(16). */
export function capacity16(blocks: number, sizes: BlockSizes): Uint8Array {
  const view = new DataView(new ArrayBuffer(32));
  const last = blocks - 1;
  view.setUint32(0, Math.floor(last / 2 ** 32));
  view.setUint32(4, last % 2 ** 32);
  view.setUint32(8, sizes.logical);
  view.setUint8(13, Math.log2(sizes.physical / sizes.logical));
  // Provisioning: UNMAP is there.
  view.setUint8(14, 0x80);
  return new Uint8Array(view.buffer);
}

/** MODE SENSE: header, a block descriptor and pages; undefined: there is no such page. */
export function modeData(
  cdb: Uint8Array,
  isLong: boolean,
  flags: { readonly writeCache: boolean; readonly isReadOnly: boolean },
  blocks: number,
  blockBytes: number,
): Uint8Array | undefined {
  const control = cdb[2]! >> 6;
  const wanted = cdb[2]! & 0x3f;
  // No values were saved.
  if (control === 3) return undefined;
  const isMask = control === 1;
  const all: Readonly<Record<number, readonly number[]>> = {
    0x01: [0x01, 10, ...(isMask ? zeroes(10) : [0x80, ...zeroes(9)])],
    0x08: [0x08, 18, isMask || flags.writeCache ? 4 : 0, ...zeroes(17)],
    0x0a: [0x0a, 10, ...zeroes(10)],
  };
  const pages = wanted === 0x3f ? Object.values(all) : [all[wanted]];
  if (pages.includes(undefined)) return undefined;
  const hasDescriptor = (cdb[1]! & 8) === 0;
  const descriptor = new DataView(new ArrayBuffer(hasDescriptor ? 8 : 0));
  if (hasDescriptor) {
    descriptor.setUint32(0, Math.min(blocks, 0xff_ffff));
    descriptor.setUint32(4, blockBytes);
  }
  const body = [
    ...new Uint8Array(descriptor.buffer),
    ...pages.flatMap((each) => [...(each ?? [])]),
  ];
  const specific = (flags.isReadOnly ? 0x80 : 0) | 0x10;
  const { byteLength } = descriptor;
  const length = body.length + (isLong ? 6 : 3);
  const header = isLong
    ? [length >> 8, length & 255, 0, specific, 0, 0, 0, byteLength]
    : [Math.min(255, length), 0, specific, byteLength];
  return Uint8Array.from([...header, ...body]);
}

function zeroes(count: number): number[] {
  return [...new Uint8Array(count)];
}
