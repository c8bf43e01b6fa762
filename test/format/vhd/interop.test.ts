// Goal: VHD and VHDX images that QEMU makes are read and written by vdisk and the other way round,
// and new images are the same. Method: random data of awkward sizes converted by one tool and
// compared by the other; random writes by both in turn, beside a raw copy; seeds are printed.
import { openSync, readFileSync, writeFileSync, writeSync, closeSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { Random } from '../../support/index.js';
import { binPath, requiresQemu10, runOk, seededRandom, tempDir } from '../../support/index.js';

interface Tools {
  readonly img: string;
  readonly io: string;
}

const ours: Tools = { img: binPath('vdisk-img'), io: binPath('vdisk-io') };
const theirs: Tools = { img: 'qemu-img', io: 'qemu-io' };
const MiB = 1024 * 1024;

interface Shape {
  readonly format: string;
  readonly options: string;
}

const shapes: readonly Shape[] = [
  { format: 'vpc', options: 'subformat=dynamic' },
  { format: 'vpc', options: 'subformat=dynamic,force_size=on' },
  { format: 'vpc', options: 'subformat=fixed' },
  { format: 'vpc', options: 'subformat=fixed,force_size=on' },
  { format: 'vhdx', options: 'subformat=dynamic' },
  { format: 'vhdx', options: 'block_size=1M,log_size=2M,block_state_zero=off' },
  { format: 'vhdx', options: 'subformat=fixed,block_size=2M' },
];

/** A disk with runs of data, text and nothing. */
function content(random: Random, bytes: number): Uint8Array {
  const out = new Uint8Array(bytes);
  for (let i = 0; i < 12; i++) {
    const at = random.int(0, bytes - 1);
    const n = Math.min(random.pick([1, 512, 70_000, 3 * MiB]), bytes - at);
    if (random.chance(0.3)) out.fill(random.int(1, 255), at, at + n);
    else random.fill(out.subarray(at, at + n));
  }
  return out;
}

/** A round of writes by `tools`, into the image and the raw copy. */
async function write(
  tools: Tools,
  cwd: string,
  { format }: Shape,
  random: Random,
  size: number,
): Promise<void> {
  const commands: string[] = [];
  const raw = openSync(join(cwd, 'raw'), 'r+');
  for (let i = 0; i < 8; i++) {
    const at = random.int(0, size - 1);
    const n = Math.min(random.pick([1, 700, 4096, 100_000, 5 * MiB]), size - at);
    const zero = random.chance(0.3);
    const value = zero ? 0 : random.int(1, 255);
    commands.push('-c', zero ? `write -z ${at} ${n}` : `write -P ${value} ${at} ${n}`);
    writeSync(raw, new Uint8Array(n).fill(value), 0, n, at);
    if (random.chance(0.2)) commands.push('-c', 'flush');
  }
  closeSync(raw);
  await runOk(tools.io, ['-f', format, '-d', 'unmap', ...commands, 'image'], { cwd });
}

async function identical(tools: Tools, cwd: string, { format }: Shape): Promise<void> {
  const args = ['compare', '-f', format, '-F', 'raw', 'image', 'raw'];
  const { stdout } = await runOk(tools.img, args, { cwd });
  expect(stdout).toContain('Images are identical.');
}

requiresQemu10('qemu-img', 'qemu-io')('interchange with QEMU', () => {
  describe.each(shapes)('$format $options', (shape) => {
    const { format, options } = shape;

    it('converts to it and back, whoever reads and writes', { timeout: 120_000 }, async () => {
      const random = seededRandom();
      for (const [writer, reader] of [
        [ours, theirs],
        [theirs, ours],
      ] as const) {
        const cwd = tempDir();
        const size = 512 * random.int(1, 40_000);
        writeFileSync(join(cwd, 'raw'), content(random, size));
        const to = ['convert', '-f', 'raw', '-O', format, '-o', options, 'raw', 'image'];
        await runOk(writer.img, to, { cwd });
        await identical(reader, cwd, shape);
        await runOk(reader.img, ['convert', '-f', format, '-O', 'raw', 'image', 'back'], { cwd });
        const back = readFileSync(join(cwd, 'back'));
        const want = readFileSync(join(cwd, 'raw'));
        expect(Buffer.compare(back.subarray(0, size), want)).toBe(0);
        expect(back.subarray(size).every((b) => b === 0)).toBe(true);
        const info = (t: Tools): Promise<{ stdout: string }> =>
          runOk(t.img, ['info', '-f', format, '--output=json', 'image'], { cwd });
        expect(JSON.parse((await info(ours)).stdout)).toEqual(
          JSON.parse((await info(theirs)).stdout),
        );
      }
    });

    it('both write in turn', { timeout: 120_000 }, async () => {
      const random = seededRandom();
      const cwd = tempDir();
      const size = 512 * random.int(20_000, 60_000);
      writeFileSync(join(cwd, 'raw'), new Uint8Array(size));
      const first = random.pick([ours, theirs]);
      await runOk(first.img, ['create', '-q', '-f', format, '-o', options, 'image', `${size}`], {
        cwd,
      });
      for (let round = 0; round < 4; round++) {
        await write(round % 2 === 0 ? ours : theirs, cwd, shape, random, size);
        await identical(theirs, cwd, shape);
        await identical(ours, cwd, shape);
      }
    });
  });
});
