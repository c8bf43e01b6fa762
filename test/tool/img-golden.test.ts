// Goal: vdisk-img answers as qemu-img 10 does: text on both outputs, exit status. Method: the
// transcripts in golden/, recorded from the real tools, are run line by line with ours, each in a
// folder of its own. What differs on purpose stands in deviations.json, each with its reason.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { tmpdir } from 'node:os';
import { expect, it } from 'vitest';
import { createGraph, createImage, nodeHost, prepareCreate } from '../../src/index.js';
import { imgMain } from '../../src/tool/img/main.js';
import { TextOutput } from '../support/text-output.js';
import { binPath, rootPath, tempDir } from '../support/index.js';
import type { Answer, Step } from './transcript.js';
import { answerText, parseTranscript, words, writeTranscript } from './transcript.js';

const folder = join(rootPath(), 'test/tool/golden');
const recordFrom = process.env['VDISK_RECORD'];

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
  const text = new TextOutput();
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

/** Why a transcript cannot be compared here; '' when it can. */
async function obstacle(text: string): Promise<string> {
  // Without the addon a host cannot see holes or preallocate: the answers differ there.
  if (nodeHost().files?.engineNote?.() !== undefined) return ' [needs the native addon]';
  const needs = /^# needs (.*)$/m.exec(text)?.[1]?.split(', ') ?? [];
  if (needs.length === 0) return '';
  const graph = createGraph();
  const folder = mkdtempSync(join(tmpdir(), 'vdisk-golden-'));
  try {
    const filename = join(folder, 'a.qcow2');
    await createImage(graph, await prepareCreate(graph, { filename, format: 'qcow2', size: 1 }));
    const node = await graph.open({ filename });
    const missing = needs.filter((name) => !(name in node.instance));
    return missing.length === 0 ? '' : ` [needs qcow2's ${missing.join(', ')}]`;
  } finally {
    await graph.close();
    rmSync(folder, { recursive: true });
  }
}

const transcripts = await Promise.all(
  readdirSync(folder)
    .filter((name) => name.endsWith('.txt'))
    .map(async (name) => {
      const path = join(folder, name);
      const text = readFileSync(path, 'utf8');
      return { name, path, text, why: recordFrom === undefined ? await obstacle(text) : '' };
    }),
);

for (const { name, path, text, why } of transcripts) {
  it.skipIf(why !== '')(`${name} is answered the same${why}`, { timeout: 120_000 }, async () => {
    const transcript = parseTranscript(text);
    const cwd = tempDir();
    const before = process.cwd();
    process.chdir(cwd);
    try {
      const answers: string[] = [];
      for (const step of transcript.steps) {
        if (recordFrom !== undefined) {
          const said = answerText(ask(step, cwd), 'qemu-img');
          answers.push(step.tool === 'img' ? said : '');
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
}
