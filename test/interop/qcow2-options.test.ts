// Goal: runtime options with odd values, and values out of range, are taken or refused with QEMU's
// words. Method: the same image opened by qemu-io and vdisk-io with each of them.
// Beyond 2^53 vdisk refuses sizes by its own limit, which it names.
import { expect, it } from 'vitest';
import { join } from 'node:path';
import { binPath, run, runOk, tempDir } from '../support/index.js';
import { requiresQemu10 } from '../support/requires.js';

const options = [
  'l2-cache-size=-1',
  'l2-cache-size=0',
  'l2-cache-size=1',
  'l2-cache-size=18446744073709551616',
  'l2-cache-size=1T',
  ...['0', '100', '256', '513', '1024', '64k', '128k', '-1'].map((n) => `l2-cache-entry-size=${n}`),
  'refcount-cache-size=0',
  'refcount-cache-size=-1',
  'cache-size=0',
  'cache-size=1',
  'cache-size=1M,l2-cache-size=2M',
  'cache-size=1M,refcount-cache-size=2M',
  'cache-size=1M,l2-cache-size=512k,refcount-cache-size=512k',
  'cache-size=1M,l2-cache-size=768k,refcount-cache-size=512k',
  ...['-1', '4294967295', '4294967296', '18446744073709551616', 'x', '1.5'].map(
    (n) => `cache-clean-interval=${n}`,
  ),
  'lazy-refcounts=maybe',
  'lazy-refcounts=on',
  'pass-discard-request=1',
  'pass-discard-snapshot=yes',
  'pass-discard-other=off',
  'pass-discard-other=',
  'discard-no-unref=on',
  'discard-no-unref=x',
  'overlap-check=foo',
  'overlap-check.template=foo',
  'overlap-check.main-header=2',
  'overlap-check=none,overlap-check.main-header=on',
  'overlap-check=all,overlap-check.template=none',
  'overlap-check.bitmap-directory=off',
  'data-file=none',
  'encrypt.format=luks',
  'encrypt.format=foo',
  'encrypt.key-secret=s',
  'l2-cache-sizes=1',
];

requiresQemu10('qemu-img', 'qemu-io')('runtime options as in QEMU', () => {
  it.each(['1.1', '0.10'])('compat=%s', { timeout: 240_000 }, async (compat) => {
    const cwd = tempDir();
    const file = join(cwd, 'a');
    await runOk('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', `compat=${compat}`, file, '64M']);
    const list = compat === '1.1' ? options : options.filter((o) => /lazy|unref/.test(o));
    for (const option of list) {
      const said = async (tool: string): Promise<unknown> => {
        const target = `driver=qcow2,file.filename=${file},${option}`;
        const args = ['-r', '-c', 'read 0 1', '--image-opts', target];
        const { status, stdout, stderr } = await run(tool, args, { cwd });
        const text = (stdout + stderr).replaceAll('vdisk-io', 'qemu-io');
        return [status, text.replaceAll(/^.* ops; .*$/gm, '')];
      };
      expect(await said(binPath('vdisk-io')), option).toEqual(await said('qemu-io'));
    }
  });
});
