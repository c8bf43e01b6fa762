// Goal: QEMU and vdisk go on with each other's images, whatever was done to them before.
// Method: a random course of steps on images of each kind: writes, zeroes, discards, compressed
// clusters, snapshots, resizes, amendments, bitmaps, rebase, commit, repairs. Each step is done by
// QEMU's tools and by vdisk's on two copies of what one of the two left; messages, content, map,
// facts and `check` of both results have to agree, and one of them, by lot, is the next image.
// VDISK_RELAY=n sets the number of steps, VDISK_SEED repeats a course.
import { copyFileSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import type { Random } from '../support/index.js';
import { binPath, requiresQemu10, run, runOk, seededRandom, tempDir } from '../support/index.js';

const KiB = 1024;
const steps = Number(process.env['VDISK_RELAY'] ?? 6);

interface Shape {
  readonly name: string;
  readonly create: string;
  readonly cluster: number;
  readonly size: number;
  readonly backing?: number;
  readonly encrypt?: boolean;
}

const k4 = { cluster: 4 * KiB, size: 384 * KiB };
const shapes: readonly Shape[] = [
  { name: 'default', create: '', cluster: 64 * KiB, size: 3072 * KiB },
  { name: '512-byte clusters', create: 'cluster_size=512', cluster: 512, size: 200 * KiB },
  { name: '2M clusters', create: 'cluster_size=2M', cluster: 2048 * KiB, size: 9000 * KiB },
  { ...k4, name: 'version 2', create: 'cluster_size=4k,compat=0.10' },
  {
    ...k4,
    name: 'version 2 over a backing file',
    create: 'cluster_size=4k,compat=0.10',
    backing: 300 * KiB,
  },
  { ...k4, name: 'over a backing file', create: 'cluster_size=4k', backing: 384 * KiB },
  {
    name: 'extended L2 entries over a backing file',
    create: 'cluster_size=16k,extended_l2=on',
    cluster: 16 * KiB,
    size: 1024 * KiB,
    backing: 700 * KiB,
  },
  {
    name: 'extended L2 entries',
    create: 'extended_l2=on,lazy_refcounts=on',
    cluster: 64 * KiB,
    size: 3072 * KiB,
  },
  { ...k4, name: 'lazy refcounts', create: 'cluster_size=4k,lazy_refcounts=on' },
  { ...k4, name: '1-bit refcounts', create: 'cluster_size=4k,refcount_bits=1' },
  { ...k4, name: '64-bit refcounts', create: 'cluster_size=4k,refcount_bits=64' },
  { ...k4, name: 'zstd', create: 'cluster_size=4k,compression_type=zstd' },
  { ...k4, name: 'data file', create: 'cluster_size=4k,data_file=x.data' },
  {
    ...k4,
    name: 'raw data file',
    create: 'cluster_size=4k,data_file=x.data,data_file_raw=on',
  },
  { ...k4, name: 'preallocated', create: 'cluster_size=4k,preallocation=metadata' },
  {
    ...k4,
    name: 'LUKS',
    create: 'cluster_size=4k,encrypt.format=luks,encrypt.key-secret=s0,encrypt.iter-time=10',
    encrypt: true,
  },
  {
    ...k4,
    name: 'legacy AES',
    create: 'cluster_size=4k,encrypt.format=aes,encrypt.key-secret=s0',
    encrypt: true,
  },
];

const secrets = ['s0', 's1'].flatMap((id) => ['--object', `secret,id=${id},data=password-${id}`]);

interface Side {
  readonly img: string;
  readonly io: string;
  readonly cwd: string;
}

/** A command of a step: which tool, and its arguments. */
interface Step {
  readonly tool: 'img' | 'io';
  readonly args: readonly string[];
}

const IMAGE = 'x.qcow2';

class Relay {
  readonly #shape: Shape;
  readonly #random: Random;
  readonly #theirs: Side = { img: 'qemu-img', io: 'qemu-io', cwd: tempDir() };
  readonly #ours: Side = {
    img: binPath('vdisk-img'),
    io: binPath('vdisk-io'),
    cwd: tempDir(),
  };
  readonly #history: string[] = [];
  #named = 0;

  constructor(shape: Shape, random: Random) {
    this.#shape = shape;
    this.#random = random;
  }

  /** Where the image is: options, for only they name its secret. */
  get #where(): string[] {
    if (this.#shape.encrypt !== true) return ['-f', 'qcow2', IMAGE];
    const image = `driver=qcow2,encrypt.key-secret=s0,file.driver=file,file.filename=${IMAGE}`;
    return [...secrets, '--image-opts', image];
  }

  async start(): Promise<void> {
    const { create, size, backing } = this.#shape;
    const { cwd } = this.#theirs;
    const options = create === '' ? [] : ['-o', create];
    if (backing !== undefined) {
      await runOk('qemu-img', ['create', '-q', '-f', 'raw', 'base', String(backing)], { cwd });
      await runOk('qemu-io', ['-f', 'raw', '-c', `write -P 9 0 ${backing}`, 'base'], { cwd });
      options.push('-b', 'base', '-F', 'raw');
    }
    const args = ['create', '-q', '-f', 'qcow2', ...secrets, ...options, IMAGE, String(size)];
    const side = this.#random.pick([this.#theirs, this.#ours]);
    await runOk(side.img, backing === undefined ? args : args.slice(0, -1), { cwd });
    this.#copy(this.#theirs, this.#ours);
  }

  /** One step by both sides. */
  async step(): Promise<void> {
    const step = await this.#choose();
    this.#history.push(`${step.tool} ${step.args.join(' ')}`);
    const args = [...step.args];
    const at = args.indexOf('@');
    if (at >= 0) args.splice(at, 1, ...this.#where);
    const tool = (side: Side) => run(side[step.tool], args, { cwd: side.cwd });
    const [theirs, ours] = await Promise.all([tool(this.#theirs), tool(this.#ours)]);
    const text = (r: { stdout: string; stderr: string }): string =>
      (r.stdout + r.stderr)
        .replaceAll('vdisk-i', 'qemu-i')
        .replaceAll(/^.* ops; .*\n/gm, '')
        .replaceAll(/#block\d+/g, '#block');
    const what = this.#history.join('\n');
    expect(ours.status, what).toBe(theirs.status);
    expect(text(ours), what).toBe(text(theirs));
    await this.compare(what);
    if (this.#random.chance()) this.#copy(this.#theirs, this.#ours);
    else this.#copy(this.#ours, this.#theirs);
  }

  /** Both results are the same image, as either side reads it, and without fault. */
  async compare(what: string): Promise<void> {
    const [a, b] = [this.#theirs, this.#ours];
    await this.#check('qemu-img', b.cwd, what);
    await this.#check(this.#ours.img, a.cwd, what);
    const expected = await this.#content('qemu-img', a.cwd);
    const same = async (tool: string, cwd: string): Promise<void> => {
      const got = await this.#content(tool, cwd);
      if (Buffer.compare(got, expected) !== 0)
        throw new Error(`${tool} reads other data:\n${what}`);
    };
    await same('qemu-img', b.cwd);
    await same(this.#ours.img, a.cwd);
    expect(await this.#facts(b.cwd), what).toEqual(await this.#facts(a.cwd));
    // Of a cluster that a snapshot shares QEMU copies subclusters, too, that are zero.
    if (this.#shape.create.includes('extended_l2')) return;
    expect(await this.#map(b.cwd), what).toEqual(await this.#map(a.cwd));
  }

  /** Each snapshot holds the same for both readers, in both results. */
  async compareSnapshots(): Promise<void> {
    const what = this.#history.join('\n');
    for (const name of await this.#names('snapshots')) {
      const load = ['-l', `snapshot.name=${name}`];
      const expected = await this.#content('qemu-img', this.#theirs.cwd, load);
      for (const tool of ['qemu-img', this.#ours.img]) {
        const got = await this.#content(tool, this.#ours.cwd, load);
        if (Buffer.compare(got, expected) !== 0) throw new Error(`snapshot ${name}:\n${what}`);
      }
    }
  }

  async #check(tool: string, cwd: string, what: string): Promise<void> {
    const r = await run(tool, ['check', ...this.#where], { cwd });
    // 63: the image has no check; 3: leaks, which a refused step may leave on both sides.
    if (r.status !== 0 && r.status !== 3)
      throw new Error(`${tool}: ${r.stdout}${r.stderr}\n${what}`);
  }

  async #content(tool: string, cwd: string, args: readonly string[] = []): Promise<Buffer> {
    const out = join(cwd, 'out.raw');
    await runOk(tool, ['convert', '-O', 'raw', ...args, ...this.#where, 'out.raw'], { cwd });
    return readFileSync(out);
  }

  async #info(cwd: string): Promise<Record<string, unknown>> {
    const args = ['info', '--output=json', ...this.#where];
    const { stdout } = await runOk('qemu-img', args, { cwd });
    return JSON.parse(stdout) as Record<string, unknown>;
  }

  async #facts(cwd: string): Promise<unknown> {
    const info = await this.#info(cwd);
    const snapshots = (info['snapshots'] ?? []) as Record<string, unknown>[];
    const named = snapshots.map((s) => [s['id'], s['name'], s['vm-state-size']]);
    const specific = JSON.stringify(info['format-specific'], (key, value: unknown) =>
      // Random or measured: key material, rounds, where it lies.
      ['master-key-iters', 'iters', 'uuid', 'key-offset', 'stripes'].includes(key) ? 0 : value,
    );
    const backing = [info['backing-filename'], info['backing-filename-format']];
    return [info['virtual-size'], info['dirty-flag'], specific, backing, named];
  }

  async #map(cwd: string): Promise<unknown> {
    const { stdout } = await runOk('qemu-img', ['map', '--output=json', ...this.#where], { cwd });
    const pieces = JSON.parse(stdout) as Record<string, unknown>[];
    // Where the file has holes is the matter of who wrote it, and what is written in full.
    const lines = pieces.map((p) => {
      const zero = p['data'] === true ? undefined : p['zero'];
      // The same goes for the raw backing file.
      const own = p['depth'] === 0 ? [p['data'], zero] : [];
      const kind = [p['depth'], p['present'], ...own, p['compressed']].join();
      return { start: p['start'], kind: kind + (p['offset'] === undefined ? '' : ', placed') };
    });
    return lines.filter((line, i) => line.kind !== lines[i - 1]?.kind);
  }

  async #names(kind: 'snapshots' | 'bitmaps'): Promise<string[]> {
    const info = await this.#info(this.#theirs.cwd);
    const specific = info['format-specific'] as { data: Record<string, unknown> };
    const list = kind === 'snapshots' ? info['snapshots'] : specific.data['bitmaps'];
    return ((list ?? []) as { name: string }[]).map((each) => each.name);
  }

  #copy(from: Side, to: Side): void {
    for (const name of readdirSync(from.cwd)) {
      if (name !== 'out.raw') copyFileSync(join(from.cwd, name), join(to.cwd, name));
    }
  }

  async #choose(): Promise<Step> {
    const random = this.#random;
    const kinds = ['io', 'io', 'io', 'snapshot', 'resize', 'amend', 'bitmap', 'other'] as const;
    switch (random.pick(kinds)) {
      case 'io':
        return this.#io();
      case 'snapshot':
        return this.#snapshot();
      case 'resize':
        return this.#resize();
      case 'amend':
        return { tool: 'img', args: ['amend', '-o', await this.#amendment(), '@'] };
      case 'bitmap':
        return this.#bitmap();
      case 'other':
        return { tool: 'img', args: await this.#other() };
    }
  }

  #io(): Step {
    const { cluster, size } = this.#shape;
    const random = this.#random;
    const lines: string[] = [];
    for (let i = random.int(1, 5); i > 0; i--) {
      const at = 512 * random.int(0, size / 1024);
      const whole = at - (at % cluster);
      const n = random.int(1, 3);
      const value = random.int(1, 255);
      const kind = random.pick(['write', 'write', 'zero', 'discard', 'compress', 'odd']);
      if (kind === 'write') lines.push(`write -P ${value} ${at} ${random.int(1, 40) * 512}`);
      if (kind === 'odd') lines.push(`write -P ${value} ${at + 100} ${random.int(1, 3000)}`);
      if (kind === 'zero') {
        const flag = random.pick(['-z', '-zu']);
        lines.push(`write ${flag} ${random.chance() ? whole : at} ${n * cluster}`);
      }
      if (kind === 'discard') lines.push(`discard ${whole} ${n * cluster}`);
      // Given up first: QEMU stores compressed data over nothing but what a snapshot shares.
      if (kind === 'compress' && this.#canCompress) {
        lines.push(`discard ${whole} ${cluster}`, `write -c -P ${value} ${whole} ${cluster}`);
      }
    }
    lines.push('flush');
    return { tool: 'io', args: [...lines.flatMap((l) => ['-c', l]), '-d', 'unmap', '@'] };
  }

  get #canCompress(): boolean {
    const { create, backing } = this.#shape;
    return !(create.includes('0.10') && backing !== undefined) && !create.includes('aes');
  }

  async #snapshot(): Promise<Step> {
    const random = this.#random;
    const names = await this.#names('snapshots');
    const kind = names.length === 0 ? '-c' : random.pick(['-c', '-a', '-d']);
    const name = kind === '-c' ? `snap${this.#named++}` : random.pick(names);
    return { tool: 'img', args: ['snapshot', kind, name, '@'] };
  }

  #resize(): Step {
    const random = this.#random;
    const size = 512 * random.int(this.#shape.size / 1024, this.#shape.size / 400);
    // What QEMU preallocates in an encrypted image decrypts to anything, and where clusters were
    // given up before, it shows what they held, or refuses (qcow2-preallocation.test.ts goes on).
    const isNew = this.#shape.encrypt !== true && this.#history.length === 0;
    const modes = isNew ? ['metadata', 'falloc', 'full'] : [];
    const mode = random.pick(['off', ...modes]);
    const how = random.chance() ? ['--shrink'] : [`--preallocation=${mode}`];
    return { tool: 'img', args: ['resize', ...how, '@', String(size)] };
  }

  async #amendment(): Promise<string> {
    // What the step to version 2 makes of bitmaps is said by vdisk and not by QEMU.
    const old = (await this.#names('bitmaps')).length === 0 ? ['compat=0.10'] : [];
    const size = 512 * this.#random.int(this.#shape.size / 1024, this.#shape.size / 400);
    return this.#random.pick([
      ...old,
      'compat=1.1',
      `refcount_bits=${this.#random.pick([1, 2, 4, 8, 16, 32, 64])}`,
      'lazy_refcounts=on',
      'lazy_refcounts=off',
      `size=${size}`,
      'data_file_raw=off',
      'data_file_raw=on',
      'compat=1.1,lazy_refcounts=on,refcount_bits=32',
      'encrypt.state=active,encrypt.new-secret=s1,encrypt.iter-time=10',
      'encrypt.state=inactive,encrypt.old-secret=s1',
      'encrypt.state=active,encrypt.new-secret=s1,encrypt.keyslot=5,encrypt.iter-time=10',
    ]);
  }

  async #bitmap(): Promise<Step> {
    const random = this.#random;
    const names = await this.#names('bitmaps');
    const kinds = ['--remove', '--clear', '--enable', '--disable', '--merge'] as const;
    const kind = names.length === 0 ? '--add' : random.pick(['--add', ...kinds]);
    const words =
      kind === '--add'
        ? ['--add', '-g', String(2 ** random.int(9, 17)), ...(random.chance() ? ['--disable'] : [])]
        : kind === '--merge'
          ? ['--merge', random.pick(names)]
          : [kind];
    const name = kind === '--add' ? `bits${this.#named++}` : random.pick(names);
    return { tool: 'img', args: ['bitmap', ...words, '@', name] };
  }

  async #other(): Promise<readonly string[]> {
    const hasBase = this.#shape.backing !== undefined;
    const steps: (readonly string[])[] = [['rebase', '-u', '-b', '', '@']];
    const [snapshots, bitmaps] = [await this.#names('snapshots'), await this.#names('bitmaps')];
    // QEMU 10 forgets the snapshots of an image with bitmaps when it repairs it.
    if (snapshots.length === 0 || bitmaps.length === 0) {
      steps.push(['check', '-r', 'all', '@'], ['check', '-r', 'leaks', '@']);
    }
    if (hasBase) {
      steps.push(['rebase', '-u', '-b', 'base', '-F', 'raw', '@'], ['commit', '@']);
      steps.push(['rebase', '-b', '', '@'], ['commit', '-d', '@']);
    }
    return this.#random.pick(steps);
  }
}

requiresQemu10('qemu-img', 'qemu-io')('images go from hand to hand', () => {
  it.each(shapes)('$name', { timeout: 3_600_000 }, async (shape) => {
    const relay = new Relay(shape, seededRandom());
    await relay.start();
    for (let i = 0; i < steps; i++) await relay.step();
    await relay.compareSnapshots();
  });
});
