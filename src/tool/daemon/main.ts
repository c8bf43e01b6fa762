/** `vdisk-storage-daemon`: images, exports and monitors without a machine. */
import { hintOf, messageOf } from '../../block/errors.js';
import type { Argument } from '../../options/getopt.js';
import { formatOptions, GetoptError, readArgs } from '../../options/getopt.js';
import { reportReady, runInBackground } from '../background.js';
import { watchInterrupts } from '../interrupt.js';
import type { IoOutput } from '../io/output.js';
import { ProcessOutput } from '../io/output.js';
import { acceptTrace, Program, runTool } from '../program.js';
import { exampleLines } from '../reference.js';
import { isTerminal } from '../terminal.js';
import { versionText } from '../version.js';
import { daemonExamples, daemonSpec } from './arguments.js';
import type { Daemon } from './run.js';

function helpText(name: string): string {
  return [
    `${name}: ${daemonSpec.summary}`,
    '',
    'Usage:',
    `  ${name} [OPTIONS]`,
    '',
    'For example:',
    ...exampleLines(daemonExamples.map(([line, what]) => [`${name} ${line}`, what])),
    '',
    'Options are carried out in their order:',
    formatOptions(daemonSpec),
    '',
  ].join('\n');
}

/** Runs `vdisk-storage-daemon ARGS`; resolves to the exit status when it has ended. */
export async function daemonMain(
  name: string,
  args: readonly string[],
  output: IoOutput = new ProcessOutput(isTerminal(1)),
): Promise<number> {
  const program = new Program(name, output);
  return runTool(
    program,
    () => dispatch(program, [...readArgs(daemonSpec, args)]),
    (e) => {
      if (!(e instanceof GetoptError)) return program.report(e);
      // QEMU's daemon does not point to its help.
      program.error(e.message);
      return 1;
    },
  );
}

type Asked = Argument<keyof typeof daemonSpec.options>;

async function dispatch(program: Program, asked: readonly Asked[]): Promise<number> {
  for (const { key } of asked) {
    if (key === 'help') {
      program.print(helpText(program.name));
      return 0;
    }
    if (key === 'version') {
      program.print(versionText(program.name));
      return 0;
    }
  }
  if (asked.some(({ key }) => key === 'daemonize')) {
    const status = await runInBackground(program, []);
    if (status !== undefined) return status;
  }
  const { Daemon } = await import('./run.js');
  const daemon = new Daemon(program);
  const interrupts = watchInterrupts();
  try {
    // Whatever clients send at once waits until all that the options name is there.
    const status = await daemon.exclusively(() => setUp(program, daemon, asked));
    if (status !== undefined) return status;
    if (asked.some(({ key }) => key === 'daemonize')) process.chdir('/');
    await reportReady();
    await Promise.race([daemon.ended, aborted(interrupts.signal)]);
  } finally {
    await daemon.close();
    interrupts.dispose();
  }
  return 0;
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    signal.addEventListener('abort', () => {
      resolve();
    });
    if (signal.aborted) resolve();
  });
}

/** Carries the options out in their order; the exit status when the program is to end. */
async function setUp(
  program: Program,
  daemon: Daemon,
  asked: readonly Asked[],
): Promise<number | undefined> {
  let pidFile: string | undefined;
  for (const { key, value = '', written } of asked) {
    try {
      if (key === 'pidfile') {
        pidFile = value;
        continue;
      }
      const help = await carryOut(daemon, key, value);
      if (help === undefined) continue;
      program.print(help);
      return 0;
    } catch (e) {
      program.error(
        `${written}${key === undefined ? '' : ` ${value}`}: ${messageOf(e)}`,
        hintOf(e),
      );
      return 1;
    }
  }
  if (pidFile !== undefined) daemon.writePid(pidFile);
  return undefined;
}

async function carryOut(
  daemon: Daemon,
  key: Asked['key'],
  value: string,
): Promise<string | undefined> {
  switch (key) {
    case undefined:
      throw new Error('Unexpected argument');
    case 'blockdev':
      await daemon.blockdev(value);
      return undefined;
    case 'chardev':
      return daemon.chardev(value);
    case 'export':
      await daemon.export(value);
      return undefined;
    case 'monitor':
      daemon.monitor(value);
      return undefined;
    case 'nbdServer':
      await daemon.nbdServer(value);
      return undefined;
    case 'object':
      return daemon.object(value);
    case 'trace':
      acceptTrace(value);
      return undefined;
    default:
      return undefined;
  }
}
