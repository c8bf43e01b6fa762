// Goal: qcow images go back and forth between vdisk and QEMU. Method: as for VDI, in vdi.test.ts;
// compressed and encrypted images are made by one side and read by the other.
import { join } from 'node:path';
import { writeFileSync } from 'node:fs';
import { it } from 'vitest';
import { binPath, requiresQemu10, runOk, seededRandom, tempDir } from '../support/index.js';
import { formatInterop } from './format-interop.js';

const MiB = 1024 * 1024;
const img = binPath('vdisk-img');

requiresQemu10('qemu-img', 'qemu-io')('qcow between vdisk and QEMU', () => {
  formatInterop({
    format: 'qcow',
    shapes: [{ name: 'plain', options: '', size: 5 * MiB + 512 }],
    unchecked: true,
    file: (folder) => join(folder, 'disk.qcow'),
  });

  it.each([
    [img, 'qemu-img'],
    ['qemu-img', img],
  ])('made by %s: compressed, encrypted, over a backing file', async (maker, reader) => {
    const random = seededRandom();
    const folder = tempDir();
    const path = (name: string): string => join(folder, name);
    const text = new TextEncoder().encode('all work and no play; '.repeat(30_000));
    const bytes = new Uint8Array(MiB + 1536);
    bytes.set(text.subarray(0, 600_000), 4096);
    bytes.set(random.bytes(100_000), 700_000);
    writeFileSync(path('raw'), bytes);
    if (maker === img) {
      await runOk(img, ['convert', '-c', '-f', 'raw', '-O', 'qcow', path('raw'), path('c')]);
    } else {
      // QEMU 10.0.2 fails to convert most images to compressed qcow.
      await runOk(maker, ['convert', '-f', 'raw', '-O', 'qcow', path('raw'), path('c')]);
      const at = 128 * 4096;
      bytes.fill(5, at + 32 * 4096, at + 33 * 4096);
      writeFileSync(path('raw'), bytes);
      const packed = ['-c', `write -c -P 5 ${String(at + 32 * 4096)} 4096`];
      await runOk('qemu-io', ['-f', 'qcow', ...packed, path('c')]);
    }
    const secret = ['--object', 'secret,id=s,data=a passphrase of more than sixteen bytes'];
    const crypt = 'encrypt.format=aes,encrypt.key-secret=s';
    await runOk(maker, [
      ...['convert', ...secret, '-f', 'raw', '-O', 'qcow', '-o', crypt],
      ...[path('raw'), path('e')],
    ]);
    const over = ['-f', 'qcow', '-b', path('c'), '-F', 'qcow', path('o')];
    await runOk(maker, ['create', ...over]);
    const io = maker === img ? binPath('vdisk-io') : 'qemu-io';
    const raw = ['-f', 'raw', path('raw')];
    const write = ['-c', 'write -P 7 5000 3000', '-c', 'write -z 300000 70000'];
    await runOk(reader, ['compare', '-f', 'qcow', '-F', 'raw', path('c'), path('raw')]);
    const unlocked = `driver=qcow,encrypt.key-secret=s,file.filename=${path('e')}`;
    const plain = `driver=raw,file.filename=${path('raw')}`;
    await runOk(reader, ['compare', ...secret, '--image-opts', unlocked, plain]);
    await runOk(io, ['-f', 'qcow', ...write, path('o')]);
    await runOk(io, [...write, ...raw]);
    await runOk(reader, ['compare', '-f', 'qcow', '-F', 'raw', path('o'), path('raw')]);
    await runOk(reader, ['commit', '-f', 'qcow', path('o')]);
    await runOk(maker, ['compare', '-f', 'qcow', '-F', 'raw', path('c'), path('raw')]);
  });
});
