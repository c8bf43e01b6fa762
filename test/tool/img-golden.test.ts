// Goal: vdisk-img answers as qemu-img 10 does: text on both outputs, exit status. Method: the
// transcripts in golden/, recorded from the real tools, are run line by line with ours, each in a
// folder of its own. What differs on purpose stands in deviations.json, each with its reason.
import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { nodeHost } from '../../src/index.js';
import { imgMain } from '../../src/tool/img/main.js';
import type { IoOutput } from '../../src/tool/io/output.js';
import { binPath, rootPath, tempDir } from '../support/index.js';
import type { Answer, Step } from './transcript.js';
import { answerText, parseTranscript, words, writeTranscript } from './transcript.js';

const folder = join(rootPath(), 'test/tool/golden');
const recordFrom = process.env['VDISK_RECORD'];

class Text implements IoOutput {
  stdout = '';
  stderr = '';
  out(text: string): void {
    this.stdout += text;
  }
  err(text: string): void {
    this.stderr += text;
  }
  flush(): void {
    // Nothing is held back.
  }
}

/** Runs a step with the real tools. */
function ask(step: Step, cwd: string): Answer {
  const [command, args] =
    step.tool === 'sh'
      ? ['/bin/sh', ['-c', step.line]]
      : [join(recordFrom ?? '', step.tool === 'img' ? 'qemu-img' : 'qemu-io'), words(step.line)];
  const result = spawnSync(command, args, { cwd, encoding: 'utf8', timeout: 60_000 });
  const stderr = result.stderr.replaceAll(`${recordFrom ?? ''}/`, '');
  return { stdout: result.stdout, stderr, status: result.status ?? 255 };
}

/** Runs a step with ours, in this process. */
async function answer(step: Step, cwd: string): Promise<Answer> {
  if (step.tool === 'sh') {
    const result = spawnSync('/bin/sh', ['-c', step.line], { cwd, encoding: 'utf8' });
    return { stdout: result.stdout, stderr: result.stderr, status: result.status ?? 255 };
  }
  if (step.tool === 'io') {
    const result = spawnSync(binPath('vdisk-io'), words(step.line), { cwd, encoding: 'utf8' });
    return { stdout: result.stdout, stderr: result.stderr, status: result.status ?? 255 };
  }
  const text = new Text();
  const status = await imgMain('vdisk-img', words(step.line), text);
  return { stdout: text.stdout, stderr: text.stderr, status };
}

interface Deviation {
  readonly file: string;
  readonly line: string;
  readonly answer: string;
  readonly reason: string;
}

const deviations = JSON.parse(readFileSync(join(folder, 'deviations.json'), 'utf8')) as Deviation[];

/** Without the addon a host cannot see holes or preallocate: the answers differ there. */
const note = nodeHost().files?.engineNote?.();
const missing = note === undefined ? '' : ' [needs the native addon]';

describe
  .skipIf(note !== undefined)
  .each(readdirSync(folder).filter((name) => name.endsWith('.txt')))(`%s${missing}`, (name) => {
  const path = join(folder, name);
  it('is answered the same', { timeout: 120_000 }, async () => {
    const transcript = parseTranscript(readFileSync(path, 'utf8'));
    const cwd = tempDir();
    const before = process.cwd();
    process.chdir(cwd);
    try {
      const answers: string[] = [];
      for (const step of transcript.steps) {
        if (recordFrom !== undefined) {
          answers.push(answerText(ask(step, cwd), 'qemu-img'));
          continue;
        }
        const said = answerText(await answer(step, cwd), 'vdisk-img');
        const other = deviations.find((d) => d.file === name && d.line === step.line);
        const expected = other?.answer ?? step.expected;
        // io and sh only prepare: how they talk is tested elsewhere.
        if (step.tool === 'img') {
          expect.soft(`${step.line}\n${said}`, step.line).toBe(`${step.line}\n${expected}`);
        }
      }
      if (recordFrom !== undefined) writeTranscript(path, transcript, answers);
    } finally {
      process.chdir(before);
    }
  });
});
