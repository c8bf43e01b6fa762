#!/usr/bin/env node
// npm run build: the tools' bundles (dist/tool), the library with its types (dist), and two checks:
// that the core compiles without Node's types, and that tests, benches and examples compile.
// With --quick only the bundles and the library, which is what runs.
import { spawn } from 'node:child_process';
import { existsSync, readdirSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { bundleTools, toolNames } from './bundle.mjs';
import { filesUnder, hashOf, root, tryRead, writeAtomically } from './files.mjs';

const quick = process.argv.includes('--quick');
const stamp = join(root, 'dist/.stamp');

/** What dist/ depends on. */
function wantedStamp() {
  const settings = ['package.json', 'package-lock.json', 'tsconfig.json', 'tsconfig.build.json'];
  const sources = filesUnder(['src'], (path) => /\.ts$/.test(path) && !/\.test\.ts$/.test(path));
  return hashOf([...sources, ...filesUnder(settings)]);
}

/** Type-checks one project (and emits, when it is the build); true when it is clean. */
function compile(project, what) {
  return new Promise((done) => {
    const args = ['node_modules/typescript/bin/tsc', '-p', project, '--pretty', 'false'];
    const child = spawn(process.execPath, args, {
      cwd: root,
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    let said = '';
    child.stdout.on('data', (chunk) => (said += chunk));
    child.on('close', (status) => {
      if (status !== 0) console.error(`${what} (${project}) does not compile:\n${said}`);
      done(status === 0);
    });
  });
}

/** Removes what an earlier build left of sources that are gone. */
function prune(folder = '') {
  const path = join(root, 'dist', folder);
  if (!existsSync(path)) return;
  for (const name of readdirSync(path)) {
    const file = join(folder, name);
    if (file === 'tool' || name.startsWith('.')) continue;
    if (statSync(join(path, name)).isDirectory()) prune(file);
    const source = file.replace(/\.(d\.ts|js)(\.map)?$/, '.ts');
    if (!existsSync(join(root, 'src', source))) rmSync(join(path, name), { recursive: true });
  }
}

const wanted = wantedStamp();
const bundled = (await bundleTools()) !== 'failed';
if (!(quick && bundled && tryRead(stamp) === wanted)) {
  rmSync(stamp, { force: true });
  const library = compile('tsconfig.build.json', 'the library');
  const results = quick
    ? [await library]
    : [
        ...(await Promise.all([library, compile('tsconfig.core.json', 'the core alone')])),
        await compile('tsconfig.json', 'the project'),
      ];
  prune();
  if (bundled && results.every(Boolean)) {
    writeAtomically(stamp, wanted);
    console.log(`build: done (library in dist/, tools: ${toolNames().join(', ') || 'none'})`);
  } else {
    console.error('build: failed');
    process.exitCode = 1;
  }
}
