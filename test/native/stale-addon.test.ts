// Goal: an addon that was built from other sources is not used: the tools work over node:fs and
// refuse what needs it. Method: another package's addon in its place.
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { binPath, rootPath, run, tempDir } from '../support/index.js';

const foreign = rootPath('node_modules/@rollup/rollup-linux-x64-gnu/rollup.linux-x64-gnu.node');

it('is refused by what it says of itself', async () => {
  const image = join(tempDir(), 'a.qcow2');
  const env = { VDISK_NATIVE_ADDON: foreign };
  const made = await run(binPath('vdisk-img'), ['create', '-q', '-f', 'qcow2', image, '1M'], {
    env,
  });
  expect([made.status, made.stderr]).toEqual([0, '']);
  const info = await run(binPath('vdisk'), ['explain', image], { env });
  expect(info.status).toBe(0);
  const bench = ['bench', '-i', 'io_uring', '-t', 'none', '-f', 'qcow2', '-c', '1', image];
  const refused = await run(binPath('vdisk-img'), bench, { env });
  expect(refused.status).toBe(1);
  expect(refused.stderr).toContain('aio=io_uring was specified, but is not supported');
});
