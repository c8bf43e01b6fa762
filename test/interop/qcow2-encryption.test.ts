// Goal: encrypted qcow2 images go both ways between vdisk and QEMU, whatever their cipher, cluster
// layout and backing chain, and errors read the same. Method: images made by one side are written
// by both in turns, with random ranges from a printed seed, and compared byte by byte with a model.
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { Random } from '../support/index.js';
import {
  binPath,
  failure,
  readBytes,
  requiresQemu10,
  run,
  runOk,
  same,
  seededRandom,
  tempDir,
  testGraph,
} from '../support/index.js';
import type { Backend, NodeOptions } from '../../src/index.js';
import { Iov } from '../../src/index.js';

const img = binPath('vdisk-img');
const MiB = 1024 * 1024;
const passwords: Readonly<Record<string, string>> = { s0: 'first pass', s1: 'zweites Wort' };
const objects = Object.entries(passwords).flatMap(([id, data]) => [
  '--object',
  `secret,id=${id},data=${data}`,
]);

function graph(): ReturnType<typeof testGraph> {
  return testGraph({
    secret: (id) => {
      const data = passwords[id];
      if (data === undefined) return Promise.reject(new Error(`No secret with id '${id}'`));
      return Promise.resolve(new TextEncoder().encode(data));
    },
  });
}

async function withBackend<T>(
  options: NodeOptions,
  work: (backend: Backend) => Promise<T>,
): Promise<T> {
  const g = graph();
  const backend = await g.openBackend({ options, flags: { writable: true, unmap: true } });
  try {
    return await work(backend);
  } finally {
    await backend.close();
    await g.close();
  }
}

/** Options of an image, as object for the library and as text for `--image-opts`. */
function image(path: string, secret: string, more = ''): { node: NodeOptions; text: string } {
  const file = { driver: 'file', filename: path };
  return {
    node: { driver: 'qcow2', file, encrypt: { 'key-secret': secret } },
    text: `driver=qcow2,file.filename=${path},encrypt.key-secret=${secret}${more}`,
  };
}

interface Write {
  readonly offset: number;
  readonly bytes: number;
  readonly value: number;
}

function randomWrites(random: Random, size: number, count: number): Write[] {
  return Array.from({ length: count }, () => {
    const offset = random.int(0, size - 1);
    const most = random.pick([700, 5000, 70_000, 300_000]);
    const bytes = Math.min(size - offset, random.int(1, most));
    return { offset, bytes, value: random.int(0, 255) };
  });
}

function apply(model: Uint8Array, writes: readonly Write[]): void {
  for (const w of writes) model.fill(w.value, w.offset, w.offset + w.bytes);
}

/** Many at once where they do not overlap: neighbours are merged, clusters shared. */
async function ours(backend: Backend, writes: readonly Write[], random: Random): Promise<void> {
  const running = new Map<Promise<void>, Write>();
  for (const w of writes) {
    const overlaps = (o: Write): boolean =>
      o.offset < w.offset + w.bytes && w.offset < o.offset + o.bytes;
    while ([...running.values()].some(overlaps)) await Promise.race(running.keys());
    const data = Iov.of(new Uint8Array(w.bytes).fill(w.value));
    const zero = w.value === 0 && random.chance();
    const request = zero ? backend.writeZeroes(w.offset, w.bytes) : backend.write(w.offset, data);
    const p: Promise<void> = request.finally(() => running.delete(p));
    running.set(p, w);
  }
  await Promise.all(running.keys());
}

async function theirs(text: string, writes: readonly Write[]): Promise<void> {
  const commands = writes.flatMap((w) => [
    '-c',
    w.value === 0
      ? `write -z ${String(w.offset)} ${String(w.bytes)}`
      : `write -P ${String(w.value)} ${String(w.offset)} ${String(w.bytes)}`,
  ]);
  const io = await runOk('qemu-io', [...objects, '--image-opts', text, ...commands]);
  expect(io.stderr).toBe('');
}

