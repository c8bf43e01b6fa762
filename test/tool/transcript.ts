// Transcripts of command lines: what a tool printed, and its exit status, line by line.
//
//     # any text
//     $ img create -f raw a 1M          a call of qemu-img; `io` (qemu-io) and `sh` prepare
//     Formatting 'a', fmt=raw size=1048576
//     ! qemu-img: what it wrote to standard error
//     ? 1                               the exit status, when it is not 0
//
// They are recorded from QEMU's tools (VDISK_RECORD=FOLDER npx vitest run test/tool/img-golden) and
// then hold for ours. What differs from run to run (dates, space used on the host, names that the
// graph made up) is replaced by marks, in records and in answers.
import { writeFileSync } from 'node:fs';

export interface Step {
  /** `img`, `io` or `sh`. */
  readonly tool: string;
  readonly line: string;
  /** What was printed: standard output, then standard error with `! ` before each line. */
  readonly expected: string;
}

export interface Transcript {
  readonly head: string;
  readonly steps: readonly Step[];
}

/** Splits a shell-like line into words: quotes group, a backslash takes the next character. */
export function words(line: string): string[] {
  const found: string[] = [];
  for (const match of line.matchAll(/(?:'[^']*'|"[^"]*"|\\.|[^\s'"\\])+/g)) {
    found.push(match[0].replace(/'([^']*)'|"([^"]*)"|\\(.)/g, '$1$2$3'));
  }
  return found;
}

export function parseTranscript(text: string): Transcript {
  const [head = '', ...blocks] = text.split(/^\$ /m);
  const steps = blocks.map((block) => {
    const end = block.indexOf('\n');
    const whole = block.slice(0, end);
    const space = whole.indexOf(' ');
    const tool = space < 0 ? whole : whole.slice(0, space);
    return { tool, line: space < 0 ? '' : whole.slice(space + 1), expected: block.slice(end + 1) };
  });
  return { head, steps };
}

export interface Answer {
  readonly stdout: string;
  readonly stderr: string;
  readonly status: number;
}

/** An answer as it stands in a transcript. */
export function answerText(answer: Answer, program: string): string {
  const names = (text: string): string => normalize(text.replaceAll(program, 'qemu-img'));
  let text = names(answer.stdout);
  if (text !== '' && !text.endsWith('\n')) text += '\\\n';
  for (const line of answer.stderr.split('\n').slice(0, -1)) text += `! ${names(line)}\n`;
  if (answer.status !== 0) text += `? ${String(answer.status)}\n`;
  return text;
}

export function normalize(text: string): string {
  return (
    text
      .replaceAll('\r', '<CR>')
      // Where progress stops on its way depends on the machine.
      .replace(/(?: {4}\([\d.]+\/100%\)<CR>)+/g, '    (PROGRESS)<CR>')
      .replace(/^( *disk size: ).*$/gm, '$1#')
      .replace(/^( *file length: ).*$/gm, '$1#')
      .replace(/("actual-size": )\d+/g, '$1#')
      // As "file length" for people: where clusters are put is each program's own affair.
      .replace(/("virtual-size": )\d+(,\s*"filename": "[^"]*",\s*"format": "file")/g, '$1#$2')
      .replace(/("date-n?sec": )\d+/g, '$1#')
      .replace(/\d{4}-\d\d-\d\d \d\d:\d\d:\d\d/g, 'DATE')
      .replace(/#block\d+/g, 'NODE')
      .replace(/in \d+\.\d{3} seconds/g, 'in TIME seconds')
  );
}

/** The file of a transcript with new answers. */
export function writeTranscript(
  path: string,
  transcript: Transcript,
  answers: readonly string[],
): void {
  let text = transcript.head;
  transcript.steps.forEach((step, i) => {
    text += `$ ${step.tool}${step.line === '' ? '' : ` ${step.line}`}\n${answers[i] ?? ''}`;
  });
  writeFileSync(path, text);
}

/** Text of vdisk-io without what depends on the time of requests, or on the program's name. */
export function withoutTimes(text: string): string {
  return text
    .replaceAll(/\d+ ops; [\d:. sec]+ \([\d.inf]+ \w+\/sec and [\d.inf]+ ops\/sec\)/g, 'T')
    .replaceAll(/(\d+,1),[\d:.]+,[\d.inf]+,[\d.inf]+$/gm, '$1,T')
    .replaceAll('vdisk-io', 'qemu-io');
}
