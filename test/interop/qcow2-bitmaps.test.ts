// Goal: bitmaps go both ways between vdisk and QEMU: the same bits, flags and texts. Method: random
// writes by both sides in turns, the bits compared over NBD as both servers show them; commands on
// equal copies of an image, output compared line by line.
import { spawn } from 'node:child_process';
import { copyFileSync, existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { binPath, requiresQemu10, run, runOk, seededRandom, tempDir } from '../support/index.js';

const img = binPath('vdisk-img');
const io = binPath('vdisk-io');
const MiB = 1024 * 1024;

/** Runs of dirty granules as an NBD server shows a bitmap: `[start, end)` pairs. */
async function dirtyRuns(server: string, path: string, name: string): Promise<number[][]> {
  const socket = join(tempDir(), 's');
  const args = ['-r', '-f', 'qcow2', '-B', name, '-k', socket, path];
  const child = spawn(server, args, { stdio: ['ignore', 'ignore', 'inherit'] });
  const ended = new Promise((resolve) => child.on('close', resolve));
  try {
    for (let i = 0; i < 400 && !existsSync(socket); i++) {
      await new Promise((resolve) => setTimeout(resolve, 25));
    }
    const context = `x-dirty-bitmap=qemu:dirty-bitmap:${name}`;
    const at = `driver=nbd,server.type=unix,server.path=${socket},${context}`;
    const map = await runOk('qemu-img', ['map', '--output=json', '--image-opts', at]);
    const runs = JSON.parse(map.stdout) as { start: number; length: number; data: boolean }[];
    // This context tells dirty as "no data".
    return runs.filter((r) => !r.data).map((r) => [r.start, r.start + r.length]);
  } finally {
    child.kill();
    await ended;
  }
}

function runsOf(model: readonly boolean[], granularity: number, size: number): number[][] {
  const out: number[][] = [];
  model.forEach((dirty, i) => {
    if (!dirty) return;
    const last = out[out.length - 1];
    const end = Math.min(size, (i + 1) * granularity);
    if (last !== undefined && last[1] === i * granularity) last[1] = end;
    else out.push([i * granularity, end]);
  });
  return out;
}

requiresQemu10(
  'qemu-img',
  'qemu-io',
  'qemu-nbd',
)('bitmaps with QEMU', () => {
  it.each([
    ['', 'qemu-img'],
    ['cluster_size=4k', img],
    ['data_file=DIR/ext.data', img],
    ['extended_l2=on', 'qemu-img'],
  ])('both write in turns: %s, made by %s', async (layout, maker) => {
    const random = seededRandom();
    const dir = tempDir();
    const path = join(dir, 'i.qcow2');
    let size = 6 * MiB;
    const o = layout === '' ? [] : ['-o', layout.replace('DIR', dir)];
    await runOk(maker, ['create', '-q', '-f', 'qcow2', ...o, path, String(size)]);
    const bitmaps = new Map<string, { granularity: number; enabled: boolean; bits: boolean[] }>();
    const add = async (name: string, granularity: number, enabled: boolean): Promise<void> => {
      const how = ['--add', '-g', String(granularity), ...(enabled ? [] : ['--disable'])];
      await runOk(random.pick(['qemu-img', img]), ['bitmap', ...how, path, name]);
      const bits = new Array<boolean>(Math.ceil(size / granularity)).fill(false);
      bitmaps.set(name, { granularity, enabled, bits });
    };
    await add('fine', 512, true);
    await add('coarse', 256 * 1024, true);
    await add('off', 65536, false);
    for (let round = 0; round < 4; round++) {
      const commands: string[] = [];
      for (let i = 0; i < 10; i++) {
        const offset = random.int(0, size - 1);
        const bytes = Math.min(size - offset, random.int(1, random.pick([1000, 200_000])));
        const verb = random.pick(['write -P 5', 'write -P 5', 'write -z', 'discard']);
        commands.push('-c', `${verb} ${String(offset)} ${String(bytes)}`);
        for (const { granularity: g, enabled, bits } of bitmaps.values()) {
          if (enabled) bits.fill(true, Math.floor(offset / g), Math.ceil((offset + bytes) / g));
        }
      }
      await runOk(round % 2 === 0 ? io : 'qemu-io', ['-d', 'unmap', ...commands, path]);
      if (round === 1) {
        size += MiB + 512;
        await runOk(random.pick(['qemu-img', img]), ['resize', '-q', path, String(size)]);
        for (const { granularity: g, bits } of bitmaps.values()) {
          while (bits.length < Math.ceil(size / g)) bits.push(false);
        }
      }
      if (round === 2) {
        const tool = random.pick(['qemu-img', img]);
        await runOk(tool, ['bitmap', '--merge', 'fine', '--enable', path, 'off']);
        const off = bitmaps.get('off');
        const fine = bitmaps.get('fine');
        if (off === undefined || fine === undefined) throw new Error('no bitmap');
        off.enabled = true;
        fine.bits.forEach((dirty, i) => {
          if (dirty) off.bits[Math.floor((i * fine.granularity) / off.granularity)] = true;
        });
      }
    }
    for (const [name, { granularity, bits }] of bitmaps) {
      const want = runsOf(bits, granularity, size);
      expect(await dirtyRuns('qemu-nbd', path, name)).toEqual(want);
      expect(await dirtyRuns(binPath('vdisk-nbd'), path, name)).toEqual(want);
    }
    const check = await run('qemu-img', ['check', path]);
    expect(check.stdout).toContain('No errors were found on the image.');
    // A copy has the same bits.
    const copy = join(dir, 'copy.qcow2');
    await runOk(img, ['convert', '--bitmaps', '-f', 'qcow2', '-O', 'qcow2', path, copy]);
    const { bits, granularity } = bitmaps.get('coarse') ?? { bits: [], granularity: 512 };
    expect(await dirtyRuns('qemu-nbd', copy, 'coarse')).toEqual(runsOf(bits, granularity, size));
    const [a, b] = await Promise.all(['qemu-img', img].map((tool) => run(tool, ['check', copy])));
    expect(a?.stdout).toContain('No errors were found');
    expect(b?.stdout).toBe(a?.stdout);
  });

  it('says what QEMU says', async () => {
    const dir = tempDir();
    const at = (name: string): string => join(dir, name);
    await runOk('qemu-img', ['create', '-q', '-f', 'qcow2', at('a'), '10M']);
    await runOk('qemu-img', ['bitmap', '--add', at('a'), 'b0']);
    await runOk('qemu-img', ['bitmap', '--add', '--disable', '-g', '4k', at('a'), 'b1']);
    await runOk('qemu-img', ['create', '-q', '-f', 'qcow2', at('small'), '1M']);
    await runOk('qemu-img', ['bitmap', '--add', at('small'), 's']);
    await runOk('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', 'compat=0.10', at('v2'), '1M']);
    await runOk('qemu-img', ['create', '-q', '-f', 'raw', at('raw'), '1M']);
    // In use, as a program that was killed leaves it.
    copyFileSync(at('a'), at('lost'));
    const bytes = readFileSync(at('lost'));
    const extension = bytes.indexOf(Buffer.from('23852875', 'hex'));
    const directory = Number(bytes.readBigUInt64BE(extension + 24));
    bytes.writeUInt32BE(3, directory + 12);
    writeFileSync(at('lost'), bytes);
    // Changed by a program that knows no bitmaps.
    bytes.writeBigUInt64BE(0n, 88);
    writeFileSync(at('stale'), bytes);
    const lines = [
      ['bitmap', '--add', 'a', 'b0'],
      ['bitmap', '--add', '-g', '3', 'a', 'x'],
      ['bitmap', '--add', '-g', '256', 'a', 'x'],
      ['bitmap', '--add', '-g', '4G', 'a', 'x'],
      ['bitmap', '--add', 'a', ''],
      ['bitmap', '--add', 'a', 'x'.repeat(1024)],
      ['bitmap', '--add', 'v2', 'x'],
      ['bitmap', '--add', '-f', 'raw', 'raw', 'x'],
      ['bitmap', '--remove', 'a', 'none'],
      ['bitmap', '--enable', 'a', 'none'],
      ['bitmap', '--merge', 'none', 'a', 'b0'],
      ['bitmap', '--merge', 's', '-b', 'small', '-F', 'qcow2', 'a', 'b0'],
      ['bitmap', '--clear', 'lost', 'b0'],
      ['bitmap', '--enable', 'lost', 'b0'],
      ['bitmap', '--merge', 'b0', 'lost', 'b1'],
      ['info', '--output=json', 'a'],
      ['info', '--output=json', 'lost'],
      ['measure', '-O', 'qcow2', 'a'],
      ['measure', '-O', 'qcow2', '--output=json', 'lost'],
      ['measure', '-O', 'qcow2', '-o', 'compat=0.10', 'a'],
      ['measure', '-O', 'qcow2', '-o', 'cluster_size=512', 'a'],
      ['convert', '--bitmaps', '-O', 'raw', 'a', 'o'],
      ['convert', '--bitmaps', '-f', 'raw', '-O', 'qcow2', 'raw', 'o'],
      ['convert', '--bitmaps', '-O', 'qcow2', 'lost', 'o'],
      ['convert', '--bitmaps', '--skip-broken-bitmaps', '-O', 'qcow2', 'lost', 'o'],
      ['info', '--output=json', 'o'],
      ['bitmap', '--add', '--clear', '--disable', 'a', 'n'],
      ['bitmap', '--merge', 'b0', '--merge', 'b1', 'a', 'n'],
      ['bitmap', '--remove', 'lost', 'b0'],
      ['bitmap', '--remove', 'lost', 'b1'],
      ['resize', '-q', 'a', '20M'],
      ['resize', '-q', '--shrink', 'a', '3M'],
      ['info', '--output=json', 'a'],
      ['snapshot', '-c', 's', 'a'],
      ['snapshot', '-a', 's', 'a'],
      ['check', 'lost'],
      ['check', '-r', 'leaks', 'stale'],
    ];
    const folders = ['qemu-img', img].map((tool) => {
      const folder = tempDir();
      for (const f of ['a', 'small', 'v2', 'raw', 'lost', 'stale']) {
        copyFileSync(at(f), join(folder, f));
      }
      return { tool, folder };
    });
    for (const line of lines) {
      const said = [];
      for (const { tool, folder } of folders) {
        const r = await run(tool, line, { cwd: folder });
        said.push([line.join(' '), comparable(r.stdout), comparable(r.stderr), r.status]);
      }
      expect(said[1]).toEqual(said[0]);
    }
  });
});

