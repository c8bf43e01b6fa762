// Compressed data that yields far more than its place in an image may hold, and images around it.
import { deflateRawSync, deflateSync, gunzipSync } from 'node:zlib';
import { makeDmg, SECTOR, Type } from '../format/dmg/make-dmg.js';
import { xzSample } from '../format/dmg/samples.js';
import { imagePath, makeImage, openImage, patch } from '../format/made-image.js';
import { FakeFiles, filled } from '../support/index.js';
import { Req } from '../../src/index.js';

const KiB = 1024;
const MiB = 1024 * KiB;
const GiB = 1024 * MiB;

/** Zeroes of any length without having them all at once: streams of zlib may be cut in blocks. */
const zlibBomb = (bytes: number): Uint8Array => deflateSync(Buffer.alloc(bytes));

/** 45899235 zeroes by bzip2 -9, again and again: decoders take streams that follow each other. */
function bzip2Bomb(bytes: number): Uint8Array {
  const one = 'QlpoOTFBWSZTWQ4J4t8BX45AAMAAAAggADCATUZCoCWpCoCXF3JFOFCQDgni3w==';
  const times = Math.ceil(bytes / 45_899_235);
  return Buffer.concat(Array.from({ length: times }, () => Buffer.from(one, 'base64')));
}

/** 64 MiB of zeroes by xz -9, which gzip makes shorter, twice. */
function xzBomb(): Uint8Array {
  const packed =
    'H4sIAAAAAAACA5Pv5mAAASbm39lxooJHDxz49OaWmLkam6ubJBsbW+NnwfR//8VTznSmJpz4//v//0dv/999a+PS' +
    'rSPMXO5zqWLbjt6/z3erF/lO/9ofddOgKn+N9c2rT1fvn/E97e+m47anmg7yK6n2TSuz1fq/MdfL1v9aY7XqPM3+' +
    'uGMs+Uk7P95tTS+1yV93+/Ty9tNW2/y54zef/Z64LOdf/nu+Rpnll2W/GfL8Ff9zbXWmj+aU7W/DKyMM8ncW/ZHu' +
    'vbxWfPm5F6suz/rhuffL7ieM2yT3Gf+7F1FfyvRf8OoD+Xj1WZKb9O5+0Puf0Lje+vzRzqbV19ROvLPaHhirpLbp' +
    'bWpUwJF901Ozlebb9KY9/VH559ot+/3NW7zPnXLVtvi7Rzrnt7Nx6+VdD7eEnfu79pp835ur3fFH85/PfWbiOOP9' +
    '/gNP5FtFJ9rvOP9v/qqHx/Z/8j+79/5mni+H+L5sr8vLs5nglbr6e8UK++4Z/+MbAmc/9C388Gn/72tXJbzO3r+X' +
    'PcO86FCDyWrmn2/Ne9luZDTQgHBgjWh+Y8tm1nad/7z7KmMDA5+pF0WNdldatDVuvLl94UJHxdtVn773ul+qN2Z8' +
    'KhGhtJjhZF3CmxVqDAwA5MWkrAsCAAA=';
  return gunzipSync(gunzipSync(Buffer.from(packed, 'base64')));
}

/** A short xz stream whose header asks for a dictionary of 4 GiB - 1. */
function xzHugeDictionary(): Uint8Array {
  const out = Buffer.from(xzSample, 'base64');
  // The block's header: its length, flags, the filter's id and length, the dictionary (5.3.1).
  const bytes = (out[12]! + 1) * 4;
  const at = out.indexOf(Uint8Array.of(0x21, 1), 12);
  if (at < 0 || at > 12 + bytes) throw new Error('The sample has no LZMA2 filter');
  out[at + 2] = 40;
  out.writeUInt32LE(crc32(out.subarray(12, 12 + bytes - 4)), 12 + bytes - 4);
  return out;
}

