/** What `vdisk` can do besides calling the other tools; loaded when it is called. */
import { command } from '../../options/getopt.js';
import type { ImgCommand } from '../img/options.js';
import type { Example } from '../reference.js';

interface Entry {
  readonly name: string;
  readonly summary: string;
  load(): Promise<ImgCommand>;
}

export const vdiskCommands: readonly Entry[] = [
  {
    name: 'explain',
    summary: 'tell what an image is, who uses it, and what is wrong with it',
    load: async () => (await import('./explain.js')).explain,
  },
  {
    name: 'compact',
    summary: 'give back what an image stores in vain, and shorten its file',
    load: async () => (await import('./compact.js')).compact,
  },
  {
    name: 'graph',
    summary: 'draw the nodes of images, or of a program with a monitor',
    load: async () => (await import('./graph.js')).graph,
  },
];

/** What people mostly want. */
export const vdiskExamples: readonly Example[] = [
  ['vdisk img info disk.qcow2', 'see what is in an image'],
  ['vdisk img convert -p -O qcow2 disk.raw disk.qcow2', 'convert an image'],
  ['vdisk img create -f qcow2 disk.qcow2 20G', 'make a new one'],
  ['vdisk img create -f qcow2 -b base.qcow2 -F qcow2 new.qcow2', '... on top of another'],
  ['vdisk img map disk.qcow2', 'see where its data is'],
  ['vdisk explain disk.qcow2', 'why does it not open? who uses it?'],
  ['vdisk img check -r all disk.qcow2', 'check and repair it'],
  ['vdisk graph --output svg disk.qcow2 > disk.svg', 'draw what stands on what'],
  ['vdisk compact disk.qcow2', 'make its file smaller'],
  ['vdisk img compare a.qcow2 b.raw', 'compare two'],
  ["vdisk io -c 'read -v 0 512' disk.qcow2", 'read and write bytes'],
  ['vdisk nbd -r -f qcow2 disk.qcow2', 'serve it over NBD'],
];

export const vdiskSpec = command({
  name: 'vdisk',
  summary: 'disk images, their block layer and their tools',
  operands: 'COMMAND …',
  stopAtOperand: true,
  options: {
    help: { short: 'h', long: 'help', doc: 'show this text' },
    version: { short: 'V', long: 'version', doc: 'show the version' },
  },
});