/** Without what may differ: program, node names, lengths of files, line ends of QEMU's warning. */
function comparable(text: string): string {
  return text
    .replaceAll('vdisk-img', 'qemu-img')
    .replace(/#block\d+/g, '#block')
    .replace(/"(actual-size|virtual-size)": \d+/g, '"$1": 0')
    .replace(/^Image end offset: \d+$/m, '')
    .replace('on the image file to fix.\n', 'on the image file to fix.')
    .replace(/\{[\s\S]*\}/, (json) => JSON.stringify(sorted(JSON.parse(json))));
}

function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted);
  if (typeof value !== 'object' || value === null) return value;
  const entries = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1));
  return Object.fromEntries(entries.map(([k, v]) => [k, sorted(v)]));
}

describe('an image without room', () => {
  it('tells that the bitmaps are lost, and leaves the image in order', async () => {
    const dir = tempDir();
    const path = join(dir, 'i');
    await runOk(img, ['create', '-q', '-f', 'qcow2', path, '10M']);
    await runOk(img, ['bitmap', '--add', path, 'b']);
    const text = readFileSync(path).length;
    const json = `json:{"driver":"qcow2","file":{"driver":"raw","size":${String(
      Math.ceil(text / 512) * 512,
    )},"file":{"driver":"file","filename":"${path}"}}}`;
    const r = await run(img, ['bitmap', '--add', json, 'c']);
    expect(r.stderr).toContain('Lost persistent bitmaps during inactivation of node');
    expect(r.stderr).toContain("Failed to write bitmap '");
    expect(r.status).toBe(1);
    const check = await run(img, ['check', path]);
    expect(check.stdout).toContain('No errors were found');
    const info = await runOk(img, ['info', path]);
    expect(info.stdout).toContain('in-use');
  });
});
