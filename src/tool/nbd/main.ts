/** `vdisk-nbd`: serves an image to NBD clients, or shows what another server offers. */
import { formatOptions } from '../../options/getopt.js';
import type { IoOutput } from '../io/output.js';
import { ProcessOutput } from '../io/output.js';
import { Failure, Program, runTool } from '../program.js';
import { exampleLines } from '../reference.js';
import { isTerminal } from '../terminal.js';
import { versionText } from '../version.js';
import { takeListenFds } from './activation.js';
import type { NbdArguments } from './arguments.js';
import { nbdExamples, nbdSpec, readNbdArguments } from './arguments.js';
import { reportReady, runInBackground } from '../background.js';

function helpText(name: string): string {
  return [
    `${name}: ${nbdSpec.summary}`,
    '',
    'Usage:',
    `  ${name} [OPTIONS] FILE`,
    `  ${name} --list [OPTIONS]`,
    '',
    'For example:',
    ...exampleLines(nbdExamples.map(([line, what]) => [`${name} ${line}`, what])),
    '',
    'Options:',
    formatOptions(nbdSpec),
    '',
  ].join('\n');
}

/** Runs `vdisk-nbd ARGS`; resolves to the exit status when it has served. */
export async function nbdMain(
  name: string,
  args: readonly string[],
  output: IoOutput = new ProcessOutput(isTerminal(1)),
): Promise<number> {
  const program = new Program(name, output);
  program.hintsAsNbd = true;
  return runTool(program, () => dispatch(program, args));
}

async function dispatch(program: Program, args: readonly string[]): Promise<number> {
  const asked = readNbdArguments(args);
  if (asked === 'help') {
    program.print(helpText(program.name));
    return 0;
  }
  if (asked === 'version') {
    program.print(versionText(program.name));
    return 0;
  }
  const fds = takeListenFds();
  if (fds.length > 0) refuseWithActivation(asked);
  if (asked.list) return (await import('./list.js')).list(program, asked);
  if (asked.disconnect) return (await import('./kernel.js')).disconnect(program, asked.file);
  if (asked.fork) {
    const status = await runInBackground(program, fds);
    if (status !== undefined) return status;
  }
  const { serve } = await import('./serve.js');
  if (asked.connect === undefined) return serve(program, asked, fds, reportReady);
  const { attach, checkDevice, defaultSocket } = await import('./kernel.js');
  const device = asked.connect;
  checkDevice(device, 'Failed to open');
  asked.socket ??= defaultSocket(device);
  return serve(program, asked, fds, async (address) => {
    await attach(device, address, asked.exportName ?? '');
    await reportReady();
    if (asked.verbose) program.error(`NBD device ${device} is now connected to ${asked.file}`);
  });
}

/** Who passes open sockets decides where the server listens. */
function refuseWithActivation(asked: NbdArguments): void {
  const given: readonly (readonly [unknown, string])[] = [
    [asked.connect, 'NBD device'],
    [asked.bind, 'The interface'],
    [asked.port, 'TCP port number'],
    [asked.socket, 'Unix socket'],
  ];
  for (const [value, what] of given) {
    if (value !== undefined) {
      throw new Failure(`${what} can't be set when using socket activation`);
    }
  }
}
