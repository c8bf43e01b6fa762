// Goal: a write that would hit metadata is prevented, told and remembered in the image as QEMU does
// it, for each kind of metadata, each mode of `overlap-check` and each single flag.
// Method: images whose tables were changed so that guest data, an L1 table or a refcount table lies
// on other metadata; the same write by qemu-io and vdisk-io, messages and headers compared.
import { closeSync, copyFileSync, openSync, readFileSync, readSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { binPath, run, runOk, tempDir } from '../support/index.js';
import { requiresQemu10 } from '../support/requires.js';

const COPIED = 1n << 63n;
const OFFSET = 0x00ff_ffff_ffff_fe00n;

interface Places {
  readonly l1: bigint;
  readonly l2: bigint;
  readonly reftable: bigint;
  readonly refblock: bigint;
  readonly snapshots: bigint;
  readonly inactiveL1: bigint;
  readonly inactiveL2: bigint;
  readonly directory: bigint;
}

type Poke = (set: (at: number, value: bigint) => void, p: Places) => void;

/** The first guest cluster lies on a structure. */
const dataOn =
  (place: keyof Places): Poke =>
  (set, p) => {
    set(Number(p.l2), COPIED | p[place]);
  };

interface Case {
  readonly name: string;
  readonly flag: string;
  readonly poke: Poke;
  /** QEMU finds it without any check. */
  readonly always?: true;
  readonly write: string;
}

const FIRST = 'write -P 3 0 64k';
/** Behind the first L2 table: its entry of the L1 table is the second one. */
const SECOND = 'write -P 3 600M 64k';

const cases: readonly Case[] = [
  {
    name: 'an L1 table at the header',
    flag: 'main-header',
    poke: (set) => set(40, 0n),
    write: SECOND,
  },
  {
    name: 'an L1 table on the refcount table',
    flag: 'refcount-table',
    poke: (set, p) => set(40, p.reftable),
    write: SECOND,
  },
  { name: 'data', flag: 'active-l1', poke: dataOn('l1'), write: FIRST },
  { name: 'data', flag: 'active-l2', poke: dataOn('l2'), write: FIRST },
  { name: 'data', flag: 'refcount-table', poke: dataOn('reftable'), write: FIRST },
  { name: 'data', flag: 'refcount-block', poke: dataOn('refblock'), write: FIRST },
  { name: 'data', flag: 'snapshot-table', poke: dataOn('snapshots'), write: FIRST },
  { name: 'data', flag: 'inactive-l1', poke: dataOn('inactiveL1'), write: FIRST },
  { name: 'data', flag: 'inactive-l2', poke: dataOn('inactiveL2'), write: FIRST },
  { name: 'data', flag: 'bitmap-directory', poke: dataOn('directory'), write: FIRST },
  {
    name: 'an L2 table on the snapshot table',
    flag: 'snapshot-table',
    poke: (set, p) => set(Number(p.l1), COPIED | p.snapshots),
    write: FIRST,
  },
  {
    name: 'free clusters that hold the header: by all modes',
    flag: 'main-header',
    always: true,
    poke: (set, p) => {
      for (let at = 0; at < 65536; at += 8) set(Number(p.refblock) + at, 0n);
    },
    write: SECOND,
  },
];

const modes = [
  'overlap-check=none',
  'overlap-check=constant',
  'overlap-check=cached',
  'overlap-check=all',
] as const;

function places(v: DataView): Places {
  const u64 = (at: bigint | number): bigint => v.getBigUint64(Number(at)) & OFFSET;
  let extension = v.getUint32(100);
  while (v.getUint32(extension) !== 0x2385_2875) {
    extension += 8 + Math.ceil(v.getUint32(extension + 4) / 8) * 8;
  }
  const [l1, reftable, snapshots] = [u64(40), u64(48), u64(64)];
  const inactiveL1 = u64(snapshots);
  return {
    l1,
    l2: u64(l1),
    reftable,
    refblock: u64(reftable),
    snapshots,
    inactiveL1,
    inactiveL2: u64(inactiveL1),
    directory: u64(extension + 24),
  };
}

let made: Buffer | undefined;

/** An image with data, a snapshot and a bitmap, each in clusters of its own. */
async function image(): Promise<Buffer> {
  if (made !== undefined) return made;
  const cwd = tempDir();
  await runOk('qemu-img', ['create', '-q', '-f', 'qcow2', 'a', '1G'], { cwd });
  await runOk('qemu-io', ['-f', 'qcow2', '-c', FIRST, 'a'], { cwd });
  await runOk('qemu-img', ['snapshot', '-c', 's', 'a'], { cwd });
  await runOk('qemu-io', ['-f', 'qcow2', '-c', FIRST, 'a'], { cwd });
  await runOk('qemu-img', ['bitmap', '--add', 'a', 'b'], { cwd });
  made = readFileSync(join(cwd, 'a'));
  return made;
}

/** Whether the write was prevented, what was said about it, and what the header says then. */
async function outcome(
  tool: string,
  cwd: string,
  options: string,
  write: string,
): Promise<unknown> {
  copyFileSync(join(cwd, 'crafted'), join(cwd, 'x'));
  const target = `driver=qcow2,file.driver=file,file.filename=x,${options}`;
  const { status, stdout, stderr } = await run(tool, ['--image-opts', '-c', write, target], {
    cwd,
  });
  const header = Buffer.alloc(80);
  const fd = openSync(join(cwd, 'x'), 'r');
  readSync(fd, header);
  closeSync(fd);
  // Without a check the image is destroyed, and what comes of that may differ.
  const marked = (stdout + stderr).split('\n').filter((line) => line.includes('as corrupt'));
  if (marked.length === 0) return 'not prevented';
  return {
    status,
    marked,
    failed: stdout.includes('write failed'),
    header: header.toString('hex'),
  };
}

requiresQemu10('qemu-img', 'qemu-io')('overlap checks as in QEMU', () => {
  it.each(cases)('$name, $flag', { timeout: 60_000 }, async ({ flag, poke, write, always }) => {
    const bytes = Buffer.from(await image());
    const v = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const set = (at: number, value: bigint): void => v.setBigUint64(at, value);
    poke(set, places(v));
    const cwd = tempDir();
    writeFileSync(join(cwd, 'crafted'), bytes);
    const single = `overlap-check.template=none,overlap-check.${flag}=on`;
    const without = `overlap-check.template=all,overlap-check.${flag}=off`;
    const outcomes: unknown[] = [];
    for (const options of [...modes, single, without]) {
      const theirs = await outcome('qemu-io', cwd, options, write);
      const ours = await outcome(binPath('vdisk-io'), cwd, options, write);
      expect(ours, options).toEqual(theirs);
      outcomes.push(theirs);
    }
    expect(outcomes[4]).toMatchObject({ failed: true });
    if (always !== true) expect(outcomes[0]).toBe('not prevented');
  });
});
