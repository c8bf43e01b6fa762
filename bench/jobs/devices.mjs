// Requests through virtual devices beside the same requests to the block layer itself, and how long
// guests take to boot.
import { spawn, spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { qcow2Requests, rawRequests } from './images.mjs';

const bench = dirname(dirname(fileURLToPath(import.meta.url)));
const guest = join(bench, 'guest.mjs');
const COUNT = 200_000;
const DEPTH = 32;

function run(who, { format, kind }, context) {
  const args = [guest, who, `requests.${format}`, format, kind, String(COUNT), String(DEPTH)];
  const result = spawnSync(process.execPath, args, { cwd: context.dir, encoding: 'utf8' });
  const seconds = /in ([\d.]+) seconds/.exec(result.stdout)?.[1];
  if (result.status !== 0 || seconds === undefined) throw new Error(result.stderr);
  return { ms: Number(seconds) * 1000, kib: 0 };
}

const nothing = { ms: undefined, kib: 0 };

const requestRows = ['raw', 'qcow2'].flatMap((format) =>
  ['read', 'write'].flatMap((kind) =>
    ['virtio-blk', 'ahci'].map((who) => ({
      name: `${who} ${format} ${kind} 4k random depth ${String(DEPTH)}`,
      needs: format === 'raw' ? [rawRequests] : [rawRequests, qcow2Requests],
      requests: COUNT,
      measure: (tool, context) =>
        tool.name === 'vdisk' ? run(who, { format, kind }, context) : nothing,
      beside: {
        name: 'layer',
        measure: (_tool, context) => run('layer', { format, kind }, context),
      },
    })),
  ),
);

const files = join(dirname(bench), '.cache/guest');

/** Runs a machine until the guest's first process speaks. */
function boot(command, more, context) {
  const args = [
    ...['-m', '160', '-display', 'none', '-serial', 'stdio', '-no-reboot'],
    ...['-kernel', join(files, 'vmlinuz'), '-initrd', join(files, 'initrd.img')],
    ...['-append', 'console=ttyS0 quiet cryptomgr.notests edd=off mitigations=off', ...more],
  ];
  return new Promise((resolve, reject) => {
    const before = performance.now();
    const child = spawn(command, args, { cwd: context.dir, stdio: ['ignore', 'pipe', 'pipe'] });
    let said = '';
    let ms;
    child.stderr.on('data', (piece) => (said += piece));
    child.stdout.on('data', (piece) => {
      said += piece;
      if (ms !== undefined || !said.includes('guest: ready')) return;
      ms = performance.now() - before;
      child.kill();
    });
    child.on('error', reject);
    child.on('close', () => {
      if (ms === undefined) reject(new Error(said));
      else resolve({ ms, kib: 0 });
    });
  });
}

const bootRow = {
  name: 'boot Linux to its first process (qemu: tcg)',
  measure(tool, context) {
    if (tool.name === 'vdisk') return boot(join(dirname(bench), 'bin/vdisk-system'), [], context);
    const peer = [join(dirname(tool.path), 'qemu-system-i386'), '/usr/bin/qemu-system-i386'];
    const found = peer.find(existsSync);
    return found === undefined ? nothing : boot(found, ['-accel', 'tcg'], context);
  },
};

/** The guest is there when `npm run setup:guest` got it. */
export const deviceJobs = [...requestRows, ...(existsSync(join(files, '.stamp')) ? [bootRow] : [])];