async function bothRead(path: string, at: ReturnType<typeof image>, model: Uint8Array) {
  await withBackend(at.node, async (backend) => {
    same(await readBytes(backend, 0, model.length), model, 'read by vdisk');
  });
  const raw = `${path}.raw`;
  await runOk('qemu-img', ['convert', ...objects, '--image-opts', at.text, '-O', 'raw', raw]);
  same(readFileSync(raw), model, 'read by QEMU');
  const check = await run('qemu-img', ['check', ...objects, '--image-opts', at.text]);
  expect(check.stdout).toContain('No errors were found on the image.');
}

const layouts = [
  'compat=1.1',
  'cluster_size=4k',
  'cluster_size=2M',
  'extended_l2=on,cluster_size=128k',
  'data_file=DIR/ext.data',
  'data_file=DIR/ext.data,data_file_raw=on',
  'compat=0.10',
  'lazy_refcounts=on,refcount_bits=1',
  'preallocation=metadata',
  'encrypt.format=aes',
  'encrypt.format=aes,compat=0.10',
];

const theirLayouts = new Set(['extended_l2=on,cluster_size=128k', 'encrypt.format=aes']);

requiresQemu10('qemu-img', 'qemu-io')('encrypted qcow2', () => {
  describe.each(layouts)('with %s', (layout) => {
    // QEMU takes seconds to measure how many rounds of key derivation it can do.
    const makers = ['vdisk-img', ...(theirLayouts.has(layout) ? ['qemu-img'] : [])];
    it.each(makers)('made by %s: both write in turns', async (maker) => {
      const random = seededRandom();
      const dir = tempDir();
      const path = join(dir, 'i.qcow2');
      const size = 5 * MiB + 512;
      const luks = layout.includes('encrypt.format') ? '' : 'encrypt.format=luks,';
      const time = luks === '' ? '' : 'encrypt.iter-time=10,';
      const o = `${luks}${time}encrypt.key-secret=s0,${layout.replace('DIR', dir)}`;
      const tool = maker === 'vdisk-img' ? img : maker;
      const create = ['create', '-q', ...objects, '-f', 'qcow2', '-o', o, path, String(size)];
      await runOk(tool, create);
      const at = image(path, 's0');
      const model = new Uint8Array(size);
      // What was preallocated decrypts to anything.
      if (layout === 'preallocation=metadata' || layout.includes('data_file_raw')) {
        await runOk('qemu-io', [...objects, '--image-opts', at.text, '-c', 'write -z 0 5243392']);
      }
      for (let round = 0; round < 2; round++) {
        const mine = randomWrites(random, size, 25);
        await withBackend(at.node, (backend) => ours(backend, mine, random));
        apply(model, mine);
        const others = randomWrites(random, size, 25);
        await theirs(at.text, others);
        apply(model, others);
      }
      await bothRead(path, at, model);
    });
  });

  it('a backing chain with a secret of its own per image, and commit', async () => {
    const random = seededRandom();
    const dir = tempDir();
    const size = 3 * MiB;
    const base = join(dir, 'base.qcow2');
    const top = join(dir, 'top.qcow2');
    const enc = (s: string): string =>
      `encrypt.format=luks,encrypt.key-secret=${s},encrypt.iter-time=10`;
    await runOk('qemu-img', [
      ...['create', '-q', ...objects, '-f', 'qcow2', '-o', enc('s0'), base, String(size)],
    ]);
    await runOk(img, [
      ...['create', '-q', ...objects, '-f', 'qcow2', '-o', enc('s1')],
      ...['-u', '-b', base, '-F', 'qcow2', top, String(size)],
    ]);
    const below = image(base, 's0');
    const under = `backing.file.filename=${base},backing.encrypt.key-secret=s0`;
    const text = `,backing.driver=qcow2,${under}`;
    const above = image(top, 's1', text);
    above.node['backing'] = below.node;
    const model = new Uint8Array(size);
    const first = randomWrites(random, size, 30);
    await withBackend(below.node, (backend) => ours(backend, first, random));
    apply(model, first);
    const second = randomWrites(random, size, 30);
    await withBackend(above.node, (backend) => ours(backend, second, random));
    apply(model, second);
    const third = randomWrites(random, size, 20);
    await theirs(above.text, third);
    apply(model, third);
    await bothRead(top, above, model);
    await runOk(img, ['commit', '-q', ...objects, '--image-opts', above.text]);
    await bothRead(base, below, model);
  });

  it('resize, snapshots and VM state', async () => {
    const random = seededRandom();
    const dir = tempDir();
    const path = join(dir, 'i.qcow2');
    const o = 'encrypt.format=luks,encrypt.key-secret=s0,encrypt.iter-time=10';
    await runOk(img, ['create', '-q', ...objects, '-f', 'qcow2', '-o', o, path, '3M']);
    const at = image(path, 's0');
    let model = new Uint8Array(3 * MiB);
    const writes = randomWrites(random, 3 * MiB, 20);
    await withBackend(at.node, (backend) => ours(backend, writes, random));
    apply(model, writes);
    await runOk(img, ['snapshot', ...objects, '-c', 'one', '--image-opts', at.text]);
    const before = model.slice();
    const later = randomWrites(random, 3 * MiB, 20);
    await withBackend(at.node, (backend) => ours(backend, later, random));
    apply(model, later);
    for (const mode of ['off', 'metadata', 'falloc', 'full']) {
      const grown = new Uint8Array(model.length + MiB);
      grown.set(model);
      model = grown;
      const to = String(grown.length);
      const how = [`--preallocation=${mode}`];
      await runOk(img, ['resize', '-q', ...objects, ...how, '--image-opts', at.text, to]);
    }
    await bothRead(path, at, model);
    const shrunk = model.subarray(0, 2 * MiB + 512 * 7);
    const to = String(shrunk.length);
    await runOk(img, ['resize', '-q', '--shrink', ...objects, '--image-opts', at.text, to]);
    await bothRead(path, at, shrunk);
    await runOk('qemu-img', ['snapshot', ...objects, '-a', 'one', '--image-opts', at.text]);
    await bothRead(path, at, before);
    const state = random.bytes(3000);
    await withBackend(at.node, async ({ node: { instance } }) => {
      await instance.writeVmState?.(100, Iov.of(state));
      const back = new Uint8Array(3000);
      await instance.readVmState?.(100, Iov.of(back));
      same(back, state, 'VM state');
    });
    await bothRead(path, at, before);
  });

  it('a host place that is used again for other guest data reads right', async () => {
    const random = seededRandom();
    const path = join(tempDir(), 'i.qcow2');
    const o = 'encrypt.format=luks,encrypt.key-secret=s0,encrypt.iter-time=10,cluster_size=4k';
    await runOk(img, ['create', '-q', ...objects, '-f', 'qcow2', '-o', o, path, '1M']);
    const at = image(path, 's0');
    const model = new Uint8Array(MiB);
    await withBackend(at.node, async (backend) => {
      for (let i = 0; i < 200; i++) {
        const offset = random.int(0, 250) * 4096;
        if (random.chance(0.3)) {
          await backend.discard(offset, 8192);
          model.fill(0, offset, offset + 8192);
          if (random.chance()) await backend.flush();
        } else {
          const from = offset + random.int(0, 6000);
          const data = random.bytes(random.int(1, 4000));
          await backend.write(from, Iov.of(data));
          model.set(data, from);
        }
      }
      same(await readBytes(backend, 0, MiB), model);
    });
    await bothRead(path, at, model);
  });

  it('convert from, to and between encrypted images; -c is refused', async () => {
    const random = seededRandom();
    const dir = tempDir();
    const raw = join(dir, 'd.raw');
    const data = random.bytes(4 * MiB);
    data.fill(0, MiB, 2 * MiB);
    writeFileSync(raw, data);
    const one = join(dir, 'one.qcow2');
    const two = join(dir, 'two.qcow2');
    const enc = (s: string, f = 'luks'): string => `encrypt.format=${f},encrypt.key-secret=${s}`;
    const o = `${enc('s0')},encrypt.iter-time=10`;
    await runOk(img, ['convert', ...objects, '-f', 'raw', raw, '-O', 'qcow2', '-o', o, one]);
    await bothRead(one, image(one, 's0'), data);
    const from = [...objects, '--image-opts', image(one, 's0').text];
    await runOk(img, ['convert', ...from, '-O', 'qcow2', '-o', enc('s1', 'aes'), two]);
    await bothRead(two, image(two, 's1'), data);
    const packed = ['convert', ...from, '-O', 'qcow2', '-c', '-o', o, two];
    const [a, b] = [await run(img, packed), await run('qemu-img', packed)];
    expect(a.stderr.replace('vdisk-img', 'qemu-img')).toBe(b.stderr);
    expect(a.status).toBe(b.status);
  });

  it('says what QEMU says', async () => {
    const dir = tempDir();
    const base = ['create', '-q', ...objects, '-f', 'qcow2'];
    const luks = 'encrypt.format=luks,encrypt.key-secret=s0';
    const make = (o: string): string[] => [...base, '-o', o, 'x.qcow2', '1M'];
    await runOk('qemu-img', make(`${luks},encrypt.iter-time=10`), { cwd: dir });
    await runOk(
      'qemu-img',
      [...base, '-o', 'encrypt.format=aes,encrypt.key-secret=s0', 'a', '1M'],
      {
        cwd: dir,
      },
    );
    await runOk('qemu-img', [...base, 'plain.qcow2', '1M'], { cwd: dir });
    const open = (text: string): string[] => ['check', ...objects, '--image-opts', text];
    const lines = [
      ['info', 'x.qcow2'],
      ['info', '--output=json', 'x.qcow2'],
      ['info', 'a'],
      ['info', '--object', 'secret,id=w,data=wrong', '--image-opts', image('x.qcow2', 'w').text],
      ['check', 'x.qcow2'],
      ['check', 'a'],
      ['convert', '-O', 'raw', 'x.qcow2', 'o.raw'],
      open('driver=qcow2,file.filename=x.qcow2,encrypt.key-secret=s1'),
      open('driver=qcow2,file.filename=x.qcow2,encrypt.key-secret=none'),
      open('driver=qcow2,file.filename=x.qcow2,encrypt.format=aes,encrypt.key-secret=s0'),
      open('driver=qcow2,file.filename=x.qcow2,encrypt.cipher=aes,encrypt.key-secret=s0'),
      open('driver=qcow2,file.filename=plain.qcow2,encrypt.format=luks,encrypt.key-secret=s0'),
      open('driver=qcow2,file.filename=plain.qcow2,encrypt.key-secret=s0'),
      make('encrypt.format=luks'),
      make('encrypt.format=luks,encrypt.key-secret=none'),
      make('encrypt.format=rot13'),
      make('encrypt.key-secret=s0'),
      make('encryption=on'),
      make('encryption=on,encrypt.format=aes'),
      make(`${luks},encrypt.cipher-alg=rot13`),
      make(`${luks},encrypt.cipher-alg=3des`),
      make(`${luks},encrypt.cipher-alg=des,encrypt.cipher-mode=cbc`),
      make(`${luks},encrypt.cipher-mode=gcm`),
      make(`${luks},encrypt.ivgen-alg=none`),
      make(`${luks},encrypt.hash-alg=crc`),
      make(`${luks},encrypt.ivgen-alg=essiv,encrypt.ivgen-hash-alg=sha1`),
      make(`${luks},encrypt.ivgen-alg=essiv,encrypt.ivgen-hash-alg=sha512`),
      make(`${luks},encrypt.iter-time=0`),
      ['measure', ...objects, '-O', 'qcow2', '-o', luks, '--size', '1G'],
      ['measure', ...objects, '-O', 'qcow2', '-o', `${luks},cluster_size=512`, '--size', '1M'],
      ['measure', '-O', 'qcow2', '-o', 'encrypt.format=luks', '--size', '1M'],
    ];
    for (const line of lines) {
      const mine = await run(img, line, { cwd: dir });
      const want = await run('qemu-img', line, { cwd: dir });
      const what = line.join(' ');
      const stderr = mine.stderr.replaceAll('vdisk-img', 'qemu-img');
      expect([what, stderr, mine.status]).toEqual([what, want.stderr, want.status]);
      if (!what.includes('json')) expect([what, mine.stdout]).toEqual([what, want.stdout]);
      else expect(JSON.parse(mine.stdout)).toEqual(JSON.parse(want.stdout));
    }
  });
});

