/** `vdisk`: one word in front of all the tools. */
import { ProcessOutput } from './io/output.js';
import { Program } from './program.js';
import { exampleLines } from './reference.js';
import { isTerminal } from './terminal.js';
import { vdiskCommands, vdiskExamples, vdiskSpec } from './vdisk/commands.js';
import { versionText } from './version.js';

/** What can be done with `vdisk`, in the user's words. */
function overview(): string {
  return [
    `vdisk: ${vdiskSpec.summary}`,
    '',
    '  What do you want to do?',
    '',
    ...exampleLines(vdiskExamples),
    '',
    '  vdisk img --help (io, nbd, daemon, vm) lists everything that it can do; they take the words',
    '  of qemu-img, qemu-io, qemu-nbd, qemu-storage-daemon and qemu-system, as do the programs',
    '  vdisk-img, vdisk-io, vdisk-nbd, vdisk-storage-daemon and vdisk-system.',
    '',
    '  vdisk completion bash (or zsh) prints what the shell needs to complete all these words:',
    '  source <(vdisk completion bash). vdisk --version shows the version.',
    '',
  ].join('\n');
}

/** Runs `vdisk ARGS`; resolves to the exit status. */
export async function umbrellaMain(name: string, args: readonly string[]): Promise<number> {
  const [word, ...rest] = args;
  if (word === 'img') return (await import('./img/main.js')).imgMain('vdisk-img', rest);
  if (word === 'io') return (await import('./io/main.js')).main(rest, 'vdisk-io');
  if (word === 'nbd') return (await import('./nbd/main.js')).nbdMain('vdisk-nbd', rest);
  if (word === 'daemon') {
    return (await import('./daemon/main.js')).daemonMain('vdisk-storage-daemon', rest);
  }
  if (word === 'vm') return (await import('./system/main.js')).systemMain('vdisk-system', rest);
  const program = new Program(name, new ProcessOutput(isTerminal(1)));
  let status = 0;
  const entry = vdiskCommands.find((each) => each.name === word);
  if (entry !== undefined) {
    program.commandName = `${name} ${entry.name}`;
    try {
      status = await (await entry.load()).run(program, rest);
    } catch (e) {
      status = program.report(e);
    }
  } else if (word === 'completion') {
    status = await printCompletion(program, rest);
  } else if (word === undefined || word === '-h' || word === '--help' || word === 'help') {
    program.print(overview());
  } else if (word === '-V' || word === '--version') {
    program.print(versionText(name));
  } else {
    program.error(
      `Unknown tool '${word}'; there are: img, io, nbd, daemon, vm, explain, compact, graph`,
    );
    program.tryHelp(true);
    status = 1;
  }
  program.output.flush();
  return status;
}

const COMPLETION_USAGE = `completion: print what a shell needs to complete the words of all tools

Usage:
  vdisk completion bash     source <(vdisk completion bash)
  vdisk completion zsh      source <(vdisk completion zsh), behind compinit
`;

/** `vdisk completion SHELL`; the exit status. */
async function printCompletion(program: Program, args: readonly string[]): Promise<number> {
  const [shell, extra] = args;
  if (shell === '-h' || shell === '--help') {
    program.print(COMPLETION_USAGE);
    return 0;
  }
  if ((shell === 'bash' || shell === 'zsh') && extra === undefined) {
    program.print(await completion(shell));
    return 0;
  }
  program.commandName = `${program.name} completion`;
  program.error("Expecting the name of a shell: 'bash' or 'zsh'");
  program.tryHelp(true);
  return 1;
}

/** The completion script: loads every command for its declaration. */
async function completion(shell: 'bash' | 'zsh'): Promise<string> {
  const { completionScript } = await import('./completion.js');
  const { imgCommands } = await import('./img/main.js');
  const { ioCommand } = await import('./io/main.js');
  const { nbdSpec } = await import('./nbd/arguments.js');
  const { daemonSpec } = await import('./daemon/arguments.js');
  const { systemSpec } = await import('./system/options.js');
  const { drivers } = await import('../catalog/drivers.js');
  const img = await Promise.all(imgCommands.map(async (each) => (await each.load()).spec));
  const own = await Promise.all(vdiskCommands.map(async (each) => (await each.load()).spec));
  const formats = drivers
    .filter((driver) => driver.kind === 'format' || driver.createOptions !== undefined)
    .map((driver) => ({
      name: driver.name,
      isFormat: driver.kind === 'format',
      create: driver.createOptions?.options ?? [],
      amend: driver.amendOptions?.options ?? [],
    }));
  const tools = [
    {
      words: [['vdisk']],
      commands: own,
      more: ['img', 'io', 'nbd', 'daemon', 'vm', 'completion', 'help'],
    },
    { words: [['vdisk-img'], ['vdisk', 'img']], commands: img },
    { words: [['vdisk-io'], ['vdisk', 'io']], commands: [{ ...ioCommand, name: '' }] },
    { words: [['vdisk-nbd'], ['vdisk', 'nbd']], commands: [{ ...nbdSpec, name: '' }] },
    {
      words: [['vdisk-storage-daemon'], ['vdisk', 'daemon']],
      commands: [{ ...daemonSpec, name: '' }],
    },
    { words: [['vdisk-system'], ['vdisk', 'vm']], commands: [systemSpec()] },
  ];
  return completionScript(shell, tools, formats);
}
