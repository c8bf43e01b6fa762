// Goal: the event BLOCK_IMAGE_CORRUPTED tells device, node, place and length as QEMU's does.
// Method: an image whose refcounts call the cluster of its L1 table free, and a write that takes
// it.
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { DaemonProcess } from '../qmp/support.js';
import { binPath, findCommand, requiresQemu10, runOk, tempDir } from '../support/index.js';

const args = ['-nodefaults', '-machine', 'none', '-display', 'none'];

async function damaged(): Promise<string> {
  const path = join(tempDir(), 'disk.qcow2');
  await runOk(binPath('vdisk-img'), ['create', '-q', '-f', 'qcow2', path, '1M']);
  const bytes = readFileSync(path);
  const [l1, refcounts] = [0x28, 0x30].map((at) => Number(bytes.readBigUInt64BE(at)));
  const block = Number(bytes.readBigUInt64BE(refcounts));
  bytes.writeUInt16BE(0, block + (l1! / 65536) * 2);
  writeFileSync(path, bytes);
  return path;
}

async function tellsTheEvent(program: string): Promise<void> {
  const drive = `if=none,id=drive0,driver=qcow2,node-name=disk,file.filename=${await damaged()}`;
  const machine = new DaemonProcess(program, [...args, '-drive', drive], undefined, [
    ...['-qmp', 'stdio'],
  ]);
  await machine.ready();
  await machine.ok('human-monitor-command', { 'command-line': 'qemu-io drive0 "write 0 64k"' });
  const told = machine.lines.seen.filter(({ event }) => event === 'BLOCK_IMAGE_CORRUPTED');
  expect(told.map(({ data }) => data)).toEqual([
    {
      device: 'drive0',
      'node-name': 'disk',
      msg: 'Preventing invalid write on metadata (overlaps with active L1 table)',
      offset: 0x30000,
      size: 65536,
      fatal: true,
    },
  ]);
  machine.child.kill('SIGKILL');
}

it('tells where the image would have been damaged', { timeout: 60_000 }, () =>
  tellsTheEvent(binPath('vdisk-system')),
);

requiresQemu10('qemu-system-x86_64')('as QEMU', () => {
  it('does', { timeout: 60_000 }, () => tellsTheEvent(findCommand('qemu-system-x86_64')!));
});
