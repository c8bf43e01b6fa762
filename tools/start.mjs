#!/usr/bin/env node
// npm start: set-up, then a tour of one minute through the tools on an image made on the spot.
// npm start -- ARGS: set-up, then `vdisk ARGS`, with its exit status, in the caller's folder.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, realpathSync, rmSync } from 'node:fs';
import { constants, tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { root } from './files.mjs';
import { trySetUp } from './setup.mjs';

/** Exit status as a shell would give it. */
function statusOf({ status, signal, error }) {
  if (error !== undefined) return 127;
  return status ?? 128 + (constants.signals[signal] ?? 0);
}

function runVdisk(args) {
  const result = spawnSync(process.execPath, [join(root, 'bin/vdisk'), ...args], {
    cwd: process.env.INIT_CWD ?? process.cwd(),
    stdio: 'inherit',
  });
  return statusOf(result);
}

/** One step: what it shows, and the command, which runs exactly as printed, in a shell. */
const STEPS = [
  ['Create an empty disk of 256 MiB.', 'vdisk-img create -f raw disk.raw 256M'],
  [
    'Fill a part of it with real bytes: the program that runs this tour.',
    `dd if='${realpathSync(process.execPath)}' of=disk.raw bs=1M seek=32 conv=notrunc status=none`,
  ],
  ['Convert it to qcow2: holes stay holes.', 'vdisk-img convert -f raw -O qcow2 disk.raw a.qcow2'],
  [
    'Again, compressed with zstd.',
    'vdisk-img convert -c -o compression_type=zstd -f raw -O qcow2 disk.raw small.qcow2',
  ],
  ['What is it?', 'vdisk-img info small.qcow2'],
  ['How large are the three on disk?', 'du -k disk.raw a.qcow2 small.qcow2'],
  ['Where does the data stand in the file?', 'vdisk-img map a.qcow2'],
  ['Is its metadata sound?', 'vdisk-img check a.qcow2 && vdisk-img check small.qcow2'],
  [
    'An overlay holds changes only; its backing file stays as it is.',
    'vdisk-img create -f qcow2 -b small.qcow2 -F qcow2 overlay.qcow2',
  ],
  ['Do overlay and first disk have the same content?', 'vdisk-img compare overlay.qcow2 disk.raw'],
  [
    'Read everything back, through overlay and compressed image, into a raw file.',
    'vdisk-img convert -f qcow2 -O raw overlay.qcow2 back.raw',
  ],
  ['Byte for byte the same?', 'cmp disk.raw back.raw && echo "disk.raw and back.raw are equal"'],
  ['Write into the overlay, as a guest would.', "vdisk-io -c 'write -P 0x5a 1M 64k' overlay.qcow2"],
  ['Read it.', "vdisk-io -c 'read -v 1M 32' overlay.qcow2"],
  ['Now the two differ.', 'vdisk-img compare overlay.qcow2 disk.raw || true'],
];

function tour() {
  const folder = mkdtempSync(join(tmpdir(), 'vdisk-tour-'));
  const started = performance.now();
  console.log(`\nA tour of vdisk, in ${folder}; the commands are those that you would type`);
  console.log(`with ${join(root, 'bin')} in PATH.`);
  const env = { ...process.env, PATH: `${join(root, 'bin')}${delimiter}${process.env.PATH}` };
  try {
    for (const [text, command] of STEPS) {
      console.log(`\n# ${text}\n$ ${command}`);
      const status = statusOf(
        spawnSync(command, { cwd: folder, env, shell: true, stdio: 'inherit' }),
      );
      if (status !== 0) {
        console.log(`\nThe tour stopped: this command ended with status ${status}.`);
        return status;
      }
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  console.log(`\nThe tour took ${seconds} s and its files are gone again.`);
  console.log(`Try: ${join(root, 'bin/vdisk-img')} --help, or: npm start -- img --help`);
  return 0;
}

const args = process.argv.slice(2);
if (!trySetUp()) process.exitCode = 1;
else process.exitCode = args.length > 0 ? runVdisk(args) : tour();
