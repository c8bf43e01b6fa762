// Debian's kernel on our disks: it writes a known pattern to an ext4 file system of the host's,
// syncs, reads it back, and powers off. Then the image is clean for vdisk-img and e2fsck, and the
// bytes are where the guest put them; QEMU's own machine boots the same image to the same result.
// `npm run setup:guest` gets the kernel. One boot is part of every run; VDISK_GUESTS=all has the
// others, too.
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { binPath, findCommand, run, runOk, tempDir } from '../support/index.js';
import { guestFile, requiresGuest } from '../support/guest.js';

const LIMIT = 400_000;
const SIZE = 2_000_000;
const isAll = process.env['VDISK_GUESTS'] === 'all';
const img = binPath('vdisk-img');

/** Where the guest finds a disk, and what it loads for it. */
interface Place {
  readonly args: (drive: string) => readonly string[];
  readonly append: string;
}

const places = {
  'IDE DMA': {
    args: (drive) => ['-drive', `${drive},if=ide`],
    append: 'modules=ata_piix disk=/dev/sda',
  },
  'IDE PIO': {
    args: (drive) => ['-drive', `${drive},if=ide`],
    append: 'modules=ata_piix libata.dma=0 disk=/dev/sda',
  },
  AHCI: {
    args: (drive) => [
      ...['-drive', `${drive},if=none`, '-device', 'ahci,id=ahci'],
      ...['-device', 'ide-hd,drive=d0,bus=ahci.0'],
    ],
    append: 'modules=ahci disk=/dev/sda',
  },
  'virtio-blk': {
    args: (drive) => ['-drive', `${drive},if=virtio`],
    append: 'modules=virtio_pci,virtio_blk disk=/dev/vda',
  },
} satisfies Record<string, Place>;

/** A file system with a greeting, as a raw image. */
async function fileSystem(folder: string): Promise<string> {
  const content = join(folder, 'content');
  mkdirSync(content);
  writeFileSync(join(content, 'greeting'), 'hello from the host\n');
  const raw = join(folder, 'root.raw');
  writeFileSync(raw, '');
  truncateSync(raw, 32 << 20);
  await runOk(findCommand('mke2fs') ?? '', ['-q', '-t', 'ext4', '-d', content, raw]);
  return raw;
}

function guestArgs(place: Place, drive: string, seed: string, rounds = 1): string[] {
  const quiet = 'console=ttyS0 quiet cryptomgr.notests edd=off mitigations=off';
  return [
    ...['-m', '160', '-display', 'none', '-no-reboot'],
    ...['-kernel', guestFile('vmlinuz'), '-initrd', guestFile('initrd.img')],
    ...['-append', `${quiet} ${place.append} seed=${seed} size=${SIZE} rounds=${rounds}`],
    ...place.args(`${drive},id=d0`),
  ];
}

const verified = /guest: read hello from the host\r?\n[^]*guest: verified 0 errors/;

/** What the guest left is as it should be, for the host. */
async function check(folder: string, image: string, seed: string, round = 0): Promise<void> {
  const { stdout } = await runOk(img, ['check', image]);
  expect(stdout).toContain('No errors were found');
  const theirs = findCommand('qemu-img');
  if (theirs !== undefined) await runOk(theirs, ['check', image]);
  const raw = join(folder, 'after.raw');
  await runOk(img, ['convert', '-O', 'raw', image, raw]);
  await runOk(findCommand('e2fsck') ?? '', ['-fn', raw]);
  const { bytes } = await runOk(findCommand('debugfs') ?? '', ['-R', 'cat /pattern', raw]);
  const line = Buffer.from(`${seed} ${round}\n`);
  const want = Buffer.alloc(SIZE, line);
  expect(Buffer.from(bytes).equals(want)).toBe(true);
}

/** A qcow2 over the file system, which stays as it is. */
async function overlay(folder: string): Promise<string> {
  const base = await fileSystem(folder);
  const image = join(folder, 'disk.qcow2');
  await runOk(img, ['create', '-q', '-f', 'qcow2', '-b', base, '-F', 'raw', image]);
  return image;
}

async function boot(place: Place, drive: string, seed: string): Promise<void> {
  const args = [...guestArgs(place, drive, seed), '-serial', 'stdio'];
  const { status, stdout, stderr } = await run(binPath('vdisk-system'), args, { timeout: LIMIT });
  expect(stdout).toMatch(verified);
  expect([status, stderr]).toEqual([0, '']);
}

