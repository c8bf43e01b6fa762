// Goal: persistent bitmaps hold what was written, through any number of opens; one that may miss a
// write is never taken for valid; crafted directories and tables are refused in bounded time.
// Method: random writes against a set of touched granules; power cuts at random file operations on
// simulated disks (seeds printed), injected errors at each write; images changed byte by byte.
import { describe, expect, it } from 'vitest';
import { DirtyBitmap } from '../../../src/block/dirty-bitmap.js';
import { Perm } from '../../../src/block/types.js';
import { Qcow2Instance } from '../../../src/format/qcow2/instance.js';
import { BitmapFlag } from '../../../src/format/qcow2/bitmap-directory.js';
import { reopenNode } from '../../../src/block/reopen.js';
import type { Backend } from '../../../src/index.js';
import type { Random } from '../../support/index.js';
import { failure, failureCode, seededRandom } from '../../support/index.js';
import type { Shape, TestImage } from './support.js';
import { check, Iov, imagePath, makeImage, openImage, randomRange } from './support.js';

const KiB = 1024;
const MiB = 1024 * KiB;
const plain: Shape = { name: '64k', create: '', size: 3 * MiB, clusterSize: 64 * KiB };

async function addBitmap(backend: Backend, name: string, granularity: number): Promise<void> {
  const { node } = backend;
  await node.instance.bitmaps?.canStore(name, granularity);
  const init = { name, granularity, bytes: node.size, enabled: true, persistent: true };
  node.dirtyBitmaps.set(name, new DirtyBitmap(init));
}

async function using<T>(image: TestImage, work: (b: Backend) => Promise<T>): Promise<T> {
  const { backend, graph } = await openImage(image);
  try {
    return await work(backend);
  } finally {
    await backend.close();
    await graph.close();
  }
}

function bitsOf(backend: Backend, name: string): boolean[] {
  const bitmap = backend.node.dirtyBitmaps.get(name);
  if (bitmap === undefined) throw new Error(`no bitmap ${name}`);
  const n = Math.ceil(bitmap.length / bitmap.granularity);
  return Array.from({ length: n }, (_, i) => bitmap.has(i * bitmap.granularity));
}

describe('DirtyBitmap', () => {
  it('sets, clears, counts and finds like a plain array of bits', () => {
    const random = seededRandom();
    for (let round = 0; round < 50; round++) {
      const granularity = random.pick([512, 4096]);
      const length = random.int(1, 200) * 512;
      const init = { name: 'b', granularity, bytes: length, enabled: true, persistent: false };
      const bitmap = new DirtyBitmap(init);
      const model = new Array<boolean>(Math.ceil(length / granularity)).fill(false);
      for (let i = 0; i < 40; i++) {
        const offset = random.int(0, length - 1);
        const bytes = random.int(1, length - offset);
        const on = random.chance();
        if (on) bitmap.set(offset, bytes);
        else bitmap.clear(offset, bytes);
        const end = Math.ceil((offset + bytes) / granularity);
        model.fill(on, Math.floor(offset / granularity), end);
        const dirty = model.filter(Boolean).length;
        expect(bitmap.dirtyBytes).toBe(dirty * granularity);
        const from = random.int(0, model.length - 1);
        const next = model.indexOf(on, from);
        const want = next < 0 ? undefined : next * granularity;
        expect(bitmap.next(from * granularity, on)).toBe(want);
      }
      const copy = new DirtyBitmap(init);
      copy.load(bitmap.raw().slice());
      expect(copy.dirtyBytes).toBe(bitmap.dirtyBytes);
      expect(copy.raw()).toEqual(bitmap.raw());
    }
  });

  it('drops bits past its end when it loads', () => {
    const init = { name: 'b', granularity: 512, bytes: 512 * 11, enabled: true, persistent: true };
    const bitmap = new DirtyBitmap(init);
    bitmap.load(new Uint8Array([0xff, 0xff, 0xff]));
    expect(bitmap.dirtyBytes).toBe(512 * 11);
  });
});

