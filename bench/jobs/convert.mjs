// Conversions: both ways, compressed, sparse.
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { qcow2Two, qcow2Zlib, qcow2Zstd, rawHalf, rawSparse, rawTwo } from './images.mjs';

const before = ({ dir }) => rmSync(join(dir, 'out'), { force: true });

function job(name, needs, ...args) {
  return { name: `convert ${name}`, needs, before, args: () => ['convert', ...args, 'out'] };
}

const zstd = ['-o', 'compression_type=zstd'];

export const convertJobs = [
  job('raw to qcow2, 2 GiB', [rawTwo], '-f', 'raw', '-O', 'qcow2', 'two.raw'),
  job('qcow2 to raw, 2 GiB', [rawTwo, qcow2Two], '-f', 'qcow2', '-O', 'raw', 'two.qcow2'),
  job('qcow2 to qcow2, 2 GiB', [rawTwo, qcow2Two], '-f', 'qcow2', '-O', 'qcow2', 'two.qcow2'),
  job('raw to raw, 2 GiB', [rawTwo], '-f', 'raw', '-O', 'raw', 'two.raw'),
  job('-c zlib, 512 MiB', [rawHalf], '-c', '-f', 'raw', '-O', 'qcow2', 'half.raw'),
  job('-c zstd, 512 MiB', [rawHalf], '-c', ...zstd, '-f', 'raw', '-O', 'qcow2', 'half.raw'),
  job('from zlib, 512 MiB', [rawHalf, qcow2Zlib], '-f', 'qcow2', '-O', 'raw', 'zlib.qcow2'),
  job('from zstd, 512 MiB', [rawHalf, qcow2Zstd], '-f', 'qcow2', '-O', 'raw', 'zstd.qcow2'),
  job('sparse raw of 1 TiB to qcow2', [rawSparse], '-f', 'raw', '-O', 'qcow2', 'sparse.raw'),
  job('sparse raw of 1 TiB to raw', [rawSparse], '-f', 'raw', '-O', 'raw', 'sparse.raw'),
];
