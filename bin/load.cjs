// Starts a bundled tool (dist/tool/NAME.cjs) with V8's compiled code from the build, so that start
// costs reading two files and no parsing. See docs/decisions/0004-tool-bundles.md.
'use strict';
const fs = require('fs');
const path = require('path');
const vm = require('vm');

const folder = path.join(__dirname, '..', 'dist', 'tool');

// The launchers hide NODE_EXTRA_CA_CERTS from Node's start; what the tool starts shall see it.
const certificates = process.env.VDISK_EXTRA_CA_CERTS;
if (certificates !== undefined) {
  delete process.env.VDISK_EXTRA_CA_CERTS;
  if (certificates === '') delete process.env.NODE_EXTRA_CA_CERTS;
  else process.env.NODE_EXTRA_CA_CERTS = certificates;
}

/** Runs the tool; with status 1 and one line when it has not been built. */
function load(name) {
  const file = path.join(folder, `${name}.cjs`);
  let text;
  try {
    text = fs.readFileSync(file, 'latin1');
  } catch {
    process.stderr.write(`${name}: not built (${file} is missing): run "npm run build"\n`);
    process.exitCode = 1;
    return;
  }
  // The command has a cache of its own, or the general one will do.
  const base = path.join(folder, `${name}.${text.slice(2, 18)}`);
  const words = process.argv.slice(2, name === 'vdisk' ? 4 : 3).join('-');
  const own = /^[a-z-]+$/.test(words) ? tryReadBytes(`${base}.${words}.cache`) : undefined;
  const cachedData = own ?? tryReadBytes(`${base}.cache`);
  const script = new vm.Script(text, { filename: file, cachedData });
  const start = () => {
    const module = { exports: {} };
    script.runInThisContext().call(module.exports, module.exports, require, module, file, folder);
  };
  const wanted = process.env.VDISK_WRITE_CODE_CACHE;
  if (wanted !== undefined) {
    // The build: a tool that ends makes room for the next command line in this process, for the
    // cache holds what has run.
    const more = JSON.parse(process.env.VDISK_WARM_COMMANDS ?? '[]');
    const { exit } = process;
    process.exit = (status) => {
      const next = more.shift();
      if (next === undefined) exit.call(process, status);
      process.argv.splice(2, Infinity, ...next);
      start();
    };
    process.on('exit', () => fs.writeFileSync(wanted, script.createCachedData()));
  }
  start();
}

function tryReadBytes(file) {
  try {
    return fs.readFileSync(file);
  } catch {
    return undefined;
  }
}

module.exports = load;

// `node bin/load.cjs NAME ARGS` does the same as `bin/NAME ARGS`.
if (require.main === module) load(process.argv.splice(2, 1)[0]);
