#!/usr/bin/env node
// Makes a checkout ready to run: packages, native addon, build. Each step is skipped when what it
// makes is fresh, so it is cheap to call. With --peers also the programs that tests compare with
// (tools/peers.json). Only Node's own modules: it runs before anything is installed.
// VDISK_NATIVE=skip leaves the addon out; VDISK_NATIVE=require fails without it.
import { spawnSync } from 'node:child_process';
import { accessSync, constants, existsSync, mkdirSync } from 'node:fs';
import { homedir } from 'node:os';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { cannotInstall, findCommand, install } from './apt.mjs';
import { filesUnder, hashOf, root, tryRead, writeAtomically } from './files.mjs';

/** Thrown for what makes going on pointless; the message is all that is printed. */
class SetupError extends Error {}

function say(text) {
  process.stderr.write(`setup: ${text}\n`);
}

function npm(args, stdio = ['ignore', 'ignore', 'pipe']) {
  const script = process.env.npm_execpath;
  const [command, first] = script?.endsWith('.js') ? [process.execPath, [script]] : ['npm', []];
  return spawnSync(command, [...first, ...args], {
    cwd: root,
    stdio,
    encoding: 'utf8',
    env: { ...process.env, ...cacheOutsideHome(), NODE_ENV: '' },
  });
}

/** npm keeps its cache in HOME; where that cannot be written, it goes into the checkout. */
function cacheOutsideHome() {
  try {
    mkdirSync(homedir(), { recursive: true });
    accessSync(homedir(), constants.W_OK);
    return {};
  } catch {
    return { npm_config_cache: join(root, '.cache/npm') };
  }
}

/** True when node_modules holds what package-lock.json names: npm lists what it installed. */
function packagesAreFresh() {
  const installed = JSON.parse(tryRead(join(root, 'node_modules/.package-lock.json')) ?? 'null');
  if (installed === null) return false;
  const wanted = JSON.parse(tryRead(join(root, 'package-lock.json')));
  return Object.entries(wanted.packages).every(([path, entry]) => {
    if (path === '') return true;
    const have = installed.packages[path];
    if (have === undefined) return entry.optional === true;
    return have.version === entry.version && existsSync(join(root, path));
  });
}

function setUpPackages() {
  if (packagesAreFresh()) return;
  say('installing packages (npm ci)');
  const args = ['ci', '--include=dev', '--no-audit', '--no-fund', '--loglevel=error'];
  let result = npm(args);
  if (result.status !== 0) result = npm(args);
  if (result.status !== 0) throw new SetupError(`npm ci failed:\n${result.stderr ?? ''}`);
}

/** What a compiled addon depends on: its sources, this node and this machine. */
function nativeStamp() {
  const sources = filesUnder(['native', 'tools/build-native.mjs']);
  return hashOf(sources, process.versions.modules, process.platform, process.arch);
}

/** Compiles native/ where there is one and a compiler; the library runs without it, slower. */
function setUpNative() {
  const mode = process.env.VDISK_NATIVE ?? '';
  if (mode === 'skip' || !existsSync(join(root, 'native/binding.gyp'))) return;
  const stamp = join(root, 'native/build/.stamp');
  const wanted = nativeStamp();
  const before = tryRead(stamp);
  if (before === wanted) return;
  const problem =
    before === `failed ${wanted}` && mode !== 'require'
      ? 'it did not compile here, see npm run build:native'
      : buildNative(stamp, wanted);
  if (problem === undefined) return;
  if (mode === 'require') throw new SetupError(`the native addon is required, but ${problem}`);
  say(`going on without the native addon: ${problem}`);
}

/** Undefined after a build, else what is in the way. */
function buildNative(stamp, wanted) {
  const missing = [];
  if (!['g++', 'c++', 'clang++'].some(findCommand) || !findCommand('make')) {
    missing.push('build-essential');
  }
  if (!findCommand('python3')) missing.push('python3');
  if (missing.length > 0) {
    const why = cannotInstall();
    if (why !== undefined) return `${missing.join(' and ')} missing (${why})`;
    const left = install(missing, say);
    if (left.length > 0) return `apt-get cannot install ${left.join(' and ')}`;
  }
  say('compiling the native addon (npm run build:native)');
  const result = npm(['run', 'build:native'], ['ignore', 'pipe', 'pipe']);
  if (result.status === 0) {
    writeAtomically(stamp, wanted);
    return undefined;
  }
  process.stderr.write(`${result.stdout}${result.stderr}`.split('\n').slice(-25).join('\n'));
  writeAtomically(stamp, `failed ${wanted}`);
  return 'it did not compile';
}

function setUpBuild() {
  const { status } = spawnSync(process.execPath, ['tools/build.mjs', '--quick'], {
    cwd: root,
    stdio: ['ignore', 2, 2],
  });
  if (status !== 0) throw new SetupError('the build failed');
}

/** Whether a command, or a module of Debian's Python (by its package), is there. */
function isThere(name) {
  if (!name.startsWith('python3-')) return findCommand(name) !== undefined;
  return spawnSync('dpkg', ['-s', name], { stdio: 'ignore' }).status === 0;
}

/** Installs the packages of tools/peers.json whose command is missing, where that is possible. */
function setUpPeers() {
  const peers = JSON.parse(tryRead(join(root, 'tools/peers.json')));
  const missing = Object.keys(peers).filter((name) => !isThere(name));
  if (missing.length === 0) return;
  const why = cannotInstall();
  const left =
    why === undefined ? install([...new Set(missing.map((command) => peers[command]))], say) : [];
  if (why !== undefined || left.length > 0) {
    const reason = why ?? `apt-get cannot install ${left.join(', ')}`;
    say(`tests that need ${missing.join(', ')} will be skipped (${reason})`);
  }
}

/** Does all that is not fresh; throws SetupError when the checkout cannot run. */
export function setUp({ peers = false } = {}) {
  const major = Number(process.versions.node.split('.')[0]);
  if (major < 20) throw new SetupError(`Node is ${process.version}, expected 20 or newer`);
  setUpPackages();
  setUpNative();
  setUpBuild();
  if (peers) setUpPeers();
}

/** As setUp(), but prints the reason of a failure and returns false. */
export function trySetUp(options) {
  try {
    setUp(options);
    return true;
  } catch (error) {
    if (!(error instanceof SetupError)) throw error;
    say(error.message);
    return false;
  }
}

if (resolve(process.argv[1] ?? '') === fileURLToPath(import.meta.url)) {
  process.exitCode = trySetUp({ peers: process.argv.includes('--peers') }) ? 0 : 1;
}
