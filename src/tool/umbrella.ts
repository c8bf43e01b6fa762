/** `vdisk`: one word in front of all the tools. */
import { ProcessOutput } from './io/output.js';
import { Program } from './program.js';
import { isTerminal } from './terminal.js';
import { vdiskCommands } from './vdisk/commands.js';
import { versionText } from './version.js';

/** What can be done with `vdisk`, in the user's words. */
const overview = `vdisk: disk images, their block layer and their tools

  What do you want to do?

  see what is in an image      vdisk img info disk.qcow2
  convert an image             vdisk img convert -p -O qcow2 disk.raw disk.qcow2
  make a new one               vdisk img create -f qcow2 disk.qcow2 20G
  ... on top of another        vdisk img create -f qcow2 -b base.qcow2 -F qcow2 disk.qcow2
  see where its data is        vdisk img map disk.qcow2
  what is wrong with it?       vdisk explain disk.qcow2
  check and repair it          vdisk img check -r all disk.qcow2
  compare two                  vdisk img compare a.qcow2 b.raw
  make it smaller in place     vdisk compact disk.qcow2
  read and write bytes         vdisk io -c 'read -v 0 512' disk.qcow2
  serve one over NBD           vdisk nbd -r -f qcow2 disk.qcow2

  vdisk img --help (io, nbd) lists everything that it can do; they take the words of qemu-img,
  qemu-io and qemu-nbd, and so do the programs vdisk-img, vdisk-io and vdisk-nbd.

  vdisk completion bash (or zsh) prints what the shell needs to complete all these words:
  source <(vdisk completion bash). vdisk --version shows the version.
`;

/** Tools that QEMU has too, and vdisk not yet. */
const later = new Set(['daemon', 'vm']);

/** Runs `vdisk ARGS`; resolves to the exit status. */
export async function umbrellaMain(name: string, args: readonly string[]): Promise<number> {
  const [word, ...rest] = args;
  if (word === 'img') return (await import('./img/main.js')).imgMain('vdisk-img', rest);
  if (word === 'io') return (await import('./io/main.js')).main(rest, 'vdisk-io');
  if (word === 'nbd') return (await import('./nbd/main.js')).nbdMain('vdisk-nbd', rest);
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
  } else if (word === 'completion' && (rest[0] === 'bash' || rest[0] === 'zsh')) {
    program.print(await completion(rest[0]));
  } else if (word === undefined || word === '-h' || word === '--help' || word === 'help') {
    program.print(overview);
  } else if (word === '-V' || word === '--version') {
    program.print(versionText(name));
  } else {
    const what = later.has(word) ? `'${word}' is not there yet` : `Unknown tool '${word}'`;
    program.error(`${what}; there are: img, io, nbd`);
    program.tryHelp();
    status = 1;
  }
  program.output.flush();
  return status;
}

/** The completion script: loads every command for its declaration. */
async function completion(shell: 'bash' | 'zsh'): Promise<string> {
  const { completionScript } = await import('./completion.js');
  const { imgCommands } = await import('./img/main.js');
  const { ioCommand } = await import('./io/main.js');
  const { nbdSpec } = await import('./nbd/arguments.js');
  const { drivers } = await import('../catalog/drivers.js');
  const img = await Promise.all(imgCommands.map(async (each) => (await each.load()).spec));
  return completionScript(
    shell,
    [
      { words: [['vdisk-img'], ['vdisk', 'img']], commands: img },
      { words: [['vdisk-io'], ['vdisk', 'io']], commands: [{ ...ioCommand, name: '' }] },
      { words: [['vdisk-nbd'], ['vdisk', 'nbd']], commands: [{ ...nbdSpec, name: '' }] },
    ],
    drivers.map((driver) => driver.name),
  );
}
