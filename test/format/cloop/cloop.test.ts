// Goal: compressed loop images are read as their blocks say, and bad ones refused in QEMU's words.
// Method: images are put together here with zlib; where QEMU 10 is there, it reads the same.
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { deflateSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { Iov } from '../../../src/index.js';
import {
  binPath,
  FakeFiles,
  failure,
  readBytes,
  requiresQemu10,
  runOk,
  seededRandom,
  tempDir,
} from '../../support/index.js';
import { imagePath, openImage, patch } from '../made-image.js';
import type { Patch } from '../made-image.js';

const SCRIPT =
  '#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n';
const BLOCK = 16 * 1024;

/** An image of `content`, which is whole blocks. */
function packed(content: Uint8Array): Uint8Array {
  const blocks = content.length / BLOCK;
  const bodies = Array.from({ length: blocks }, (_, i) =>
    deflateSync(content.subarray(i * BLOCK, (i + 1) * BLOCK)),
  );
  let at = 136 + (blocks + 1) * 8;
  const head = Buffer.alloc(at);
  head.write(SCRIPT);
  head.writeUInt32BE(BLOCK, 128);
  head.writeUInt32BE(blocks, 132);
  for (let i = 0; i <= blocks; i++) {
    head.writeBigUInt64BE(BigInt(at), 136 + i * 8);
    at += bodies[i]?.length ?? 0;
  }
  return new Uint8Array(Buffer.concat([head, ...bodies]));
}

function content(): Uint8Array {
  const random = seededRandom();
  const bytes = new Uint8Array(9 * BLOCK);
  for (let i = 0; i < 9; i++) {
    if (i % 3 === 0) bytes.set(random.bytes(BLOCK), i * BLOCK);
    else bytes.fill(i, i * BLOCK, i * BLOCK + random.int(1, BLOCK));
  }
  return bytes;
}

function filesWith(bytes: Uint8Array, ...patches: Patch[]): FakeFiles {
  const files = new FakeFiles();
  const copy = bytes.slice();
  patch(copy, patches, false);
  files.put(imagePath, copy);
  return files;
}

it('reads any range', async () => {
  const bytes = content();
  const disk = await openImage(filesWith(packed(bytes)), 'cloop');
  expect(disk.size).toBe(bytes.length);
  const random = seededRandom();
  for (let i = 0; i < 40; i++) {
    const at = random.int(0, bytes.length - 1);
    const length = Math.min(random.int(1, 3 * BLOCK), bytes.length - at);
    const got = await readBytes(disk, at, length);
    expect(Buffer.compare(got, bytes.subarray(at, at + length))).toBe(0);
  }
  await disk.detach();
});

it('cannot be written to', async () => {
  const files = filesWith(packed(content()));
  expect(await failure(openImage(files, 'cloop', { writable: true }))).toBe('Image is read-only');
});

describe('bad images', () => {
  it.each<[string, Patch[], string]>([
    ['block_size unaligned', [[128, 4, 513]], 'block_size 513 must be a multiple of 512'],
    ['block_size of 0', [[128, 4, 0]], 'block_size cannot be zero'],
    ['block_size', [[128, 4, 0xfffffe00]], 'block_size 4294966784 must be 64 MB or less'],
    ['n_blocks', [[132, 4, 0xffffffff]], 'n_blocks 4294967295 must be 536870911 or less'],
    [
      'too many offsets',
      [[132, 4, 0x04000001]],
      'image requires too many offsets, try increasing block size',
    ],
    ['table past the end', [[132, 4, 0x00ffffff]], 'the file ends before the table of offsets'],
    [
      'offsets that fall',
      [[136, 8, 1n << 40n]],
      'offsets not monotonically increasing at index 1, image file is corrupt',
    ],
    [
      'a huge compressed block',
      [[144, 8, 1n << 40n]],
      'invalid compressed block size at index 1, image file is corrupt',
    ],
  ])('%s', async (_name, patches, message) => {
    const files = filesWith(packed(content()), ...patches);
    expect(await failure(openImage(files, 'cloop'))).toBe(message);
  });

  it('blocks that are damaged, too long or too short fail, and no others', async () => {
    const bytes = content();
    const image = packed(bytes);
    const first = Number(new DataView(image.buffer).getBigUint64(136));
    for (const patches of [
      [[first, 4, 0x12345678]],
      // Longer blocks than there are: each yields too little.
      [[128, 4, 2 * BLOCK]],
    ] satisfies Patch[][]) {
      const disk = await openImage(filesWith(image, ...patches), 'cloop');
      expect(await failure(disk.read(0, Iov.alloc(512)))).toBe('Input/output error');
      await disk.detach();
    }
    const disk = await openImage(filesWith(image, [first, 4, 5]), 'cloop');
    const got = await readBytes(disk, BLOCK, BLOCK);
    expect(Buffer.compare(got, bytes.subarray(BLOCK, 2 * BLOCK))).toBe(0);
    await disk.detach();
  });

  it('mutations end with data or a named error', { timeout: 60_000 }, async () => {
    const random = seededRandom();
    const image = packed(content());
    for (let i = 0; i < 150; i++) {
      const bytes = image.slice();
      for (let n = random.int(1, 4); n > 0; n--) {
        bytes[random.int(120, random.pick([230, bytes.length - 1]))] = random.int(0, 255);
      }
      const files = filesWith(random.chance(0.1) ? bytes.slice(0, random.int(0, 300)) : bytes);
      try {
        const disk = await openImage(files, 'cloop');
        const length = Math.min(disk.size, 4 * BLOCK);
        await disk.read(0, Iov.alloc(length)).finally(() => disk.detach());
      } catch (e) {
        expect((e as Error).name).toMatch(/^(Block|Host)Error$/);
      }
    }
  });
});

requiresQemu10('qemu-img')('the same image', () => {
  it('reads alike in QEMU', async () => {
    const folder = tempDir();
    const [path, raw] = [join(folder, 'c'), join(folder, 'raw')];
    const bytes = content();
    writeFileSync(path, packed(bytes));
    writeFileSync(raw, bytes);
    for (const tool of ['qemu-img', binPath('vdisk-img')]) {
      await runOk(tool, ['compare', '-f', 'cloop', '-F', 'raw', path, raw]);
    }
    const seen = await Promise.all(
      ['qemu-img', binPath('vdisk-img')].map(async (tool) => {
        const { stdout } = await runOk(tool, ['map', '--output=json', '-f', 'cloop', path]);
        return stdout;
      }),
    );
    expect(seen[1]).toBe(seen[0]);
  });
});
