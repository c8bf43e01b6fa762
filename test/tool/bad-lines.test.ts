// Goal: wrong command lines and commands of vdisk-io and vdisk-nbd get the message and the exit
// status that qemu-io and qemu-nbd give them. Method: what QEMU 10.0.2 said to the same words, with
// the program's name exchanged, is recorded in golden/; summaries of commands and the text of
// --help are in our own words and left out.
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { main as ioMain } from '../../src/tool/io/main.js';
import type { IoOutput } from '../../src/tool/io/output.js';
import { nbdMain } from '../../src/tool/nbd/main.js';
import { binPath, rootPath, runOk, tempDir } from '../support/index.js';
import { TextOutput } from '../support/text-output.js';

interface Case {
  readonly args: readonly string[];
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

type Main = (args: readonly string[], output: IoOutput) => Promise<number>;

const img = binPath('vdisk-img');

/** The images that the recorded lines name. */
async function images(folder: string): Promise<void> {
  const go = (...args: string[]) => runOk(img, args, { cwd: folder });
  await go('create', '-q', '-f', 'qcow2', 'a.qcow2', '1M');
  await go('create', '-q', '-f', 'raw', 'a.raw', '1M');
  await go('create', '-q', '-f', 'qcow2', '-b', 'a.qcow2', '-F', 'qcow2', 't.qcow2');
  await go('create', '-q', '-f', 'qcow2', 's.qcow2', '1M');
  await go('snapshot', '-c', 'snap', 's.qcow2');
  await go('bitmap', '--add', 's.qcow2', 'b0');
  writeFileSync(join(folder, 'txt'), 'hello\n');
}

function comparable(text: string, program: string): string {
  if (text.startsWith(`Usage: ${program}`)) return 'USAGE';
  const plain = text.replace(/#block\d+/g, '#block').replace(/[^\n]*\d+ ops; [^\n]*/g, 'X ops');
  return plain.includes('rror:') ? plain : plain.replace(/ -- [a-z][^\n]*/g, ' -- …');
}

const programs: readonly (readonly [string, string, Main])[] = [
  ['vdisk-io', 'io-bad-input.json', (args, output) => ioMain(args, 'vdisk-io', output)],
  ['vdisk-nbd', 'nbd-bad-input.json', (args, output) => nbdMain('vdisk-nbd', args, output)],
];

it.each(programs)('%s says what its model says', { timeout: 120_000 }, async (name, file, main) => {
  const folder = tempDir();
  const cases = JSON.parse(readFileSync(rootPath(`test/tool/golden/${file}`), 'utf8')) as Case[];
  expect(cases.length).toBeGreaterThan(60);
  const before = process.cwd();
  process.chdir(folder);
  try {
    await images(folder);
    for (const { args, status, stdout, stderr } of cases) {
      const output = new TextOutput();
      const got = await main(args, output);
      const said = {
        status: got,
        stdout: comparable(output.stdout, name),
        stderr: comparable(output.stderr, name),
      };
      expect.soft({ args, ...said }).toEqual({ args, status, stdout, stderr });
    }
  } finally {
    process.chdir(before);
  }
});
