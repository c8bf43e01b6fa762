// Goal: vdisk-img answers command lines, right and wrong, as qemu-img 10 does: exit status, text on
// both outputs, the files that are there afterwards and what they hold. Method: random lines
// (img-grammar.ts) are run by both, each in a copy of the same folder, from seeds that are the
// same in each run. `npm run fuzz -- img-lines` goes on with other seeds for as long as one likes;
// there, when two things are wrong with one line, another of them may be told first
// (docs/conformance.md).
import {
  cpSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { imgMain } from '../../src/tool/img/main.js';
import { Random, requiresQemu10, run, runOk, tempDir } from '../support/index.js';
import { TextOutput } from '../support/text-output.js';
import { normalize } from '../tool/transcript.js';
import { commandLine } from './img-grammar.js';

const first = Number(process.env['VDISK_FUZZ_SEED'] ?? 1);
const seconds = Number(process.env['VDISK_FUZZ_SECONDS'] ?? 0);
/** Lines of one test, and tests when there is no time to fill. */
const LINES = 25;
const TESTS = 4;

let base = '';

/** The images that the lines name; all sizes are small. */
async function prepareImages(folder: string): Promise<void> {
  const img = (...args: string[]) => runOk('qemu-img', args, { cwd: folder });
  const write = (name: string, format: string, ...commands: string[]) => {
    const words = commands.flatMap((command) => ['-c', command]);
    return runOk('qemu-io', ['-f', format, ...words, name], { cwd: folder });
  };
  const qcow2 = async (name: string, options: string, ...commands: string[]) => {
    await img('create', '-f', 'qcow2', ...options.split(' ').filter(Boolean), name, '1M');
    await write(name, 'qcow2', ...commands);
  };
  await img('create', '-f', 'raw', 'r.raw', '1M');
  await write('r.raw', 'raw', 'write -P 1 64k 128k');
  await qcow2('a.qcow2', '', 'write -P 2 0 128k', 'write -P 3 640k 64k', 'write -z 512k 64k');
  await qcow2('t.qcow2', '-b a.qcow2 -F qcow2', 'write -P 4 64k 64k', 'write -P 5 900k 10k');
  await qcow2('t2.qcow2', '-b t.qcow2 -F qcow2', 'write -P 6 1000k 20k');
  await img('resize', '-q', 't2.qcow2', '1536k');
  await img('create', '-f', 'qcow2', '-b', 'r.raw', '-F', 'raw', 'u.qcow2');
  await qcow2('s.qcow2', '', 'write -P 7 0 64k');
  await img('snapshot', '-c', 'snap', 's.qcow2');
  await write('s.qcow2', 'qcow2', 'write -P 8 0 64k');
  await img('bitmap', '--add', 's.qcow2', 'b0');
  await qcow2('v2.qcow2', '-o compat=0.10', 'write -P 7 0 64k');
  await qcow2('x.qcow2', '-o extended_l2=on', 'write -P 7 3k 4k');
  await qcow2('d.qcow2', '-o data_file=d.raw', 'write -P 7 0 64k');
  writeFileSync(join(folder, 'txt'), 'hello\n');
  writeFileSync(join(folder, 'empty'), '');
}

interface Answer {
  readonly status: number;
  readonly stdout: unknown;
  readonly stderr: string;
  readonly files: readonly string[];
}

/** JSON as a value: the order of its keys is nobody's promise. */
function comparable(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return text;
  }
}

function answerOf(
  folder: string,
  said: { status: number; stdout: string; stderr: string },
  name: string,
): Answer {
  const plain = (text: string): string => normalize(text.replaceAll(name, 'qemu-img'));
  const { status, stdout, stderr } = said;
  const files = readdirSync(folder).sort();
  return { status, stdout: comparable(plain(stdout)), stderr: plain(stderr), files };
}

function freshCopy(folder: string): void {
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder);
  cpSync(base, folder, { recursive: true });
}

