#!/usr/bin/env node
// Bundles every src/tool/bin/NAME.ts into dist/tool/NAME.cjs, which bin/load.cjs starts, and every
// worker src/host/node/*-worker.ts into dist/tool/*-worker.js. Nothing is done when no source has
// changed. See docs/decisions/0004-tool-bundles.md for why CommonJS in one file with a code cache.
import { createHash } from 'node:crypto';
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs';
import { writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { filesUnder, hashOf, root, tryRead, writeAtomically } from './files.mjs';

const out = join(root, 'dist/tool');

/** The tools that have an entry file, such as 'vdisk-img'. */
export function toolNames() {
  const folder = join(root, 'src/tool/bin');
  if (!existsSync(folder)) return [];
  return readdirSync(folder)
    .filter((name) => name.endsWith('.ts') && !name.endsWith('.test.ts'))
    .map((name) => name.slice(0, -3));
}

function sourceHash() {
  const sources = filesUnder(['src', 'package.json', 'tools/bundle.mjs'], isSource);
  return hashOf(sources, process.arch, process.platform);
}

function isSource(path) {
  return /\.(ts|json|mjs)$/.test(path) && !path.endsWith('.test.ts');
}

/** Makes dist/tool fresh: 'fresh' when it was, 'built', or 'failed' (esbuild has said why). */
export async function bundleTools() {
  const stamp = join(out, '.stamp');
  const wanted = sourceHash();
  const tools = toolNames();
  const present = tools.every((name) => existsSync(join(out, `${name}.cjs`)));
  if (present && tryRead(stamp) === wanted) return 'fresh';
  mkdirSync(out, { recursive: true });
  const esbuild = await import('esbuild');
  const common = {
    bundle: true,
    write: false,
    platform: 'node',
    target: 'node20',
    packages: 'external',
    charset: 'ascii',
    legalComments: 'none',
    minifyWhitespace: true,
    // Lines of a stack trace stay lines of a few statements.
    lineLimit: 160,
    logLevel: 'warning',
    absWorkingDir: root,
    outdir: out,
  };
  const workers = filesUnder(['src/host/node'], (path) => path.endsWith('-worker.ts'));
  const tool = {
    ...common,
    format: 'cjs',
    outExtension: { '.js': '.cjs' },
    // `await import('node:net')` becomes a require() at that moment: the ESM loader never starts.
    supported: { 'dynamic-import': false },
    define: { 'import.meta.url': '__bundleUrl' },
    banner: { js: "const __bundleUrl = require('url').pathToFileURL(__filename).href;" },
  };
  const jobs = [
    ...tools.map((name) => ({ ...tool, entryPoints: [`src/tool/bin/${name}.ts`] })),
    { ...common, entryPoints: workers, format: 'esm' },
  ];
  // One that does not compile leaves the others usable, and fails the build in the end.
  const results = await Promise.allSettled(jobs.map((job) => esbuild.build(job)));
  for (const { value } of results) {
    for (const file of value?.outputFiles ?? []) {
      if (file.path.endsWith('.cjs')) writeTool(file.path, file.text);
      else if (tryRead(file.path) !== file.text) writeAtomically(file.path, file.text);
    }
  }
  if (results.some(({ status }) => status === 'rejected')) return 'failed';
  removeOld(tools, workers);
  writeAtomically(stamp, wanted);
  return 'built';
}

/**
 * Writes a tool with its identity in the first bytes, and V8's compiled code beside it under that
 * identity: V8 itself would accept the code of another source of the same length.
 */
function writeTool(path, text) {
  const id = createHash('sha256').update(text).digest('hex').slice(0, 16);
  // bin/load.cjs reads the bundle as Latin-1, which is fast, and right for ASCII only. esbuild has
  // escaped strings; what is left stands in comments and regular expressions.
  const ascii = text.replace(/[^\0-\x7f]/g, (unit) => {
    return `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`;
  });
  const names = 'exports, require, module, __filename, __dirname';
  const content = `/*${id}*/(function (${names}) {${ascii}\n})`;
  if (tryRead(path) !== content) writeAtomically(path, content);
  const base = path.replace(/\.cjs$/, `.${id}`);
  if (existsSync(`${base}.cache`)) return;
  const name = basename(path, '.cjs');
  const folder = mkdtempSync(join(tmpdir(), 'vdisk-warm-'));
  const start = (args, env = {}) =>
    spawnSync(process.execPath, [join(root, 'bin/load.cjs'), name, ...args], {
      cwd: folder,
      stdio: 'ignore',
      timeout: 30_000,
      env: { ...process.env, ...env },
    });
  writeFileSync(join(folder, 'a.raw'), new Uint8Array(1 << 16));
  for (const args of WARM_UP[name] ?? []) start(args);
  const kinds = Object.entries(WARM[name] ?? { '': [['--version']] });
  for (const [words, [first, ...more]] of kinds) {
    const cache = `${base}${words === '' ? '' : `.${words}`}.cache`;
    const env = { VDISK_WRITE_CODE_CACHE: cache, VDISK_WARM_COMMANDS: JSON.stringify(more) };
    start(first, env);
  }
  rmSync(folder, { recursive: true });
}

const fromRaw = ['convert', '-f', 'raw', '-O', 'qcow2', 'a.raw', 'b.qcow2'];
const toRaw = ['convert', '-f', 'qcow2', '-O', 'raw', 'b.qcow2', 'b.raw'];

/**
 * What runs once after a build so that its code is in a cache: by the first words of a command
 * line (see bin/load.cjs); '' is for all others. Each cache holds what such a command needs and
 * no more, for V8 unpacks the whole of it at the start.
 */
const WARM = {
  'vdisk-img': {
    '': [['info', 'a.qcow2']],
    convert: [fromRaw, toRaw],
    check: [['check', 'a.qcow2']],
    map: [['map', '--output=json', 'a.qcow2']],
    bench: [
      ['bench', '-w', '-f', 'qcow2', '-d', '4', '-s', '192k', '-c', '80', 'first.qcow2'],
      ['bench', '-f', 'qcow2', '-d', '4', '-s', '192k', '-c', '8', 'first.qcow2'],
      ['bench', '-w', '-f', 'raw', '-d', '4', '-c', '8', 'a.raw'],
    ],
  },
  'vdisk-io': { '': [['-f', 'raw', '-c', 'read 0 512', 'a.raw']] },
  // Stops before it serves: nothing can listen there.
  'vdisk-nbd': { '': [['-f', 'raw', '-k', '/dev/null/socket', 'a.raw']] },
  // Ends by itself when all options are carried out but the last.
  'vdisk-storage-daemon': {
    '': [
      ['--blockdev', 'driver=file,filename=a.raw,node-name=a', '--export', 'nbd,id=a,node-name=a'],
    ],
  },
  // Ends by itself: the last option cannot be carried out.
  'vdisk-system': {
    '': [
      ['-nodefaults', '-accel', 'qtest', '-drive', 'if=none,file=a.raw,format=raw', '-object', 'x'],
    ],
  },
  vdisk: {
    '': [['img', 'info', 'a.qcow2']],
    'img-convert': [
      ['img', ...fromRaw],
      ['img', ...toRaw],
    ],
  },
};

/** What runs before that, in the same folder, which also holds a.raw. */
const WARM_UP = {
  'vdisk-img': [
    ['create', '-q', '-f', 'qcow2', 'a.qcow2', '1M'],
    ['create', '-q', '-f', 'qcow2', 'first.qcow2', '16M'],
  ],
  vdisk: [['img', 'create', '-q', '-f', 'qcow2', 'a.qcow2', '1M']],
};

/**
 * Whether a file of dist/tool is a bundle that is made no more. What the library takes from the
 * tools stands beside the bundles, and tsc, which keeps account of it, writes it only once.
 */
export function isStale(name, wanted) {
  if (!/\.(cjs|js)$/.test(name) || wanted.has(name)) return false;
  return !existsSync(join(root, 'src/tool', name.replace(/\.js$/, '.ts')));
}

function removeOld(tools, workers) {
  const wanted = new Set([
    ...tools.map((name) => `${name}.cjs`),
    ...workers.map((path) => basename(path).replace(/\.ts$/, '.js')),
  ]);
  for (const name of readdirSync(out)) {
    const path = join(out, name);
    if (isStale(name, wanted)) rmSync(path);
    // The cache of an older bundle may be in use by a tool that starts right now.
    const age = Date.now() - statSync(join(out, name), { throwIfNoEntry: false })?.mtimeMs;
    if (/\.(cache|tmp)$/.test(name) && age > 3_600_000) rmSync(path, { force: true });
  }
}

if (resolve(process.argv[1] ?? '') === fileURLToPath(import.meta.url)) {
  const started = performance.now();
  const result = await bundleTools();
  const ms = Math.round(performance.now() - started);
  console.log(
    `bundles: ${result === 'built' ? `built in ${ms} ms` : result}: ${toolNames().join(', ')}`,
  );
  if (result === 'failed') process.exitCode = 1;
}
