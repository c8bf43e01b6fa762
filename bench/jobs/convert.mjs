// Conversions: both ways, compressed, sparse.
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { convertOne, qcow2Two, qcow2Zlib, qcow2Zstd } from './images.mjs';
import { rawHalf, rawOne, rawSparse, rawTwo } from './images.mjs';

const before = ({ dir }) => rmSync(join(dir, 'out'), { force: true });

function job(name, needs, ...args) {
  return { name: `convert ${name}`, needs, before, args: () => ['convert', ...args, 'out'] };
}

/** Both ways between raw and another format, 1 GiB. */
function bothWays(format) {
  const make = (context) => convertOne(context, format);
  return [
    job(`raw to ${format}, 1 GiB`, [rawOne], '-f', 'raw', '-O', format, 'one.raw'),
    job(`${format} to raw, 1 GiB`, [rawOne, make], '-f', format, '-O', 'raw', `one.${format}`),
  ];
}

const secret = ['--object', 'secret,id=s,data=bench'];
const luks = ['-O', 'luks', '-o', 'key-secret=s,iter-time=10'];
const luksOne = (context) => convertOne(context, 'luks', [...secret, ...luks]);
const luksSource = ['--image-opts', 'driver=luks,key-secret=s,file.filename=one.luks'];

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
  ...['vmdk', 'vpc', 'vhdx', 'vdi'].flatMap(bothWays),
  job('raw to luks, 1 GiB', [rawOne], ...secret, '-f', 'raw', ...luks, 'one.raw'),
  job('luks to raw, 1 GiB', [rawOne, luksOne], ...secret, ...luksSource, '-O', 'raw'),
  job('sparse raw of 1 TiB to qcow2', [rawSparse], '-f', 'raw', '-O', 'qcow2', 'sparse.raw'),
  job('sparse raw of 1 TiB to raw', [rawSparse], '-f', 'raw', '-O', 'raw', 'sparse.raw'),
];
