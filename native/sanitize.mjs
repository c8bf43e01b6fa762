#!/usr/bin/env node
// Runs the addon's tests under AddressSanitizer and UndefinedBehaviorSanitizer, or under valgrind.
// See docs/internals/native.md.
//
// node native/sanitize.mjs [asan|valgrind] [VITEST-ARGUMENTS]
import { spawnSync } from 'node:child_process';
import { mkdirSync, readdirSync, realpathSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const [tool = 'asan', ...rest] = process.argv.slice(2);

function run(command, args, env = {}) {
  const options = { cwd: root, stdio: 'inherit', env: { ...process.env, ...env } };
  const { status, error } = spawnSync(command, args, options);
  if (error !== undefined) throw error;
  if (status !== 0) process.exit(status ?? 1);
}

/** Compiles the addon with `flags` beside the normal build; its path. */
function compile(name, flags) {
  const folder = join(root, '.cache', 'native');
  mkdirSync(folder, { recursive: true });
  const out = join(folder, `${name}.node`);
  const headers = join(dirname(dirname(realpathSync(process.execPath))), 'include', 'node');
  const source = join(root, 'native', 'src');
  const files = readdirSync(source).filter((file) => file.endsWith('.c'));
  const args = ['-std=gnu11', '-shared', '-fPIC', '-pthread', '-g', '-O1', '-Wall', '-Wextra'];
  args.push('-D_GNU_SOURCE', '-DNAPI_VERSION=8', '-D_FILE_OFFSET_BITS=64', '-I', headers);
  run('cc', [...args, ...flags, ...files.map((file) => join(source, file)), '-o', out]);
  return out;
}

/** What the compiler calls its sanitizer's library. */
function library(name) {
  return spawnSync('cc', [`-print-file-name=${name}`], { encoding: 'utf8' }).stdout.trim();
}

/** A program that is small enough for valgrind: every engine, helper and operation a few times. */
async function bundleExercise() {
  const { build } = await import('esbuild');
  const outfile = join(root, '.cache', 'native', 'exercise.mjs');
  const contents = `
    import { nodeFiles } from './src/host/node/files.js';
    import { nodeHot } from './src/host/node/hot.js';
    import { tryNativeXts } from './src/host/node/bulk-cipher.js';
    import { Iov } from './src/lib/iov.js';
    const path = ${JSON.stringify(join(root, '.cache', 'native', 'exercise.raw'))};
    for (const engine of ['io_uring', 'threads', 'native']) {
      for (const direct of engine === 'native' ? [true] : [false, true]) {
        const options = { writable: true, direct, engine, create: 'truncate' };
        const file = await nodeFiles.open(path, options);
        const data = new Uint8Array(65536).map((_, i) => i * 7);
        const pieces = (b) => [0, 1, 2, 3].map((i) => b.subarray(i * 16384, (i + 1) * 16384));
        const all = Array.from({ length: 20 }, (_, i) =>
          file.write(i * 65536, i % 2 ? Iov.of(data) : Iov.from(pieces(data))));
        await Promise.all([...all, file.flush()]);
        const back = Array.from({ length: 20 }, () => new Uint8Array(65536));
        await Promise.all(back.map((b, i) =>
          file.read(i * 65536, i % 3 ? Iov.of(b) : Iov.from(pieces(b)))));
        if (!back.every((b) => nodeHot.equal(b, data))) throw new Error('wrong data');
        await file.zeroRange(0, 65536);
        await file.punchHole(65536, 65536);
        await file.extentAt(0);
        await file.copyFrom(file, 131072, 1310720, 65536);
        await file.dropCache();
        await file.cachedBytes();
        await file.close();
      }
    }
    const b = new Uint8Array(131072);
    const xts = tryNativeXts(new Uint8Array(64));
    await xts.encrypt(b, 512, 1);
    await xts.decrypt(b, 512, 1);
    if (!nodeHot.isZero(b) || nodeHot.crc32c(b) === 0) throw new Error('wrong helpers');
    console.log('exercise: done');`;
  const options = { bundle: true, platform: 'node', format: 'esm', packages: 'external', outfile };
  await build({ stdin: { contents, resolveDir: root }, ...options });
  return outfile;
}

if (tool === 'asan') {
  const flags = ['-fsanitize=address,undefined', '-fno-omit-frame-pointer'];
  const addon = compile('asan', [...flags, '-fno-sanitize-recover=undefined']);
  const vitest = join(root, 'node_modules', 'vitest', 'vitest.mjs');
  run(process.execPath, [vitest, 'run', ...(rest.length > 0 ? rest : ['test/native'])], {
    VDISK_NATIVE_ADDON: addon,
    LD_PRELOAD: library('libasan.so'),
    // Node never frees some of its own memory, and V8 handles SIGSEGV of WebAssembly itself.
    ASAN_OPTIONS: 'detect_leaks=0:handle_segv=0:abort_on_error=1',
    UBSAN_OPTIONS: 'print_stacktrace=1',
  });
} else if (tool === 'valgrind') {
  const checks = ['--error-exitcode=9', '--smc-check=all-non-file', '--leak-check=no'];
  // V8 compares undefined padding on purpose; wrong addresses are what this is after.
  checks.push('--undef-value-errors=no', '--quiet');
  run('valgrind', [...checks, process.execPath, await bundleExercise()], {
    VDISK_NATIVE_ADDON: compile('valgrind', []),
  });
} else {
  console.error('usage: node native/sanitize.mjs [asan|valgrind] [VITEST-ARGUMENTS]');
  process.exit(2);
}