const shapes: readonly Shape[] = [
  plain,
  { name: '512', create: 'cluster_size=512', size: 600 * KiB, clusterSize: 512 },
  {
    name: 'external data file',
    create: 'cluster_size=4k,data_file=/data',
    size: 512 * KiB,
    clusterSize: 4 * KiB,
    dataFile: true,
  },
  {
    name: 'lazy refcounts',
    create: 'cluster_size=4k,lazy_refcounts=on',
    size: 512 * KiB,
    clusterSize: 4 * KiB,
  },
];

describe('bitmaps in the image', () => {
  it('of an empty disk are lost by name, and the image is as good as before', async () => {
    const image = await makeImage(plain, seededRandom());
    await using(image, async (backend) => {
      await addBitmap(backend, 'kept', 64 * KiB);
      await backend.write(0, Iov.of(new Uint8Array(64 * KiB).fill(1)));
    });
    const { backend, graph, warnings } = await openImage(image);
    await backend.truncate(0);
    await addBitmap(backend, 'new', 64 * KiB);
    await backend.close();
    await graph.close();
    expect(warnings.join()).toMatch(/Lost persistent bitmaps.*empty disk cannot be stored/s);
    await using(image, async (again) => {
      // What was stored misses the change of size: it is there to be removed.
      expect([...again.node.dirtyBitmaps.keys()]).toEqual(['kept']);
      expect(again.node.dirtyBitmaps.get('kept')?.inconsistent).toBe(true);
      await again.node.instance.bitmaps?.remove('kept');
      again.node.dirtyBitmaps.delete('kept');
      await again.truncate(MiB);
      await addBitmap(again, 'later', 64 * KiB);
    });
    await using(image, async (last) => {
      expect([...last.node.dirtyBitmaps.keys()]).toEqual(['later']);
      expect(await check(last)).toMatchObject({ corruptions: 0, leaks: 0 });
    });
  });

  it.each(shapes)('keep what was written over many opens: $name', async (shape) => {
    const random = seededRandom();
    const image = await makeImage(shape, random);
    let size = shape.size;
    const granularities = { fine: 512, coarse: 16 * KiB } as const;
    const models = new Map<string, boolean[]>();
    await using(image, async (backend) => {
      for (const [name, g] of Object.entries(granularities)) {
        await addBitmap(backend, name, g);
        models.set(name, new Array<boolean>(Math.ceil(size / g)).fill(false));
      }
    });
    for (let open = 0; open < 8; open++) {
      await using(image, async (backend) => {
        for (const [name, model] of models) expect(bitsOf(backend, name)).toEqual(model);
        if (open === 4) {
          size += 100 * KiB;
          await backend.truncate(size);
        } else if (open === 6) {
          size -= 200 * KiB;
          await backend.truncate(size);
        }
        for (const [name, g] of Object.entries(granularities)) {
          const model = models.get(name) ?? [];
          const bits = Math.ceil(size / g);
          while (model.length < bits) model.push(false);
          model.length = bits;
        }
        for (let i = 0; i < 12; i++) {
          const [offset, bytes] = randomRange(random, size, shape.clusterSize);
          const zero = random.chance(0.3);
          if (zero) await backend.writeZeroes(offset, bytes);
          else await backend.write(offset, Iov.of(random.bytes(bytes)));
          for (const [name, g] of Object.entries(granularities)) {
            const model = models.get(name) ?? [];
            model.fill(true, Math.floor(offset / g), Math.ceil((offset + bytes) / g));
          }
        }
        expect(await check(backend)).toMatchObject({ corruptions: 0, leaks: 0 });
      });
    }
    await using(image, async (backend) => {
      expect(await check(backend)).toMatchObject({ corruptions: 0, leaks: 0 });
      await backend.node.instance.bitmaps?.remove('fine');
      backend.node.dirtyBitmaps.delete('fine');
      expect(await check(backend)).toMatchObject({ corruptions: 0, leaks: 0 });
    });
    await using(image, async (backend) => {
      expect([...backend.node.dirtyBitmaps.keys()]).toEqual(['coarse']);
    });
  });

  it('is in use on disk while the image is open for writing, else inconsistent', async () => {
    const image = await makeImage(plain, seededRandom());
    await using(image, (backend) => addBitmap(backend, 'b', 64 * KiB));
    const open = await openImage(image);
    const copy = { ...image, files: image.files.afterPowerCut(undefined, 'all') };
    await open.backend.close();
    await open.graph.close();
    const lost = await openImage(copy);
    const bitmap = lost.backend.node.dirtyBitmaps.get('b');
    expect([bitmap?.inconsistent, bitmap?.enabled]).toEqual([true, false]);
    await lost.backend.write(0, Iov.of(new Uint8Array(512).fill(1)));
    await lost.backend.close();
    await lost.graph.close();
    await using(copy, (backend) => {
      expect(backend.node.dirtyBitmaps.get('b')?.inconsistent).toBe(true);
      return Promise.resolve();
    });
    await using(image, (backend) => {
      expect(backend.node.dirtyBitmaps.get('b')?.inconsistent).toBe(false);
      return Promise.resolve();
    });
  });

  it('that cannot be marked in use keep an image from becoming writable', async () => {
    const image = await makeImage(plain, seededRandom());
    await using(image, (backend) => addBitmap(backend, 'b', 64 * KiB));
    for (const op of ['write', 'flush'] as const) {
      const { backend, graph, warnings } = await openImage(image, {}, { writable: false });
      image.files.inject({ op, code: 'EIO', times: 1 });
      await reopenNode(backend.node, { options: { 'read-only': false } });
      expect(warnings).toEqual([
        "Failed to make dirty bitmaps writable: Can't update bitmap directory: Input/output error",
      ]);
      await backend.setPerms({ perm: Perm.consistentRead | Perm.write, shared: Perm.all });
      const data = Iov.of(new Uint8Array(512).fill(1));
      expect(await failureCode(backend.write(0, data))).toBe('ENOMEDIUM');
      const { instance } = backend.node;
      if (!(instance instanceof Qcow2Instance)) throw new Error('not a qcow2 node');
      const [entry] = instance.image.bitmapEntries;
      // Not believed to be marked: an attempt to write it again would write it.
      expect(entry!.flags & BitmapFlag.inUse).toBe(0);
      await backend.close();
      await graph.close();
      // Nothing was written but, at most, the flag.
      const after = await openImage(image, {}, { writable: false });
      const inconsistent = after.backend.node.dirtyBitmaps.get('b')?.inconsistent;
      expect(inconsistent).toBe(op === 'flush');
      await after.backend.close();
      await after.graph.close();
    }
  });

  it('a failed write is dirty', async () => {
    const image = await makeImage(plain, seededRandom());
    await using(image, (backend) => addBitmap(backend, 'b', 64 * KiB));
    const { backend, graph } = await openImage(image);
    image.files.inject({ op: 'write', code: 'EIO', times: 2 });
    await failure(backend.write(MiB, Iov.of(new Uint8Array(100).fill(1))));
    expect(bitsOf(backend, 'b').indexOf(true)).toBe(16);
    await backend.close();
    await graph.close();
  });
});

