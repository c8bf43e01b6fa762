// Goal: a folder shows as a FAT disk that a reader written from the specification, fsck.vfat and
// mtools understand and that is QEMU's, and what FAT cannot hold is refused. Method: random trees
// (seeds are printed) and folders made to trip it over, read back through independent readers.
import { execFileSync } from 'node:child_process';
import {
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { Backend } from '../../../src/index.js';
import { nodeHost } from '../../../src/index.js';
import type { Random } from '../../support/index.js';
import {
  binPath,
  failure,
  failureCode,
  findCommand,
  readBytes,
  requires,
  requiresQemu10,
  run,
  runOk,
  same,
  seededRandom,
  tempDir,
  testGraph,
} from '../../support/index.js';
import { readFat } from './read-fat.js';

const img = binPath('vdisk-img');
const MiB = 1024 ** 2;
const PARTITION = 63 * 512;

const names = [
  'a.txt',
  'A long name that takes more than one entry.text',
  '.hidden',
  'ümlaut.ä',
  '日本語.txt',
  'emoji😀',
  'two.dots.tar.gz',
  ' lead and trail ',
  'trailing.',
  "a+b,c;d=[e]'",
  'q"uo<t>e|:?*\\',
  'UPPER.TXT',
  '12345678.123',
  'exactly 13 ch',
  'x'.repeat(255),
];

/** A tree of files and folders on the host; what it must show, by path. */
function makeTree(random: Random, dir: string, files: number): Map<string, Uint8Array> {
  const out = new Map<string, Uint8Array>();
  const folders = [''];
  for (let i = 0; i < files; i++) {
    const folder = folders[random.int(0, folders.length - 1)] ?? '';
    const name = names[i] ?? `long name ${random.int(0, 3)} number ${i}.text`;
    const path = folder + name;
    if (out.has(path) || out.has(`${path}/`)) continue;
    if (random.chance(0.2)) {
      mkdirSync(join(dir, path));
      folders.push(`${path}/`);
      out.set(`${path}/`, new Uint8Array(0));
    } else {
      const bytes = random.bytes(random.chance(0.2) ? 0 : random.int(1, 40_000));
      writeFileSync(join(dir, path), bytes);
      out.set(path, bytes);
    }
  }
  return out;
}

async function expectTree(
  disk: Backend,
  tree: ReadonlyMap<string, Uint8Array>,
  bits: number,
  isFloppy: boolean,
): Promise<void> {
  const read = await readFat(disk, isFloppy);
  expect(read.bits).toBe(bits);
  expect(read.files.map(({ path }) => path)).toEqual([...tree.keys()].sort());
  for (const { path, bytes } of read.files) {
    same(bytes, tree.get(path) ?? new Uint8Array(1), path);
  }
}

/** The volume of `filename` (`fat:…`) in a file of its own, without a partition table. */
async function volumeOf(filename: string, dir: string): Promise<string> {
  const [whole, volume] = [join(dir, 'whole'), join(dir, 'volume')];
  await runOk(img, ['convert', '-O', 'raw', filename, whole]);
  const skip = filename.includes(':floppy:') ? 0 : PARTITION;
  execFileSync('dd', [
    `if=${whole}`,
    `of=${volume}`,
    'bs=1M',
    'iflag=skip_bytes',
    `skip=${skip}`,
    'conv=sparse',
    'status=none',
  ]);
  return volume;
}

const shapes = [
  { words: '', bits: 16, size: 504 * MiB },
  { words: '12:', bits: 12, size: 31.5 * MiB },
  { words: '16:', bits: 16, size: 504 * MiB },
  { words: '32:', bits: 32, size: 504 * MiB },
  { words: 'floppy:', bits: 12, size: 2880 * 1024 },
  { words: 'floppy:12:', bits: 12, size: 1440 * 1024 },
  { words: 'floppy:16:', bits: 16, size: 2880 * 1024 },
];

describe('folders as disks', () => {
  it.each(shapes)('show a random tree: fat:$words', async ({ words, bits, size }) => {
    const random = seededRandom();
    const dir = tempDir();
    const isFloppy = words.startsWith('floppy');
    const tree = makeTree(random, dir, isFloppy ? 30 : 150);
    const disk = await testGraph().openBackend({ filename: `fat:${words}${dir}` });
    expect(disk.size).toBe(size);
    await expectTree(disk, tree, bits, isFloppy);
  });

  it('read the same in any pieces', async () => {
    const random = seededRandom();
    const dir = tempDir();
    makeTree(random, dir, 60);
    const disk = await testGraph().openBackend({ filename: `fat:12:${dir}` });
    const whole = await readBytes(disk, 0, disk.size);
    for (let i = 0; i < 200; i++) {
      const at = random.int(0, i % 2 === 0 ? whole.length - 1 : 2 * MiB);
      const bytes = random.int(1, Math.min(whole.length - at, 300_000));
      same(await readBytes(disk, at, bytes), whole.subarray(at, at + bytes));
    }
    for (let at = 0; at < whole.length;) {
      const status = await disk.blockStatus(at, whole.length - at);
      if (status.zero)
        expect(whole.subarray(at, at + status.bytes).every((b) => b === 0)).toBe(true);
      at += status.bytes;
    }
  });

  it('take thousands of files, and folders of many entries', async () => {
    const dir = tempDir();
    const tree = new Map<string, Uint8Array>([['sub/', new Uint8Array(0)]]);
    mkdirSync(join(dir, 'sub'));
    for (let i = 0; i < 3000; i++) {
      const path = `${i % 2 === 0 ? 'sub/' : ''}same beginning ${i}.txt`;
      const bytes = Uint8Array.of(i & 0xff, i >> 8);
      writeFileSync(join(dir, path), bytes);
      tree.set(path, bytes);
    }
    const disk = await testGraph().openBackend({ filename: `fat:${dir}` });
    await expectTree(disk, tree, 16, false);
    const { files } = await readFat(disk);
    const inSub = files.filter(({ path }) => path.startsWith('sub/')).map(({ short }) => short);
    expect(new Set(inSub).size).toBe(inSub.length);
  });

  it('have clusters enough with FAT32 for files of gigabytes', async () => {
    const dir = tempDir();
    for (const name of ['a', 'b', 'c']) {
      writeFileSync(join(dir, name), name);
      truncateSync(join(dir, name), 0xffff_ffff);
    }
    const disk = await testGraph().openBackend({ filename: `fat:32:${dir}` });
    expect(disk.size).toBeGreaterThan(3 * 2 ** 32);
    expect(await failure(testGraph().openBackend({ filename: `fat:${dir}` }))).toContain(
      'Directory does not fit in FAT16 (capacity 516.06 MB)',
    );
    const boot = new DataView((await readBytes(disk, PARTITION, 512)).buffer);
    const cluster = boot.getUint8(13) * 512;
    expect(cluster).toBe(8192);
    // The second file begins right behind the first one, whose last cluster is full but for a byte.
    const data = PARTITION + (32 + 2 * boot.getUint32(36, true)) * 512;
    const first = data + cluster;
    const second = first + Math.ceil(0xffff_ffff / cluster) * cluster;
    expect(Buffer.from(await readBytes(disk, first, 2)).toString()).toBe('a\0');
    expect(Buffer.from(await readBytes(disk, second, 2)).toString()).toBe('b\0');
  });

  it('are opened by options as well, with a label', async () => {
    const dir = tempDir();
    const open = (more: Record<string, unknown>): Promise<Backend> =>
      testGraph().openBackend({ options: { driver: 'vvfat', dir, ...more } });
    const disk = await open({ label: 'MY LABEL', 'fat-type': 12, floppy: true });
    const boot = Buffer.from(await readBytes(disk, 0, 512));
    expect(boot.toString('latin1', 43, 62)).toBe('MY LABEL   FAT12   ');
    expect(await failure(open({ label: '123456789012' }))).toContain(
      'vvfat label cannot be longer than 11 bytes',
    );
    expect(await failure(open({ 'fat-type': 8 }))).toContain('only 12, 16 and 32');
    expect(await failureCode(open({ 'fat-type': 32, floppy: true }))).toBe('ENOTSUP');
    expect(await failure(open({ rw: true }))).toContain("'rw'");
    const graph = testGraph();
    const noDir = graph.openBackend({ options: { driver: 'vvfat' } });
    expect(await failure(noDir)).toContain("requires a 'dir' option");
  });

  it('are not written', async () => {
    const dir = tempDir();
    const filename = `fat:${dir}`;
    const open = (name: string): Promise<unknown> =>
      testGraph().openBackend({ filename: name, flags: { writable: true } });
    expect(await failure(open(filename))).toContain('Image is read-only');
    expect(await failure(open(`fat:rw:${dir}`))).toContain('the folder can only be read');
  });

  it('convert to other formats', async () => {
    const dir = tempDir();
    mkdirSync(join(dir, 'in'));
    writeFileSync(join(dir, 'in', 'hello.txt'), 'hello');
    const out = join(dir, 'out.qcow2');
    await runOk(img, ['convert', '-O', 'qcow2', `fat:${dir}/in`, out]);
    await runOk(img, ['compare', '-f', 'raw', '-F', 'qcow2', `fat:${dir}/in`, out]);
    const disk = await testGraph().openBackend({ filename: out });
    const { files } = await readFat(disk);
    expect(files.map(({ path }) => path)).toEqual(['hello.txt']);
  });
});

describe('folders that FAT cannot show', () => {
  it('leave out links to nothing, to themselves, and pipes', async () => {
    const dir = tempDir();
    writeFileSync(join(dir, 'file'), 'content');
    symlinkSync('file', join(dir, 'link'));
    symlinkSync('nowhere', join(dir, 'dangling'));
    symlinkSync('self', join(dir, 'self'));
    execFileSync('mkfifo', [join(dir, 'pipe')]);
    const { files } = await readFat(await testGraph().openBackend({ filename: `fat:${dir}` }));
    expect(files.map(({ path }) => path)).toEqual(['file', 'link']);
    expect(Buffer.from(files[1]?.bytes ?? []).toString()).toBe('content');
  });

  it('refuse a link that leads back', async () => {
    const dir = tempDir();
    mkdirSync(join(dir, 'a/b'), { recursive: true });
    symlinkSync('..', join(dir, 'a/b/up'));
    expect(await failure(testGraph().openBackend({ filename: `fat:${dir}` }))).toContain(
      `Cannot show '${dir}/a/b/up' as FAT: it leads back to the folder '${dir}/a'`,
    );
  });

  it('refuse names that are not UTF-8 and files of 4 GiB', async () => {
    const dir = tempDir();
    const open = (): Promise<unknown> => testGraph().openBackend({ filename: `fat:32:${dir}` });
    const odd = Buffer.concat([Buffer.from(`${dir}/bad`), Buffer.of(0xff)]);
    writeFileSync(odd, '');
    expect(await failure(open())).toContain('its name is not UTF-8');
    rmSync(odd);
    writeFileSync(join(dir, 'big'), '');
    truncateSync(join(dir, 'big'), 2 ** 32);
    expect(await failure(open())).toContain('expected at most 4294967295');
  });

  it('refuse what is no folder', async () => {
    const dir = tempDir();
    writeFileSync(join(dir, 'file'), '');
    for (const name of ['file', 'missing']) {
      const opened = testGraph().openBackend({ filename: `fat:${dir}/${name}` });
      expect(await failure(opened)).toContain(`Could not read directory ${dir}/${name}`);
    }
  });

  /** A host whose folder `/many` claims to hold so many empty files. */
  function hostWith(count: number, subfolders: number): ReturnType<typeof nodeHost> {
    const host = nodeHost();
    const { files } = host;
    if (files === undefined) throw new Error('no files');
    let id = 0;
    const list = Array.from({ length: count }, (_, i) => `n${i}`);
    const above = Array.from({ length: subfolders }, (_, i) => `s${i}`);
    return {
      ...host,
      files: {
        ...files,
        list: async (path) => (subfolders > 0 && path === '/many' ? above : list),
        stat: async (path) => ({
          kind: /\/n\d+$/.test(path) ? 'regular' : 'directory',
          size: 0,
          identity: String(id++),
        }),
      },
    };
  }

  it('refuse folders of more than 65536 entries', async () => {
    const open = (count: number, name: string): Promise<unknown> =>
      testGraph({ host: hostWith(count, 0) }).openBackend({ filename: name });
    // A label and two entries for each file.
    await open(32_767, 'fat:32:/many');
    expect(await failure(open(32_768, 'fat:32:/many'))).toContain('expected at most 65536');
    expect(await failure(open(100_000, 'fat:32:/many'))).toContain('expected at most 65536');
    expect(await failure(open(32_767, 'fat:/many'))).toContain(
      'Too many entries in root directory: it takes 65535, expected at most 65520',
    );
  });

  it('refuse trees of more files than memory is meant for', async () => {
    const opened = testGraph({ host: hostWith(10_000, 40) }).openBackend({
      filename: 'fat:32:/many',
    });
    expect(await failure(opened)).toContain('it holds more than 262144 files and folders');
  });
});

describe('files that change while they are shown', () => {
  it('fail to be read when they got shorter or are no files any more', async () => {
    const dir = tempDir();
    for (const name of ['a', 'b', 'c', 'd'])
      writeFileSync(join(dir, name), Buffer.alloc(9000, name));
    const disk = await testGraph().openBackend({ filename: `fat:${dir}` });
    const data = 600 * 512;
    const at = (cluster: number): number => data + cluster * 8192;
    // The layout of this disk: the root's sectors begin at 568, cluster 2 at 600.
    expect(Buffer.from(await readBytes(disk, at(0), 3)).toString()).toBe('aaa');
    truncateSync(join(dir, 'b'), 10);
    rmSync(join(dir, 'c'));
    execFileSync('mkfifo', [join(dir, 'c')]);
    rmSync(join(dir, 'd'));
    expect(await failure(readBytes(disk, at(2), 512))).toContain('it ends at 10, expected 9000');
    expect(await failureCode(readBytes(disk, at(2), 512))).toBe('EIO');
    expect(await failure(readBytes(disk, at(4), 512))).toContain('it is no file any more');
    expect(await failureCode(readBytes(disk, at(6), 512))).toBe('ENOENT');
    // What is inside the shorter file, and the others, can still be read.
    expect(Buffer.from(await readBytes(disk, at(0) + 4096, 3)).toString()).toBe('aaa');
    writeFileSync(join(dir, 'e'), Buffer.alloc(9000, 'e'));
    renameSync(join(dir, 'e'), join(dir, 'd'));
    expect(Buffer.from(await readBytes(disk, at(6), 3)).toString()).toBe('eee');
  });

  it('show bytes appended later nowhere', async () => {
    const dir = tempDir();
    writeFileSync(join(dir, 'a'), 'short');
    const disk = await testGraph().openBackend({ filename: `fat:${dir}` });
    writeFileSync(join(dir, 'a'), Buffer.alloc(9000, 'x'));
    const read = Buffer.from(await readBytes(disk, 600 * 512, 8192));
    expect(read.subarray(0, 6).toString()).toBe('xxxxx\0');
    expect(read.subarray(5).every((b) => b === 0)).toBe(true);
  });
});

requires('fsck.vfat', 'mcopy')('other readers of FAT', () => {
  it.each(shapes)('find nothing wrong with fat:$words', async ({ words }) => {
    const random = seededRandom();
    const [dir, work] = [tempDir(), tempDir()];
    const tree = makeTree(random, dir, words.startsWith('floppy') ? 30 : 80);
    const volume = await volumeOf(`fat:${words}${dir}`, work);
    const checked = await run(findCommand('fsck.vfat') ?? '', ['-n', volume]);
    expect(`${checked.stdout}${checked.stderr}`).toMatch(/^fsck.fat .*\n.*: \d+ files, .*\n$/);
    // mtools replaces what has no place in its character set: by short name, all can be copied.
    const { files } = await readFat(
      await testGraph().openBackend({ filename: `fat:${words}${dir}` }),
      words.startsWith('floppy'),
    );
    for (const { path, short, bytes } of files) {
      if (path.includes('/') || !/^[A-Z0-9~ ]+$/.test(short)) continue;
      const name = `${short.slice(0, 8).trim()}.${short.slice(8).trim()}`.replace(/\.$/, '');
      const copy = await runOk('mcopy', ['-i', volume, `::${name}`, '-']);
      same(copy.bytes, tree.get(path) ?? bytes, path);
    }
  });
});

requiresQemu10('qemu-img')('QEMU', () => {
  const layouts = ['', '12:', '16:', 'floppy:', 'floppy:12:'];

  it.each(layouts)('makes the same disk of folders with one entry: fat:%s', async (words) => {
    const [dir, work] = [tempDir(), tempDir()];
    mkdirSync(join(dir, 'sub/Folder with a long name'), { recursive: true });
    writeFileSync(join(dir, 'sub/Folder with a long name/ümlaut file.text'), 'content');
    const [theirs, ours] = [join(work, 'theirs'), join(work, 'ours')];
    const env = { TZ: 'Europe/Berlin' };
    await runOk('qemu-img', ['convert', '-O', 'raw', `fat:${words}${dir}`, theirs], { env });
    await runOk(img, ['convert', '-O', 'raw', `fat:${words}${dir}`, ours], { env });
    same(readFileSync(ours), readFileSync(theirs));
  });

  it('shows the same files under the same short names', async () => {
    const random = seededRandom();
    const [dir, work] = [tempDir(), tempDir()];
    makeTree(random, dir, 100);
    const image = join(work, 'theirs');
    await runOk('qemu-img', ['convert', '-O', 'raw', `fat:${dir}`, image]);
    const graph = testGraph();
    const theirs = await graph.openBackend({ filename: image, options: { driver: 'raw' } });
    const ours = await graph.openBackend({ filename: `fat:${dir}` });
    const tables = PARTITION + 512;
    same(await readBytes(ours, 0, tables), await readBytes(theirs, 0, tables));
    // Stale bytes follow the files in QEMU's last clusters.
    const [a, b] = [await readFat(ours), await readFat(theirs, false, false)];
    expect(a.files.map(({ path }) => path)).toEqual(b.files.map(({ path }) => path));
    a.files.forEach(({ path, bytes, short }, i) => {
      same(bytes, b.files[i]?.bytes ?? new Uint8Array(1), path);
      // The numbers behind a tilde follow the order of the folder, which is not the same.
      const stem = (name: string): string =>
        `${name.slice(0, 8).split('~')[0]?.slice(0, 4)}.${name.slice(8)}`;
      expect(stem(short)).toBe(stem(b.files[i]?.short ?? ''));
    });
  });
});
