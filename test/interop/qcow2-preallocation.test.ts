// Goal: preallocated images are what QEMU makes of them: the same map (data, zero, present) after
// create, growing, shrinking, over a backing file and with data files. Method: both tools make the
// same image; qemu-img maps and checks both; sizes and blocks of data files are compared.
import { statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { binPath, requiresQemu10, runOk, tempDir } from '../support/index.js';

interface Tools {
  readonly img: string;
  readonly io: string;
}

const ours: Tools = { img: binPath('vdisk-img'), io: binPath('vdisk-io') };
const theirs: Tools = { img: 'qemu-img', io: 'qemu-io' };

const layouts = {
  plain: '',
  'extended L2': 'extended_l2=on',
  'small clusters': 'cluster_size=4k',
  'data file': 'data_file=x.data',
  'raw data file': 'data_file=x.data,data_file_raw=on',
  'raw data file, extended L2': 'data_file=x.data,data_file_raw=on,extended_l2=on',
} as const;
const modes = ['off', 'metadata', 'falloc', 'full'];

interface Extent {
  readonly start: number;
  readonly length: number;
  readonly depth: number;
  readonly present: boolean;
  readonly zero: boolean;
  readonly data: boolean;
}

/** What qemu-img says of the guest's disk: neighbours alike are one, wherever they are stored. */
async function mapOf(cwd: string): Promise<string[]> {
  await runOk('qemu-img', ['check', '-q', 'x.qcow2'], { cwd });
  const map = await runOk('qemu-img', ['map', '--output=json', 'x.qcow2'], { cwd });
  const out: { what: string; end: number }[] = [];
  for (const e of JSON.parse(map.stdout) as Extent[]) {
    const what = `depth ${e.depth} data ${e.data} zero ${e.zero} present ${e.present}`;
    const last = out[out.length - 1];
    if (last?.what === what) last.end = e.start + e.length;
    else out.push({ what, end: e.start + e.length });
  }
  return out.map(({ what, end }) => `to ${end}: ${what}`);
}

/** Runs the steps in a folder of its own; the map after each. */
async function maps(tools: Tools, steps: readonly (readonly string[])[]): Promise<string[][]> {
  const cwd = tempDir();
  writeFileSync(join(cwd, 'base'), new Uint8Array(4 << 20).fill(3));
  const out: string[][] = [];
  for (const step of steps) {
    await runOk(tools.img, step, { cwd });
    out.push(await mapOf(cwd));
  }
  return out;
}

const grow = (mode: string, size: string): string[] => [
  'resize',
  '-q',
  `--preallocation=${mode}`,
  'x.qcow2',
  size,
];

requiresQemu10('qemu-img', 'qemu-io')('preallocation as in QEMU', () => {
  for (const [name, layout] of Object.entries(layouts)) {
    it.each(modes)(`${name}: created, grown and cut with %s`, { timeout: 60_000 }, async (mode) => {
      const o = [layout, `preallocation=${mode}`].filter((text) => text !== '').join(',');
      const steps = [
        ['create', '-q', '-f', 'qcow2', '-o', o, 'x.qcow2', '3M'],
        grow(mode, '5000K'),
        ['resize', '-q', '--shrink', 'x.qcow2', '1M'],
        grow(mode, '2M'),
      ];
      expect(await maps(ours, steps)).toEqual(await maps(theirs, steps));
    });
  }

  it.each(['cluster_size=64k', 'extended_l2=on'])(
    'hides the backing file where an overlay grows: %s',
    { timeout: 60_000 },
    async (layout) => {
      for (const mode of modes) {
        const steps = [
          ['create', '-q', '-f', 'qcow2', '-b', 'base', '-F', 'raw', '-o', layout, 'x.qcow2', '1M'],
          grow(mode, '2M'),
        ];
        expect(await maps(ours, steps), mode).toEqual(await maps(theirs, steps));
      }
    },
  );

  it.each(['cluster_size=4k,data_file=x.data', 'cluster_size=16k,extended_l2=on'])(
    'a disk that ends inside a cluster grows: %s',
    { timeout: 60_000 },
    async (layout) => {
      for (const mode of modes) {
        const steps = [
          ['create', '-q', '-f', 'qcow2', '-o', layout, 'x.qcow2', '1050112'],
          grow(mode, '1500K'),
        ];
        expect(await maps(ours, steps), mode).toEqual(await maps(theirs, steps));
      }
    },
  );

  it('a data file follows the size of the disk, by resize and by truncate', async () => {
    const sizes = async (tools: Tools, options: string): Promise<string[]> => {
      const cwd = tempDir();
      const out: string[] = [];
      let last = Infinity;
      const note = (): void => {
        const { size, blocks } = statSync(join(cwd, 'x.data'));
        // QEMU stores zeroes at the end of a raw one that grows; what is cut holds no blocks.
        // A file in many pieces takes a block of the file system more, or a few, to list them.
        const whole = Math.round((blocks * 512) / 65536);
        out.push(`${size} bytes` + (size < last ? `, about ${whole} times 64k` : ''));
        last = size;
      };
      const create = ['create', '-q', '-f', 'qcow2', '-o', options, 'x.qcow2', '1M'];
      await runOk(tools.img, create, { cwd });
      await runOk('qemu-io', ['-c', 'write -P 1 0 1M', 'x.qcow2'], { cwd });
      for (const size of ['700K', '1200K', '500K']) {
        await runOk(tools.io, ['-c', `truncate ${size}`, 'x.qcow2'], { cwd });
        note();
      }
      for (const size of ['400K', '64K']) {
        await runOk(tools.img, ['resize', '-q', '--shrink', 'x.qcow2', size], { cwd });
        note();
      }
      return out;
    };
    for (const options of ['data_file=x.data', 'data_file=x.data,data_file_raw=on']) {
      expect(await sizes(ours, options), options).toEqual(await sizes(theirs, options));
    }
  });
});
