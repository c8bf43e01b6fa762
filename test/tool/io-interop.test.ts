// Goal: a session of vdisk-io prints what qemu-io prints and leaves the same bytes behind.
// Method: the same random script, errors included, on standard input of both, each with an image
// of its own; timings are taken out. VDISK_QEMU_IO names another qemu-io than that in PATH.
import { copyFileSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { Random, RunResult } from '../support/index.js';
import { binPath, requiresQemu10, run, runOk, seededRandom, tempDir } from '../support/index.js';
import { withoutTimes } from './transcript.js';

const qemuIo = process.env['VDISK_QEMU_IO'] ?? 'qemu-io';

const SIZE = 4 << 20;

function both(
  args: readonly string[],
  input: string,
  folders: readonly [string, string],
): Promise<RunResult[]> {
  const programs = [qemuIo, binPath('vdisk-io')] as const;
  return Promise.all(
    programs.map((program, i) => run(program, args, { input, cwd: folders[i] ?? '' })),
  );
}

function expectSame([theirs, ours]: RunResult[]): void {
  expect(withoutTimes(ours?.stderr ?? '')).toBe(withoutTimes(theirs?.stderr ?? ''));
  expect(withoutTimes(ours?.stdout ?? '')).toBe(withoutTimes(theirs?.stdout ?? ''));
  expect(ours?.status).toBe(theirs?.status);
}

/** Offsets and lengths around boundaries of sectors and clusters, a few beyond the end. */
function randomRange(random: Random, least = 0): string {
  const unit = random.pick([1, 512, 4096, 65536]);
  const offset = random.int(0, SIZE / unit) * unit + (random.chance(0.1) ? random.int(-1, 1) : 0);
  const bytes = random.chance(0.1) ? least : random.int(1, Math.max(1, 131_072 / unit)) * unit;
  const suffix = (n: number): string =>
    n > 0 && n % 1024 === 0 && random.chance() ? `${n / 1024}k` : String(n);
  return `${suffix(Math.max(offset, 0))} ${suffix(bytes)}`;
}

function randomPattern(random: Random): string {
  return random.pick(['0', '1', '0xff', '0x41', '017', '205']);
}

const wrongLines = [
  'read',
  'read x 1',
  'read 0 1z',
  'read -P 256 0 1',
  'read -P 1 -s 5 0 4',
  'read -- -1 4',
  'read 0 3G',
  'write 0 3G',
  'write -u 0 1',
  'write -n 0 1',
  'write -bz 0 512',
  'write -zP 1 0 1',
  'write -b 1 512',
  'write -c 0 5',
  'write -fc 0 512',
  'readv 0 2G',
  'writev 0 1G 1G',
  'aio_write -u 0 1',
  'aio_write -z 0 1 1',
  'aio_read 0 x',
  'alloc x',
  'alloc',
  'truncate -m foo 1M',
  'truncate x',
  'sleep x',
  'sigraise 99',
  'break a',
  'nonsense 1 2',
  'help nothing',
  'close 1',
  'length length',
  'open none',
  'write -s none 0 1',
  'write -s . 0 1',
  'reopen -r -w',
  'reopen -c foo',
];

function randomLine(random: Random): string {
  const range = randomRange(random);
  const pattern = randomPattern(random);
  const offset = range.split(' ')[0] ?? '0';
  // An empty piece in a vector makes qemu-io abort when the request has to be padded.
  const filled = randomRange(random, 1);
  return random.pick([
    `write -P ${pattern} ${range}`,
    `write -P ${pattern} ${range}`,
    `write -q -P ${pattern} ${range}`,
    `write ${random.pick(['-z', '-zu', '-zf', '-zn', '-zun', '-C', '-f', '-p'])} ${range}`,
    `write -s pattern ${range}`,
    `writev -P ${pattern} ${filled} 512 1 513`,
    `writev -f ${filled} 7`,
    `aio_write -P ${pattern} ${filled}\naio_flush`,
    `aio_write ${random.pick(['-f', '-C', '-q'])} ${filled} 512\naio_flush`,
    `read -P ${pattern} ${range}`,
    `read -P ${pattern} -s 100 ${range}`,
    `read -v ${offset} ${random.int(0, 70)}`,
    `read ${random.pick(['-C', '-q', '-p', '-qv'])} ${range}`,
    `readv -P ${pattern} ${filled} 17 4095`,
    `readv -v ${offset} 3 18`,
    `aio_read -P ${pattern} ${filled} 512\naio_flush`,
    `aio_read -v ${offset} 30\naio_flush`,
    // What a discard of less than a sector leaves behind is not the same on all hosts.
    `discard ${random.int(0, SIZE / 512) * 512} ${random.int(0, 200) * 512}`,
    `discard -q ${random.int(0, SIZE / 512) * 512} ${random.int(0, 200) * 512}`,
    `alloc ${range}`,
    `alloc ${offset}`,
    `truncate ${random.int(SIZE / 1024, SIZE / 512)}k`,
    'map',
    'length',
    'flush',
    'info',
    random.pick(wrongLines),
  ]);
}

function script(random: Random, lines: number): string {
  return `${Array.from({ length: lines }, () => randomLine(random)).join('\n')}\n`;
}

function folders(): [string, string] {
  const pair: [string, string] = [tempDir(), tempDir()];
  for (const folder of pair) writeFileSync(join(folder, 'pattern'), 'hello, world');
  return pair;
}

requiresQemu10(qemuIo)('random sessions', () => {
  it.each([1, 2, 3, 4])('on a raw image (%s)', async () => {
    const random = seededRandom();
    const pair = folders();
    const content = random.bytes(SIZE);
    for (const folder of pair) writeFileSync(join(folder, 'a.img'), content);
    const cache = random.pick(['writeback', 'writethrough', 'none', 'unsafe']);
    const args = ['-f', 'raw', '-t', cache, 'a.img'];
    expectSame(await both(args, script(random, 80), pair));
    const [theirs, ours] = pair.map((folder) => readFileSync(join(folder, 'a.img')));
    expect(theirs !== undefined && ours?.equals(theirs)).toBe(true);
  });

  it('on an image that is open for reading', async () => {
    const random = seededRandom();
    const pair = folders();
    for (const folder of pair) writeFileSync(join(folder, 'a.img'), new Uint8Array(SIZE));
    expectSame(await both(['-r', '-f', 'raw', 'a.img'], script(random, 60), pair));
  });
});

requiresQemu10(qemuIo, 'qemu-img')('zero writes without fallback', () => {
  it.each(['', '-o compat=0.10', '-o compat=0.10 -b base.raw -F raw'])('(%s)', async (options) => {
    const pair = folders();
    const words = options === '' ? [] : options.split(' ');
    for (const folder of pair) {
      writeFileSync(join(folder, 'base.raw'), new Uint8Array(SIZE / 2).fill(0x41));
      const create = ['create', '-q', '-f', 'qcow2', ...words, 'a.img', String(SIZE)];
      await runOk('qemu-img', create, { cwd: folder });
    }
    const lines = ['write 2M 64k', 'write -zn 2M 64k', 'write -zn 0 64k', 'write -zun 1M 64k'];
    const input = [...lines, 'write -zn 1M 100', 'map', ''].join('\n');
    expectSame(await both(['-f', 'qcow2', 'a.img'], input, pair));
  });
});

requiresQemu10(qemuIo, 'qemu-img')('random sessions', () => {
  it.each([
    '',
    '-o cluster_size=4k',
    '-o compat=0.10',
    '-o compat=0.10 -b base.raw -F raw',
    '-b base.raw -F raw',
  ])('on a qcow2 image (%s)', async (options) => {
    const random = seededRandom();
    const pair = folders();
    const words = options === '' ? [] : options.split(' ');
    for (const folder of pair) {
      writeFileSync(join(folder, 'base.raw'), new Uint8Array(SIZE / 2).fill(0x41));
      const create = ['create', '-q', '-f', 'qcow2', ...words, 'a.img', String(SIZE)];
      await runOk('qemu-img', create, { cwd: folder });
    }
    expectSame(await both(['-f', 'qcow2', 'a.img'], script(random, 80), pair));
    const [theirs, ours] = pair.map((folder) => join(folder, 'a.img'));
    await runOk('qemu-img', ['check', '-q', ours ?? '']);
    copyFileSync(theirs ?? '', join(pair[1], 'theirs.img'));
    await runOk('qemu-img', ['compare', '-q', 'a.img', 'theirs.img'], { cwd: pair[1] });
  });

  it('on vm state and compressed clusters', async () => {
    const pair = folders();
    for (const folder of pair) {
      await runOk('qemu-img', ['create', '-q', '-f', 'qcow2', 'a.img', '1M'], { cwd: folder });
    }
    const lines = [
      'write -b -P 3 0 64k',
      'read -b -P 3 0 64k',
      'read -b -P 0 1M 512',
      'write -b 7E 512',
      'write -c -P 5 0 64k',
      'write -c 64k 60k',
      'read -P 5 0 64k',
      'map',
      'info',
    ];
    expectSame(await both(['-f', 'qcow2', 'a.img'], lines.join('\n'), pair));
  });
});

describe('what the two differ in on purpose', () => {
  it('is the wording of help, and that wait_break ends where nothing can be waited for', () => {
    // Kept as a list for readers: both are tested in io-commands.test.ts.
    expect(wrongLines).not.toContain('wait_break a');
  });
});
