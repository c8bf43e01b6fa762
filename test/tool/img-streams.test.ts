// Goal: images through pipes, out of compressed files and archives arrive as they are; what cannot
// work is refused by name; --verify finds a target that differs. Method: the program in pipes of
// the shell; content by compare, cmp and hashes.
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { verifyCopy } from '../../src/job/verify.js';
import { diskFiles } from '../../src/tool/img/ova.js';

import { binPath, Random, requires, run, tempDir, testGraph } from '../support/index.js';
import type { RunResult } from '../support/index.js';

const img = binPath('vdisk-img');
const MIB = 1024 * 1024;

const sha256 = (path: string): string =>
  createHash('sha256').update(readFileSync(path)).digest('hex');

let folder = '';
/** Runs a line of shell in the folder, with `$I` for the program; fails with what it printed. */
async function sh(line: string, env: Record<string, string> = {}): Promise<RunResult> {
  const script = `set -eo pipefail; I=${img}; ${line}`;
  return run('bash', ['-c', script], { cwd: folder, env });
}
async function ok(line: string, env: Record<string, string> = {}): Promise<string> {
  const result = await sh(line, env);
  expect({ line, status: result.status, stderr: result.stderr }).toEqual({
    ...{ line, status: 0, stderr: '' },
  });
  return result.stdout;
}

/** Noise, a hole, text; not a whole number of clusters. */
function content(seed: number): Uint8Array {
  const b = new Uint8Array(11 * MIB + 1536);
  b.set(new Random(seed).bytes(700_000), 3000);
  b.set(new Random(seed + 1).bytes(90_000), 9 * MIB - 500);
  b.fill(65, 10 * MIB, 11 * MIB + 1000);
  return b;
}

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'vdisk-streams-'));
  writeFileSync(join(folder, 'a.raw'), content(3));
  await ok('$I convert -f raw -O qcow2 a.raw a.qcow2');
});

afterAll(() => {
  rmSync(folder, { recursive: true, force: true });
});