/** Bitmap of a disk of which `before` is the content when it began: what differs must be dirty. */
async function cutOnce(shape: Shape, random: Random): Promise<'valid' | 'lost' | 'gone'> {
  const image = await makeImage(shape, random);
  for (const path of [...image.files.disks.keys()]) {
    image.files.put(path, image.files.bytesOf(path));
  }
  const before = new Uint8Array(shape.size);
  const granularity = random.pick([512, 4 * KiB, 64 * KiB]);
  image.files.cutAfter(random.int(1, 220));
  try {
    for (let open = 0; open < 4 && !image.files.isOff; open++) {
      const { backend, graph } = await openImage(image);
      if (open === 0) await addBitmap(backend, 'b', granularity);
      if (open === 2 && random.chance(0.3)) await addBitmap(backend, 'other', 512);
      const busy: Promise<unknown>[] = [];
      for (let i = 0; i < 8; i++) {
        const [offset, bytes] = randomRange(random, shape.size, shape.clusterSize);
        const write = backend.write(offset, Iov.of(random.bytes(bytes)));
        busy.push(write.catch(() => undefined));
        if (random.chance()) await Promise.all(busy);
      }
      await Promise.all(busy);
      if (random.chance(0.2)) await backend.flush();
      await backend.detach();
      await graph.close();
    }
  } catch {
    // The power is off.
  }
  image.files.cutAfter(0);
  const after: TestImage = { ...image, files: image.files.afterPowerCut(random) };
  const { backend, graph } = await openImage(after);
  const found = await check(backend);
  if (found.corruptions > 0) throw new Error(`corrupt:\n${found.lines.slice(0, 8).join('\n')}`);
  const actual = new Uint8Array(shape.size);
  await backend.read(0, Iov.of(actual));
  const bitmap = backend.node.dirtyBitmaps.get('b');
  const state = bitmap === undefined ? 'gone' : bitmap.inconsistent ? 'lost' : 'valid';
  if (bitmap !== undefined && !bitmap.inconsistent) {
    for (let at = 0; at < shape.size; at++) {
      if (actual[at] !== before[at] && !bitmap.has(at)) {
        throw new Error(`byte ${at} was written, and a bitmap that counts as valid misses it`);
      }
    }
  }
  await backend.detach();
  await graph.close();
  return state;
}

