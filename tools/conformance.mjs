#!/usr/bin/env node
// npm run conformance -- --tree QEMU_SOURCE [OPTIONS] [TEST…]
//
// Runs QEMU's own block-layer tests (tests/qemu-iotests of an unpacked QEMU source tree) with this
// project's programs in place of QEMU's. One line per test, the totals at the end; status 0 when
// nothing failed. The suite stays where it is: nothing of it is copied or changed. What a failed
// test printed, and how that differs from its reference, is kept in the folder of --keep.
//
// Needed: Linux, bash, python3, GNU sed and coreutils, diff, bzip2.
import { spawn, spawnSync } from 'node:child_process';
import * as fs from 'node:fs';
import { basename, delimiter, dirname, join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { root } from './files.mjs';

/** Programs that the tests start: their name there, the variable that names them, ours. */
const programs = [
  ['img', 'qemu-img', 'QEMU_IMG_PROG', 'vdisk-img'],
  ['io', 'qemu-io', 'QEMU_IO_PROG', 'vdisk-io'],
  ['nbd', 'qemu-nbd', 'QEMU_NBD_PROG', 'vdisk-nbd'],
  ['daemon', 'qemu-storage-daemon', 'QSD_PROG', 'vdisk-daemon'],
  ['system', 'qemu-system-x86_64', 'QEMU_PROG', undefined],
];

/** Formats that the suite cannot create images of. */
const SAMPLE_FORMATS = ['bochs', 'cloop', 'dmg', 'vvfat'];

const help = `Usage: npm run conformance -- --tree QEMU_SOURCE [OPTIONS] [TEST…]

Runs QEMU's block-layer tests against vdisk's programs. TEST is a name (001, iov-padding) or
@FILE with one name a line; without any, all tests of the format run.

  --tree DIR        an unpacked QEMU source tree (of version 10)
  --format FMT      image format, default qcow2
  --protocol NAME   file (default) or nbd
  --groups A,B      only tests of these groups
  --timeout SECONDS for one test, default 120
  --keep DIR        where outputs and differences of failed tests go
                    (default: vdisk-conformance in the folder for temporary files)
  --json FILE       write the results there, too
  --img, --io, --nbd, --daemon, --system PROGRAM
                    other programs than this checkout's; tests that need one which is missing
                    are counted as skipped
`;

function fail(text) {
  console.error(`conformance: ${text}`);
  process.exit(2);
}

function readOptions() {
  const text = { type: 'string' };
  const options = { tree: text, format: text, protocol: text, groups: text, timeout: text };
  for (const name of ['keep', 'json', ...programs.map(([option]) => option)]) options[name] = text;
  options.help = { type: 'boolean', short: 'h' };
  try {
    return parseArgs({ options, allowPositionals: true });
  } catch (e) {
    return fail(e.message);
  }
}

/** Every test of the suite: where it is, and its groups. */
function testsOf(suite) {
  const found = new Map();
  const add = (name, path) => {
    const line = fs.readFileSync(path, 'latin1').match(/^# group: (.*)$/m);
    found.set(name, { name, path, groups: line === null ? [] : line[1].split(/\s+/) });
  };
  for (const name of fs.readdirSync(suite).sort()) {
    if (/^\d{3}$/.test(name)) add(name, join(suite, name));
  }
  const named = join(suite, 'tests');
  for (const name of fs.existsSync(named) ? fs.readdirSync(named).sort() : []) {
    if (fs.existsSync(join(named, `${name}.out`))) add(name, join(named, name));
  }
  return found;
}

function selectTests(known, names, groups) {
  const wanted = names.flatMap((name) =>
    name.startsWith('@')
      ? fs
          .readFileSync(name.slice(1), 'utf8')
          .split('\n')
          .map((line) => line.split('#')[0].trim())
      : [name],
  );
  const chosen = wanted.filter((name) => name !== '');
  if (chosen.length === 0) chosen.push(...known.keys());
  const tests = chosen.map((name) => known.get(/^\d+$/.test(name) ? name.padStart(3, '0') : name));
  const missing = tests.findIndex((test) => test === undefined);
  if (missing >= 0) fail(`no such test: ${chosen[missing]}`);
  const asked = groups?.split(',');
  return tests.filter((test) => {
    if (asked !== undefined) return test.groups.some((group) => asked.includes(group));
    return wanted.length > 0 || !test.groups.includes('disabled');
  });
}

/** A short name without dots: paths of sockets are bounded, and tests ask for plain names. */
function scratchFolder() {
  for (let i = 0; ; i++) {
    const path = `/tmp/vdc${process.pid}${i === 0 ? '' : `-${i}`}`;
    try {
      fs.mkdirSync(path, { mode: 0o755 });
      return path;
    } catch (e) {
      if (e.code !== 'EEXIST') fail(e.message);
    }
  }
}

/** A program that answers the questions with which tests written in Python begin. */
function standIn(option, name, drivers) {
  const answers =
    option !== 'system'
      ? ''
      : `case " $* " in
*" -machine help "*) echo 'pc                   Standard PC (default)'; exit 0 ;;
*"format=help "*) echo 'Supported formats: ${drivers}'
  echo 'Supported formats (read-only): ${drivers}'; exit 0 ;;
*" -device help "*) for d in virtio-blk virtio-scsi-pci scsi-hd scsi-cd ide-hd ide-cd floppy; do
    echo "name \\"$d\\", bus PCI"; done; exit 0 ;;
esac
`;
  return `#!/bin/sh
${answers}echo ${option} >>"$VDISK_MISSING"
echo "${name}: not there" >&2
exit 1
`;
}

/** Links with QEMU's names to the programs, and stand-ins for those that are not there. */
function makePrograms(folder, values) {
  fs.mkdirSync(folder);
  const env = {};
  const img = values.img ?? join(root, 'bin', 'vdisk-img');
  const text = spawnSync(img, ['--help'], { encoding: 'utf8' }).stdout ?? '';
  const drivers = (text.split('Supported image formats:')[1] ?? text.split('formats:')[1] ?? '')
    .split(/\s+/)
    .join(' ')
    .trim();
  for (const [option, name, variable, ours] of programs) {
    const link = join(folder, name);
    const path = values[option] ?? (ours === undefined ? undefined : join(root, 'bin', ours));
    if (path !== undefined && fs.existsSync(path)) fs.symlinkSync(resolve(path), link);
    else if (values[option] !== undefined) fail(`--${option}: ${values[option]} is not there`);
    else fs.writeFileSync(link, standIn(option, name, drivers), { mode: 0o755 });
    env[variable] = link;
  }
  return env;
}

/** The variables by which the suite's own starter tells its tests what to do. */
function environment(tree, suite, format, protocol, programVariables) {
  const dropped = /^(PYTHON|LC_|IMGOPTS|IMGKEYSECRET|QEMU_|CLUSTER_SIZE|BASH_ENV|ENV$|GDB_|VDISK_)/;
  const env = Object.fromEntries(
    Object.entries(process.env).filter(([name]) => !dropped.test(name)),
  );
  const io = '--cache writeback --aio threads';
  const imgopts = { luks: 'iter-time=10', vmdk: 'zeroed_grain=on' }[format];
  return {
    ...env,
    ...programVariables,
    PYTHON: 'python3',
    PYTHONPATH: [suite, join(tree, 'python')].join(delimiter),
    PYTHONDONTWRITEBYTECODE: '1',
    SAMPLE_IMG_DIR: join(suite, 'sample_images'),
    IMGFMT: format,
    IMGPROTO: protocol,
    IMGFMT_GENERIC: String(!SAMPLE_FORMATS.includes(format)),
    IMGOPTSSYNTAX: String(format === 'luks'),
    AIOMODE: 'threads',
    CACHEMODE: 'writeback',
    CACHEMODE_IS_DEFAULT: 'true',
    QEMU_OPTIONS: '-nodefaults -display none -accel qtest',
    QEMU_DEFAULT_MACHINE: 'pc',
    QEMU_IO_OPTIONS_NO_FMT: io,
    QEMU_IO_OPTIONS: format === 'luks' ? io : `${io} -f ${format}`,
    LANG: 'C.UTF-8',
    ...(imgopts === undefined ? {} : { IMGOPTS: imgopts }),
    ...(format === 'luks' ? { IMGKEYSECRET: '123456' } : {}),
  };
}

function referenceOf(path, format) {
  const candidates = [`${path}.out.${format}`, `${path}.pc.out`, `${path}.out`];
  return candidates.find((name) => fs.existsSync(name));
}

/** Processes that name the test's folder in their environment: what it left behind. */
function strays(folder) {
  const mark = `TEST_DIR=${folder}\0`;
  return fs.readdirSync('/proc').filter((pid) => {
    if (!/^\d+$/.test(pid) || Number(pid) === process.pid) return false;
    try {
      return fs.readFileSync(`/proc/${pid}/environ`, 'latin1').includes(mark);
    } catch {
      return false;
    }
  });
}

function killStrays(folder) {
  for (let round = 0; round < 3; round++) {
    for (const pid of strays(folder)) {
      try {
        process.kill(Number(pid), 'SIGKILL');
      } catch {
        // It ended by itself.
      }
    }
  }
}

/** Runs a program in a process group of its own; its status, or undefined when time was up. */
function runBounded(command, args, options, seconds) {
  return new Promise((settle) => {
    const child = spawn(command, args, { ...options, detached: true });
    let late = false;
    const timer = setTimeout(() => {
      late = true;
      try {
        process.kill(-child.pid, 'SIGKILL');
      } catch {
        // It has just ended.
      }
    }, seconds * 1000);
    child.on('error', (e) => {
      clearTimeout(timer);
      settle({ status: 1, note: e.message });
    });
    child.on('exit', (status) => {
      clearTimeout(timer);
      settle(late ? { status: undefined } : { status: status ?? 1 });
    });
  });
}

const trimmed = (path) => fs.readFileSync(path, 'latin1').replace(/[ \t\r\f\v]+$/gm, '');

/** How the output differs from the reference, trailing blanks aside; empty: it does not. */
function difference(reference, output, work) {
  const [want, got] = [trimmed(reference), trimmed(output)];
  if (want === got) return '';
  const [a, b] = [join(work, 'want'), join(work, 'got')];
  fs.writeFileSync(a, want, 'latin1');
  fs.writeFileSync(b, got, 'latin1');
  const labels = ['--label', reference, '--label', basename(output)];
  return spawnSync('diff', ['-u', ...labels, a, b], { encoding: 'latin1' }).stdout;
}

async function runTest(test, { env, scratch, keep, format, protocol, timeout }) {
  const work = join(scratch, test.name);
  const [testDir, sockDir, missing] = ['t', 's', 'missing'].map((name) => join(work, name));
  fs.mkdirSync(testDir, { recursive: true });
  fs.mkdirSync(sockDir);
  const reference = referenceOf(test.path, format);
  if (reference === undefined) return { status: 'skip', note: 'no reference output' };
  const output = join(work, `${test.name}.out.bad`);
  const file = fs.openSync(output, 'w');
  const began = performance.now();
  const python = fs.readFileSync(test.path, 'latin1').startsWith('#!/usr/bin/env python3');
  const own = { TEST_DIR: testDir, SOCK_DIR: sockDir, TMPDIR: sockDir, VDISK_MISSING: missing };
  const ended = await runBounded(
    python ? 'python3' : test.path,
    python ? [test.path] : [],
    { cwd: dirname(test.path), env: { ...env, ...own }, stdio: ['ignore', file, file] },
    timeout,
  );
  fs.closeSync(file);
  const seconds = (performance.now() - began) / 1000;
  killStrays(testDir);
  const result = judge(test, ended, { testDir, missing, reference, output, work, timeout });
  if (result.status === 'fail') {
    const stem = join(keep, `${format}-${protocol}-${test.name}`);
    fs.writeFileSync(`${stem}.diff`, result.diff, 'latin1');
    fs.copyFileSync(output, `${stem}.out`);
    result.note += `; ${stem}.diff`;
  }
  delete result.diff;
  spawnSync('chmod', ['-R', 'u+rwx', work]);
  fs.rmSync(work, { recursive: true, force: true });
  return { ...result, seconds };
}

function judge(test, ended, { testDir, missing, reference, output, work, timeout }) {
  const notes = (kind) => {
    const path = join(testDir, `${test.name}.${kind}`);
    return fs.existsSync(path) ? fs.readFileSync(path, 'utf8').trim() : undefined;
  };
  const skipped = notes('notrun');
  if (ended.status === 0 && skipped !== undefined) return { status: 'skip', note: skipped };
  const diff = difference(reference, output, work);
  const cases = notes('casenotrun')?.split('\n').length;
  if (ended.status === 0 && diff === '') {
    return { status: 'pass', note: cases === undefined ? '' : `${cases} lines on skipped cases` };
  }
  if (fs.existsSync(missing)) {
    const names = [...new Set(fs.readFileSync(missing, 'utf8').trim().split('\n'))];
    return { status: 'skip', note: `needs ${names.join(', ')}, which is not there` };
  }
  if (ended.status === undefined) return { status: 'fail', note: `no end in ${timeout} s`, diff };
  const status = ended.status === 0 ? 'output differs' : `exit status ${ended.status}`;
  return { status: 'fail', note: ended.note ?? status, diff };
}

async function main() {
  const { values, positionals } = readOptions();
  if (values.help) return process.stdout.write(help);
  if (values.tree === undefined) fail('--tree is needed: an unpacked QEMU source tree');
  const tree = resolve(values.tree);
  const suite = join(tree, 'tests', 'qemu-iotests');
  if (!fs.existsSync(suite)) fail(`${suite} is not there: --tree is not QEMU's source`);
  const { format = 'qcow2', protocol = 'file' } = values;
  const tests = selectTests(testsOf(suite), positionals, values.groups);
  const timeout = Number(values.timeout ?? 120);
  if (!(timeout > 0)) fail(`--timeout: ${values.timeout} is not a time`);
  const keep = resolve(values.keep ?? join(process.env.TMPDIR ?? '/tmp', 'vdisk-conformance'));
  fs.mkdirSync(keep, { recursive: true });
  process.umask(0o022);
  const scratch = scratchFolder();
  const clean = () => fs.rmSync(scratch, { recursive: true, force: true });
  let stopped = false;
  process.on('SIGINT', () => {
    stopped = true;
    for (const test of tests) killStrays(join(scratch, test.name, 't'));
  });
  const variables = makePrograms(join(scratch, 'bin'), values);
  const env = environment(tree, suite, format, protocol, variables);
  const count = { pass: 0, fail: 0, skip: 0 };
  const results = [];
  for (const test of tests) {
    if (stopped) break;
    const result = await runTest(test, { env, scratch, keep, format, protocol, timeout });
    count[result.status]++;
    results.push({ test: test.name, ...result });
    const time = result.seconds === undefined ? '' : ` ${result.seconds.toFixed(1)} s`;
    console.log(`${result.status} ${test.name}${time}${result.note ? ` ${result.note}` : ''}`);
  }
  clean();
  if (values.json !== undefined) fs.writeFileSync(values.json, JSON.stringify(results, null, 1));
  console.log(
    `${format} over ${protocol}: ${count.pass} passed, ${count.fail} failed, ` +
      `${count.skip} skipped of ${tests.length}`,
  );
  process.exitCode = stopped ? 130 : count.fail === 0 ? 0 : 1;
}

await main();
