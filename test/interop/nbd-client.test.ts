// Goal: the nbd driver works with servers of other people, new and old. Method: nbdkit (with its
// filters), nbd-server and qemu-nbd; random requests against a model, and what each server offers.
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import type { Backend } from '../../src/index.js';
import { chainStatus, Iov } from '../../src/index.js';
import {
  binPath,
  failure,
  failureCode,
  filled,
  readBytes,
  requires,
  run,
  runOk,
  same,
  seededRandom,
  tempDir,
  testGraph,
} from '../support/index.js';
import {
  exercise,
  freePort,
  openUri,
  parseJson,
  startNbd,
  startNbdkit,
  startProcess,
} from './nbd-support.js';

const MiB = 1024 * 1024;

requires('nbdkit')('nbdkit', () => {
  const servers: Record<string, readonly string[]> = {
    memory: ['memory', '2M'],
    'memory without structured replies': ['--no-sr', 'memory', '2M'],
    'memory with a mask of no handshake flags': ['--mask-handshake=0', 'memory', '2M'],
    'memory with zeroes in the handshake': ['--mask-handshake=1', 'memory', '2M'],
    'several connections': ['--filter=multi-conn', 'memory', '2M', 'multi-conn-mode=emulate'],
    'the cache filter': ['--filter=noextents', '--filter=cache', 'memory', '2M', 'cache=writeback'],
    'no zeroes, no extents': ['--filter=nozero', '--filter=noextents', 'memory', '2M'],
    'FUA made of flushes': ['--filter=fua', 'memory', '2M', 'fuamode=emulate'],
    delay: ['--filter=delay', 'memory', '2M', 'rdelay=1ms', 'wdelay=1ms'],
    'blocks of 4096 bytes': [
      ...['--filter=blocksize-policy', 'memory', '2M'],
      ...['blocksize-minimum=4k', 'blocksize-preferred=64k', 'blocksize-maximum=128k'],
      'blocksize-error-policy=error',
    ],
  };
  it.each(Object.entries(servers))('%s', async (_name, args) => {
    const { uri } = await startNbdkit(args);
    await exercise(uri, seededRandom(), args.includes('--filter=delay') ? 4 : 12);
  });

  it('a file', async () => {
    const path = join(tempDir(), 'disk.raw');
    const random = seededRandom();
    const data = random.bytes(MiB);
    writeFileSync(path, data);
    const { uri } = await startNbdkit(['file', path]);
    const backend = await openUri(uri);
    same(await readBytes(backend, 0, MiB), data);
    await backend.write(4097, filled(10_000, 3));
    await backend.flush();
    data.fill(3, 4097, 14_097);
    same(readFileSync(path), data);
  });

  it('a file, old style', async () => {
    // Version 1.32 forgets in this style what it offered, and refuses all but plain reads.
    const path = join(tempDir(), 'disk.raw');
    const data = seededRandom().bytes(MiB);
    writeFileSync(path, data);
    const { uri, socket } = await startNbdkit(['-o', '-r', 'file', path]);
    same(await readBytes(await openUri(uri, {}), 0, MiB), data);
    const named = openUri(`nbd+unix:///name?socket=${socket}`, {});
    expect(await failure(named)).toContain('Server does not support non-empty export names');
  });

  it('block sizes are the limits of the node', async () => {
    const { uri } = await startNbdkit([
      ...['--filter=blocksize-policy', 'memory', '2M', 'blocksize-minimum=512'],
      ...['blocksize-preferred=8k', 'blocksize-maximum=64k'],
    ]);
    const graph = testGraph();
    const backend = await graph.openBackend({ filename: uri, options: { driver: 'nbd' } });
    expect(backend.node.limits).toMatchObject({
      requestAlignment: 512,
      maxTransfer: 65536,
      optTransfer: 8192,
    });
    same(await readBytes(backend, 0, MiB), new Uint8Array(MiB));
  });

  it('extents: a sparse disk is mapped as the server knows it', async () => {
    const { uri } = await startNbdkit(['data', '@0x100000 "x"*65536 @0x800000 "y"']);
    const backend = await openUri(uri, {});
    const kinds: [number, boolean][] = [];
    for (let at = 0; at < backend.size;) {
      const s = await chainStatus(backend.node, undefined, at, backend.size - at);
      kinds.push([at, s.zero]);
      at += s.bytes;
    }
    expect(kinds[0]).toEqual([0, true]);
    expect(kinds.some(([at, zero]) => at <= 0x100000 && !zero)).toBe(true);
    expect(new TextDecoder().decode(await readBytes(backend, 0x800000, 1))).toBe('y');
  });

  it('a read-only server is read, not written', async () => {
    const { uri } = await startNbdkit(['-r', 'memory', '1M']);
    expect(await failure(openUri(uri))).toContain(
      'request on write denied without write permission',
    );
    same(await readBytes(await openUri(uri, {}), 0, 512), new Uint8Array(512));
  });

  it('export names; one that is not there', async () => {
    const filter = ['--filter=exportname', 'memory', '1M', 'exportname-strict=true'];
    filter.push('exportname-list=explicit');
    const { socket } = await startNbdkit([...filter, 'exportname=a/b c', 'exportname=second']);
    const options = (name: string): Promise<Backend> =>
      testGraph().openBackend({
        options: { driver: 'nbd', server: { type: 'unix', path: socket }, export: name },
      });
    expect((await options('a/b c')).size).toBe(MiB);
    const encoded = await openUri(`nbd+unix:///a/b%20c?socket=${socket}`, {});
    expect(encoded.size).toBe(MiB);
    expect(await failure(options('third'))).not.toBe('');
    const { stdout } = await runOk(binPath('vdisk-nbd'), ['--list', '-k', socket]);
    expect(stdout).toContain("export: 'a/b c'");
    expect(stdout).toContain("export: 'second'");
  });

  it('errors come through with their code, and the connection goes on', async () => {
    const dir = tempDir();
    const trigger = join(dir, 'trigger');
    const { uri } = await startNbdkit([
      ...['--filter=error', 'memory', '1M', 'error=ENOSPC', `error-file=${trigger}`],
      'error-rate=1',
    ]);
    const backend = await openUri(uri);
    await backend.write(0, filled(4096, 1));
    writeFileSync(trigger, '');
    expect(await failureCode(backend.write(0, filled(4096, 2)))).toBe('ENOSPC');
    expect(await failureCode(readBytes(backend, 0, 512))).toBe('ENOSPC');
    const { rmSync } = await import('node:fs');
    rmSync(trigger);
    expect((await readBytes(backend, 0, 1))[0]).toBe(1);
  });

  it('exit-last: the server ends when the last client leaves in good order', async () => {
    const { uri, server } = await startNbdkit(['--filter=exitlast', 'memory', '1M']);
    const backend = await openUri(uri);
    await backend.write(0, filled(512, 1));
    await backend.detach();
    await backend.graph.close();
    expect(await server.ended).toBe(0);
  });

  it('many requests at once go over several connections', async () => {
    const { uri } = await startNbdkit(['--filter=multi-conn', 'memory', '16M']);
    const backend = await openUri(uri);
    const random = seededRandom();
    const pieces = Array.from({ length: 200 }, () => random.bytes(65536));
    await Promise.all(pieces.map((p, i) => backend.write(i * 65536, Iov.of(p))));
    await backend.flush();
    const got = await Promise.all(pieces.map((_, i) => readBytes(backend, i * 65536, 65536)));
    got.forEach((g, i) => {
      same(g, pieces[i]!);
    });
  });

  it('vdisk-img and vdisk-io use a URL like a file', async () => {
    const { uri } = await startNbdkit(['memory', '8M']);
    const dir = tempDir();
    const random = seededRandom();
    const data = random.bytes(8 * MiB).fill(0, MiB, 3 * MiB);
    const source = join(dir, 'source.raw');
    writeFileSync(source, data);
    const img = binPath('vdisk-img');
    await runOk(img, ['convert', '-n', '-f', 'raw', '-O', 'raw', source, uri]);
    await runOk(img, ['compare', '-f', 'raw', '-F', 'raw', source, uri]);
    const { stdout } = await runOk(img, ['info', '-f', 'raw', uri]);
    expect(stdout).toContain('virtual size: 8 MiB (8388608 bytes)');
    await runOk(img, ['create', '-f', 'qcow2', uri, '4M']);
    await runOk(binPath('vdisk-io'), ['-f', 'qcow2', '-c', 'write -P 9 1M 64k', uri]);
    await runOk(img, ['check', '-f', 'qcow2', uri]);
    const out = join(dir, 'out.raw');
    await runOk(img, ['convert', '-f', 'qcow2', '-O', 'raw', uri, out]);
    same(readFileSync(out).subarray(MiB, MiB + 65536), new Uint8Array(65536).fill(9));
    const grown = await run(img, ['resize', '-f', 'raw', uri, '+1M']);
    expect(grown.stderr).toContain('Cannot grow NBD nodes');
  });
});

