// Random requests, many at once, on a disk whose history is kept; and a look at what is left.
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Backend } from '../../../src/index.js';
import { Iov, Req } from '../../../src/index.js';
import type { FakeFiles, Random } from '../../support/index.js';
import { missingCommands, readBytes, runOk, same, tempDir } from '../../support/index.js';
import type { Change, History } from '../qcow2/power-history.js';
import type { Shape } from './support.js';
import { closeImage, openImage, path } from './support.js';

/** Requests in flight. */
const DEPTH = 8;

export class Work {
  readonly #disk: Backend;
  readonly #files: FakeFiles;
  readonly #history: History;
  readonly #random: Random;
  hasFailed = false;

  constructor(disk: Backend, files: FakeFiles, history: History, random: Random) {
    this.#disk = disk;
    this.#files = files;
    this.#history = history;
    this.#random = random;
  }

  /** Up to `count` requests, until the power goes. */
  async run(count: number, longest: number): Promise<void> {
    const random = this.#random;
    const running = new Set<Promise<void>>();
    let busy: Change[] = [];
    for (let i = 0; i < count && !this.#files.isOff; i++) {
      if (random.chance(0.15)) {
        await this.flush();
        continue;
      }
      const offset = random.int(0, this.#disk.size - 1);
      const most = random.pick([1, 512, 4096, longest]);
      const bytes = Math.min(random.int(1, most), this.#disk.size - offset);
      if (busy.some((b) => b.offset < offset + bytes && offset < b.offset + b.bytes)) continue;
      const [change, request] = this.#start(offset, bytes);
      busy.push(change);
      const p: Promise<void> = request
        .then(
          () => {
            this.#history.done(change);
          },
          () => {
            this.hasFailed = true;
          },
        )
        .finally(() => {
          running.delete(p);
          busy = busy.filter((b) => b !== change);
        });
      running.add(p);
      while (running.size >= DEPTH) await Promise.race(running);
    }
    await Promise.all(running);
  }

  async flush(): Promise<void> {
    const done = this.#history.complete();
    await this.#disk.flush().then(
      () => {
        this.#history.flushed(done);
      },
      () => {
        this.hasFailed = true;
      },
    );
  }

  #start(offset: number, bytes: number): [Change, Promise<void>] {
    const [disk, history, random] = [this.#disk, this.#history, this.#random];
    if (random.chance(0.7)) {
      const data = random.bytes(bytes);
      return [history.begin(offset, bytes, data), disk.write(offset, Iov.of(data))];
    }
    const flags = random.chance() ? Req.mayUnmap : 0;
    return [history.begin(offset, bytes), disk.writeZeroes(offset, bytes, flags)];
  }
}

/** One image among so many is looked at by qemu-img as well. */
const QEMU_EVERY = 20;
const hasQemu = missingCommands('qemu-img').length === 0;
let judged = 0;

/** Opens what is left, looks at everything, and goes on from there. */
export async function judge(
  files: FakeFiles,
  history: History,
  shape: Shape,
  random: Random,
): Promise<void> {
  const before = files.bytesOf(path);
  const next = await openImage(files, shape.format);
  await history.judge(next.disk, shape.blockSize ?? 1 << 20);
  const content = await readBytes(next.disk, 0, next.disk.size);
  // QEMU takes the bitmaps of blocks below 4 KiB for empty; the specification gives them a sector.
  const isCommon = (shape.blockSize ?? 4096) >= 4096;
  if (hasQemu && isCommon && judged++ % QEMU_EVERY === 0) {
    await qemuAgrees(before, shape.format, content);
  }
  const data = random.bytes(Math.min(5000, next.disk.size - 512));
  const at = 512 * random.int(0, Math.floor((next.disk.size - data.length) / 512));
  await next.disk.write(at, Iov.of(data));
  content.set(data, at);
  await closeImage(next);
  const reader = await openImage(files, shape.format, {});
  same(await readBytes(reader.disk, 0, reader.disk.size), content, 'after going on');
  const found = await reader.disk.node.instance.check?.({
    fixErrors: false,
    fixLeaks: false,
    report: (line) => {
      throw new Error(line);
    },
  });
  if ((found?.corruptions ?? 0) > 0) throw new Error('corrupt');
  await closeImage(reader);
}

/** QEMU's tools replay what there is, and read the same. */
async function qemuAgrees(image: Uint8Array, format: string, content: Uint8Array): Promise<void> {
  const cwd = tempDir();
  writeFileSync(join(cwd, 'image'), image);
  if (format === 'vhdx') {
    await runOk('qemu-img', ['check', '-q', '-r', 'all', '-f', format, 'image'], { cwd });
  }
  await runOk('qemu-img', ['convert', '-f', format, '-O', 'raw', 'image', 'raw'], { cwd });
  same(readFileSync(join(cwd, 'raw')), content, 'as QEMU reads it');
}
