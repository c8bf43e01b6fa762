/** What `explain` finds, as it stands in its JSON. */
import type { Holder } from './holders.js';

/** Something that is wrong or that one should know, and what to type about it. */
export interface Finding {
  /** `problem`: something does not work; `note`: it is good to know. */
  readonly kind: 'problem' | 'note';
  readonly text: string;
  /** Command line that repairs it or goes round it. */
  readonly command?: string;
}

export interface Feature {
  readonly kind: string;
  readonly bit: number;
  readonly name: string | undefined;
  readonly known: boolean;
  readonly meaning: string;
}

/** Everything; members that are not known are absent. */
export interface Explanation {
  readonly filename: string;
  /** A word as for `-f`; `raw` when nothing is recognised. */
  format: string;
  title: string;
  /** vdisk has a driver for it. */
  supported: boolean;
  'file-size'?: number;
  /** It is a block device. */
  device?: true;
  'disk-size'?: number | undefined;
  'virtual-size'?: number;
  'cluster-size'?: number;
  version?: number;
  content?: string;
  encryption?: string;
  'backing-file'?: string;
  'backing-format'?: string;
  'data-file'?: string;
  snapshots?: number;
  bitmaps?: number;
  features: Feature[];
  holders: Holder[];
  'unknown-locks': number;
  'loop-devices': string[];
  /** Whether it opens, as far as could be tried; the error where it does not. */
  'opens-for-reading'?: boolean;
  'read-error'?: string;
  'opens-for-writing'?: boolean;
  'write-error'?: string;
  /** Result of a check, when it was made. */
  check?: { corruptions: number; leaks: number; errors: number };
  findings: Finding[];
}

export function emptyExplanation(filename: string): Explanation {
  return {
    filename,
    format: 'raw',
    title: 'raw (nothing is recognised)',
    supported: true,
    features: [],
    holders: [],
    'unknown-locks': 0,
    'loop-devices': [],
    findings: [],
  };
}

/** A word as a shell takes it. */
export function quoted(word: string): string {
  return /^[A-Za-z0-9_./:=,@%+-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}

/** A file name as an operand: never taken for an option or a protocol. */
export function operand(name: string): string {
  const isPlain = !name.startsWith('-') && !/^[^/]*:/.test(name);
  return quoted(isPlain ? name : name.startsWith('/') ? name : `./${name}`);
}
