#!/usr/bin/env node
// Makes the binaries that the published package carries: native/prebuilds/linux-{x64,arm64}/, named
// as node-gyp-build looks for them. See docs/internals/native.md.
//
// node native/prebuild.mjs [ARCH...]
// Compilers: CC_x64, CC_arm64 (else cc, or the usual cross gcc).
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, readdirSync, realpathSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('.', import.meta.url));
const headers = join(dirname(dirname(realpathSync(process.execPath))), 'include', 'node');
const CROSS = { x64: 'x86_64-linux-gnu-gcc', arm64: 'aarch64-linux-gnu-gcc' };
const wanted = process.argv.length > 2 ? process.argv.slice(2) : Object.keys(CROSS);

/** The settings of binding.gyp, so that both builds are the same code. */
const gyp = readFileSync(join(root, 'binding.gyp'), 'utf8');
const target = JSON.parse(gyp).targets[0];

for (const arch of wanted) {
  const cross = CROSS[arch];
  if (cross === undefined) throw new Error(`unknown architecture '${arch}'`);
  const compiler = process.env[`CC_${arch}`] ?? (arch === process.arch ? 'cc' : cross);
  const folder = join(root, 'prebuilds', `linux-${arch}`);
  mkdirSync(folder, { recursive: true });
  const out = join(folder, 'node.napi.glibc.node');
  const args = ['-shared', '-fPIC', '-pthread', '-s', '-Wl,--as-needed', '-I', headers];
  args.push(...target.cflags, ...target.defines.map((define) => `-D${define}`));
  args.push(...target.sources.map((source) => join(root, source)), '-o', out);
  if (!existsSync(join(headers, 'node_api.h'))) throw new Error(`no headers in ${headers}`);
  const { status, error } = spawnSync(compiler, args, { stdio: 'inherit' });
  if (error !== undefined || status !== 0) {
    console.error(`prebuild: linux-${arch}: ${error?.message ?? `${compiler} failed`}`);
    process.exitCode = 1;
  } else {
    console.log(`prebuild: linux-${arch}: ${readdirSync(folder).join(', ')}`);
  }
}
