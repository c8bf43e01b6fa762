// Goal: compressed data that yields more than its place holds is refused in one line with exit
// status 1, soon and in little memory, and the image stays as it was. Method: images around such
// data, made here, are given to vdisk-img, which tells at its end how much memory it had; several
// of the largest chunks are read at once, and the memory of those that are unpacked is counted.
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { Compression } from '../../src/host/compression.js';
import { Iov } from '../../src/index.js';
import { imagePath } from '../format/made-image.js';
import {
  binPath,
  FakeFiles,
  fakeHost,
  requiresQemu10,
  run,
  tempDir,
  testGraph,
} from '../support/index.js';
import { bombs, longCluster, manyLargeChunks } from './zip-bombs.js';

const MiB = 1024 * 1024;
const img = binPath('vdisk-img');
/** Of the whole program: Node itself, the largest block that a format has, and its copy. */
const MOST_KIB = 400 * 1024;

interface Ended {
  readonly status: number;
  readonly stderr: string;
  readonly peakKiB: number;
}

/** Runs vdisk-img, with its peak of memory. */
async function measured(cwd: string, args: readonly string[]): Promise<Ended> {
  const script = join(cwd, 'peak.cjs');
  writeFileSync(
    script,
    `const path = ${JSON.stringify(join(cwd, 'peak'))};\n` +
      "process.on('exit', () => require('node:fs').writeFileSync(path, " +
      'String(process.resourceUsage().maxRSS)));\n',
  );
  const env = { NODE_OPTIONS: `${process.env['NODE_OPTIONS'] ?? ''} --require=${script}` };
  const { status, stderr } = await run(img, args, { cwd, env });
  return { status, stderr, peakKiB: Number(readFileSync(join(cwd, 'peak'), 'utf8')) };
}

describe('data that yields too much', () => {
  it.each(bombs)('$format: $name', { timeout: 60_000 }, async ({ format, make, line }) => {
    const cwd = tempDir();
    const bytes = await make();
    writeFileSync(join(cwd, 'i'), bytes);
    const ended = await measured(cwd, ['convert', '-f', format, '-O', 'raw', 'i', 'out']);
    expect(ended).toMatchObject({ status: 1, stderr: expect.stringMatching(line) as string });
    expect(ended.stderr.split('\n').length).toBe(2);
    expect(ended.peakKiB).toBeLessThan(MOST_KIB);
    expect(Buffer.compare(readFileSync(join(cwd, 'i')), bytes)).toBe(0);
  });

  it('qcow: of a longer cluster the first bytes are read, and no more is made', async () => {
    const cwd = tempDir();
    writeFileSync(join(cwd, 'i'), await longCluster());
    const ended = await measured(cwd, ['convert', '-f', 'qcow', '-O', 'raw', 'i', 'out']);
    expect(ended).toMatchObject({ status: 0, stderr: '' });
    expect(ended.peakKiB).toBeLessThan(MOST_KIB);
    const expected = new Uint8Array(8192).fill(1, 0, 4096);
    expect(Buffer.compare(readFileSync(join(cwd, 'out')), expected)).toBe(0);
  });
});

requiresQemu10('qemu-img')('what QEMU says of the same', () => {
  const known = bombs.filter(({ name }) => /cluster|block|zlib|holds 64 MiB/u.test(name));
  it.each(known)('$format: $name', { timeout: 60_000 }, async ({ format, make }) => {
    const cwd = tempDir();
    writeFileSync(join(cwd, 'i'), await make());
    const args = ['convert', '-f', format, '-O', 'raw', 'i', 'out'];
    expect((await run('qemu-img', args, { cwd })).status).toBe(1);
  });

  it('qcow: the first bytes of a longer cluster', async () => {
    const cwd = tempDir();
    writeFileSync(join(cwd, 'i'), await longCluster());
    const args = ['convert', '-f', 'qcow', '-O', 'raw', 'i', 'out'];
    expect((await run('qemu-img', args, { cwd })).status).toBe(0);
  });
});

it('the largest chunks are unpacked one after another', { timeout: 60_000 }, async () => {
  const files = new FakeFiles();
  files.put(imagePath, manyLargeChunks(6));
  const host = fakeHost({ files });
  let now = 0;
  let most = 0;
  const compression: Compression = {
    ...host.compression,
    async inflate(input, output) {
      now += output.byteLength;
      most = Math.max(most, now);
      await host.compression.inflate(input, output);
      now -= output.byteLength;
    },
  };
  const graph = testGraph({ host: { ...host, compression } });
  const options = { driver: 'dmg', file: { driver: 'file', filename: imagePath } };
  const disk = await graph.openBackend({ options });
  const reads = Array.from({ length: 6 }, async (_, i) => {
    const out = Iov.alloc(512);
    await disk.read(i * 64 * MiB + 777 * 512, out);
    return out.bytes;
  });
  expect(await Promise.all(reads)).toEqual(reads.map(() => 512));
  expect(most).toBe(64 * MiB);
  await disk.detach();
  await graph.close();
});
