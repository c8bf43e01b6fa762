// Goal: vdisk-io answers calls, right and wrong, as qemu-io 10 does: exit status, text on both
// outputs, the files that are there afterwards and what they hold. Method: random calls
// (io-grammar.ts) are run by both, each in a copy of the same folder, from seeds that are the same
// in each run. `npm run fuzz -- io-lines` goes on with other seeds for as long as one likes.
import { readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { main } from '../../src/tool/io/main.js';
import { Random, requiresQemu10, run, tempDir } from '../support/index.js';
import { TextOutput } from '../support/text-output.js';
import { normalize, withoutTimes } from '../tool/transcript.js';
import { ioLine } from './io-grammar.js';
import type { Answer } from './line-fuzz.js';
import { differing, freshCopy, prepareImages } from './line-fuzz.js';

const first = Number(process.env['VDISK_FUZZ_SEED'] ?? 1);
const seconds = Number(process.env['VDISK_FUZZ_SECONDS'] ?? 0);
/** Calls of one test, and tests when there is no time to fill. */
const LINES = 15;
const TESTS = 4;

let base = '';

/** Help has words of its own: of a line that explains a command its form is kept. */
function withoutHelp(text: string): string {
  return text.replace(/^Usage: [^]*$/m, 'USAGE').replace(/^(\w+ .*) -- .*$/gm, '$1 -- HELP');
}

function answerOf(
  folder: string,
  { status, stdout, stderr }: { status: number; stdout: string; stderr: string },
): Answer {
  const plain = (text: string): string => normalize(withoutHelp(withoutTimes(text)));
  const files = readdirSync(folder).sort();
  return { status, stdout: plain(stdout), stderr: plain(stderr), files };
}

async function ours(folder: string, args: readonly string[]): Promise<Answer> {
  const before = process.cwd();
  process.chdir(folder);
  try {
    const output = new TextOutput();
    const status = await main(args, 'vdisk-io', output);
    const { stdout, stderr } = output;
    return answerOf(folder, { status, stdout, stderr });
  } finally {
    process.chdir(before);
  }
}

/**
 * Where the two differ on purpose (docs/conformance.md): clusters that hold data can be written
 * again compressed; and signals end qemu-io at some vectors and at reports of many zones.
 */
function isDeliberate(args: readonly string[], said: { status: number; stdout: string }): boolean {
  const compresses = args.some((word) => /^write .*-c/.test(word));
  const refuses = said.stdout.includes('write failed: Input/output error');
  return said.status > 128 || (compresses && refuses);
}

/** What the two did otherwise with the call of this seed; undefined: nothing. */
async function difference(seed: number, work: string): Promise<string | undefined> {
  const args = ioLine(new Random(seed));
  const [a, b] = [join(work, 'theirs'), join(work, 'ours')];
  freshCopy(base, a);
  freshCopy(base, b);
  const said = await run('qemu-io', args, { cwd: a });
  if (isDeliberate(args, said)) return undefined;
  const [theirs, got] = [answerOf(a, said), await ours(b, args)];
  const name = await differing(base, a, b);
  if (JSON.stringify(theirs) === JSON.stringify(got) && name === undefined) return undefined;
  return JSON.stringify({ seed, args, theirs, ours: got, otherContentOf: name }, undefined, 2);
}

async function differences(from: number, goOn: (seed: number) => boolean): Promise<string[]> {
  const work = tempDir();
  const found: string[] = [];
  for (let seed = from; goOn(seed); seed++) {
    const text = await difference(seed, work);
    if (text !== undefined) found.push(text);
  }
  return found;
}

requiresQemu10('qemu-img', 'qemu-io')('random calls of vdisk-io and qemu-io', () => {
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
      let last = first;
      const found = await differences(first, (seed) => {
        last = seed;
        return Date.now() < end;
      });
      console.log(`seeds ${first} to ${last - 1}`);
      expect(found.join('\n')).toBe('');
    });
    return;
  }
  for (let i = 0; i < TESTS; i++) {
    const from = first + i * LINES;
    it(`seeds ${from} to ${from + LINES - 1}`, { timeout: 240_000 }, async () => {
      const found = await differences(from, (seed) => seed < from + LINES);
      expect(found.join('\n')).toBe('');
    });
  }
});