async function ours(folder: string, args: readonly string[]): Promise<Answer> {
  const before = process.cwd();
  process.chdir(folder);
  try {
    const output = new TextOutput();
    const status = await imgMain('vdisk-img', args, output);
    const { stdout, stderr } = output;
    return answerOf(folder, { status, stdout, stderr }, 'vdisk-img');
  } finally {
    process.chdir(before);
  }
}

async function theirs(folder: string, args: readonly string[]): Promise<Answer> {
  const said = await run('qemu-img', args, { cwd: folder });
  return answerOf(folder, said, 'qemu-img');
}

/** Why answers may differ, in the words of docs/conformance.md; undefined: they may not. */
function deliberate(theirs: Answer, ours: Answer): string | undefined {
  if (/9007199254740991/.test(ours.stderr)) return 'sizes beyond 2^53 - 1';
  if (theirs.status === 134) return 'qemu-img aborts';
  const sameEnd = theirs.status === ours.status && theirs.status !== 0;
  if (!sameEnd) return undefined;
  const left = theirs.files.filter((name) => !ours.files.includes(name));
  if (theirs.stderr === ours.stderr && left.length > 0) return 'no target is left behind';
  return seconds > 0 && left.length === 0 ? 'another error is told first' : undefined;
}

/** Whether an image that both have changed holds the same in both folders. */
async function sameContent(a: string, b: string): Promise<string | undefined> {
  for (const name of readdirSync(a)) {
    const [left, right] = [join(a, name), join(b, name)];
    const old = join(base, name);
    const changed = [left, right].some((path) => {
      const known = statSync(old, { throwIfNoEntry: false });
      return known === undefined || !readFileSync(path).equals(readFileSync(old));
    });
    if (!changed || statSync(left).isDirectory()) continue;
    const status = await imgMain('vdisk-img', ['compare', left, right], new TextOutput());
    if (status === 1) return name;
  }
  return undefined;
}

async function compareLine(seed: number, work: string): Promise<string | undefined> {
  const args = commandLine(new Random(seed));
  const [a, b] = [join(work, 'theirs'), join(work, 'ours')];
  freshCopy(a);
  freshCopy(b);
  const [expected, got] = [await theirs(a, args), await ours(b, args)];
  const why = deliberate(expected, got);
  if (why !== undefined && JSON.stringify(expected) !== JSON.stringify(got)) return why;
  const hint = `npm run fuzz -- img-lines --seed ${seed} --seconds 1`;
  expect.soft({ hint, args, ...got }).toEqual({ hint, args, ...expected });
  if (expected.status === 0) {
    expect.soft({ hint, args, differs: await sameContent(a, b) }).toEqual({ hint, args });
  }
  return undefined;
}

requiresQemu10('qemu-img', 'qemu-io')('random lines of vdisk-img and qemu-img', () => {
  beforeAll(async () => {
    base = tempDir({ keep: true });
    await prepareImages(base);
  }, 60_000);

  afterAll(() => {
    rmSync(base, { recursive: true, force: true });
  });

  if (seconds > 0) {
    it(`for ${seconds} s`, { timeout: (seconds + 120) * 1000 }, async () => {
      const end = Date.now() + seconds * 1000;
      const reasons = new Map<string, number>();
      let seed = first;
      const work = tempDir();
      for (; Date.now() < end; seed++) {
        const why = await compareLine(seed, work);
        if (why !== undefined) reasons.set(why, (reasons.get(why) ?? 0) + 1);
      }
      console.log(`seeds ${first} to ${seed - 1}; differences on purpose:`, reasons);
    });
    return;
  }
  for (let i = 0; i < TESTS; i++) {
    const from = first + i * LINES;
    it(`seeds ${from} to ${from + LINES - 1}`, { timeout: 240_000 }, async () => {
      const work = tempDir();
      for (let seed = from; seed < from + LINES; seed++) await compareLine(seed, work);
    });
  }
});
