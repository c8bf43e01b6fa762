// Requests by depth, size, cache mode, engine, format: `bench` of both, by their own clocks.
import { rmSync } from 'node:fs';
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { firstBase, qcow2Requests, rawRequests } from './images.mjs';

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

const FIRST_BYTES = 256 * 1024 ** 2;

/** Sequential first writes into a fresh image, all of it allocation; the same on raw beside it. */
function firstWrites({ size, sizeName, depth, cache, aio, backed }) {
  const into = (format, more = []) => ({
    ownClock: true,
    before({ dir, img }) {
      rmSync(join(dir, 'fresh'), { force: true });
      const made = spawnSync(img, ['create', '-q', '-f', format, ...more, 'fresh', '1G'], {
        cwd: dir,
      });
      if (made.status !== 0) throw new Error(String(made.stderr));
    },
    args: () => [
      'bench',
      ...['-f', format, '-t', cache, ...(aio === undefined ? [] : ['-i', aio])],
      ...['-d', String(depth), '-w', '--pattern', '7'],
      ...['-s', String(size), '-c', String(FIRST_BYTES / size), 'fresh'],
    ],
  });
  const words = ['first writes', sizeName, 'depth', depth, cache, aio, backed ? 'backing' : ''];
  return {
    name: words.filter((word) => word !== undefined && word !== '').join(' '),
    needs: backed ? [firstBase] : [],
    ...into('qcow2', backed ? ['-b', 'first-base.qcow2', '-F', 'qcow2'] : []),
    beside: { name: 'raw', ...into('raw') },
  };
}

const firstRows = [
  ['none', undefined],
  ['none', 'native'],
  ['writeback', undefined],
].flatMap(([cache, aio]) =>
  [false, true].flatMap((backed) =>
    [
      { size: 8192, sizeName: '8k' },
      { size: 262144, sizeName: '256k' },
    ].flatMap((block) =>
      [1, 4, 16].map((depth) => firstWrites({ ...block, depth, cache, aio, backed })),
    ),
  ),
);

export const requestJobs = [...rows.map(job), ...firstRows];
