// Goal: storage moves to another process while guests go on. Method: vdisk-storage-daemon mirrors a
// disk to QEMU's own qemu-nbd, with writes of QEMU's qemu-io through an export before and after the
// pivot; both files are compared.
import { readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import type { Message } from '../qmp/support.js';
import { DaemonProcess, isReply } from '../qmp/support.js';
import {
  binPath,
  findCommand,
  requiresQemu10,
  runOk,
  same,
  seededRandom,
  tempDir,
} from '../support/index.js';

const MiB = 1024 * 1024;

async function ask(daemon: DaemonProcess, execute: string, args: Message): Promise<Message> {
  const from = daemon.lines.seen.length;
  daemon.child.stdin.write(`${JSON.stringify({ execute, arguments: args })}\n`);
  const seen = await daemon.lines.until((all) => all.slice(from).some(isReply));
  const reply = seen.slice(from).find(isReply) ?? {};
  expect(reply).toEqual({ return: {} });
  return reply;
}

requiresQemu10('qemu-nbd', 'qemu-io')('a mirror to qemu-nbd', () => {
  it.each(['background', 'write-blocking'])('in mode %s', async (copyMode) => {
    const dir = tempDir();
    const at = (name: string): string => join(dir, name);
    writeFileSync(at('source'), seededRandom().bytes(8 * MiB));
    writeFileSync(at('target'), '');
    truncateSync(at('target'), 8 * MiB);
    const nbd = findCommand('qemu-nbd') ?? '';
    const io = findCommand('qemu-io') ?? '';
    // It ends when its client has gone.
    await runOk(nbd, ['--fork', '-k', at('n'), '-f', 'raw', '-x', 't', at('target')]);
    const daemon = await new DaemonProcess(binPath('vdisk-storage-daemon')).ready();
    const file = { driver: 'file', filename: at('source') };
    await ask(daemon, 'blockdev-add', { driver: 'raw', 'node-name': 's', file });
    const server = { type: 'unix', path: at('n') };
    const remote = { driver: 'nbd', 'node-name': 't', server, export: 't' };
    await ask(daemon, 'blockdev-add', remote);
    const addr = { type: 'unix', data: { path: at('g') } };
    await ask(daemon, 'nbd-server-start', { addr });
    const disk = { id: 'e', type: 'nbd', 'node-name': 's', writable: true };
    await ask(daemon, 'block-export-add', disk);
    const guest = `nbd+unix:///s?socket=${at('g')}`;
    const mirror = { 'job-id': 'm', device: 's', target: 't', sync: 'full' };
    await ask(daemon, 'blockdev-mirror', { ...mirror, 'copy-mode': copyMode });
    await runOk(io, ['-f', 'raw', '-c', 'write -P 7 1000k 3M', '-c', 'write -z 5M 64k', guest]);
    await daemon.lines.until1((m) => m['event'] === 'BLOCK_JOB_READY');
    await ask(daemon, 'block-job-complete', { device: 'm' });
    await daemon.lines.until1((m) => m['event'] === 'BLOCK_JOB_COMPLETED');
    await runOk(io, ['-f', 'raw', '-c', 'write -P 9 7M 64k', guest]);
    expect(await daemon.quit()).toBe(0);
    const [source, target] = [readFileSync(at('source')), readFileSync(at('target'))];
    expect(source[MiB]).toBe(7);
    expect(source[5 * MiB]).toBe(0);
    source.fill(9, 7 * MiB, 7 * MiB + 64 * 1024);
    same(target, source);
  });
});
