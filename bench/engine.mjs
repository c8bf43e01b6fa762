#!/usr/bin/env node
// Raw speed of the file engines, without a block graph: requests of one size at one depth against
// one file, beside `qemu-img bench` with the same parameters. For tuning; the table that counts is
// `npm run bench`.
//
// node bench/engine.mjs [--file=PATH] [--engines=a,b] [--depths=1,16,64] [--size=4096]
//   [--cache=warm|direct] [--write] [--random] [--layers=3] [--seconds=1] [--rounds=1]
//   [--qemu=PATH]
// With several rounds both take turns, and the best of each counts: for machines with other work.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, openSync, writeSync, closeSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';

const root = new URL('..', import.meta.url);
const { values } = parseArgs({
  options: {
    file: { type: 'string' },
    bytes: { type: 'string', default: String(256 * 1024 * 1024) },
    engines: { type: 'string', default: 'io_uring,threads,native,node-fs' },
    depths: { type: 'string', default: '1,16,64' },
    size: { type: 'string', default: '4096' },
    cache: { type: 'string', default: 'warm,direct' },
    layers: { type: 'string', default: '3' },
    seconds: { type: 'string', default: '1' },
    rounds: { type: 'string', default: '1' },
    qemu: { type: 'string' },
    write: { type: 'boolean', default: false },
    random: { type: 'boolean', default: false },
  },
});

/** The host and Iov, bundled from the sources as they are now. */
async function load() {
  const { build } = await import('esbuild');
  const folder = new URL('.cache/', root).pathname;
  mkdirSync(folder, { recursive: true });
  const outfile = join(folder, 'bench-engine.mjs');
  const contents = `
    export { nodeHost } from './src/host/node/index.js';
    export { tryNativeEngine } from './src/host/node/files.js';
    export { Iov } from './src/lib/iov.js';`;
  await build({
    stdin: { contents, resolveDir: root.pathname },
    bundle: true,
    platform: 'node',
    format: 'esm',
    target: 'node20',
    packages: 'external',
    outfile,
  });
  return import(pathToFileURL(outfile).href);
}

const { nodeHost, tryNativeEngine, Iov } = await load();
const files = nodeHost().files;
const fileBytes = Number(values.bytes);
const size = Number(values.size);
const path = values.file ?? new URL('.cache/bench-engine.raw', root).pathname;

function makeFile() {
  if (existsSync(path)) return;
  const fd = openSync(path, 'w');
  const chunk = new Uint8Array(1024 * 1024).map((_, i) => (i * 2654435761) >>> 24);
  for (let at = 0; at < fileBytes; at += chunk.length) writeSync(fd, chunk);
  closeSync(fd);
}

/** `layers` async functions between the caller and the file, as the graph's nodes are. */
function stack(file, layers) {
  let call = values.write
    ? (offset, iov) => file.write(offset, iov)
    : (offset, iov) => file.read(offset, iov);
  for (let i = 0; i < layers; i++) {
    const below = call;
    call = async (offset, iov) => below(offset, iov);
  }
  return call;
}

/** Requests per second. */
async function measure(engine, direct, depth) {
  const file = await files.open(path, { writable: values.write, direct, engine });
  const call = stack(file, Number(values.layers));
  const places = Math.floor(fileBytes / size);
  let next = 0;
  let seed = 1;
  let done = 0;
  const place = () => {
    if (!values.random) return (next++ % places) * size;
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    return (seed % places) * size;
  };
  const lists = Array.from({ length: depth }, () => Iov.of(files.alignedBuffer(size)));
  const begin = performance.now();
  const end = begin + Number(values.seconds) * 1000;
  const runner = async (iov) => {
    while (performance.now() < end) {
      await call(place(), iov);
      done++;
    }
  };
  await Promise.all(lists.map(runner));
  const seconds = (performance.now() - begin) / 1000;
  await file.close();
  return done / seconds;
}

/** What qemu-img bench does with the same parameters; undefined where it cannot. */
function qemuRate(engine, direct, depth, expected) {
  if (values.qemu === undefined || engine === 'node-fs' || values.random) return undefined;
  const count = Math.max(1000, Math.round(expected * Number(values.seconds)));
  const args = ['bench', '-f', 'raw', '-t', direct ? 'none' : 'writeback', '-i', engine];
  args.push('-c', String(count), '-d', String(depth), '-s', String(size));
  if (values.write) args.push('-w');
  const { stdout } = spawnSync(values.qemu, [...args, path], { encoding: 'utf8' });
  const seconds = /completed in ([\d.]+) seconds/.exec(stdout ?? '')?.[1];
  return seconds === undefined ? undefined : count / Number(seconds);
}

makeFile();
const kilo = (rate) => (rate === undefined ? '-' : `${(rate / 1000).toFixed(1)}k`).padStart(9);
console.log(`${path}, ${size} bytes, ${values.write ? 'write' : 'read'}`);
console.log('cache   engine    depth    vdisk     qemu   ratio   bat/inl/ring/aio/pool/rnd/wake');
for (const cache of values.cache.split(',')) {
  const direct = cache === 'direct';
  for (const engine of values.engines.split(',')) {
    if (engine === 'native' && !direct) continue;
    for (const depth of values.depths.split(',').map(Number)) {
      let rate = 0;
      let qemu;
      let used = [];
      for (let round = 0; round < Number(values.rounds); round++) {
        const before = tryNativeEngine()?.stats() ?? [];
        const now = await measure(engine, direct, depth);
        if (now > rate)
          used =
            tryNativeEngine()
              ?.stats()
              .map((n, i) => n - before[i]) ?? [];
        rate = Math.max(rate, now);
        const theirs = qemuRate(engine, direct, depth, rate);
        if (theirs !== undefined) qemu = Math.max(qemu ?? 0, theirs);
      }
      const ratio = qemu === undefined ? '' : (rate / qemu).toFixed(2);
      const row = `${cache.padEnd(8)}${engine.padEnd(10)}${String(depth).padStart(4)}`;
      console.log(`${row}${kilo(rate)}${kilo(qemu)}${ratio.padStart(8)}   ${used.join(' ')}`);
    }
  }
}
