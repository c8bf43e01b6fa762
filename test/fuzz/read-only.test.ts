// Goal: no image of a format that is only read, however broken, crashes vdisk, keeps it busy
// without end, or is changed. Method: mutations of images that are put together here, from seeds
// that are the same in each run.
import { deflateSync } from 'node:zlib';
import { makeDmg, zlibChunk } from '../format/dmg/make-dmg.js';
import type { FakeFiles } from '../support/index.js';
import { Random } from '../support/index.js';
import type { FuzzShape } from './format-fuzz.js';
import { fuzzTests } from './format-fuzz.js';

const KiB = 1024;
const path = '/f/disk';

function shape(format: string, bytes: Uint8Array, places: FuzzShape['places']): FuzzShape {
  const prepare = async (files: FakeFiles): Promise<void> => void files.put(path, bytes);
  return { format, create: '', size: 0, places, prepare };
}

const data = new Random(3).bytes(16 * KiB).fill(7, 4 * KiB);

function dmg(fork: boolean): FuzzShape {
  const chunks = [zlibChunk(data), { type: 1, stored: data }, { type: 0, sectors: 512 }];
  const { bytes, listAt, trailerAt } = makeDmg({ tables: [chunks, chunks], fork });
  const tables = [listAt, trailerAt - 1] as const;
  return shape('dmg', bytes, [tables, tables, [trailerAt, trailerAt + 511], [0, 64]]);
}

function cloop(): FuzzShape {
  const script =
    '#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n';
  const body = deflateSync(data);
  const head = Buffer.alloc(136 + 5 * 8);
  head.write(script);
  head.writeUInt32BE(data.length, 128);
  head.writeUInt32BE(4, 132);
  for (let i = 0; i <= 4; i++) {
    head.writeBigUInt64BE(BigInt(head.length + i * body.length), 136 + i * 8);
  }
  const bytes = new Uint8Array(Buffer.concat([head, body, body, body, body]));
  return shape('cloop', bytes, [
    [128, 175],
    [128, 135],
  ]);
}

function bochs(): FuzzShape {
  const bytes = new Uint8Array(512 + 64 * 4 + 8 * (512 + 16 * KiB));
  const view = new DataView(bytes.buffer);
  const text = (at: number, s: string): void => bytes.set(new TextEncoder().encode(s), at);
  text(0, 'Bochs Virtual HD Image');
  text(32, 'Redolog');
  text(48, 'Growing');
  [2 << 16, 512, 64, 4, 16 * KiB].forEach((v, i) => void view.setUint32(64 + i * 4, v, true));
  view.setBigUint64(88, BigInt(64 * 16 * KiB), true);
  for (let i = 0; i < 64; i++) view.setUint32(512 + i * 4, i < 8 ? i : 0xffffffff, true);
  bytes.fill(0xff, 512 + 256, 512 + 256 + 4);
  return shape('bochs', bytes, [
    [64, 96],
    [512, 560],
  ]);
}

fuzzTests('read-only', [dmg(false), dmg(true), cloop(), bochs()]);