requires('bash')('pipes', () => {
  it.each([
    ['raw to raw', 'cat a.raw | $I convert -f raw - out && cmp a.raw out'],
    ['raw, not named, to qcow2', 'cat a.raw | $I convert -O qcow2 - out && $I compare a.raw out'],
    [
      'raw to compressed qcow2',
      'cat a.raw | $I convert -c -O qcow2 -o cluster_size=4k - out && $I compare a.raw out',
    ],
    ['qcow2 is kept in a file on its way', 'cat a.qcow2 | $I convert - out && cmp a.raw out'],
    ['a file as standard input', '$I convert - out <a.qcow2 && cmp a.raw out'],
    ['to a pipe', '$I convert a.qcow2 - | cmp a.raw -'],
    ['two to a pipe', '$I convert a.qcow2 a.qcow2 - | cmp - <(cat a.raw a.raw)'],
    ['to a file as standard output', '$I convert -O qcow2 a.raw - >out && $I compare a.raw out'],
    ['through', 'cat a.raw | $I convert -f raw - - | cmp a.raw -'],
    [
      'into an image that exists',
      '$I create -q out 20M; cat a.raw | $I convert -n - out; cmp -n 11535872 a.raw out',
    ],
    [
      'an empty one',
      ': | $I convert -f raw -O qcow2 - out && $I info out | grep "virtual size: 0 B"',
    ],
  ])('%s', async (_, line) => {
    await ok(`rm -f out; ${line}`);
    await ok('$I check -q out 2>/dev/null || [ $? = 63 ] || [ ! -e out ]');
  });

  it.each([
    [
      'dd from a pipe',
      'set +o pipefail; cat a.raw | $I dd if=- of=out bs=64k count=20 skip=3',
      'dd',
    ],
    [
      'dd of an image to a pipe',
      '$I dd if=a.qcow2 of=- bs=64k count=20 skip=3 >out.p; cp out.p out',
      'dd',
    ],
    ['dd of a qcow2 from a pipe', 'cat a.qcow2 | $I dd if=- of=out bs=64k count=20 skip=3', 'dd'],
    ['dd to a pipe', '$I dd if=a.qcow2 of=- bs=64k count=20 skip=3 | cat >out', 'dd'],
  ])('%s', async (_, line) => {
    await ok(`rm -f out; ${line}`);
    // count= is counted from the beginning of the input, as in qemu-img.
    const part = content(3).subarray(3 * 65_536, 20 * 65_536);
    expect(createHash('sha256').update(part).digest('hex')).toBe(sha256(join(folder, 'out')));
  });

  it.each([
    ['qcow2', '-O qcow2 -c --verify'],
    ['vdi', '-O vdi'],
    ['vmdk', '-O vmdk -o subformat=streamOptimized'],
    ['vpc', '--profile azure'],
    ['vhdx', '--profile hyperv'],
  ])('an image of format %s goes through a pipe (%s)', async (format, how) => {
    await ok(`$I convert ${how} a.raw - | cat >piped; $I compare -F ${format} a.raw piped`);
  });

  it('the size of a raw image is rounded for its profile', async () => {
    expect(await ok('$I convert --profile aws a.raw - | wc -c')).toBe(`${2 ** 30}\n`);
  });

  it('dd writes an image of another format to a pipe', async () => {
    await ok('$I dd -O qcow2 bs=64k skip=3 if=a.raw of=- | cat >piped');
    await ok('$I dd bs=64k skip=3 if=a.raw of=part; $I compare -F qcow2 part piped');
  });

  it.each([
    ['$I convert --resume -O qcow2 a.raw - | cat', '--resume has no use for standard output'],
    ['$I convert -O bochs a.raw - | cat', "'bochs' does not support image creation"],
    ['$I convert -c a.raw - | cat', '-c has no use for standard output'],
    ['$I convert --verify a.raw - | cat', '--verify has no use for standard output'],
    ['cat a.raw | $I convert -O qcow2 -o preallocation=full - out', 'its length is not known'],
    ['cat a.raw | $I convert -n -f raw - small', 'output file is smaller than input file'],
    ['$I convert --verify --salvage a.raw out', 'Cannot verify in salvaging mode'],
    ['$I convert --unpack nope out', "Could not open 'nope': No such file or directory"],
  ])('%s is refused', async (line, text) => {
    await ok('$I create -q small 1M');
    const result = await sh(line);
    expect(result.stderr).toContain(text);
    expect(result.stderr.trimEnd().split('\n')).toHaveLength(1);
    expect(result.status).toBe(1);
  });

  it('a reader that goes away ends the work with one line', async () => {
    const result = await sh(
      'set +o pipefail; ($I convert a.raw - || echo $? >status) | head -c 9 >x',
    );
    expect(result.stderr).toBe('vdisk-img: error while writing to standard output: Broken pipe\n');
    expect(readFileSync(join(folder, 'status'), 'utf8')).toBe('1\n');
  });

  it('Ctrl-C while standard input is silent: status 130', async () => {
    const child = spawn(img, ['convert', '-p', '-f', 'raw', '-', 'out'], {
      ...{ cwd: folder, stdio: ['pipe', 'pipe', 'inherit'] },
    });
    child.stdin?.on('error', () => undefined); // It may end while it is written to.
    child.stdin?.write(new Uint8Array(10 * MIB));
    const ended = new Promise((resolve) => child.on('close', resolve));
    await new Promise((resolve) => child.stdout?.once('data', resolve));
    child.kill('SIGINT');
    expect(await ended).toBe(130);
  });

  it('progress of an image on standard output goes to standard error', async () => {
    const { stderr, bytes } = await sh('$I convert --progress=json a.qcow2 - | cat');
    expect(bytes.byteLength).toBe(content(3).byteLength);
    expect(stderr).toContain('"status":"completed"');
  });
});

requires('bash')('compressed files', () => {
  for (const [tool, suffix] of [
    ['gzip', 'gz'],
    ['xz', 'xz'],
    ['zstd', 'zst'],
    ['bzip2', 'bz2'],
  ] as const) {
    requires(tool)(tool, () => {
      it('raw, qcow2, and from a pipe', async () => {
        const quiet = tool === 'zstd' ? '-q' : '';
        await ok(`${tool} ${quiet} -1 -c a.raw >a.raw.${suffix}`);
        await ok(`${tool} ${quiet} -1 -c a.qcow2 >a.qcow2.${suffix}`);
        await ok(
          `$I convert --unpack --verify -O qcow2 a.raw.${suffix} out && $I compare a.raw out`,
        );
        await ok(`$I convert --unpack a.qcow2.${suffix} out && cmp a.raw out`);
        await ok(`cat a.qcow2.${suffix} | $I convert --unpack - out && cmp a.raw out`);
      });

      it('damage ends it with one line', async () => {
        const packed = readFileSync(join(folder, `a.raw.${suffix}`));
        writeFileSync(join(folder, `cut.${suffix}`), packed.subarray(0, packed.byteLength - 9));
        const result = await sh(`$I convert --unpack cut.${suffix} out`);
        expect(result.stderr).toMatch(/^vdisk-img: The \w+ data is (damaged or )?cut short\n$/);
        expect(result.status).toBe(1);
      });
    });
  }

  it('without --unpack they are raw images, as in qemu-img', async () => {
    await ok('gzip -c a.raw >b.gz; truncate -s %512 b.gz; $I convert b.gz out; cmp b.gz out');
  });

  it('--unpack leaves plain images as they are', async () => {
    await ok('$I convert --unpack a.qcow2 out && cmp a.raw out');
  });

  it('no temporary file stays', async () => {
    const spool = tempDir();
    await ok('cat a.qcow2 | $I convert - out', { TMPDIR: spool });
    expect(readdirSync(spool)).toEqual([]);
  });
});