function crc32(bytes: Uint8Array): number {
  let crc = ~0;
  for (const byte of bytes) {
    crc ^= byte;
    for (let i = 0; i < 8; i++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ~crc >>> 0;
}

/** One byte, then copies of 67 bytes from one back. */
function adcBomb(bytes: number): Uint8Array {
  const copies = Math.ceil(bytes / 67);
  return Uint8Array.from({ length: 2 + 3 * copies }, (_, i) => {
    if (i < 2) return i === 0 ? 0x80 : 0;
    return (i - 2) % 3 === 0 ? 0x7f : 0;
  });
}

const END = Buffer.from('bvx$');

/** A block of LZVN: one literal, then copies of 271 bytes from one back, and its end. */
function lzvnBomb(bytes: number, told: number): Uint8Array {
  const copies = Math.ceil(bytes / 271);
  const payload = Buffer.alloc(4 + 2 * copies + 8);
  // One literal and a copy of 3 from 1 back; the literal.
  payload.set([0x40, 1, 0, 0x0e]);
  for (let i = 0; i < copies; i++) payload.set([0xf0, 255], 4 + 2 * i);
  payload[payload.length - 8] = 6;
  const head = Buffer.alloc(12);
  head.write('bvxn');
  head.writeUInt32LE(told, 4);
  head.writeUInt32LE(payload.length, 8);
  return Buffer.concat([head, payload, END]);
}

/** A coded block of LZFSE: ten thousand times a literal and a copy of 2359 bytes in 11 bits. */
function codedBomb(blocks: number): Uint8Array {
  const matches = 10_000;
  const frequencies = new Uint16Array(20 + 20 + 64 + 256);
  // One symbol takes all states and no bits: length 1, the longest copies, distance 1, literal 0.
  frequencies[1] = 64;
  frequencies[20 + 19] = 64;
  frequencies[40 + 1] = 256;
  frequencies[104] = 1024;
  const bits = Buffer.alloc(Math.ceil((matches * 11) / 8), 0xff);
  const head = Buffer.alloc(772);
  head.write('bvx1');
  head.writeUInt32LE(matches * 2360, 4);
  head.writeUInt32LE(bits.length, 8);
  head.writeUInt32LE(matches, 12);
  head.writeUInt32LE(matches, 16);
  head.writeUInt32LE(0, 20);
  head.writeUInt32LE(bits.length, 24);
  frequencies.forEach((f, i) => head.writeUInt16LE(f, 50 + 2 * i));
  const block = Buffer.concat([head, bits]);
  return Buffer.concat([...Array.from({ length: blocks }, () => block), END]);
}

/** The one grain of a stream in place of which `packed` stands. */
async function streamOptimized(packed: Uint8Array): Promise<Uint8Array> {
  const files = new FakeFiles();
  const options = 'subformat=streamOptimized';
  await makeImage(files, { format: 'vmdk', size: MiB, options });
  const disk = await openImage(files, 'vmdk', { writable: true });
  await disk.write(0, filled(64 * KiB, 1));
  await disk.detach();
  const marker = Buffer.alloc(12);
  marker.writeUInt32LE(packed.length, 8);
  const head = files.bytesOf(imagePath).subarray(0, 64 * KiB);
  const end = Buffer.alloc(512 - ((12 + packed.length) % 512));
  return Buffer.concat([head, marker, packed, end]);
}

async function hugeGrains(): Promise<Uint8Array> {
  const bytes = (await streamOptimized(zlibBomb(MiB))).slice();
  const patches = [[12, 8, 2 ** 31] as const, [20, 8, 0x20_0000] as const];
  patch(bytes, patches, true);
  return bytes;
}

/** An image of two clusters, the second of which is `packed`, and told to be that long. */
async function qcow(packed: Uint8Array, told = packed.length): Promise<Uint8Array> {
  const files = new FakeFiles();
  await makeImage(files, { format: 'qcow', size: 8 * KiB });
  const disk = await openImage(files, 'qcow', { writable: true });
  await disk.write(0, filled(4 * KiB, 1));
  await disk.write(4 * KiB, filled(4 * KiB, 2), Req.compressed);
  await disk.detach();
  const old = files.bytesOf(imagePath);
  const at = Math.ceil(old.length / 512) * 512;
  const out = new Uint8Array(at + Math.ceil((packed.length + 1) / 512) * 512);
  out.set(old);
  out.set(packed, at);
  const view = new DataView(out.buffer);
  const table = Number(view.getBigUint64(Number(view.getBigUint64(40))));
  const entry = (1n << 63n) | (BigInt(told) << 51n) | BigInt(at);
  view.setBigUint64(table + 8, entry);
  return out;
}

/** One block of 16 KiB or as told. */
function cloop(packed: Uint8Array, blockBytes = 16 * KiB): Uint8Array {
  const head = Buffer.alloc(152);
  head.write(
    '#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n',
  );
  head.writeUInt32BE(blockBytes, 128);
  head.writeUInt32BE(1, 132);
  head.writeBigUInt64BE(152n, 136);
  head.writeBigUInt64BE(152n + BigInt(packed.length), 144);
  return Buffer.concat([head, packed]);
}

const dmg = (type: number, stored: Uint8Array, bytes = MiB): Uint8Array =>
  makeDmg({ tables: [[{ type, sectors: bytes / SECTOR, stored }]] }).bytes;

export interface Bomb {
  readonly name: string;
  readonly format: string;
  readonly make: () => Uint8Array | Promise<Uint8Array>;
  /** The line about it. */
  readonly line: RegExp;
}

const read = /^vdisk-img: error while reading at byte \d+: Input\/output error\n$/u;
const grain = /: Bad data of the compressed grain at byte 65536\n$|Invalid argument\n$/u;

/** Each is refused. */
export const bombs: readonly Bomb[] = [
  {
    name: 'a grain that holds 64 MiB',
    format: 'vmdk',
    make: () => streamOptimized(zlibBomb(64 * MiB)),
    line: grain,
  },
  {
    name: 'a grain told to be longer than two',
    format: 'vmdk',
    make: () => streamOptimized(zlibBomb(512 * MiB)),
    line: /Bad length of the compressed grain at byte 65536\n$|Invalid argument\n$/u,
  },
  {
    name: 'grains of 1 GiB',
    format: 'vmdk',
    make: hugeGrains,
    line: /Grains of the compressed extent have 2097152 sectors, expected at most 131072\n$/u,
  },
  {
    name: 'a block that holds 1 GiB',
    format: 'cloop',
    make: () => cloop(zlibBomb(GiB)),
    line: read,
  },
  {
    name: 'a block of 64 MiB that holds 1 GiB',
    format: 'cloop',
    make: () => cloop(zlibBomb(GiB), 64 * MiB),
    line: read,
  },
  {
    name: 'a compressed cluster that holds too little',
    format: 'qcow',
    make: () => qcow(deflateRawSync(Buffer.alloc(4095))),
    line: read,
  },
  {
    name: 'a compressed cluster that goes on without end',
    format: 'qcow',
    // Empty blocks yield nothing; the longest that an entry can tell.
    make: () => qcow(Buffer.alloc(4095), 4095),
    line: read,
  },
  { name: 'zlib', format: 'dmg', make: () => dmg(Type.zlib, zlibBomb(GiB)), line: read },
  { name: 'ADC', format: 'dmg', make: () => dmg(Type.adc, adcBomb(GiB)), line: read },
  { name: 'bzip2', format: 'dmg', make: () => dmg(Type.bzip2, bzip2Bomb(GiB)), line: read },
  { name: 'LZMA', format: 'dmg', make: () => dmg(Type.lzma, xzBomb()), line: read },
  {
    name: 'LZMA with a dictionary of 4 GiB',
    format: 'dmg',
    make: () => dmg(Type.lzma, xzHugeDictionary(), 8 * KiB),
    line: read,
  },
  {
    name: 'LZFSE, plain LZVN',
    format: 'dmg',
    make: () => dmg(Type.lzfse, lzvnBomb(GiB, MiB)),
    line: read,
  },
  {
    name: 'LZFSE, LZVN that tells of all',
    format: 'dmg',
    make: () => dmg(Type.lzfse, lzvnBomb(GiB, 0xffff_ffff)),
    line: read,
  },
  { name: 'LZFSE, coded', format: 'dmg', make: () => dmg(Type.lzfse, codedBomb(45)), line: read },
];

/** A cluster of qcow may yield more than is wanted, for QEMU reads on as well. */
export const longCluster = (): Promise<Uint8Array> => qcow(deflateRawSync(Buffer.alloc(3 * MiB)));

/** Images of chunks of 64 MiB, each in few bytes. */
export function manyLargeChunks(count: number): Uint8Array {
  const stored = zlibBomb(64 * MiB);
  const chunk = { type: Type.zlib, sectors: (64 * MiB) / SECTOR, stored };
  return makeDmg({ tables: [Array.from({ length: count }, () => chunk)] }).bytes;
}
