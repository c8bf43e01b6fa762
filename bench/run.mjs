#!/usr/bin/env node
// npm run bench: a table job | vdisk | qemu | ratio. Both tools run in turn, so that what else the
// machine does hits both; printed are medians with the tools' start-up taken off, and the ratio
// qemu / vdisk: above 1, vdisk is faster. `of raw`, for first writes: vdisk's time for the same on
// a raw image / on qcow2, measured in the same rounds; `of layer`, for devices: the same requests
// to the block layer itself / through the device; and how many in a second.
// `npm run bench -- --help` tells the options.
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { blockJobs } from './jobs/block-jobs.mjs';
import { convertJobs } from './jobs/convert.mjs';
import { metadataJobs } from './jobs/metadata.mjs';
import { daemonJobs } from './jobs/daemon.mjs';
import { deviceJobs } from './jobs/devices.mjs';
import { nbdJobs } from './jobs/nbd.mjs';
import { requestJobs } from './jobs/requests.mjs';
import { throttleJobs } from './jobs/throttle.mjs';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const jobs = [
  ...convertJobs,
  ...metadataJobs,
  ...requestJobs,
  ...nbdJobs,
  ...daemonJobs,
  ...deviceJobs,
  ...blockJobs,
  ...throttleJobs,
];

const help = `npm run bench -- [OPTIONS] [NAME…]
  NAME          run only the rows whose name contains one of the words
  --except WORD leave out the rows whose name contains it
  --qemu DIR    folder with qemu-img (default: from PATH)
  --runs N      pairs of runs for each row (default 5)
  --dir DIR     where images are made (default: the temporary folder)
  --list        print the names of the rows
  --json        print one JSON object per row
`;

function readOptions(argv) {
  const options = { names: [], runs: 5, dir: tmpdir(), list: false, json: false };
  const rest = [...argv];
  while (rest.length > 0) {
    const word = rest.shift();
    if (word === '--except') options.except = rest.shift();
    else if (word === '--qemu') options.qemu = rest.shift();
    else if (word === '--runs') options.runs = Number(rest.shift());
    else if (word === '--dir') options.dir = rest.shift();
    else if (word === '--list') options.list = true;
    else if (word === '--json') options.json = true;
    else if (word === '--help' || word === '-h') options.help = true;
    else if (word.startsWith('-')) throw new Error(`unknown option ${word}`);
    else options.names.push(word);
  }
  return options;
}

/** Path of QEMU's tool; undefined when there is none. */
function findPeer(folder, name) {
  const folders = folder === undefined ? process.env.PATH.split(delimiter) : [folder];
  return folders.map((each) => join(each, name)).find(existsSync);
}

/** Peak of the resident memory so far, in KiB; 0 when the process is gone. */
function peakMemory(pid) {
  try {
    return Number(/VmHWM:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? 0);
  } catch {
    return 0;
  }
}

/** Runs a command; { ms, kib }. Throws with what it said when it fails. */
function timed(command, args, cwd, watchMemory) {
  return new Promise((resolve, reject) => {
    const before = performance.now();
    const child = spawn(command, args, { cwd, stdio: ['ignore', 'ignore', 'pipe'] });
    let said = '';
    let kib = 0;
    const watch = () => (kib = Math.max(kib, peakMemory(child.pid)));
    const timer = watchMemory ? setInterval(watch, 10) : undefined;
    child.stderr.on('data', (chunk) => (said += chunk));
    child.on('error', reject);
    child.on('exit', (status) => {
      const ms = performance.now() - before;
      clearInterval(timer);
      if (status === 0) resolve({ ms, kib });
      else reject(new Error(`${[command, ...args].join(' ')}: status ${status}\n${said}`));
    });
  });
}

/** Of what was measured; undefined when nothing was. */
function median(values) {
  const known = values.filter((value) => value !== undefined).toSorted((a, b) => a - b);
  return known[known.length >> 1];
}

/** Median start-up of a tool in ms. */
async function startUp(command, cwd) {
  const times = [];
  for (let i = 0; i < 11; i++) times.push((await timed(command, ['--version'], cwd, false)).ms);
  return median(times);
}

function prepare(job, context, done) {
  for (const need of job.needs ?? []) {
    if (done.has(need)) continue;
    done.add(need);
    need(context);
  }
}