/** Ciphers, modes, IV generators and hashes that QEMU's build here offers. */
const combos = [
  'cipher-alg=aes-128',
  'cipher-alg=aes-256,cipher-mode=cbc,ivgen-alg=essiv',
  'cipher-alg=aes-256,cipher-mode=xts,ivgen-alg=essiv,ivgen-hash-alg=sha256',
  'cipher-mode=ecb',
  'cipher-mode=ctr',
  'ivgen-alg=plain',
  'hash-alg=md5',
  'hash-alg=sha1',
  'hash-alg=sha224',
  'hash-alg=sha384',
  'hash-alg=sha512',
  'hash-alg=ripemd160',
  'hash-alg=sm3',
  'cipher-alg=serpent-128',
  'cipher-alg=serpent-192',
  'cipher-alg=serpent-256,cipher-mode=cbc,ivgen-alg=essiv',
  'cipher-alg=twofish-128,cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=md5',
  'cipher-alg=twofish-192',
  'cipher-alg=twofish-256',
  'cipher-alg=cast5-128,cipher-mode=cbc',
  'cipher-alg=cast5-128,cipher-mode=ctr,ivgen-alg=plain',
];

/** Of these, what QEMU makes too. */
const theirCombos = new Set([
  'cipher-mode=ctr',
  'cipher-alg=aes-256,cipher-mode=cbc,ivgen-alg=essiv',
  'cipher-alg=serpent-128',
  'cipher-alg=twofish-256',
  'cipher-alg=cast5-128,cipher-mode=cbc',
]);

