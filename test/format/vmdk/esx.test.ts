// Goal: the disks of ESX servers (vmfs, vmfsSparse, seSparse) read as their layout says, over a
// parent too, and as QEMU reads them. Method: extents are built here field by field around random
// grains (seeds are printed); both tools convert them to raw.
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { Random } from '../../support/index.js';
import {
  binPath,
  missingCommands,
  run,
  runOk,
  same,
  seededRandom,
  tempDir,
} from '../../support/index.js';

const img = binPath('vdisk-img');
const SECTOR = 512;
const readers = missingCommands('qemu-img').length > 0 ? [img] : [img, 'qemu-img'];

function descriptor(type: string, line: string, parent?: string): string {
  const above = parent === undefined ? 'parentCID=ffffffff' : 'parentCID=11111111';
  const hint = parent === undefined ? '' : `parentFileNameHint="${parent}"\n`;
  const cid = `CID=${parent === undefined ? '11111111' : '22222222'}`;
  return (
    `# Disk DescriptorFile\nversion=1\n${cid}\n${above}\ncreateType="${type}"\n${hint}\n` +
    `# Extent description\n${line}\n\n# The Disk Data Base\n#DDB\nddb.adapterType = "lsilogic"\n`
  );
}

/** A vmfsSparse extent; grains that it holds are put into `disk`. */
function cowd(random: Random, disk: Uint8Array, grainSectors: number): Uint8Array {
  const sectors = disk.length / SECTOR;
  const grain = grainSectors * SECTOR;
  const tables = Math.ceil(sectors / (4096 * grainSectors));
  const directoryAt = 4 * SECTOR;
  const tablesAt = directoryAt + Math.ceil((tables * 4) / SECTOR) * SECTOR;
  const dataAt = tablesAt + tables * 4096 * 4;
  const grains = Math.ceil(disk.length / grain);
  const out = new Uint8Array(dataAt + grains * grain);
  const view = new DataView(out.buffer);
  const head = [0x44574f43, 1, 3, sectors, grainSectors, directoryAt / SECTOR, tables];
  head.forEach((value, i) => void view.setUint32(i * 4, value, true));
  let next = dataAt;
  for (let i = 0; i < grains; i++) {
    const table = Math.floor(i / 4096);
    // The second table is not there at all.
    if (table === 1 || random.chance(0.6)) continue;
    view.setUint32(directoryAt + table * 4, (tablesAt + table * 4096 * 4) / SECTOR, true);
    view.setUint32(tablesAt + i * 4, next / SECTOR, true);
    random.fill(out.subarray(next, next + grain));
    disk.set(out.subarray(next, next + Math.min(grain, disk.length - i * grain)), i * grain);
    next += grain;
  }
  return out.slice(0, next);
}

/** A seSparse extent with entries of every kind. */
function seSparse(random: Random, disk: Uint8Array): Uint8Array {
  const grain = 8 * SECTOR;
  const grains = Math.ceil(disk.length / grain);
  const tables = Math.ceil(grains / 4096);
  const directoryAt = 4096 * SECTOR;
  const directorySectors = Math.ceil((tables * 8) / SECTOR);
  const tablesAt = directoryAt + directorySectors * SECTOR;
  const grainsAt = tablesAt + tables * 64 * SECTOR;
  const out = new Uint8Array(grainsAt + grains * grain);
  const view = new DataView(out.buffer);
  const put = (at: number, ...values: (number | bigint)[]): void => {
    values.forEach((value, i) => void view.setBigUint64(at + i * 8, BigInt(value), true));
  };
  put(0, 0xcafebaben, 0x2_0000_0001n, disk.length / SECTOR, 8, 64, 0);
  put(80, 1, 1, 2, 2, 2048, 2048);
  const end = grainsAt / SECTOR;
  put(128, directoryAt / SECTOR, directorySectors, tablesAt / SECTOR, tables * 64);
  put(160, end, 0, end, 0, end, grains * 8);
  put(SECTOR, 0xcafecafe);
  let next = 0;
  for (let i = 0; i < grains; i++) {
    const table = Math.floor(i / 4096);
    if (table === 1) continue;
    const kind = random.int(0, 3);
    if (kind === 0) continue;
    put(directoryAt + table * 8, 0x1000_0000_0000_0000n | BigInt(table));
    const [from, length] = [i * grain, Math.min(grain, disk.length - i * grain)];
    let entry = BigInt(kind) << 60n;
    if (kind === 3) {
      // The lower 12 bits of a grain's number stand above the others.
      entry |= (BigInt(next & 0xfff) << 48n) | BigInt(next >> 12);
      const place = grainsAt + next * grain;
      random.fill(out.subarray(place, place + grain));
      disk.set(out.subarray(place, place + length), from);
      next++;
    } else disk.fill(0, from, from + length);
    put(tablesAt + i * 8, entry);
  }
  return out.slice(0, grainsAt + next * grain);
}

