// Goal: no crash, no lost completion, whatever the kernel or the program does. Method: each trouble
// made for real where it can be (full file system, device that lost its file, garbage collection,
// exit, workers), else put into the engine's requests on their way.
import { spawnSync } from 'node:child_process';
import { readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { constants } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { Iov } from '../../src/lib/iov.js';
import type { HostFile } from '../../src/host/file.js';
import { AlignedPool } from '../../src/host/node/aligned.js';
import { tryNativeEngine } from '../../src/host/node/files.js';
import { openFsFile } from '../../src/host/node/fs-files.js';
import type { FsCalls } from '../../src/host/node/fs-files.js';
import { failureCode, seededRandom, tempDir } from '../support/index.js';
import type { Random } from '../support/index.js';
import { asRoot, bundleHost, engines, openFile, sh, withAddon } from './support.js';

const { EINTR, EAGAIN, EIO } = constants.errno;
const MIB = 1024 * 1024;

/** Writes and reads random ranges in parallel and compares with a model. */
async function exercise(random: Random, file: HostFile, path: string): Promise<void> {
  const model = random.bytes(MIB);
  const cuts = Array.from({ length: 100 }, () => random.int(0, MIB)).sort((a, b) => a - b);
  const parts = [0, ...cuts, MIB].map((at, i, all) => [at, all[i + 1] ?? MIB] as const);
  await Promise.all(
    parts.map(([from, to]) => {
      const half = (to - from) >> 1;
      const b = model.subarray(from, to);
      return file.write(from, Iov.from([b.subarray(0, half), b.subarray(half)]));
    }),
  );
  expect(Buffer.compare(readFileSync(path), model)).toBe(0);
  const back = new Uint8Array(MIB);
  const counts = await Promise.all(
    parts.map(([from, to]) => file.read(from, Iov.of(back.subarray(from, to)))),
  );
  expect(counts).toEqual(parts.map(([from, to]) => to - from));
  expect(Buffer.compare(back, model)).toBe(0);
}

withAddon('short transfers and interruptions in the addon', () => {
  const engine = tryNativeEngine()!;
  afterEach(() => {
    engine.setTamper(undefined);
  });

  for (const name of ['io_uring', 'threads'] as const) {
    test(`${name}: requests cut short, EINTR and EAGAIN lose nothing`, async () => {
      const random = seededRandom();
      const path = join(tempDir(), 'a');
      const file = await openFile(path, name);
      engine.setTamper((_op, bytes) => {
        if (random.chance(0.3)) return { errno: random.pick([EINTR, EAGAIN]) };
        return random.chance(0.5) && bytes > 1 ? { bytes: random.int(1, bytes - 1) } : undefined;
      });
      await exercise(random, file, path);
      await file.close();
    });
  }

  test('an error that stays is told, not tried for ever', async () => {
    const file = await openFile(join(tempDir(), 'a'), 'io_uring');
    engine.setTamper(() => ({ errno: EAGAIN }));
    expect(await failureCode(file.write(0, Iov.alloc(10)))).toBe('EAGAIN');
    engine.setTamper(() => ({ errno: EIO }));
    await expect(file.read(0, Iov.alloc(10))).rejects.toThrow('Input/output error');
    await file.close();
  });

  test('a write that moves nothing is out of space', async () => {
    const file = await openFile(join(tempDir(), 'a'), 'io_uring');
    engine.setTamper(() => ({ bytes: 0 }));
    expect(await failureCode(file.write(0, Iov.alloc(10)))).toBe('ENOSPC');
    await file.close();
  });
});

withAddon('writes into the page cache', () => {
  test('run in a row for each file; what fails holds up none behind it', async () => {
    const random = seededRandom();
    const dir = tempDir();
    // More files than the addon keeps rows for; too many bytes for the event loop's own thread.
    const files = await Promise.all(
      Array.from({ length: 20 }, (_, i) => openFile(join(dir, String(i)), 'threads')),
    );
    const models = files.map(() => random.bytes(2 * MIB));
    const PIECE = MIB / 4;
    const starts = Array.from({ length: 8 }, (_, i) => i * PIECE);
    const work = starts.flatMap((at) =>
      files.flatMap((file, i) => [
        file.write(at, Iov.of(models[i]!.subarray(at, at + PIECE))).then(() => 'written'),
        // Beyond what the file system can hold.
        failureCode(file.write(2 ** 52, Iov.alloc(PIECE))),
      ]),
    );
    const outcomes = await Promise.all(work);
    expect(new Set(outcomes)).toEqual(new Set(['written', 'EFBIG']));
    expect(outcomes.filter((one) => one === 'EFBIG')).toHaveLength(starts.length * files.length);
    for (const [i, file] of files.entries()) {
      expect(Buffer.compare(readFileSync(join(dir, String(i))), models[i]!)).toBe(0);
      // A row that ended begins anew.
      await file.write(0, Iov.from([models[i]!.subarray(MIB), models[i]!.subarray(0, MIB)]));
      await file.close();
    }
  });
});

describe('short transfers and interruptions in node:fs', () => {
  /** node:fs whose calls move fewer bytes than asked for, or fail. */
  async function faulty(random: Random): Promise<FsCalls> {
    const fs = await import('node:fs');
    const fail = (): Error | undefined =>
      random.chance(0.3)
        ? Object.assign(new Error('x'), { code: random.pick(['EINTR', 'EAGAIN']) })
        : undefined;
    const cut = (n: number): number => (random.chance() && n > 1 ? random.int(1, n - 1) : n);
    type Call = 'read' | 'write';
    const one =
      (way: Call): FsCalls['read'] =>
      (fd, b, at, n, offset, done) => {
        const error = fail();
        if (error !== undefined) setImmediate(() => done(error, 0));
        else if (way === 'read') fs.read(fd, b, at, cut(n), offset, done);
        else fs.write(fd, b, at, cut(n), offset, done);
      };
    const many =
      (way: Call): FsCalls['readv'] =>
      (fd, bufs, offset, done) => {
        const b = bufs[0]!;
        one(way)(fd, b, 0, b.byteLength, offset, done);
      };
    return { read: one('read'), readv: many('read'), write: one('write'), writev: many('write') };
  }

  test('lose nothing', async () => {
    const random = seededRandom();
    const path = join(tempDir(), 'a');
    const options = {
      writable: true,
      direct: false,
      engine: 'node-fs',
      create: 'truncate',
    } as const;
    const file = await openFsFile(path, options, new AlignedPool(), await faulty(random));
    await exercise(random, file, path);
    await file.close();
  });
});

withAddon('queues', () => {
  for (const name of engines) {
    test(`${name}: 5000 requests at once all complete, close() waits for them`, async () => {
      const path = join(tempDir(), 'a');
      const direct = name !== 'node-fs';
      const file = await openFile(path, name, { direct });
      await file.write(0, Iov.of(new Uint8Array(64 * 512).map((_, i) => i >> 9)));
      const bufs = Array.from({ length: 5000 }, () => new Uint8Array(512));
      const all = bufs.map((b, i) => file.read((i % 64) * 512, Iov.of(b)));
      const closed = file.close();
      expect(await Promise.all(all)).toEqual(new Array(5000).fill(512));
      await closed;
      expect(bufs.every((b, i) => b[0] === i % 64 && b[511] === i % 64)).toBe(true);
    });
  }

  test('more pieces than the kernel takes at once', async () => {
    const random = seededRandom();
    const path = join(tempDir(), 'a');
    for (const name of ['io_uring', 'threads', 'node-fs'] as const) {
      const file = await openFile(path, name);
      const data = random.bytes(30_000);
      const pieces = (b: Uint8Array): Iov =>
        Iov.from(Array.from({ length: 3000 }, (_, i) => b.subarray(i * 10, i * 10 + 10)));
      await file.write(7, pieces(data));
      expect(Buffer.compare(readFileSync(path).subarray(7), data)).toBe(0);
      const back = new Uint8Array(30_000);
      expect(await file.read(7, pieces(back))).toBe(30_000);
      expect(Buffer.compare(back, data)).toBe(0);
      await file.close();
    }
  });
});

asRoot('mount')('a full file system', () => {
  let folder = '';
  beforeAll(() => {
    folder = tempDir({ keep: true });
    sh('mount', '-t', 'tmpfs', '-o', 'size=1m', 'vdisk-test', folder);
  });
  afterAll(() => {
    sh('umount', folder);
  });

  for (const name of ['io_uring', 'threads', 'node-fs'] as const) {
    test(`${name}: writes and fallocate fail with ENOSPC, what fitted is there`, async () => {
      const path = join(folder, name);
      const file = await openFile(path, name);
      const data = new Uint8Array(512 * 1024).fill(1);
      await file.write(0, Iov.of(data));
      const big = Iov.of(new Uint8Array(4 * MIB).fill(2));
      await expect(file.write(512 * 1024, big)).rejects.toThrow('No space left on device');
      expect(Buffer.compare(readFileSync(path).subarray(0, data.byteLength), data)).toBe(0);
      if (name !== 'node-fs') expect(await failureCode(file.allocate(0, 8 * MIB))).toBe('ENOSPC');
      await file.close();
      rmSync(path);
    });
  }
});

asRoot('losetup')('a device whose file was truncated under it', () => {
  for (const name of engines) {
    test(`${name}: EIO, and the rest still works`, async () => {
      const folder = tempDir();
      const backing = join(folder, 'backing');
      writeFileSync(backing, new Uint8Array(4 * MIB).fill(5));
      const device = sh('losetup', '--find', '--show', backing);
      try {
        const file = await openFile(device, name, { direct: true, keep: true });
        truncateSync(backing, MIB);
        const b = new Uint8Array(4096);
        expect(await failureCode(file.read(2 * MIB, Iov.of(b)))).toBe('EIO');
        const many = Array.from({ length: 200 }, (_, i) => {
          const reading = file.read((i % 4) * MIB, Iov.of(new Uint8Array(4096)));
          return i % 4 === 0 ? reading : failureCode(reading);
        });
        const ends = await Promise.all(many);
        expect(ends.filter((end) => end === 'EIO').length).toBe(150);
        expect(ends.filter((end) => end === 4096).length).toBe(50);
        expect(await file.read(0, Iov.of(b))).toBe(4096);
        expect(b.every((x) => x === 5)).toBe(true);
        await file.close();
      } finally {
        sh('losetup', '--detach', device);
      }
    });
  }
});

withAddon('the end of programs and threads', () => {
  let bundle = '';
  beforeAll(async () => {
    bundle = await bundleHost();
  });
  afterAll(() => {
    rmSync(bundle, { force: true });
  });

  /** Runs a module; exit status, signal and words. */
  function runModule(code: string, ...flags: string[]): { end: string; said: string } {
    const path = join(tempDir(), 'a.raw');
    writeFileSync(path, new Uint8Array(4 * MIB).fill(7));
    const text = code.replaceAll('BUNDLE', JSON.stringify(bundle)).replaceAll('FILE', `'${path}'`);
    const args = [...flags, '--input-type=module', '-e', text];
    const { status, signal, stdout, stderr } = spawnSync(process.execPath, args, {
      encoding: 'utf8',
      timeout: 60_000,
    });
    return { end: signal ?? String(status), said: stdout.trim() + stderr.trim() };
  }

  const start = `
    import { nodeFiles, tryNativeEngine, Iov } from BUNDLE;
    const open = (engine, direct) =>
      nodeFiles.open(FILE, { writable: true, direct, engine });
    const files = await Promise.all([
      open('io_uring', true), open('native', true), open('threads', true), open('threads', false),
    ]);
    const many = () => files.flatMap((f) => Array.from({ length: 600 }, (_, i) =>
      i % 3 ? f.read(i * 4096, Iov.of(nodeFiles.alignedBuffer(4096)))
            : f.write(i * 4096, Iov.of(nodeFiles.alignedBuffer(4096)))))
      .concat(files.map((f) => f.flush()));`;

  test('process.exit() with requests in flight', () => {
    const first = runModule(`${start} many(); process.exit(0);`);
    expect(first).toEqual({ end: '0', said: '' });
    const later = runModule(`${start} many(); setImmediate(() => process.exit(3));`);
    expect(later).toEqual({ end: '3', said: '' });
  });

  test('an uncaught error with requests in flight', () => {
    const result = runModule(`${start}
      many();
      setImmediate(() => { throw new Error('oops'); });`);
    expect(result.end).toBe('1');
    expect(result.said).toContain('oops');
  });

  test('the process lives until all are complete, and not longer', () => {
    const result = runModule(`${start}
      Promise.all(many()).then((all) => console.log(all.length));
      process.on('exit', () => console.log('end'));`);
    expect(result).toEqual({ end: '0', said: '2404\nend' });
  });

  test('an exception in a continuation does not stop the engine', () => {
    const result = runModule(`${start}
      process.on('uncaughtException', (e) => console.log(e.message));
      files[3].read(0, Iov.alloc(512)).then(() => {
        queueMicrotask(() => { throw new Error('a'); });
      });
      setTimeout(async () => console.log((await Promise.all(many())).length), 20);`);
    expect(result).toEqual({ end: '0', said: 'a\n2404' });
  });

  test('buffers that nobody holds while in flight', () => {
    const result = runModule(
      `${start}
      let sum = 0;
      for (let round = 0; round < 20; round++) {
        const all = [];
        for (let i = 0; i < 300; i++) {
          const f = files[i % 4];
          // The only reference is the request's own.
          all.push(f.read(i * 4096, Iov.of(new Uint8Array(4096))).then((n) => { sum += n; }));
          all.push(f.write(2 * 2 ** 20 + i * 512, Iov.of(new Uint8Array(512).fill(round))));
          if (i % 100 === 0) globalThis.gc();
        }
        new Array(1000).fill(0).map(() => new Uint8Array(4096).fill(0xff));
        globalThis.gc();
        await Promise.all(all);
      }
      const back = new Uint8Array(512 * 300);
      await files[3].read(2 * 2 ** 20, Iov.of(back));
      console.log(sum === 20 * 300 * 4096, back.every((x) => x === 19));`,
      '--expose-gc',
    );
    expect(result).toEqual({ end: '0', said: 'true true' });
  });

  const worker = `
    import { Worker } from 'node:worker_threads';
    const start = (body) => new Worker(
      'import("node:worker_threads").then(async (w) => {' + body + '})', { eval: true });
    const body = (then) => \`
      const { nodeFiles, Iov } = await import(\${JSON.stringify(BUNDLE)});
      const files = await Promise.all(['io_uring', 'native', 'threads'].map((engine) =>
        nodeFiles.open(\${JSON.stringify(FILE)}, { writable: true, direct: true, engine })));
      const many = () => files.flatMap((f) => Array.from({ length: 500 }, (_, i) =>
        f.read(i * 4096, Iov.of(new Uint8Array(4096)))));
      \${then}\`;
    const ended = (w) => new Promise((resolve) => w.on('exit', resolve));`;

  test('two workers and the main thread use the addon at once', () => {
    const result = runModule(`${worker}
      const run = body('const n = await Promise.all(many()); w.parentPort.postMessage(n.length);');
      const all = [start(run), start(run)];
      for (const w of all) w.on('message', (n) => console.log(n));
      const { nodeFiles, Iov } = await import(BUNDLE);
      const f = await nodeFiles.open(FILE, { writable: false, direct: true, engine: 'io_uring' });
      await Promise.all(Array.from({ length: 500 }, (_, i) => f.read(i * 4096, Iov.alloc(4096))));
      console.log(await Promise.all(all.map(ended)));`);
    expect(result).toEqual({ end: '0', said: '1500\n1500\n[ 0, 0 ]' });
  });

  test('workers that are terminated with requests in flight, again and again', () => {
    const result = runModule(`${worker}
      const run = body('w.parentPort.postMessage(0); for (;;) await Promise.all(many());');
      for (let i = 0; i < 8; i++) {
        const w = start(run);
        await new Promise((resolve) => w.once('message', resolve));
        await new Promise((resolve) => setTimeout(resolve, i * 3));
        await w.terminate();
      }
      console.log('end');`);
    expect(result).toEqual({ end: '0', said: 'end' });
  });

  test('without the addon everything goes over node:fs, and says why', () => {
    const code = `
      import { nodeFiles, Iov } from BUNDLE;
      const options = { writable: true, direct: false };
      const f = await nodeFiles.open(FILE, { ...options, engine: 'auto' });
      console.log(f.engine, await f.read(0, Iov.alloc(10)), await nodeFiles.engines());
      console.log(nodeFiles.engineNote());
      await nodeFiles.open(FILE, { ...options, engine: 'io_uring' }).catch((e) =>
        console.log(e.code, e.message));
      console.log((await nodeFiles.open(FILE, { ...options, engine: 'threads' })).engine);`;
    process.env['VDISK_NO_NATIVE'] = '1';
    try {
      const { end, said } = runModule(code);
      expect(end).toBe('0');
      expect(said.split('\n')).toEqual([
        "node-fs 10 [ 'node-fs' ]",
        'native I/O is not available (VDISK_NO_NATIVE is set): using node:fs',
        'ENOSYS aio=io_uring was specified, but is not supported in this build.',
        'node-fs',
      ]);
    } finally {
      delete process.env['VDISK_NO_NATIVE'];
    }
  });
});