requiresQemu10('qemu-img', 'qemu-io')('LUKS in qcow2, each cipher', () => {
  it.each(combos)('%s', async (combo) => {
    const random = seededRandom();
    const dir = tempDir();
    const model = new Uint8Array(MiB);
    const words = combo.split(',').map((word) => `encrypt.${word}`);
    const o = ['encrypt.format=luks,encrypt.key-secret=s0,encrypt.iter-time=10', ...words].join();
    for (const tool of theirCombos.has(combo) ? ['qemu-img', img] : [img]) {
      const path = join(dir, tool === img ? 'mine' : 'theirs');
      await runOk(tool, ['create', '-q', ...objects, '-f', 'qcow2', '-o', o, path, '1M']);
      const at = image(path, 's0');
      const [mine, others] = [randomWrites(random, MiB, 5), randomWrites(random, MiB, 5)];
      model.fill(0);
      await withBackend(at.node, (backend) => ours(backend, mine, random));
      await theirs(at.text, others);
      apply(model, mine);
      apply(model, others);
      await bothRead(path, at, model);
    }
  });
});

describe('a crafted encryption header', () => {
  it('never sends reads outside the clusters that the header names (E1)', async () => {
    const path = join(tempDir(), 'i.qcow2');
    const o = 'encrypt.format=luks,encrypt.key-secret=s0,encrypt.iter-time=10';
    await runOk(img, ['create', '-q', ...objects, '-f', 'qcow2', '-o', o, path, '1M']);
    const bytes = readFileSync(path);
    const at = bytes.indexOf(Buffer.from([0x05, 0x37, 0xbe, 0x77]));
    const header = Number(bytes.readBigUInt64BE(at + 8));
    const open = async (change: (copy: Buffer) => void): Promise<string> => {
      const copy = Buffer.from(bytes);
      change(copy);
      writeFileSync(path, copy);
      return failure(withBackend(image(path, 's0').node, () => Promise.resolve()));
    };
    const outside = 'Request for data outside of extension header';
    expect(await open((b) => b.writeBigUInt64BE(100n, at + 16))).toBe(outside);
    // The key material of slot 0 lies past the end of the extension.
    expect(await open((b) => b.writeBigUInt64BE(5000n, at + 16))).toBe(outside);
    expect(await open((b) => b.writeBigUInt64BE(0n, at + 16))).toBe(outside);
    expect(await open((b) => b.writeUInt32BE(9, header + 208 + 44))).toContain('stripes');
    expect(await open((b) => b.writeUInt32BE(1, header + 208))).toContain(
      'state (active/disable) is corrupted',
    );
    expect(await open((b) => b.writeUInt8(0, header))).toContain('not in LUKS format');
    expect(await open((b) => b.writeUInt32BE(3, at + 4))).toContain('CRYPTO header extension size');
  });
});

