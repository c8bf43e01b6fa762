// Goal: vdisk-nbd holds up under clients that stand between it and others, and under programs that
// show it as a file or start it. Method: nbdkit's nbd plugin with its filters as client of our
// server and server of our client at once, nbdfuse, systemd-socket-activate, qemu-nbd beside it.
import { spawn } from 'node:child_process';
import * as fs from 'node:fs';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import {
  binPath,
  failureCode,
  filled,
  readBytes,
  requires,
  run,
  runOk,
  same,
  seededRandom,
  tempDir,
} from '../support/index.js';
import { exercise, openUri, parseJson, startNbd, startNbdkit } from './nbd-support.js';
import { startProcess, untilSocket, uriOf, vdiskNbd } from './nbd-support.js';

const MiB = 1024 * 1024;

function makeRaw(fill?: Uint8Array): string {
  const path = join(tempDir(), 'disk.raw');
  writeFileSync(path, fill ?? new Uint8Array(2 * MiB));
  return path;
}

requires('nbdkit')("nbdkit's nbd plugin between our client and our server", () => {
  const filters: Record<string, readonly string[]> = {
    none: [],
    // The cache does not correct the extents below it.
    cache: ['--filter=noextents', '--filter=cache'],
    delay: ['--filter=delay'],
    error: ['--filter=error'],
  };
  const settings: Record<string, readonly string[]> = {
    cache: ['cache=writeback'],
    delay: ['rdelay=1ms', 'wdelay=1ms'],
    error: ['error-rate=0%'],
  };
  it.each(Object.entries(filters))('filter %s', async (name, filter) => {
    // Nor does it forget what is trimmed below it.
    const discard = name === 'cache' ? 'ignore' : 'unmap';
    const ours = await startNbd(['-f', 'raw', `--discard=${discard}`, makeRaw()]);
    const args = [...filter, 'nbd', `socket=${ours.socket}`, ...(settings[name] ?? [])];
    const { uri } = await startNbdkit(args);
    await exercise(uri, seededRandom(), name === 'delay' ? 3 : 10);
    await runOk(binPath('vdisk-img'), ['compare', '-f', 'raw', '-F', 'raw', uri, ours.uri]);
  });

  it('errors that it makes up reach our client; our server goes on', async () => {
    const ours = await startNbd(['-f', 'raw', makeRaw()]);
    const trigger = join(tempDir(), 'trigger');
    const { uri } = await startNbdkit([
      ...['--filter=error', 'nbd', `socket=${ours.socket}`, 'error=EIO', 'error-rate=1'],
      `error-file=${trigger}`,
    ]);
    const backend = await openUri(uri);
    await backend.write(0, filled(4096, 1));
    writeFileSync(trigger, '');
    expect(await failureCode(backend.write(0, filled(4096, 2)))).toBe('EIO');
    const direct = await openUri(ours.uri);
    expect((await readBytes(direct, 0, 1))[0]).toBe(1);
  });

  it('exit-last: it ends with our client, and our server with it', async () => {
    const socket = join(tempDir(), 'nbd.sock');
    const ours = startProcess(vdiskNbd(), ['-k', socket, '-f', 'raw', makeRaw()]);
    await untilSocket(socket, ours);
    const { uri, server } = await startNbdkit(['--filter=exitlast', 'nbd', `socket=${socket}`]);
    const backend = await openUri(uri);
    await backend.write(0, filled(512, 1));
    await backend.detach();
    await backend.graph.close();
    expect(await server.ended).toBe(0);
    expect(await ours.ended).toBe(0);
  });

  it('TLS with a shared key on its way to our server', async () => {
    const keys = join(tempDir(), 'keys.psk');
    writeFileSync(keys, `alice:${'5a'.repeat(32)}\n`);
    const object = `tls-creds-psk,id=tls0,endpoint=server,dir=${join(keys, '..')}`;
    const disk = makeRaw();
    const ours = await startNbd(['--object', object, '--tls-creds', 'tls0', '-f', 'raw', disk]);
    const way = ['nbd', `socket=${ours.socket}`, 'tls=require', `tls-psk=${keys}`];
    const { uri } = await startNbdkit([...way, 'tls-username=alice']);
    await exercise(uri, seededRandom(), 6);
  });
});