requires('nbd-server')('nbd-server', () => {
  it('over TCP, by name', async () => {
    const dir = tempDir();
    const path = join(dir, 'disk.raw');
    writeFileSync(path, Buffer.alloc(2 * MiB));
    const port = await freePort();
    const config = join(dir, 'config');
    const generic = `[generic]\nport = ${String(port)}\nlistenaddr = 127.0.0.1\nallowlist = true\n`;
    const exported = `[disk]\nexportname = ${path}\nflush = true\nfua = true\ntrim = true\n`;
    writeFileSync(config, generic + exported);
    // In the foreground it serves one connection and ends. The next cannot have the port before.
    const serve = () => startProcess('nbd-server', ['-C', config, '-d', '-p', join(dir, 'pid')]);
    const first = serve();
    const url = `nbd://127.0.0.1:${String(port)}/disk`;
    await exercise(url, seededRandom(), 10);
    await first.stop();
    const second = serve();
    await exercise(`nbd:127.0.0.1:${String(port)}:exportname=disk`, seededRandom(), 3);
    await second.stop();
    serve();
    expect(await failure(openUri(url.replace('disk', 'other')))).not.toBe('');
  });
});

interface Run {
  compressed?: boolean;
}

requires('qemu-nbd')('qemu-nbd', () => {
  it('structured replies, contexts, several clients', async () => {
    const dir = tempDir();
    const path = join(dir, 'disk.raw');
    writeFileSync(path, Buffer.alloc(2 * MiB));
    const { uri } = await startNbd(['-f', 'raw', '--discard=unmap', path], { command: 'qemu-nbd' });
    await exercise(uri, seededRandom());
  });

  it('allocation depth of a chain', async () => {
    const dir = tempDir();
    const [base, top] = [join(dir, 'base.qcow2'), join(dir, 'top.qcow2')];
    const img = binPath('vdisk-img');
    await runOk(img, ['create', '-f', 'qcow2', base, '1M']);
    await runOk(binPath('vdisk-io'), ['-f', 'qcow2', '-c', 'write 0 64k', base]);
    await runOk(img, ['create', '-f', 'qcow2', '-b', base, '-F', 'qcow2', top]);
    await runOk(binPath('vdisk-io'), ['-f', 'qcow2', '-c', 'write 64k 64k', top]);
    for (const command of ['qemu-nbd', binPath('vdisk-nbd')]) {
      const { socket } = await startNbd(['-f', 'qcow2', '-r', '-A', top], { command });
      const spec =
        `driver=nbd,server.type=unix,server.path=${socket},` +
        'x-dirty-bitmap=qemu:allocation-depth';
      const args = ['map', '--output=json', '--image-opts', spec];
      const ours = parseJson<Run[]>((await runOk(img, args)).stdout);
      const theirs = parseJson<Run[]>((await runOk('qemu-img', args)).stdout);
      // Debian's version 7 does not tell of compression.
      for (const run of ours) delete run.compressed;
      for (const run of theirs) delete run.compressed;
      expect(ours, command).toEqual(theirs);
      expect(ours).toHaveLength(3);
    }
  });
});