/** A guest whose serial port and monitor are on standard input and output. */
function terminalGuest(args: readonly string[]): {
  readonly text: () => string;
  readonly type: (text: string) => void;
  readonly ended: Promise<unknown>;
} {
  const child = spawn(binPath('vdisk-system'), ['-nographic', ...args], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  onTestFinished(() => void child.kill('SIGKILL'));
  let text = '';
  child.stdout.on('data', (piece: Buffer) => (text += piece.toString()));
  return {
    text: () => text,
    type: (typed) => void child.stdin.write(typed),
    ended: new Promise((resolve) => child.once('close', resolve)),
  };
}

const tools = ['mke2fs', 'e2fsck', 'debugfs'];

requiresGuest(...tools)('Linux writes to our disks', () => {
  it(
    'virtio-blk, an image with a backing file',
    async () => {
      const folder = tempDir();
      const image = await overlay(folder);
      const before = readFileSync(join(folder, 'root.raw'));
      await boot(places['virtio-blk'], `file=${image},format=qcow2`, 'chain');
      await check(folder, image, 'chain');
      expect(readFileSync(join(folder, 'root.raw')).equals(before)).toBe(true);
    },
    LIMIT,
  );
});

/** Left out of a usual run; the name says how to have them. */
const more = isAll ? requiresGuest(...tools) : requiresGuest(...tools, 'VDISK_GUESTS=all');

more('Linux on each kind of disk', () => {
  it.each([
    ['IDE DMA', 'cache=writeback'],
    ['IDE PIO', 'cache=unsafe'],
    ['AHCI', 'cache=none'],
    ['virtio-blk', 'throttling.bps-total=4000000'],
  ] as const)(
    '%s, %s; then the same image in QEMU',
    async (kind, options) => {
      const folder = tempDir();
      const image = await overlay(folder);
      const drive = `file=${image},format=qcow2`;
      await boot(places[kind], `${drive},${options}`, 'ours');
      await check(folder, image, 'ours');
      const qemu = findCommand('qemu-system-i386');
      if (qemu === undefined) return;
      const args = [...guestArgs(places[kind], drive, 'theirs'), '-serial', 'stdio'];
      const result = await run(qemu, [...args, '-accel', 'tcg', '-nic', 'none'], {
        timeout: LIMIT,
      });
      expect(result.stdout).toMatch(verified);
      await check(folder, image, 'theirs');
    },
    LIMIT,
  );

  it(
    'a snapshot is taken and a stream ends while the guest writes',
    async () => {
      const folder = tempDir();
      const image = await overlay(folder);
      const top = join(folder, 'top.qcow2');
      const serial = join(folder, 'serial');
      const args = guestArgs(places['virtio-blk'], `file=${image},format=qcow2`, 'live', 8);
      const child = spawn(
        binPath('vdisk-system'),
        [...args, '-serial', `file:${serial}`, '-qmp', 'stdio'],
        { stdio: ['pipe', 'pipe', 'inherit'] },
      );
      onTestFinished(() => void child.kill('SIGKILL'));
      let text = '';
      child.stdout.on('data', (piece: Buffer) => (text += piece.toString()));
      const ended = new Promise((resolve) => child.once('close', resolve));
      const ask = (execute: string, values?: object): void => {
        child.stdin.write(`${JSON.stringify({ execute, arguments: values })}\n`);
      };
      const said = (): string => (existsSync(serial) ? readFileSync(serial, 'latin1') : '');
      ask('qmp_capabilities');
      await expect.poll(said, { timeout: LIMIT }).toContain('wrote round 0');
      ask('blockdev-snapshot-sync', { device: 'd0', 'snapshot-file': top, format: 'qcow2' });
      ask('block-stream', { device: 'd0', 'job-id': 'stream' });
      await expect.poll(() => text, { timeout: LIMIT }).toContain('BLOCK_JOB_COMPLETED');
      expect(said()).not.toContain('wrote round 7');
      expect(await ended).toBe(0);
      expect(text).not.toContain('"error"');
      expect(said()).toMatch(verified);
      const info = await runOk(img, ['info', top]);
      expect(info.stdout).not.toContain('backing file');
      await check(folder, top, 'live', 7);
    },
    LIMIT,
  );

  it.each([
    ['CD-ROM', ['-cdrom', guestFile('grub-rescue-cdrom.iso'), '-boot', 'd']],
    [
      'floppy',
      ['-drive', `if=floppy,format=raw,file=${guestFile('grub-rescue-floppy.img')}`, '-boot', 'a'],
    ],
  ])(
    'GRUB starts from its %s image',
    async (_name, args) => {
      const guest = terminalGuest(['-m', '64', ...args]);
      await expect.poll(guest.text, { timeout: LIMIT }).toMatch(/GNU GRUB +version 2/);
      guest.type('\x01x');
      expect(await guest.ended).toBe(0);
    },
    LIMIT,
  );
});