const cuts = Number(process.env['VDISK_CUTS'] ?? 60);

describe('power cuts', () => {
  it.each(shapes)('never leave a valid bitmap that misses a write: $name', async (shape) => {
    const random = seededRandom();
    const seen = { valid: 0, lost: 0, gone: 0 };
    for (let i = 0; i < cuts; i++) {
      seen[await cutOnce({ ...shape, reorder: random.chance() }, random)]++;
    }
    // The test means something only if all of it happens.
    expect(seen.lost).toBeGreaterThan(0);
    expect(seen.valid + seen.gone).toBeGreaterThan(0);
  });
});

describe('crafted bitmaps', () => {
  const twice = 2 ** 32;

  async function crafted(change: (view: DataView, at: Places) => void): Promise<string> {
    const image = await makeImage(plain, seededRandom());
    await using(image, async (backend) => {
      await addBitmap(backend, 'b', 64 * KiB);
      await backend.write(0, Iov.of(new Uint8Array(512).fill(1)));
      await backend.flush();
    });
    const bytes = image.files.bytesOf(imagePath);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    change(view, places(view));
    image.files.put(imagePath, bytes);
    const start = performance.now();
    const text = await failure(openImage(image));
    expect(performance.now() - start).toBeLessThan(5000);
    return text;
  }

  interface Places {
    readonly extension: number;
    readonly directory: number;
    readonly table: number;
  }

  function places(view: DataView): Places {
    let at = view.getUint32(100);
    while (view.getUint32(at) !== 0x23852875) at += 8 + Math.ceil(view.getUint32(at + 4) / 8) * 8;
    const directory = Number(view.getBigUint64(at + 24));
    return { extension: at, directory, table: Number(view.getBigUint64(directory)) };
  }

  const limits = "Bitmap 'b' doesn't satisfy the constraints";
  const cases: [string, (view: DataView, at: Places) => void, string][] = [
    ['no bitmaps', (v, p) => v.setUint32(p.extension + 8, 0), 'extension with zero bitmaps'],
    ['too many', (v, p) => v.setUint32(p.extension + 8, 70000), 'exceeding the QEMU supported'],
    ['reserved', (v, p) => v.setUint32(p.extension + 12, 1), 'Reserved field is not zero'],
    ['huge directory', (v, p) => v.setUint32(p.extension + 16, 1), 'exceeds the maximum'],
    ['empty directory', (v, p) => v.setUint32(p.extension + 20, 0), 'size is zero'],
    ['unaligned', (v, p) => v.setUint32(p.extension + 28, 777), 'invalid bitmap directory offset'],
    ['far away', (v, p) => v.setUint32(p.extension + 24, 0xff), "doesn't satisfy"],
    ['one missing', (v, p) => v.setUint32(p.extension + 8, 2), 'Less bitmaps found'],
    ['table unaligned', (v, p) => v.setUint32(p.directory + 4, 513), limits],
    ['table offset 0', (v, p) => v.setBigUint64(p.directory, 0n), limits],
    ['table of no entries', (v, p) => v.setUint32(p.directory + 8, 0), limits],
    ['huge table', (v, p) => v.setUint32(p.directory + 8, twice - 1), limits],
    ['table too long', (v, p) => v.setUint32(p.directory + 8, 100), "Could not read bitmap 'b'"],
    ['unknown flags', (v, p) => v.setUint32(p.directory + 12, 64), limits],
    ['unknown type', (v, p) => v.setUint8(p.directory + 16, 9), limits],
    ['granularity 2^8', (v, p) => v.setUint8(p.directory + 17, 8), limits],
    ['granularity 2^63', (v, p) => v.setUint8(p.directory + 17, 63), limits],
    ['long name', (v, p) => v.setUint16(p.directory + 18, 60000), 'Broken bitmap directory'],
    ['no name', (v, p) => v.setUint16(p.directory + 18, 0), 'satisfy the constraints'],
    ['huge extra data', (v, p) => v.setUint32(p.directory + 20, twice - 8), 'Broken bitmap'],
    ['entry reserved', (v, p) => v.setUint32(p.table + 4, 0x30002), 'bitmap_table table'],
    ['entry unaligned', (v, p) => v.setUint32(p.table + 4, 0x30200), 'bitmap_table table'],
  ];

  it.each(cases)('%s', async (_, change, text) => {
    expect(await crafted(change)).toContain(text);
  });

  it('extra data: refused where it matters, kept where it does not', async () => {
    const image = await makeImage(plain, seededRandom());
    await using(image, (backend) => addBitmap(backend, 'b', 64 * KiB));
    const stored = image.files.bytesOf(imagePath);
    const bytes = new Uint8Array(stored.length + 64);
    bytes.set(stored);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const { extension, directory } = places(view);
    view.setUint32(extension + 20, 40);
    view.setUint32(directory + 20, 8);
    const entry = Buffer.from('EXTRA!!!b');
    bytes.set(entry, directory + 24);
    image.files.put(imagePath, bytes.slice());
    expect(await failure(openImage(image))).toBe('Bitmap extra data is not supported');
    view.setUint32(directory + 12, view.getUint32(directory + 12) | 4);
    image.files.put(imagePath, bytes.slice());
    await using(image, async (backend) => {
      await backend.write(0, Iov.of(new Uint8Array(10).fill(3)));
    });
    await using(image, (backend) => {
      expect(bitsOf(backend, 'b').indexOf(true)).toBe(0);
      return Promise.resolve();
    });
    const after = image.files.bytesOf(imagePath);
    const at = places(new DataView(after.buffer, after.byteOffset)).directory;
    expect(Buffer.from(after.subarray(at + 24, at + 33)).toString()).toBe('EXTRA!!!b');
  });

  it('many bitmaps that share one table cost no more memory than they may', async () => {
    const image = await makeImage({ ...plain, size: 64 * MiB }, seededRandom());
    await using(image, async (backend) => {
      for (let i = 0; i < 4; i++) await addBitmap(backend, `b${i}`, 512);
    });
    const bytes = image.files.bytesOf(imagePath);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const { extension, directory, table } = places(view);
    // 1100 entries of 8192 clusters each, all with the same table.
    const out = new Uint8Array(bytes.length + 2 * MiB);
    out.set(bytes);
    const next = new DataView(out.buffer);
    for (let i = 0; i < 2200; i++) {
      const at = directory + i * 32;
      if (at + 32 > out.length) throw new Error('no room');
      next.setBigUint64(at, BigInt(table));
      next.setUint32(at + 8, 8192);
      next.setUint32(at + 12, 2);
      next.setUint8(at + 16, 1);
      next.setUint8(at + 17, 9);
      next.setUint16(at + 18, 4);
      next.setUint32(at + 20, 0);
      out.set(Buffer.from(String(1000 + i)), at + 24);
    }
    next.setUint32(extension + 8, 2200);
    next.setUint32(extension + 20, 2200 * 32);
    image.files.put(imagePath, out);
    expect(await failure(openImage(image))).toContain('Cannot load bitmaps: they take');
  });
});
