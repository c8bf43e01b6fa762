// Accuracy of throttling: as much as a limit lets through in 10 seconds, behind the burst of a
// tenth of a second that is let through at once, by an NBD client of a storage daemon. Where both
// are right they take 10 seconds and the ratio is 1.
import { spawnSync } from 'node:child_process';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { Daemon } from './block-jobs.mjs';

const SECONDS = 10;
const kinds = {
  '1000 requests a second': { limits: { 'iops-total': 1000 }, bytes: 4096, rate: 1000 },
  '40 MiB a second': { limits: { 'bps-total': 40 * 1024 ** 2 }, bytes: 65536, rate: 640 },
};

async function run({ limits, bytes, rate }, daemon, { dir, img }) {
  const path = join(dir, 'throttle.sock');
  await daemon.ask('qmp_capabilities');
  await daemon.ask('object-add', { 'qom-type': 'throttle-group', id: 'g', limits });
  const file = { driver: 'null-co', size: 1024 ** 3, 'read-zeroes': true };
  const node = { driver: 'throttle', 'throttle-group': 'g', 'node-name': 'disk', file };
  await daemon.ask('blockdev-add', node);
  await daemon.ask('nbd-server-start', { addr: { type: 'unix', data: { path } } });
  await daemon.ask('block-export-add', {
    id: 'e',
    type: 'nbd',
    'node-name': 'disk',
    writable: true,
  });
  const count = String(rate * SECONDS + rate / 10);
  const args = ['bench', '-w', '-f', 'raw', '-c', count, '-d', '16', '-s', String(bytes)];
  const before = performance.now();
  const { status } = spawnSync(img, [...args, `nbd+unix:///disk?socket=${path}`]);
  if (status !== 0) throw new Error(`bench ended with ${String(status)}`);
  return performance.now() - before;
}

export const throttleJobs = Object.entries(kinds).map(([name, kind]) => ({
  name: `throttle ${name}, 10 s`,
  async measure(tool, context) {
    const daemon = new Daemon(tool, context);
    try {
      return { ms: await run(kind, daemon, context), kib: 0 };
    } finally {
      await daemon.end();
      rmSync(join(context.dir, 'throttle.sock'), { force: true });
    }
  },
}));
