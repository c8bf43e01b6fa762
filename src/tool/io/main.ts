/** `vdisk-io`: reads, writes and checks disk images by short commands. */
import { isatty } from 'node:tty';
import { command, formatOptions, GetoptError, readArgs } from '../../options/getopt.js';
import type { NodeOptions } from '../../block/driver.js';
import { createGraph } from '../../index.js';
import { answerObjectHelp, ToolObjects } from '../objects.js';
import type { Example } from '../reference.js';
import { exampleLines } from '../reference.js';
import { acceptTrace, Program } from '../program.js';
import { versionText } from '../version.js';
import { addOptions, openInSession, setImageOption } from './commands/image.js';
import { programCommands } from './commands/index.js';
import type { ImageHow } from './image.js';
import { defaultHow } from './image.js';
import type { LineSource } from './lines.js';
import { StreamLines, TerminalLines } from './lines.js';
import type { IoOutput } from './output.js';
import { ProcessOutput } from './output.js';
import { runLine } from './run.js';
import { IoSession } from './session.js';
import { Refused } from './words.js';

/** What people mostly want, without the program's name. */
export const ioExamples: readonly Example[] = [
  ["-c 'read -v 0 512' disk.qcow2", 'see bytes of an image'],
  ["-c 'write -P 0x41 1M 64k' disk.qcow2", 'write a pattern'],
  ['-r -c map disk.qcow2', 'see what is allocated'],
  ['-f raw disk.raw', 'type commands at a prompt'],
  ["-c 'help read'", 'learn about a command'],
];

export const ioCommand = command({
  name: 'io',
  summary: 'read, write and check an image by short commands',
  operands: '[FILE]',
  completeOperand: 'file',
  doc:
    'Opens FILE and carries out the commands of -c; without -c, those that come from standard ' +
    'input, with a prompt. See -c help for the commands.',
  options: {
    object: { long: 'object', arg: 'OBJDEF', repeat: true, doc: "an object such as 'secret'" },
    imageOpts: { long: 'image-opts', doc: 'FILE is a list of options' },
    cmd: { short: 'c', long: 'cmd', arg: 'COMMAND', repeat: true, doc: 'carry out COMMAND' },
    format: { short: 'f', long: 'format', arg: 'FMT', doc: 'driver of FILE', complete: 'format' },
    readOnly: { short: 'r', long: 'read-only', doc: 'do not write' },
    snapshot: { short: 's', long: 'snapshot', doc: 'write to a temporary overlay' },
    nocache: { short: 'n', long: 'nocache', doc: "bypass the host's cache, the same as -t none" },
    copyOnRead: {
      short: 'C',
      long: 'copy-on-read',
      doc: 'store what was read from a backing file',
    },
    misalign: { short: 'm', long: 'misalign', doc: 'accepted, makes no difference here' },
    nativeAio: { short: 'k', long: 'native-aio', doc: 'the same as -i native' },
    aio: {
      short: 'i',
      long: 'aio',
      arg: 'MODE',
      doc: 'how requests reach the kernel: threads, native or io_uring',
      complete: ['threads', 'native', 'io_uring'],
    },
    cache: {
      short: 't',
      long: 'cache',
      arg: 'MODE',
      doc: 'cache mode: none, writeback, writethrough (the default), directsync or unsafe',
      complete: ['none', 'writeback', 'writethrough', 'directsync', 'unsafe'],
    },
    discard: {
      short: 'd',
      long: 'discard',
      arg: 'MODE',
      doc: 'whether discards reach the storage: unmap (the default) or ignore',
      complete: ['unmap', 'ignore'],
    },
    trace: {
      short: 'T',
      long: 'trace',
      arg: 'PATTERN',
      doc: 'accepted; there are no trace events',
    },
    forceShare: { short: 'U', long: 'force-share', doc: 'read although others may write' },
    help: { short: 'h', long: 'help', doc: 'show this text' },
    version: { short: 'V', long: 'version', doc: 'show the version' },
  },
});

/** What the command line asks for. */
interface Invocation {
  readonly how: ImageHow;
  readonly commands: string[];
  readonly objects: string[];
  imageOpts: boolean;
  format: string | undefined;
}

/**
 * Runs the program with the words after its name; resolves to the exit status. `output` takes what
 * is printed (default: this process's own).
 */
export async function main(
  argv: readonly string[],
  name: string,
  output: IoOutput = new ProcessOutput(isatty(1)),
): Promise<number> {
  const program = new Program(name, output);
  try {
    return await run(program, argv);
  } catch (e) {
    return e instanceof Refused ? 1 : program.report(e);
  } finally {
    output.flush();
  }
}

