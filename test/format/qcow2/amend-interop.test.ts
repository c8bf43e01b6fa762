// Goal: `amend` changes what QEMU changes, refuses what it refuses and so says, keeps the data.
// Method: the same images are amended by qemu-img and by vdisk-img; messages and the facts that
// qemu-img tells afterwards are compared, and the data of each image and its snapshots is read.
import { copyFileSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { binPath, run, runOk, tempDir } from '../../support/index.js';
import { requiresQemu10 } from '../../support/requires.js';

interface Case {
  readonly create?: string;
  /** qemu-io commands before. */
  readonly work?: readonly string[];
  readonly backing?: boolean;
  readonly snapshot?: boolean;
  /** One amend after the other. */
  readonly amend: readonly string[];
}

const data = ['write -P 1 0 200k', 'write -P 2 1M 64k', 'write -z 1100k 256k', 'write -P 3 2M 5k'];
const zeroes = ['write -P 1 0 256k', 'write -z 64k 64k', 'write -z -u 128k 64k', 'write -z 2M 1M'];

const cases: readonly Case[] = [
  { amend: ['compat=0.10', 'compat=1.1', 'compat=v2', 'compat=v3'], work: data },
  { amend: ['compat=0.42', 'compat='] },
  { amend: ['compat=0.10'], work: zeroes, backing: true },
  { amend: ['compat=0.10'], work: zeroes, backing: true, snapshot: true },
  { amend: ['compat=0.10'], work: zeroes, snapshot: true, create: 'cluster_size=4k' },
  { amend: ['compat=0.10'], work: data, create: 'lazy_refcounts=on' },
  { amend: ['compat=0.10'], create: 'refcount_bits=8' },
  { amend: ['compat=0.10'], create: 'extended_l2=on' },
  { amend: ['compat=0.10'], create: 'compression_type=zstd' },
  { amend: ['compat=0.10'], create: 'compression_type=zstd', work: ['write -c 0 64k'] },
  { amend: ['compat=0.10'], create: 'extended_l2=on,refcount_bits=8' },
  {
    amend: [1, 2, 4, 8, 16, 32, 64, 16, 1].map((n) => `refcount_bits=${n}`),
    work: data,
    create: 'cluster_size=512',
  },
  { amend: ['refcount_bits=64', 'refcount_bits=1', 'refcount_bits=2'], snapshot: true, work: data },
  { amend: ['refcount_bits=0', 'refcount_bits=3', 'refcount_bits=128', 'refcount_bits=x'] },
  { amend: ['refcount_bits=32,compat=0.10', 'refcount_bits=32', 'refcount_bits=16,compat=0.10'] },
  { create: 'compat=0.10', amend: ['refcount_bits=8', 'refcount_bits=8,compat=1.1'], work: data },
  { create: 'compat=0.10', amend: ['lazy_refcounts=on', 'lazy_refcounts=on,compat=1.1'] },
  { amend: ['lazy_refcounts=on', 'lazy_refcounts=off', 'lazy_refcounts=on,compat=0.10'] },
  { amend: ['size=8M', 'size=1M', 'size=1000', 'size=0', 'size=-1'], work: data },
  { amend: ['size=1500k', 'size=3M', 'size=5M'], work: data, backing: true },
  { amend: ['size=1M', 'size=3M'], backing: true, create: 'cluster_size=64k,extended_l2=on' },
  { amend: ['size=1M', 'size=3M', 'size=8M'], backing: true, create: 'compat=0.10' },
  { amend: ['backing_file=base', 'backing_fmt=raw', 'backing_file=', 'backing_fmt='] },
  {
    backing: true,
    amend: ['backing_file=base', 'backing_file=base,backing_fmt=raw', 'backing_file='],
  },
  { amend: ['data_file=x', 'data_file_raw=on', 'data_file_raw=off', 'encrypt.new-secret=x'] },
  {
    create: 'data_file=data,data_file_raw=on',
    amend: ['compat=0.10', 'data_file_raw=on', 'data_file_raw=off', 'data_file_raw=on'],
  },
  { create: 'data_file=data', amend: ['data_file=data', 'data_file_raw=on', 'size=8M'] },
  { amend: ['cluster_size=64k', 'preallocation=full', 'extended_l2=on', 'foo=bar'] },
];

/** The image in a folder of its own. */
async function make(c: Case): Promise<string> {
  const cwd = tempDir();
  const backing = c.backing === true ? ['-b', 'base', '-F', 'raw'] : [];
  if (c.backing === true) {
    await runOk('qemu-img', ['create', '-q', '-f', 'raw', 'base', '4M'], { cwd });
    await runOk('qemu-io', ['-f', 'raw', '-c', 'write -P 9 0 4M', 'base'], { cwd });
  }
  const options = c.create === undefined ? [] : ['-o', c.create];
  const create = ['create', '-q', '-f', 'qcow2', ...options, ...backing, 'a.qcow2', '4M'];
  await runOk('qemu-img', create, { cwd });
  const work = async (lines: readonly string[]): Promise<void> => {
    const args = lines.flatMap((line) => ['-c', line]);
    await runOk('qemu-io', ['-f', 'qcow2', '-d', 'unmap', ...args, 'a.qcow2'], { cwd });
  };
  if (c.work !== undefined) await work(c.work);
  if (c.snapshot === true) {
    await runOk('qemu-img', ['snapshot', '-c', 'one', 'a.qcow2'], { cwd });
    await work(['write -P 7 32k 64k', 'write -z 256k 64k']);
  }
  return cwd;
}

/** What an image holds, its snapshot too, as qemu-img reads it. */
async function content(cwd: string, c: Case): Promise<Buffer[]> {
  const args = c.snapshot === true ? [[], ['-l', 'one']] : [[]];
  const out: Buffer[] = [];
  for (const each of args) {
    await runOk('qemu-img', ['convert', '-O', 'raw', ...each, 'a.qcow2', 'out.raw'], { cwd });
    out.push(readFileSync(join(cwd, 'out.raw')));
  }
  return out;
}

async function facts(cwd: string): Promise<unknown> {
  const { stdout } = await runOk('qemu-img', ['info', '--output=json', 'a.qcow2'], { cwd });
  const info = JSON.parse(stdout) as Record<string, unknown>;
  return [info['virtual-size'], info['format-specific'], info['backing-filename']];
}

requiresQemu10('qemu-img', 'qemu-io')('amend', () => {
  for (const c of cases) {
    const how = [c.create, c.backing === true ? 'backing' : '', c.snapshot === true ? 'snap' : ''];
    it(`${how.filter(Boolean).join(' ')}: ${c.amend.join(' ')}`, { timeout: 60_000 }, async () => {
      const cwd = await make(c);
      copyFileSync(join(cwd, 'a.qcow2'), join(cwd, 'b.qcow2'));
      for (const option of c.amend) {
        const args = ['amend', '-f', 'qcow2', '-o', option];
        const theirs = await run('qemu-img', [...args, 'a.qcow2'], { cwd });
        const expected = await facts(cwd);
        const kept = await content(cwd, c);
        copyFileSync(join(cwd, 'a.qcow2'), join(cwd, 'theirs'));
        copyFileSync(join(cwd, 'b.qcow2'), join(cwd, 'a.qcow2'));
        const ours = await run(binPath('vdisk-img'), [...args, 'a.qcow2'], { cwd });
        expect(ours.stderr.replaceAll('vdisk-img', 'qemu-img')).toBe(theirs.stderr);
        expect(ours.status).toBe(theirs.status);
        expect(await facts(cwd)).toEqual(expected);
        await runOk('qemu-img', ['check', '-q', 'a.qcow2'], { cwd });
        (await content(cwd, c)).forEach((bytes, i) => {
          expect(Buffer.compare(bytes, kept[i]!)).toBe(0);
        });
        copyFileSync(join(cwd, 'a.qcow2'), join(cwd, 'b.qcow2'));
        copyFileSync(join(cwd, 'theirs'), join(cwd, 'a.qcow2'));
      }
    });
  }
});
