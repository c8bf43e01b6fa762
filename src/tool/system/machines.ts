/** The kinds of machine that `-machine` names. */
import type { DriveInterface } from '../../monitor/machine.js';
import { OptionError } from '../../options/option-error.js';
import { parseOpts } from '../../options/qemu-opts.js';

export interface MachineKind {
  readonly name: string;
  readonly doc: string;
  /** Which machine carries the devices; undefined: none does. */
  readonly carrier: 'pc' | 'q35' | undefined;
  /** What a drive without `if=` is attached to. */
  readonly defaultInterface: DriveInterface;
}

export const machineKinds: readonly MachineKind[] = [
  { name: 'none', doc: 'empty machine', carrier: undefined, defaultInterface: 'ide' },
  {
    name: 'pc',
    doc: 'Standard PC (i440FX + PIIX, 1996) (default)',
    carrier: 'pc',
    defaultInterface: 'ide',
  },
  { name: 'q35', doc: 'Standard PC (Q35 + ICH9, 2009)', carrier: 'q35', defaultInterface: 'ide' },
];

/** The text of `-machine help`. */
export function machineHelp(): string {
  const lines = machineKinds.map(({ name, doc }) => `${name.padEnd(20)} ${doc}`);
  return ['Supported machines are:', ...lines, ''].join('\n');
}

/** Properties of a machine that change nothing here. */
const accepted = new Set(['accel', 'usb', 'dump-guest-core', 'memory-backend', 'graphics', 'hpet']);

/** The machine that an argument of `-machine` means. Throws OptionError. */
export function readMachine(text: string): MachineKind {
  const { values } = parseOpts(text, { implied: 'type' });
  for (const name of values.keys()) {
    if (name === 'type' || accepted.has(name)) continue;
    throw new OptionError(`Property 'pc-machine.${name}' not found`);
  }
  const wanted = values.get('type') ?? 'pc';
  const found = machineKinds.find(
    ({ name }) =>
      name === wanted || wanted.startsWith(name === 'q35' ? 'pc-q35-' : `${name}-i440fx-`),
  );
  if (found !== undefined) return found;
  throw new OptionError('unsupported machine type');
}
