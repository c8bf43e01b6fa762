/** The man pages of all tools, from their declarations. */
import { daemonExamples, daemonSpec } from './daemon/arguments.js';
import { imgCommands, imgExamples, imgSpec } from './img/main.js';
import { programCommands } from './io/commands/index.js';
import { ioCommand, ioExamples } from './io/main.js';
import { nbdExamples, nbdSpec } from './nbd/arguments.js';
import type { ManPage } from './reference.js';
import { systemExamples, systemOptions } from './system/options.js';
import { vdiskCommands, vdiskExamples, vdiskSpec } from './vdisk/commands.js';

const tools = [
  'vdisk',
  'vdisk-img',
  'vdisk-io',
  'vdisk-nbd',
  'vdisk-storage-daemon',
  'vdisk-system',
];
const others = (name: string): string[] => tools.filter((each) => each !== name);

/** What each page says, by the order of their names. */
export async function manPages(): Promise<readonly ManPage[]> {
  const img = await Promise.all(imgCommands.map((each) => each.load()));
  const own = await Promise.all(vdiskCommands.map((each) => each.load()));
  return [vdiskPage(own), imgPage(img), ioPage(), nbdPage(), daemonPage(), systemPage()];
}

function vdiskPage(commands: ManPage['commands']): ManPage {
  return {
    name: 'vdisk',
    summary: vdiskSpec.summary,
    synopsis: [
      'COMMAND [ARGUMENTS]',
      'img | io | nbd | daemon | vm [ARGUMENTS]',
      'completion bash | zsh',
    ],
    description: [
      'One word in front of all the tools: vdisk img, io, nbd, daemon and vm are vdisk-img, ' +
        'vdisk-io, vdisk-nbd, vdisk-storage-daemon and vdisk-system, which take the words of ' +
        'qemu-img, qemu-io, qemu-nbd, qemu-storage-daemon and qemu-system. The commands below ' +
        'are its own.',
      'vdisk completion prints what a shell needs to complete all these words; put ' +
        "'source <(vdisk completion bash)' into its start file.",
    ],
    options: vdiskSpec,
    ...(commands === undefined ? {} : { commands }),
    exitStatus: [
      ['0', 'all went well'],
      ['1', 'an error, told in one line'],
      ['2', 'explain: something is wrong with the image'],
      ['130', 'Ctrl-C ended the command; the image is sound'],
    ],
    examples: vdiskExamples,
    seeAlso: others('vdisk'),
  };
}

function imgPage(commands: NonNullable<ManPage['commands']>): ManPage {
  return {
    name: 'vdisk-img',
    summary: imgSpec.summary,
    synopsis: ['[OPTIONS] COMMAND [ARGUMENTS]'],
    description: [
      'Takes the command lines of qemu-img 10, prints what it prints, and ends with the same ' +
        'status. Sizes are bytes, or have a suffix k, M, G, T, P or E. Long options may be cut ' +
        'to what is unique.',
    ],
    options: imgSpec,
    commands,
    exitStatus: [
      ['0', 'all went well; compare: the images are the same'],
      ['1', 'an error, told in one line; compare: the images differ'],
      ['2', 'check: the image is damaged; compare: an image could not be opened'],
      ['3', 'check: clusters are leaked; compare: an image could not be read'],
      ['63', 'check: the format cannot be checked'],
      ['130', 'Ctrl-C ended the command; images are sound'],
    ],
    examples: imgExamples.map(([line, what]) => [`vdisk-img ${line}`, what]),
    seeAlso: others('vdisk-img'),
  };
}

function ioPage(): ManPage {
  return {
    name: 'vdisk-io',
    summary: ioCommand.summary,
    synopsis: ['[OPTIONS] [-c COMMAND]... [FILE]'],
    description: [
      'Opens FILE and carries out commands: those of -c, or else lines of standard input, with a ' +
        'prompt, line editing and history on a terminal. It takes the words of qemu-io 10.',
    ],
    options: ioCommand,
    words: programCommands.map(({ name, args, summary }) => [
      args === undefined || args === '' ? name : `${name} ${args}`,
      summary,
    ]),
    exitStatus: [
      ['0', 'all commands went well'],
      ['1', 'a command failed, or FILE could not be opened'],
    ],
    examples: ioExamples.map(([line, what]) => [`vdisk-io ${line}`, what]),
    seeAlso: others('vdisk-io'),
  };
}

function nbdPage(): ManPage {
  return {
    name: 'vdisk-nbd',
    summary: nbdSpec.summary,
    synopsis: ['[OPTIONS] FILE', '--list [OPTIONS]', '--disconnect DEVICE'],
    description: [
      'Serves an image to clients of the network block device protocol until the last one has ' +
        'left, or with --list shows what a server offers. It takes the words of qemu-nbd 10.',
    ],
    options: nbdSpec,
    exitStatus: [
      ['0', 'it has served'],
      ['1', 'an error, told in one line'],
    ],
    examples: nbdExamples.map(([line, what]) => [`vdisk-nbd ${line}`, what]),
    seeAlso: others('vdisk-nbd'),
  };
}

function daemonPage(): ManPage {
  return {
    name: 'vdisk-storage-daemon',
    summary: daemonSpec.summary,
    synopsis: ['[OPTIONS]'],
    description: [
      'Opens images, exports them, and changes all that while they are in use, as monitors ask ' +
        'for in QMP. It takes the words of qemu-storage-daemon 10. Options are carried out in ' +
        'their order, so that what one refers to must stand before it.',
      'SIGTERM, SIGINT, SIGHUP and the command quit end it: exports are closed, images flushed ' +
        'and closed.',
    ],
    options: daemonSpec,
    exitStatus: [
      ['0', 'it was told to end'],
      ['1', 'an option could not be carried out; the error is told in one line'],
    ],
    examples: daemonExamples.map(([line, what]) => [`vdisk-storage-daemon ${line}`, what]),
    seeAlso: others('vdisk-storage-daemon'),
  };
}

function systemPage(): ManPage {
  const used = [...systemOptions.values()].filter(({ use }) => use === 'used');
  return {
    name: 'vdisk-system',
    summary: 'a machine with virtual disks, under the control of monitors',
    synopsis: ['[OPTIONS]'],
    description: [
      'Opens drives and nodes, and does with them what monitors ask for, in QMP or in the words ' +
        'of the human monitor. It takes the words of qemu-system; options that are not there ' +
        'are refused by name. The order of options makes no difference: objects come first, ' +
        'then character devices, nodes, drives, and monitors.',
      'SIGTERM, SIGINT, SIGHUP and the command quit end it: images are flushed and closed.',
    ],
    words: used.map(({ name, arg, doc }) => [
      arg === undefined ? `-${name}` : `-${name} ${arg}`,
      doc,
    ]),
    exitStatus: [
      ['0', 'it was told to end'],
      ['1', 'an option could not be carried out; the error is told in one line'],
    ],
    examples: systemExamples,
    seeAlso: others('vdisk-system'),
  };
}
