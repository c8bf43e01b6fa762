// Goal: an image that is its own parent, at once or by way of another one, is refused in one line
// after a few operations, in every format that has parents. Method: images in simulated files whose
// names of parents are changed byte by byte; VDI, which has no names, is in vdi/.
import { describe, expect, it } from 'vitest';
import { guidText } from '../../src/format/vhdx/guid.js';
import { FakeFiles, failure, Random } from '../support/index.js';
import { makeImage, openImage } from './made-image.js';
import { buildVhd, KiB, MiB, utf16 } from './vhd/support.js';
import { dataGuid, vhdxChild } from './vhd/vhdx-child.js';

const [first, second] = ['/m/a.img', '/m/b.img'] as const;

async function image(
  files: FakeFiles,
  format: string,
  name: string,
  parent?: string,
): Promise<void> {
  const over = parent === undefined ? {} : { backing: parent, backingFormat: format };
  await makeImage(files, { format, size: 4 * MiB, name, ...over });
}

/** Puts another name of the same length in place of the parent's. */
function rename(files: FakeFiles, path: string, from: string, to: string): void {
  const bytes = files.bytesOf(path).slice();
  const text = Buffer.from(bytes.buffer);
  const at = text.indexOf(from);
  expect(at).toBeGreaterThan(0);
  text.write(to, at);
  files.put(path, bytes);
}

/** The one line; `of` is what is opened. */
async function refused(files: FakeFiles, format: string): Promise<string> {
  const before = new Map(
    [...files.disks.keys()].map((name) => [name, files.bytesOf(name).slice()]),
  );
  files.counts.clear();
  const why = await failure(openImage(files, format, {}, {}, first));
  expect(why).not.toContain('\n');
  expect([...files.counts.values()].reduce((a, b) => a + b, 0)).toBeLessThan(200);
  for (const [name, bytes] of before) {
    expect(Buffer.compare(files.bytesOf(name), bytes), name).toBe(0);
  }
  return why;
}

const loop =
  /^(Could not open backing file: )+Backing file '\/m\/[ab]\.img' creates an infinite loop\.$/;

describe.each(['qcow2', 'qcow', 'qed', 'vmdk'])('%s', (format) => {
  it('images that are their own parent', async () => {
    const files = new FakeFiles();
    await image(files, format, second);
    await image(files, format, first, 'b.img');
    rename(files, first, 'b.img', 'a.img');
    expect(await refused(files, format)).toMatch(loop);
  });

  it('images that are the parent of their parent', async () => {
    const files = new FakeFiles();
    await image(files, format, second);
    await image(files, format, first, 'b.img');
    await image(files, format, '/m/c.img', 'a.img');
    files.put(second, files.bytesOf('/m/c.img'));
    expect(await refused(files, format)).toMatch(loop);
  });
});

describe('vpc', () => {
  it.each([['a.img'], ['b.img']])('%s as the parent of both', async (name) => {
    const id = new Uint8Array(16).fill(7);
    const files = new FakeFiles();
    const child = (parent: string): Uint8Array =>
      buildVhd({
        size: 64 * KiB,
        blockSize: 8 * KiB,
        type: 4,
        id,
        parentId: id,
        locators: [{ code: 0x5732_7275, path: utf16(parent) }],
      });
    files.put(first, child(name));
    files.put(second, child('a.img'));
    expect(await refused(files, 'vpc')).toMatch(loop);
  });
});

describe('vhdx', () => {
  it.each([['a.img'], ['b.img']])('%s as the parent of both', async (name) => {
    const files = new FakeFiles();
    await makeImage(files, {
      format: 'vhdx',
      size: 2 * MiB,
      options: 'block_size=1M',
      name: first,
    });
    const fresh = files.bytesOf(first);
    const link = guidText(dataGuid(fresh));
    const child = (parent: string): Uint8Array =>
      vhdxChild(new Random(1), fresh, new Uint8Array(2 * MiB), link, parent);
    files.put(first, child(name));
    files.put(second, child('a.img'));
    expect(await refused(files, 'vhdx')).toMatch(loop);
  });
});