const ovf = (href: string): string => `<?xml version="1.0"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf">
 <References><File ovf:href="notes.txt" ovf:id="n"/><File ovf:id='file1' ovf:href='${href}'/>
 <!-- <File ovf:href="old.vmdk" ovf:id="file0"/> --></References>
 <DiskSection><Disk ovf:capacity="12" ovf:diskId="d1" ovf:fileRef="file1"/>
 <Disk ovf:capacity="12" ovf:diskId="empty"/></DiskSection></Envelope>`;

requires('tar')('archives (.ova)', () => {
  it.each(['ustar', 'gnu', 'pax'])('the disk of one in format %s', async (format) => {
    const disk = `${'long-'.repeat(24)}disk,1.qcow2`;
    writeFileSync(join(folder, 'a.ovf'), ovf(format === 'ustar' ? 'a.qcow2' : disk));
    await ok(`cp a.qcow2 '${disk}'; echo x >notes.txt`);
    const member = format === 'ustar' ? 'a.qcow2' : disk;
    await ok(`tar --format=${format} -cf a.ova a.ovf notes.txt ./'${member}'`);
    await ok('$I convert --unpack --verify a.ova out && cmp a.raw out');
    await ok('cat a.ova | $I convert --unpack - out && cmp a.raw out');
    await ok('gzip -c a.ova >a.ova.gz; $I convert --unpack a.ova.gz out && cmp a.raw out');
  });

  it('a disk that is compressed itself', async () => {
    writeFileSync(join(folder, 'a.ovf'), ovf('a.qcow2.gz'));
    await ok('gzip -c a.qcow2 >a.qcow2.gz; tar -cf b.ova a.ovf a.qcow2.gz');
    await ok('$I convert --unpack b.ova out && cmp a.raw out');
  });

  it.each([
    ['without a description', 'tar -cf c.ova a.qcow2', 'archive without a description'],
    ['without its disk', 'tar -cf c.ova a.ovf', "does not hold 'gone'"],
    [
      'damaged',
      'tar -cf c.ova a.ovf a.qcow2; printf XX | dd of=c.ova conv=notrunc bs=1 seek=20',
      'damaged at byte 0',
    ],
  ])('%s is refused', async (_, make, text) => {
    writeFileSync(join(folder, 'a.ovf'), ovf('gone'));
    await sh(make);
    const { stderr, status } = await sh('$I convert --unpack c.ova out');
    expect(stderr).toContain(text);
    expect(status).toBe(1);
  });

  it('descriptions name disks by their files', () => {
    expect(diskFiles(Buffer.from(ovf('a&amp;b.vmdk')))).toEqual(['a&b.vmdk']);
    expect(diskFiles(Buffer.from('<File href="x" id="y"/>'))).toEqual([]);
  });
});

describe('--verify', () => {
  it('is told by all that it prints', async () => {
    await ok('$I convert --verify -O qcow2 a.raw a.qcow2 out');
    await ok(
      '$I create -q -f qcow2 -b a.qcow2 -F qcow2 top; ' +
        '$I convert --verify -B a.qcow2 -F qcow2 -O qcow2 top out',
    );
    await ok('$I create -q big 40M; $I convert --verify -n a.qcow2 big');
  });

  it('tells where a target differs, behind a concatenation, in data and in holes', async () => {
    const graph = testGraph();
    writeFileSync(join(folder, 'v.raw'), Buffer.concat([content(3), content(5)]));
    writeFileSync(join(folder, 'c.raw'), content(5));
    const open = (name: string) =>
      graph.openBackend({ filename: join(folder, name), options: { driver: 'raw' } });
    const sources = [await open('a.raw'), await open('c.raw')];
    const options = { host: graph.host };
    for (const [at, expected] of [
      [undefined, undefined],
      [5 * MIB, 5 * MIB],
      [content(3).byteLength + 4001, content(3).byteLength + 3584],
    ] as const) {
      const b = readFileSync(join(folder, 'v.raw'));
      if (at !== undefined) b[at] = (b[at] ?? 0) ^ 1;
      writeFileSync(join(folder, 'w.raw'), b);
      const target = await open('w.raw');
      expect(await verifyCopy(sources, target, options)).toBe(expected);
      await target.close();
    }
    for (const source of sources) await source.close();
  });
});