/** What the `bench` subcommand says of its own time, in ms; undefined for other commands. */
async function measure(tool, job, context) {
  if (job.measure !== undefined) return job.measure(tool, context);
  const args = job.args(context, tool.name);
  if (job.ownClock === true) {
    let result;
    // QEMU's bench with aio=native ends by a signal often, at depth 1 nearly always (10.0.2).
    for (let tries = 0; tries < 8; tries++) {
      job.before?.(context);
      result = spawnSync(tool.path, args, { cwd: context.dir, encoding: 'utf8' });
      if (result.signal === null || tool.name === 'vdisk') break;
    }
    if (result.signal !== null && tool.name !== 'vdisk') return { ms: undefined, kib: 0 };
    const seconds = /in ([\d.]+) seconds/.exec(result.stdout)?.[1];
    if (result.status !== 0 || seconds === undefined) throw new Error(result.stderr);
    return { ms: Number(seconds) * 1000, kib: 0 };
  }
  job.before?.(context);
  const { ms, kib } = await timed(tool.path, args, context.dir, tool.name === 'vdisk');
  return { ms: Math.max(ms - tool.start, 0.1), kib };
}

async function runJob(job, tools, context, runs) {
  const times = tools.map(() => []);
  const beside = [];
  let kib = 0;
  for (let i = 0; i < runs; i++) {
    if (job.beside !== undefined) beside.push((await measure(tools[0], job.beside, context)).ms);
    for (const [t, tool] of tools.entries()) {
      const result = await measure(tool, job, context);
      times[t].push(result.ms);
      kib = Math.max(kib, result.kib);
    }
  }
  const row = { name: job.name, ms: times.map(median), mib: Math.round(kib / 1024) };
  if (job.requests !== undefined) row.perSecond = Math.round((job.requests / row.ms[0]) * 1000);
  if (job.beside === undefined) return row;
  return { ...row, of: job.beside.name, part: median(beside) / row.ms[0] };
}

function printRow({ name, ms, mib, of, part, perSecond }) {
  const [ours, theirs] = ms;
  const seconds = (value) => (value === undefined ? '-' : `${(value / 1000).toFixed(3)} s`);
  const ratio = theirs === undefined ? '-' : (theirs / ours).toFixed(2);
  const memory = mib > 0 ? `${mib} MiB` : '';
  const compared =
    part === undefined ? memory.padStart(9) : `of ${of} ${part.toFixed(2)}`.padStart(13);
  const last = perSecond === undefined ? compared : `${compared}, ${perSecond}/s`;
  console.log(
    `${name.padEnd(44)} ${seconds(ours).padStart(10)} ${seconds(theirs).padStart(10)} ` +
      `${ratio.padStart(7)} ${last}`,
  );
}

async function main() {
  const options = readOptions(process.argv.slice(2));
  if (options.help) {
    process.stdout.write(help);
    return;
  }
  const wanted = jobs.filter(
    ({ name }) =>
      (options.names.length === 0 || options.names.some((word) => name.includes(word))) &&
      (options.except === undefined || !name.includes(options.except)),
  );
  if (options.list) {
    for (const job of wanted) console.log(job.name);
    return;
  }
  const dir = mkdtempSync(join(options.dir, 'vdisk-bench-'));
  process.on('exit', () => rmSync(dir, { recursive: true, force: true }));
  for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => process.exit(1));
  const ours = join(root, 'bin/vdisk-img');
  const tools = [{ name: 'vdisk', path: ours, start: await startUp(ours, dir) }];
  const peer = findPeer(options.qemu, 'qemu-img');
  if (peer !== undefined) {
    tools.push({ name: 'qemu', path: peer, start: await startUp(peer, dir) });
    const version = spawnSync(peer, ['--version'], { encoding: 'utf8' }).stdout.split('\n')[0];
    if (!options.json) console.log(`peer: ${peer}, ${version}`);
  }
  const starts = tools.map(({ name, start }) => `${name} ${start.toFixed(0)} ms`).join(', ');
  if (!options.json) {
    console.log(`start-up (taken off): ${starts}; medians of ${options.runs} pairs`);
    printHeader();
  }
  await runAll(wanted, tools, { dir, img: ours }, options);
}

function printHeader() {
  console.log(
    `${'job'.padEnd(44)} ${'vdisk'.padStart(10)} ${'qemu-img'.padStart(10)} ` +
      `${'ratio'.padStart(7)} ${'memory'.padStart(9)}`,
  );
}

async function runAll(wanted, tools, context, options) {
  const done = new Set();
  const ratios = [];
  for (const job of wanted) {
    try {
      prepare(job, context, done);
      const row = await runJob(job, tools, context, options.runs);
      if (options.json) console.log(JSON.stringify(row));
      else printRow(row);
      if (row.ms[1] !== undefined) ratios.push(row.ms[1] / row.ms[0]);
    } catch (error) {
      console.log(`${job.name.padEnd(44)} failed: ${error.message.trim().split('\n').at(-1)}`);
      process.exitCode = 1;
    }
  }
  if (ratios.length > 1 && !options.json) {
    const mean = Math.exp(ratios.reduce((sum, r) => sum + Math.log(r), 0) / ratios.length);
    const least = Math.min(...ratios).toFixed(2);
    console.log(`geometric mean of the ratios: ${mean.toFixed(2)}; least: ${least}`);
  }
}

await main();