async function run(program: Program, argv: readonly string[]): Promise<number> {
  const objects = new ToolObjects();
  const graph = createGraph({
    onWarning: (message) => {
      program.warning(message);
    },
    onMismatch: (message) => {
      program.output.flush();
      program.output.err(`${message}\n`);
      process.exit(1);
    },
    onNotice: (message) => {
      program.print(`${message}\n`);
    },
    secret: (id) => objects.secret(id),
    tlsCredentials: (id) => objects.tlsCredentials(id, 'client'),
  });
  const session = new IoSession({ graph, output: program.output, program: program.name });
  const asked = readInvocation(program, session, argv);
  if (typeof asked === 'number') return asked;
  for (const text of asked.objects) await objects.add(text);
  const { how } = asked;
  const given = how.filename !== undefined || Object.keys(how.options).length > 0;
  if (given && !(await openInSession(session, how))) return 1;
  let fine = true;
  if (asked.commands.length > 0) {
    for (const line of asked.commands) {
      if (session.ended) break;
      if (!(await runLine(session, programCommands, line))) fine = false;
    }
  } else if (!(await converse(session, program))) {
    fine = false;
  }
  await session.drain();
  await session.backend?.close();
  await graph.close();
  return fine ? 0 : 1;
}

/** Carries out lines of standard input until it ends or says `quit`; true when all went well. */
async function converse(session: IoSession, program: Program): Promise<boolean> {
  const prompt = `${program.name}> `;
  const lines: LineSource = isatty(0)
    ? new TerminalLines({
        input: process.stdin,
        output: process.stdout,
        prompt,
        names: programCommands.map((each) => each.name),
        onInterrupt: () => {
          program.output.flush();
          process.kill(process.pid, 'SIGINT');
        },
      })
    : new StreamLines(program.output, prompt);
  let fine = true;
  while (!session.ended) {
    const line = await lines.next();
    if (line === undefined) break;
    if (!(await runLine(session, programCommands, line))) fine = false;
  }
  lines.close();
  return fine;
}

/** Reads the command line; a number is the status of a program that has nothing more to do. */
function readInvocation(
  program: Program,
  session: IoSession,
  argv: readonly string[],
): Invocation | number {
  const asked: Invocation = {
    how: defaultHow(),
    commands: [],
    objects: [],
    imageOpts: false,
    format: undefined,
  };
  const operands: string[] = [];
  try {
    for (const { key, value = '' } of readArgs(ioCommand, argv)) {
      if (key === 'help' || key === 'version') {
        program.print(key === 'help' ? usage(program.name) : versionText(program.name));
        return 0;
      }
      if (key === undefined) operands.push(value);
      else setOption(session, asked, key, value);
    }
  } catch (e) {
    if (!(e instanceof GetoptError)) throw e;
    program.output.err(`${program.name}: ${e.message}\n`);
    program.print(usage(program.name));
    return 1;
  }
  if (operands.length > 1) {
    program.print(usage(program.name));
    return 1;
  }
  if (asked.format !== undefined && asked.imageOpts) {
    program.error('--image-opts and -f are mutually exclusive');
    return 1;
  }
  session.imageOpts = asked.imageOpts;
  nameImage(session, asked, operands[0]);
  return asked;
}

function nameImage(session: IoSession, asked: Invocation, file: string | undefined): void {
  const { how, format } = asked;
  if (file === undefined) return;
  if (asked.imageOpts) {
    how.options = addOptions(session, {}, file);
    return;
  }
  how.filename = file;
  const driver: NodeOptions = format === undefined ? {} : { driver: format };
  how.options = driver;
}

type OptionKey = keyof typeof ioCommand.options;

/** Options that `open` has, too, by their letter. */
const sharedOptions: Partial<Record<OptionKey, string>> = {
  readOnly: 'r',
  snapshot: 's',
  nocache: 'n',
  copyOnRead: 'C',
  nativeAio: 'k',
  aio: 'i',
  cache: 't',
  discard: 'd',
  forceShare: 'U',
};

function setOption(session: IoSession, asked: Invocation, key: OptionKey, value: string): void {
  const letter = sharedOptions[key];
  if (letter !== undefined) setImageOption(session, asked.how, letter, value);
  else if (key === 'cmd') asked.commands.push(value);
  else if (key === 'object') {
    answerObjectHelp(value);
    asked.objects.push(value);
  } else if (key === 'imageOpts') asked.imageOpts = true;
  else if (key === 'format') asked.format = value;
  else if (key === 'trace') acceptTrace(value);
}

function usage(name: string): string {
  return (
    `Usage: ${name} [OPTIONS]... [-c COMMAND]... [FILE]\n` +
    'Reads, writes and checks a disk image by short commands, which come from -c or else from\n' +
    `standard input. '${name} -c help' lists them.\n\nFor example:\n` +
    `${exampleLines(ioExamples.map(([line, what]) => [`${name} ${line}`, what])).join('\n')}\n\n` +
    `Options:\n${formatOptions(ioCommand)}\n`
  );
}
