// Goal: a damaged header is refused with the words that QEMU has for it.
// Method: the same poked image is opened by qemu-io and by vdisk, for reading and for writing.
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { messageOf } from '../../../src/block/errors.js';
import { run, runOk, tempDir, testGraph } from '../../support/index.js';
import { requiresQemu10 } from '../../support/requires.js';
import { headerCases } from './header-cases.js';

/** What qemu-io says, without the program and the file in front; '' when it opens. */
async function qemuSays(path: string, writable: boolean): Promise<string> {
  const args = writable ? [] : ['-r'];
  const { stderr } = await run('qemu-io', [...args, '-f', 'qcow2', '-c', 'quit', path]);
  const first = stderr.split('\n').find((line) => line.startsWith('qemu-io: ')) ?? '';
  return first.replace(/^qemu-io: can't open device [^ ]*: /, '');
}

async function vdiskSays(filename: string, writable: boolean): Promise<string> {
  const graph = testGraph();
  try {
    const disk = await graph.openBackend({
      filename,
      options: { driver: 'qcow2' },
      flags: { writable },
    });
    await disk.detach();
    return '';
  } catch (e) {
    return messageOf(e);
  } finally {
    await graph.close();
  }
}

requiresQemu10('qemu-img', 'qemu-io')('headers that qemu-io refuses', () => {
  for (const { name, create, pokes } of headerCases) {
    it(name, async () => {
      const path = join(tempDir(), 'a.qcow2');
      const options = create === undefined ? [] : ['-o', create];
      await runOk('qemu-img', ['create', '-q', '-f', 'qcow2', ...options, path, '64M']);
      const bytes = new Uint8Array(readFileSync(path));
      for (const { at, bytes: poke } of pokes) bytes.set(poke, at);
      for (const writable of [false, true]) {
        writeFileSync(path, bytes);
        const expected = await qemuSays(path, writable);
        writeFileSync(path, bytes);
        expect(await vdiskSays(path, writable)).toBe(expected);
      }
    });
  }
});
