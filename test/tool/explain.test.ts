// Goal: `vdisk explain` names formats, feature bits, lock holders, what is wrong and what to type,
// for sound, broken and foreign images, without changing them and within bounded time.
// Method: images made by vdisk-img and damaged byte by byte (seeds printed); a second process that
// holds a lock; the commands that it prints are carried out.
import { spawn, spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync, symlinkSync } from 'node:fs';
import { truncateSync, writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { describe, expect, it } from 'vitest';
import { explainFile } from '../../src/tool/vdisk/explain.js';
import type { Explanation } from '../../src/tool/vdisk/findings.js';
import { operand } from '../../src/tool/vdisk/findings.js';
import { contentOf, recognise } from '../../src/tool/vdisk/recognise.js';
import {
  binPath,
  requires,
  rootPath,
  run,
  runOk,
  seededRandom,
  tempDir,
} from '../support/index.js';
import { makeDmg } from '../format/dmg/make-dmg.js';

const vdisk = binPath('vdisk');
const img = binPath('vdisk-img');
const io = binPath('vdisk-io');

async function image(folder: string, name = 'a.qcow2', options = ''): Promise<string> {
  const path = join(folder, name);
  const extra = options === '' ? [] : ['-o', options];
  await runOk(img, ['create', '-q', '-f', 'qcow2', ...extra, path, '4M'], { cwd: folder });
  await runOk(io, ['-c', 'write -P 1 0 1M', path], { cwd: folder });
  return path;
}

function change(path: string, edit: (bytes: Buffer) => void): void {
  const bytes = readFileSync(path);
  edit(bytes);
  writeFileSync(path, bytes);
}

const problems = ({ findings }: Explanation): string[] =>
  findings.filter(({ kind }) => kind === 'problem').map(({ text }) => text);
const commands = ({ findings }: Explanation): string[] =>
  findings.flatMap(({ command }) => command ?? []);

describe('explain', () => {
  it('finds nothing wrong with a sound image, and says so', async () => {
    const path = await image(tempDir(), 'a b.qcow2', 'lazy_refcounts=on,extended_l2=on');
    const before = readFileSync(path);
    const { stdout, stderr } = await runOk(vdisk, ['explain', path]);
    expect(stderr).toBe('');
    expect(stdout).toContain('  format        qcow2, version 3\n');
    expect(stdout).toContain('incompatible bit 4 (extended L2 entries)');
    expect(stdout).toContain('compatible bit 0 (lazy refcounts)');
    expect(stdout).toMatch(/check +no errors\n\nNothing wrong was found\.\n$/);
    expect(Buffer.compare(readFileSync(path), before)).toBe(0);
    const json = await runOk(vdisk, ['explain', '--output=json', path]);
    expect(JSON.parse(json.stdout)).toMatchObject({
      format: 'qcow2',
      'virtual-size': 4194304,
      'opens-for-reading': true,
      'opens-for-writing': true,
      check: { corruptions: 0, leaks: 0, errors: 0 },
      findings: [],
    });
  });

  it('names who holds the lock, with pid and command', async () => {
    const path = await image(tempDir());
    const child = spawn(io, ['-f', 'qcow2', path], { stdio: ['pipe', 'pipe', 'ignore'] });
    await new Promise((resolve) => child.stdout.once('data', resolve));
    const found = await explainFile(path);
    child.stdin.end('quit\n');
    await new Promise((resolve) => child.once('close', resolve));
    expect(found.holders).toHaveLength(1);
    const [holder] = found.holders;
    expect(holder).toMatchObject({ pid: child.pid, opened: 'for writing' });
    expect(holder?.command).toContain(`vdisk-io -f qcow2 ${path}`);
    expect(holder?.locks).toContain('lets nobody else write');
    expect(found).toMatchObject({
      'opens-for-reading': true,
      'opens-for-writing': false,
      'write-error': `locked by process ${String(child.pid)}`,
    });
    expect((await explainFile(path)).holders).toEqual([]);
  });

  it('tells of marks and damage, and what it prints repairs them', async () => {
    const folder = tempDir();
    const corrupt = await image(folder, 'corrupt.qcow2');
    change(corrupt, (bytes) => bytes.writeUInt8(2, 79));
    const marked = await explainFile(corrupt);
    expect(problems(marked)).toEqual([
      'It is marked corrupt, so that nobody writes to it before it is repaired',
    ]);
    expect(marked).toMatchObject({ 'opens-for-reading': true, 'opens-for-writing': false });
    const damaged = await image(folder, "it's.qcow2");
    change(damaged, (bytes) => bytes.fill(0, 0x20000, 0x20010));
    const found = await explainFile(damaged);
    expect(found.check?.corruptions).toBeGreaterThan(0);
    for (const line of [...commands(marked), ...commands(found)]) {
      const bin = rootPath('bin');
      const env = { ...process.env, PATH: `${bin}:${process.env['PATH'] ?? ''}` };
      expect(spawnSync('sh', ['-c', line], { env, encoding: 'utf8' }).status).toBe(0);
    }
    for (const path of [corrupt, damaged]) expect(problems(await explainFile(path))).toEqual([]);
  });

  it('tells a lost backing file from a broken image', async () => {
    const folder = tempDir();
    await image(folder, 'base.qcow2');
    const args = ['create', '-q', '-f', 'qcow2', '-b', 'base.qcow2', '-F', 'qcow2', 'top.qcow2'];
    await runOk(img, args, { cwd: folder });
    const top = join(folder, 'top.qcow2');
    expect(await explainFile(top)).toMatchObject({ 'backing-file': 'base.qcow2', findings: [] });
    await runOk('mv', ['base.qcow2', 'moved.qcow2'], { cwd: folder });
    const found = await explainFile(top);
    const [text] = problems(found);
    expect(text).toContain("Its backing file 'base.qcow2' does not open: Could not open");
    const [line = ''] = commands(found);
    expect(line).toBe(`vdisk-img rebase -u -f qcow2 -F qcow2 -b NEW_PLACE ${top}`);
    const [, ...words] = line.replace('NEW_PLACE', 'moved.qcow2').split(' ');
    await runOk(img, words, { cwd: folder });
    expect(problems(await explainFile(top))).toEqual([]);
  });

  it('tells of files that were cut, emptied, or need something unknown', async () => {
    const folder = tempDir();
    const cut = await image(folder, 'cut.qcow2');
    truncateSync(cut, 150_000);
    expect(problems(await explainFile(cut))[0]).toContain('The file was cut short: the L1 table');
    const unknown = await image(folder, 'unknown.qcow2');
    change(unknown, (bytes) => bytes.writeUInt8(0x80, 78));
    expect(problems(await explainFile(unknown))).toEqual([
      'It needs a feature that vdisk does not know: bit 15',
    ]);
    const empty = join(folder, 'empty');
    writeFileSync(empty, '');
    expect(problems(await explainFile(empty))).toEqual([
      'It is empty: nothing was ever written to it',
    ]);
    mkdirSync(join(folder, 'd'));
    const { status, stdout } = await run(vdisk, ['explain', join(folder, 'd')]);
    expect([status, stdout]).toEqual([1, expect.stringContaining('- It is a folder\n')]);
    expect((await run(vdisk, ['explain', join(folder, 'none')])).status).toBe(1);
    expect((await run(vdisk, ['explain'])).stderr).toContain('Expecting one image file name');
  });

  it('names foreign formats and what reads them', async () => {
    const folder = tempDir();
    const path = join(folder, 'disk.vmdk');
    const magic = Buffer.from([0xbe, 0xba, 0xfe, 0xca]);
    writeFileSync(path, Buffer.concat([magic, Buffer.alloc(4096)]));
    const found = await explainFile(path);
    expect(found).toMatchObject({ format: 'vmdk', supported: false });
    expect(commands(found)).toEqual([
      `qemu-img convert -p -f vmdk -O qcow2 ${path} ${join(folder, 'disk.qcow2')}`,
    ]);
    const none = new Uint8Array(0);
    const at = (offset: number, text: string): Uint8Array => {
      const bytes = new Uint8Array(65_664);
      bytes.set(Buffer.from(text, 'latin1'), offset);
      return bytes;
    };
    const kinds: [number, string, string][] = [
      [0, 'QFI\xfb\0\0\0\x01', 'qcow'],
      [64, '\x7f\x10\xda\xbe', 'vdi'],
      [0, 'vhdxfile', 'vhdx'],
      [0, 'conectix', 'vpc'],
      [0, 'QED\0', 'qed'],
      [0, 'WithoutFreeSpace', 'parallels'],
      [257, 'ustar', 'tar'],
      [0, '\xfd7zXZ\0', 'xz'],
    ];
    for (const [offset, text, format] of kinds) {
      expect(recognise(at(offset, text), none)?.format).toBe(format);
    }
    expect(recognise(none, at(0, 'koly').subarray(0, 512))?.format).toBe('dmg');
    expect(recognise(at(0, 'anything'), none)).toBeUndefined();
    expect(contentOf(at(512, 'EFI PART'))).toBe('a GPT partition table');
  });

  it.each([
    ['qed', true],
    ['parallels', true],
    ['dmg', false],
  ])('opens images of %s, to write: %s', async (format, writable) => {
    const path = join(tempDir(), 'disk');
    if (writable) await runOk(img, ['create', '-q', '-f', format, path, '1M']);
    else writeFileSync(path, makeDmg({ tables: [[{ type: 0, sectors: 8 }]] }).bytes);
    const found = await explainFile(path);
    expect(found).toMatchObject({ format, supported: true, 'opens-for-reading': true });
    expect(found['opens-for-writing']).toBe(writable);
  });

  it('survives any damage, within time, and changes nothing', { timeout: 120_000 }, async () => {
    const folder = tempDir();
    const random = seededRandom();
    const path = await image(folder);
    await runOk(img, ['snapshot', '-c', 's', path]);
    await runOk(img, ['bitmap', '--add', path, 'b']);
    const sound = readFileSync(path);
    for (let round = 0; round < 40; round++) {
      const bytes = Buffer.from(sound);
      for (let n = random.int(1, 6); n > 0; n--) {
        const at = random.chance(0.8) ? random.int(4, 600) : random.int(0, bytes.length - 1);
        bytes[at] = random.pick([0, 1, 0xff, random.int(0, 255)]);
      }
      const length = random.chance(0.2) ? random.int(1, bytes.length) : bytes.length;
      writeFileSync(path, bytes.subarray(0, length));
      const started = performance.now();
      const found = await explainFile(path);
      expect(found.filename).toBe(path);
      expect(performance.now() - started).toBeLessThan(30_000);
      expect(Buffer.compare(readFileSync(path), bytes.subarray(0, length))).toBe(0);
    }
  });
});

requires('losetup')('loop devices over a file', () => {
  it('are named, by whatever path the file is reached', async () => {
    const folder = tempDir();
    const path = await image(folder, 'löop.qcow2');
    symlinkSync('löop.qcow2', join(folder, 'link'));
    const made = spawnSync('losetup', ['--find', '--show', '--read-only', path]);
    const device = made.stdout.toString().trim();
    expect(device).toMatch(/^\/dev\/loop\d+$/);
    try {
      const near = relative(process.cwd(), path);
      for (const name of [path, join(folder, 'link'), near]) {
        expect((await explainFile(name))['loop-devices'], name).toEqual([device]);
      }
    } finally {
      spawnSync('losetup', ['-d', device]);
    }
  });
});

it('prints names as a shell takes them', () => {
  expect(operand('a.qcow2')).toBe('a.qcow2');
  expect(operand("it's a.raw")).toBe("'it'\\''s a.raw'");
  expect(operand('-x')).toBe('./-x');
  expect(operand('nbd:x')).toBe('./nbd:x');
});
