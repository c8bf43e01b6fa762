#!/usr/bin/env node
// Measures how fast the tools start: `node tools/startup.mjs [RUNS]`. Each command runs RUNS times
// in turn with the others; printed are the lowest and the middle time, and both as a ratio to
// `node -e 0`.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { root } from './files.mjs';

const runs = Number(process.argv[2] ?? 21);
const folder = mkdtempSync(join(tmpdir(), 'vdisk-startup-'));
const image = join(folder, 'a.qcow2');
const img = join(root, 'bin/vdisk-img');
// Parsing certificates would cost `node -e 0` fifty milliseconds that the tools do not spend.
const { NODE_EXTRA_CA_CERTS: _, ...env } = process.env;
const umbrella = join(root, 'bin/vdisk');

const rows = [
  ['node -e 0', process.execPath, '-e', '0'],
  ['vdisk-img --version', img, '--version'],
  ['vdisk-img info', img, 'info', image],
  ['vdisk img info', umbrella, 'img', 'info', image],
].map(([name, command, ...args]) => ({ name, command, args, times: [] }));

spawnSync(img, ['create', '-q', '-f', 'qcow2', image, '1G'], { stdio: 'inherit' });
if (!existsSync(image)) console.error('vdisk-img create failed: info is measured on no image');
for (let i = 0; i < runs; i++) {
  for (const row of rows) {
    const before = performance.now();
    row.status = spawnSync(row.command, row.args, { stdio: 'ignore', env }).status;
    row.times.push(performance.now() - before);
  }
}
for (const row of rows) row.times.sort((a, b) => a - b);
const middle = (row) => row.times[row.times.length >> 1];
for (const row of rows) {
  const [low, mid] = [row.times[0], middle(row)];
  const ratios = [low / rows[0].times[0], mid / middle(rows[0])].map((ratio) => ratio.toFixed(2));
  const note = row.status === 0 ? '' : `  (status ${row.status})`;
  console.log(
    `${row.name.padEnd(22)} lowest ${low.toFixed(1)} ms (${ratios[0]}), ` +
      `middle ${mid.toFixed(1)} ms (${ratios[1]})${note}`,
  );
}
rmSync(folder, { recursive: true });
