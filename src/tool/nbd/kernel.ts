/**
 * `--connect` and `--disconnect`: the kernel's own NBD client, so that an export is a block
 * device. The ioctls are made by nbd-client(8); Node has none.
 */
import { spawnSync } from 'node:child_process';
import { closeSync, fstatSync, openSync } from 'node:fs';
import { basename } from 'node:path';
import { errorText } from '../../block/errors.js';
import { toHostError } from '../../host/node/errors.js';
import type { SocketAddress } from '../../host/socket.js';
import type { Program } from '../program.js';
import { Failure } from '../program.js';

/** Where the server of a device listens. */
export function defaultSocket(device: string): string {
  return `/var/lock/qemu-nbd-${basename(device)}`;
}

/** Throws unless `device` is a block device that can be opened. */
export function checkDevice(device: string, what: string): void {
  let fd: number;
  try {
    fd = openSync(device, 'r+');
  } catch (e) {
    throw new Failure(`${what} ${device}: ${errorText(toHostError(e))}`);
  }
  try {
    if (!fstatSync(fd).isBlockDevice()) {
      throw new Failure(`${what} ${device}: it is no block device`);
    }
  } finally {
    closeSync(fd);
  }
}

function nbdClient(args: readonly string[]): void {
  const path = `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin`;
  const { status, error, stderr } = spawnSync('nbd-client', args, {
    stdio: ['ignore', 'ignore', 'pipe'],
    encoding: 'utf8',
    env: { ...process.env, PATH: path },
  });
  if (error !== undefined) {
    const why = toHostError(error).code === 'ENOENT' ? 'it is not installed' : error.message;
    throw new Failure(`Cannot run nbd-client, which makes the kernel connect: ${why}`);
  }
  if (status !== 0) throw new Failure(`nbd-client failed: ${stderr.trim()}`);
}

/** Makes the kernel connect `device` to the server at `address`. */
export async function attach(
  device: string,
  address: SocketAddress,
  exportName: string,
): Promise<void> {
  if (address.type !== 'unix') throw new Failure(`Cannot connect ${device} over ${address.type}`);
  // The server runs in this process: it must go on while the program does its handshake.
  const { spawn } = await import('node:child_process');
  const path = `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin`;
  const child = spawn('nbd-client', ['-unix', address.path, device, '-N', exportName], {
    stdio: ['ignore', 'ignore', 'pipe'],
    env: { ...process.env, PATH: path },
  });
  let said = '';
  child.stderr.on('data', (piece: Buffer) => (said += piece.toString()));
  const status = await new Promise<number>((resolve, reject) => {
    child.once('error', (e) => {
      const why = toHostError(e).code === 'ENOENT' ? 'it is not installed' : e.message;
      reject(new Failure(`Cannot run nbd-client, which makes the kernel connect: ${why}`));
    });
    child.once('close', (code) => {
      resolve(code ?? 1);
    });
  });
  if (status !== 0) throw new Failure(`nbd-client cannot connect ${device}: ${said.trim()}`);
}

/** Takes a device away from its server; the exit status. */
export function disconnect(program: Program, device: string): number {
  checkDevice(device, 'Cannot open');
  nbdClient(['-d', device]);
  program.print(`${device} disconnected\n`);
  return 0;
}