const canMount = existsSync('/dev/fuse') && process.getuid?.() === 0;
requires('nbdfuse', ...(canMount ? [] : ['fuse']))('nbdfuse', () => {
  it('shows our export as a file, read and written', async () => {
    const random = seededRandom();
    const data = random.bytes(2 * MiB);
    const disk = makeRaw(data);
    const { uri } = await startNbd(['-f', 'raw', disk]);
    const file = join(tempDir(), 'file');
    writeFileSync(file, '');
    const child = spawn('nbdfuse', [file, uri], { stdio: 'ignore' });
    const ended = new Promise((resolve) => child.once('exit', resolve));
    onTestFinished(async () => {
      await run('umount', [file]);
      child.kill();
      await ended;
    });
    while (child.exitCode === null && readFileSync(file).length !== data.length) {
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    same(readFileSync(file), data);
    const fd = fs.openSync(file, 'r+');
    const piece = random.bytes(100_000);
    fs.writeSync(fd, piece, 0, piece.length, 12_345);
    const back = Buffer.alloc(piece.length);
    fs.readSync(fd, back, 0, back.length, 12_345);
    fs.closeSync(fd);
    same(back, piece);
    data.set(piece, 12_345);
    same(readFileSync(disk), data);
  });
});

requires('systemd-socket-activate')('systemd-socket-activate', () => {
  it('starts vdisk-nbd with the first client, which it serves', async () => {
    const disk = makeRaw(new Uint8Array(MiB).fill(7));
    const socket = join(tempDir(), 'activated.sock');
    const server = startProcess('systemd-socket-activate', [
      ...['-l', socket, process.execPath, vdiskNbd(), '-f', 'raw', '-r', disk],
    ]);
    await untilSocket(socket, server);
    const args = ['-r', '-f', 'raw', '-c', 'read -P 7 0 1M', uriOf(socket)];
    const { stdout } = await runOk(binPath('vdisk-io'), args);
    expect(stdout).toContain('read 1048576/1048576');
    expect(stdout).not.toContain('failed');
    expect(await server.ended).toBe(0);
  });
});

requires('qemu-nbd', 'nbdinfo')('qemu-nbd and vdisk-nbd', () => {
  it('tell nbdinfo the same of a dirty bitmap and of the depth of a chain', async () => {
    const dir = tempDir();
    const [base, top] = [join(dir, 'base.qcow2'), join(dir, 'top.qcow2')];
    const [img, io] = [binPath('vdisk-img'), binPath('vdisk-io')];
    await runOk(img, ['create', '-f', 'qcow2', base, '4M']);
    await runOk(io, ['-f', 'qcow2', '-c', 'write 0 192k', base]);
    await runOk(img, ['create', '-f', 'qcow2', '-b', base, '-F', 'qcow2', top]);
    await runOk(img, ['bitmap', '--add', '-f', 'qcow2', top, 'b0']);
    await runOk(io, ['-f', 'qcow2', '-c', 'write 64k 64k', '-c', 'write 1M 300k', top]);
    const maps: Record<string, unknown[]> = {};
    for (const command of ['qemu-nbd', vdiskNbd()]) {
      const args = ['-r', '-f', 'qcow2', '-A', '-B', 'b0', top];
      const { uri, server } = await startNbd(args, { command });
      for (const context of ['base:allocation', 'qemu:allocation-depth', 'qemu:dirty-bitmap:b0']) {
        const { stdout } = await runOk('nbdinfo', ['--json', `--map=${context}`, uri]);
        (maps[context] ??= []).push(parseJson(stdout));
      }
      await server.stop();
    }
    for (const [context, [theirs, ours]] of Object.entries(maps)) {
      expect(ours, context).toEqual(theirs);
    }
  });
});
