// Requests by depth, size, cache mode, engine, format: `bench` of both, by their own clocks.
import { rmSync } from 'node:fs';
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { qcow2Requests, rawRequests } from './images.mjs';

const GIB = 1024 ** 3;
/** A step that visits the blocks of the image in an order without pattern. */
const SCATTER = 389 * 4096 * 77;

function name(o) {
  const kind = `${o.write ? 'write' : 'read'} ${o.sizeName}${o.random ? ' random' : ''}`;
  return `bench ${o.format} ${kind} depth ${o.depth} ${o.cache} ${o.aio}`;
}

function job(o) {
  const image = `requests.${o.format}`;
  const step = o.random ? ['-S', String(SCATTER % GIB)] : [];
  const flags = o.write ? ['-w', '--pattern', '7'] : [];
  return {
    name: name(o),
    needs: o.format === 'raw' ? [rawRequests] : [rawRequests, qcow2Requests],
    ownClock: true,
    args: () => [
      'bench',
      ...['-f', o.format, '-t', o.cache, '-i', o.aio, '-d', String(o.depth)],
      ...['-s', String(o.size), '-c', String(o.count), ...step, ...flags, image],
    ],
  };
}

const small = { size: 4096, sizeName: '4k' };
const rows = [];

/** 4 KiB at three depths, through the page cache and around it, read and write. */
for (const format of ['raw', 'qcow2']) {
  for (const [cache, aio] of [
    ['writeback', 'io_uring'],
    ['writeback', 'threads'],
    ['none', 'io_uring'],
    ['none', 'native'],
    ['none', 'threads'],
  ]) {
    for (const depth of [1, 16, 64]) {
      for (const write of [false, true]) {
        const count = cache === 'none' ? (depth === 1 ? 10_000 : 40_000) : 100_000;
        for (const random of [false, true]) {
          rows.push({ format, cache, aio, depth, write, random, count, ...small });
        }
      }
    }
    for (const [size, sizeName, count] of [
      [65536, '64k', 8000],
      [1048576, '1M', 1000],
    ]) {
      for (const write of [false, true]) {
        rows.push({ format, cache, aio, depth: 16, write, random: false, size, sizeName, count });
      }
    }
  }
}

/** First writes into a fresh image: all of it allocation. */
function firstWrites(format, size, sizeName) {
  return {
    name: `bench ${format} first writes ${sizeName} depth 16 none io_uring`,
    needs: [],
    ownClock: true,
    before({ dir, img }) {
      rmSync(join(dir, 'fresh'), { force: true });
      spawnSync(img, ['create', '-q', '-f', format, 'fresh', '1G'], { cwd: dir });
    },
    args: () => [
      'bench',
      ...['-f', format, '-t', 'none', '-i', 'io_uring', '-d', '16', '-w', '--pattern', '7'],
      ...['-s', String(size), '-c', String(Math.min(GIB / 2 / size, 20_000)), 'fresh'],
    ],
  };
}

export const requestJobs = [
  ...rows.map(job),
  ...['raw', 'qcow2'].flatMap((format) => [
    firstWrites(format, 8192, '8k'),
    firstWrites(format, 262144, '256k'),
  ]),
];
