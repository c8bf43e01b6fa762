// Goal: vdisk-img answers command lines, right and wrong, as qemu-img 10 does: exit status, text on
// both outputs, the files that are there afterwards and what they hold. Method: random lines
// (img-grammar.ts) are run by both, each in a copy of the same folder, from seeds that are the
// same in each run. `npm run fuzz -- img-lines` goes on with other seeds for as long as one likes;
// there, when two things are wrong with one line, another of them may be told first
// (docs/conformance.md).
import { readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { imgMain } from '../../src/tool/img/main.js';
import { Random, requiresQemu10, run, tempDir } from '../support/index.js';
import { TextOutput } from '../support/text-output.js';
import { normalize } from '../tool/transcript.js';
import { commandLine } from './img-grammar.js';
import type { Answer } from './line-fuzz.js';
import { differing, freshCopy, prepareImages } from './line-fuzz.js';

const first = Number(process.env['VDISK_FUZZ_SEED'] ?? 1);
const seconds = Number(process.env['VDISK_FUZZ_SECONDS'] ?? 0);
/** Lines of one test, and tests when there is no time to fill. */
const LINES = 10;
const TESTS = 4;

let base = '';

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

async function compareLine(seed: number, work: string): Promise<string | undefined> {
  const args = commandLine(new Random(seed));
  const [a, b] = [join(work, 'theirs'), join(work, 'ours')];
  freshCopy(base, a);
  freshCopy(base, b);
  const [expected, got] = [await theirs(a, args), await ours(b, args)];
  const why = deliberate(expected, got);
  if (why !== undefined && JSON.stringify(expected) !== JSON.stringify(got)) return why;
  const hint = `npm run fuzz -- img-lines --seed ${seed} --seconds 1`;
  expect.soft({ hint, args, ...got }).toEqual({ hint, args, ...expected });
  if (expected.status === 0) {
    expect.soft({ hint, args, differs: await differing(base, a, b) }).toEqual({ hint, args });
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
