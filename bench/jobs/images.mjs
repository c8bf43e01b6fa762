// Images for the benchmarks, each made once and only when a row needs it.
import { spawnSync } from 'node:child_process';
import { closeSync, ftruncateSync, openSync, readdirSync, readSync, rmSync } from 'node:fs';
import { statSync, writeSync } from 'node:fs';
import { join } from 'node:path';

const MIB = 1024 * 1024;
const GIB = 1024 * MIB;

/** Regular files below the folders, in a fixed order, up to some number. */
function filesBelow(folders, most) {
  const found = [];
  const visit = (folder) => {
    let entries;
    try {
      entries = readdirSync(folder, { withFileTypes: true });
    } catch {
      return;
    }
    for (const entry of entries.sort((a, b) => (a.name < b.name ? -1 : 1))) {
      if (found.length >= most) return;
      const path = join(folder, entry.name);
      if (entry.isDirectory()) visit(path);
      else if (entry.isFile() && statSync(path).size > 65536) found.push(path);
    }
  };
  for (const folder of folders) visit(folder);
  return found;
}

/** A file of real content: programs and libraries of this machine, again and again. */
function fillWithFiles(path, bytes) {
  const files = [process.execPath, ...filesBelow(['/usr/lib', '/usr/bin'], 400)];
  const out = openSync(path, 'w');
  const buffer = Buffer.alloc(4 * MIB);
  let written = 0;
  for (let i = 0; written < bytes; i = (i + 1) % files.length) {
    const file = openSync(files[i], 'r');
    for (;;) {
      const n = Math.min(readSync(file, buffer), bytes - written);
      if (n === 0) break;
      written += writeSync(out, buffer, 0, n);
    }
    closeSync(file);
  }
  closeSync(out);
}

function img(context, ...args) {
  const result = spawnSync(context.img, args, { cwd: context.dir, encoding: 'utf8' });
  if (result.status !== 0) throw new Error(`vdisk-img ${args.join(' ')}: ${result.stderr}`);
}

/** 2 GiB of real content, raw. */
export function rawTwo(context) {
  fillWithFiles(join(context.dir, 'two.raw'), 2 * GIB);
}

/** The first 1 GiB of it, for the other formats. */
export function rawOne(context) {
  fillWithFiles(join(context.dir, 'one.raw'), GIB);
}

/** The same in another format; `options`: of convert. */
export function convertOne(context, format, options = ['-O', format]) {
  img(context, 'convert', ...options, '-f', 'raw', 'one.raw', `one.${format}`);
}

/** The first 512 MiB of it, for what takes long. */
export function rawHalf(context) {
  fillWithFiles(join(context.dir, 'half.raw'), GIB / 2);
}

export function qcow2Two(context) {
  img(context, 'convert', '-f', 'raw', '-O', 'qcow2', 'two.raw', 'two.qcow2');
}

export function qcow2Zlib(context) {
  img(context, 'convert', '-c', '-f', 'raw', '-O', 'qcow2', 'half.raw', 'zlib.qcow2');
}

export function qcow2Zstd(context) {
  const option = 'compression_type=zstd';
  img(context, 'convert', '-c', '-o', option, '-f', 'raw', '-O', 'qcow2', 'half.raw', 'zstd.qcow2');
}

/** 1 TiB with 64 MiB of data here and there. */
export function rawSparse(context) {
  const out = openSync(join(context.dir, 'sparse.raw'), 'w');
  ftruncateSync(out, 1024 * GIB);
  const data = Buffer.alloc(MIB, 'vdisk');
  for (let i = 0; i < 64; i++) writeSync(out, data, 0, MIB, i * 16 * GIB + MIB);
  closeSync(out);
}

const CLUSTER = 65536;
const L2_ENTRIES = CLUSTER / 8;

/** A qcow2 image of 64 GiB with 200,000 clusters, one in five, their data a hole of the file. */
export function qcow2Scattered(context) {
  const size = 64 * GIB;
  const l2Tables = size / CLUSTER / L2_ENTRIES;
  const clusters = 200_000;
  const step = Math.floor(size / CLUSTER / clusters);
  const firstData = 16 + l2Tables;
  const total = firstData + clusters;
  const out = openSync(join(context.dir, 'scattered.qcow2'), 'w');
  const header = Buffer.alloc(CLUSTER);
  header.write('QFI\xfb', 0, 'latin1');
  header.writeUInt32BE(3, 4);
  header.writeUInt32BE(16, 20);
  header.writeBigUInt64BE(BigInt(size), 24);
  header.writeUInt32BE(l2Tables, 36);
  header.writeBigUInt64BE(BigInt(CLUSTER), 40);
  header.writeBigUInt64BE(BigInt(2 * CLUSTER), 48);
  header.writeUInt32BE(1, 56);
  header.writeUInt32BE(4, 96);
  header.writeUInt32BE(104, 100);
  writeSync(out, header, 0, CLUSTER, 0);
  writeScatteredTables(out, { l2Tables, clusters, step, firstData, total });
  ftruncateSync(out, total * CLUSTER);
  closeSync(out);
}

function writeScatteredTables(out, { l2Tables, clusters, step, firstData, total }) {
  const entry = (cluster) => (1n << 63n) | BigInt(cluster * CLUSTER);
  const l1 = Buffer.alloc(CLUSTER);
  for (let i = 0; i < l2Tables; i++) l1.writeBigUInt64BE(entry(16 + i), i * 8);
  writeSync(out, l1, 0, CLUSTER, CLUSTER);
  const l2 = Buffer.alloc(l2Tables * CLUSTER);
  for (let i = 0; i < clusters; i++) l2.writeBigUInt64BE(entry(firstData + i), i * step * 8);
  writeSync(out, l2, 0, l2.length, 16 * CLUSTER);
  // Refcount blocks stand in clusters 3 to 15; each counts 32768 clusters.
  const blocks = Math.ceil(total / (CLUSTER / 2));
  const table = Buffer.alloc(CLUSTER);
  const counts = Buffer.alloc(blocks * CLUSTER);
  for (let i = 0; i < blocks; i++) table.writeBigUInt64BE(BigInt((3 + i) * CLUSTER), i * 8);
  for (let i = 0; i < total; i++) {
    const used = i < 3 + blocks || i >= 16;
    if (used) counts.writeUInt16BE(1, i * 2);
  }
  writeSync(out, table, 0, CLUSTER, 2 * CLUSTER);
  writeSync(out, counts, 0, counts.length, 3 * CLUSTER);
}

/** 1 GiB of incompressible bytes for requests, raw and as qcow2. */
export function rawRequests(context) {
  const out = openSync(join(context.dir, 'requests.raw'), 'w');
  const block = Buffer.alloc(MIB);
  for (let i = 0; i < block.length; i += 4) block.writeUInt32LE((i * 2654435761) >>> 0, i);
  for (let i = 0; i < 1024; i++) writeSync(out, block);
  closeSync(out);
}

export function qcow2Requests(context) {
  img(context, 'convert', '-f', 'raw', '-O', 'qcow2', 'requests.raw', 'requests.qcow2');
}

/** 1 GiB, of which a quarter is data: something to copy from when clusters are written in part. */
export function firstBase(context) {
  const raw = join(context.dir, 'first-base.raw');
  fillWithFiles(raw, GIB / 4);
  const out = openSync(raw, 'r+');
  ftruncateSync(out, GIB);
  closeSync(out);
  img(context, 'convert', '-f', 'raw', '-O', 'qcow2', 'first-base.raw', 'first-base.qcow2');
  rmSync(raw);
}