async function expectDisk(cwd: string, name: string, disk: Uint8Array): Promise<void> {
  for (const tool of readers) {
    await runOk(tool, ['convert', '-f', 'vmdk', '-O', 'raw', name, 'back'], { cwd });
    same(readFileSync(join(cwd, 'back')), disk, tool);
  }
}

/** Files of a disk: its descriptor as NAME.vmdk, its extent as NAME-x.vmdk. */
function put(cwd: string, name: string, type: string, extent: Uint8Array, size: number): void {
  const kinds = { vmfs: 'VMFS', vmfsSparse: 'VMFSSPARSE', seSparse: 'SESPARSE' };
  const kind = kinds[type as keyof typeof kinds];
  writeFileSync(join(cwd, `${name}-x.vmdk`), extent);
  const line = `RW ${size / SECTOR} ${kind} "${name}-x.vmdk"`;
  const parent = name === 'child' ? 'base.vmdk' : undefined;
  writeFileSync(join(cwd, `${name}.vmdk`), descriptor(type, line, parent));
}

describe('disks of ESX', () => {
  it('vmfs', async () => {
    const cwd = tempDir();
    const disk = seededRandom().bytes(777 * SECTOR);
    put(cwd, 'base', 'vmfs', disk, disk.length);
    await expectDisk(cwd, 'base.vmdk', disk);
  });

  it.each([1, 8, 128])('vmfsSparse with grains of %i sectors', async (grainSectors) => {
    const cwd = tempDir();
    const disk = new Uint8Array((4096 * 2 * grainSectors > 20_000 ? 3777 : 9999) * SECTOR);
    put(cwd, 'base', 'vmfsSparse', cowd(seededRandom(), disk, grainSectors), disk.length);
    await expectDisk(cwd, 'base.vmdk', disk);
  });

  it('seSparse', async () => {
    const cwd = tempDir();
    const disk = new Uint8Array((2 * 4096 * 8 + 999) * SECTOR);
    put(cwd, 'base', 'seSparse', seSparse(seededRandom(), disk), disk.length);
    await expectDisk(cwd, 'base.vmdk', disk);
    const { stderr, status } = await run('qemu-io', ['-c', 'write 0 512', 'base.vmdk'], { cwd });
    const ours = await run(binPath('vdisk-io'), ['-c', 'write 0 512', 'base.vmdk'], { cwd });
    expect(ours.status).toBe(1);
    if (readers.length > 1) expect([status, stderr]).not.toEqual([0, '']);
  });

  it.each(['vmfsSparse', 'seSparse'])('%s over a parent', async (type) => {
    const random = seededRandom();
    const cwd = tempDir();
    const disk = random.bytes((4096 * 8 + 5555) * SECTOR);
    put(cwd, 'base', 'vmfs', disk, disk.length);
    const extent = type === 'seSparse' ? seSparse(random, disk) : cowd(random, disk, 1);
    put(cwd, 'child', type, extent, disk.length);
    await expectDisk(cwd, 'child.vmdk', disk);
  });
});