requiresQemu10('qemu-img')('amend of keys', () => {
  it('says and does what QEMU does', async () => {
    const dir = tempDir();
    const made = join(dir, 'e');
    const o = 'encrypt.format=luks,encrypt.key-secret=s0,encrypt.iter-time=10';
    await runOk(img, ['create', '-q', ...objects, '-f', 'qcow2', '-o', o, made, '1M']);
    const active = 'encrypt.state=active,encrypt.iter-time=10,encrypt.new-secret=';
    const asked = [
      ['encrypt.state=active'],
      [`${active}s1,encrypt.old-secret=s0`],
      ['encrypt.state=inactive'],
      ['encrypt.state=inactive,encrypt.new-secret=s1'],
      ['encrypt.state=inactive,encrypt.keyslot=0,encrypt.iter-time=10'],
      ['encrypt.state=inactive,encrypt.keyslot=0,encrypt.old-secret=s1'],
      ['encrypt.state=other'],
      ['encrypt.new-secret=s1'],
      [`${active}s1,encrypt.keyslot=9`],
      ['encrypt.state=inactive,encrypt.keyslot=9'],
      ['encrypt.state=inactive,encrypt.keyslot=3'],
      ['encrypt.state=inactive,encrypt.keyslot=0'],
      ['encrypt.state=inactive,encrypt.old-secret=s1'],
      ['encrypt.state=inactive,encrypt.old-secret=s0'],
      [`${active}none`],
      [`${active}s1,encrypt.keyslot=0`],
      [`${active}s1,encrypt.keyslot=2`],
      ['encrypt.state=inactive,encrypt.keyslot=2,encrypt.old-secret=s0'],
      ['encrypt.cipher-alg=aes-128'],
      ['encrypt.state=inactive,encrypt.keyslot=2,encrypt.old-secret=s1'],
      [`${active}s1,encrypt.keyslot=0`, '--force'],
    ];
    const ends: string[] = [];
    for (const tool of ['qemu-img', img]) {
      const path = join(dir, tool === img ? 'mine' : 'theirs');
      writeFileSync(path, readFileSync(made));
      const at = ['amend', ...objects, '--image-opts', image(path, 's0').text, '-o'];
      const said: string[] = [];
      for (const words of asked) {
        const r = await run(tool, [...at, ...words]);
        said.push(`${words.join(' ')}: ${r.stderr.replaceAll('vdisk-img', 'qemu-img')}`);
      }
      ends.push(said.join(''));
      // Only the new password opens it, for either side.
      for (const [secret, opens] of [
        ['s1', true],
        ['s0', false],
      ] as const) {
        const text = image(path, secret).text;
        for (const reader of ['qemu-img', img]) {
          const r = await run(reader, ['check', ...objects, '--image-opts', text]);
          expect([tool, reader, secret, r.status === 0]).toEqual([tool, reader, secret, opens]);
        }
      }
    }
    expect(ends[1]).toBe(ends[0]);
  });
});
