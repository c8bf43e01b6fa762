#!/usr/bin/env node
// npm run build:native: compiles native/ with node-gyp (npm's own) against the headers beside the
// running node when they are there, so that nothing is downloaded.
import { spawnSync } from 'node:child_process';
import { existsSync, realpathSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { root } from './files.mjs';

/** node-gyp's script: the one that npm names, else the one in npm's folder beside node. */
function findNodeGyp() {
  const prefix = dirname(dirname(realpathSync(process.execPath)));
  const npm = process.env.npm_execpath;
  const candidates = [
    process.env.npm_config_node_gyp,
    npm && join(dirname(npm), '../node_modules/node-gyp/bin/node-gyp.js'),
    join(prefix, 'lib/node_modules/npm/node_modules/node-gyp/bin/node-gyp.js'),
  ];
  return candidates.find((path) => path !== undefined && existsSync(path));
}

/** A Python that runs; node-gyp refuses to start without one. */
function findPython() {
  return ['python3', '/usr/bin/python3', 'python'].find((python) => {
    const { status } = spawnSync(python, ['-c', 'import sys; sys.exit(sys.version_info < (3, 8))']);
    return status === 0;
  });
}

const gyp = findNodeGyp();
const python = findPython();
if (!existsSync(join(root, 'native/binding.gyp'))) {
  console.log('build:native: there is no native/binding.gyp');
} else if (gyp === undefined || python === undefined) {
  console.error(`build:native: no ${gyp === undefined ? 'node-gyp (npm has one)' : 'python3'}`);
  process.exitCode = 1;
} else {
  const prefix = dirname(dirname(realpathSync(process.execPath)));
  const headers = existsSync(join(prefix, 'include/node/node.h')) ? [`--nodedir=${prefix}`] : [];
  const args = [gyp, 'rebuild', `--python=${python}`, ...headers, ...process.argv.slice(2)];
  const { status } = spawnSync(process.execPath, args, {
    cwd: join(root, 'native'),
    stdio: 'inherit',
  });
  process.exitCode = status ?? 1;
}
