/** `convert`: images to a new image. */
import { SECTOR } from '../../job/copy-plan.js';
import { command } from '../../options/getopt.js';
import { hasHelp } from '../../options/qemu-opts.js';
import { ToolObjects } from '../objects.js';
import { progressWish } from '../progress.js';
import type { Program } from '../program.js';
import { Failure } from '../program.js';
import type { Asked } from './convert-run.js';
import { convertNames, defaults } from './convert-run.js';
import { addOptionText, printCreateHelp } from './create.js';
import type { ImgCommand } from './options.js';
import { commandArguments, countArgument, shared, sizeArgument } from './options.js';
import { parseSize } from '../../lib/sizes.js';
import { parseSnapshotName } from './snapshot-name.js';

const spec = command({
  name: 'convert',
  summary: 'copy images to a new one, of any format',
  operands: 'FILENAME [FILENAME2 …] OUTPUT_FILENAME',
  completeOperand: 'file',
  doc:
    'Several images are put one behind the other. Runs of zeroes become holes. With -B the new\n' +
    'image holds only what the source has above its own backing file. A file name of - is\n' +
    'standard input or output: raw images stream, others are kept in a file on their way.',
  options: {
    help: shared.help,
    object: shared.object,
    sourceImageOpts: {
      long: 'image-opts',
      aliases: ['source-image-opts'],
      doc: 'FILENAME is a list of options (driver=…,file.filename=…), not a name',
    },
    format: {
      short: 'f',
      long: 'source-format',
      arg: 'FMT',
      complete: 'format',
      doc: 'format of FILENAME; without it, it is guessed from the content',
    },
    sourceCache: {
      short: 'T',
      long: 'source-cache',
      arg: 'CACHE',
      complete: shared.cache.complete,
      doc: 'cache mode of the images that are read; default writeback',
    },
    snapshot: {
      short: 'l',
      long: 'snapshot',
      aliases: ['source-snapshot'],
      exact: ['source-snapshot'],
      arg: 'SNAPSHOT',
      doc: 'convert this internal snapshot of FILENAME',
    },
    sparseSize: {
      short: 'S',
      long: 'sparse-size',
      arg: 'SIZE',
      doc: 'zeroes become a hole when there are as many in a row; 0: never; default 4k',
    },
    salvage: { long: 'salvage', doc: 'what cannot be read becomes zeroes' },
    skipBrokenBitmaps: { long: 'skip-broken-bitmaps', doc: 'leave inconsistent bitmaps out' },
    outputFormat: {
      short: 'O',
      long: 'target-format',
      aliases: ['output-format'],
      exact: ['target-format'],
      arg: 'FMT',
      complete: 'format',
      doc: 'format of the new image; default raw',
    },
    targetImageOpts: {
      long: 'target-image-opts',
      doc: 'OUTPUT_FILENAME is a list of options of an image that exists (needs -n)',
    },
    options: {
      short: 'o',
      long: 'options',
      aliases: ['target-options'],
      exact: ['target-options'],
      arg: 'OPTIONS',
      complete: 'create-options',
      of: 'outputFormat',
      doc: "options of the new format, as in cluster_size=2M; '-o help' lists them",
    },
    cache: {
      short: 't',
      long: 'target-cache',
      aliases: ['output-cache'],
      exact: ['target-cache'],
      arg: 'CACHE',
      complete: shared.cache.complete,
      doc: 'cache mode of the new image; default unsafe',
    },
    targetIsZero: { long: 'target-is-zero', doc: 'the existing image (-n) reads as zeroes' },
    compress: { short: 'c', long: 'compress', exact: true, doc: 'compress the new image' },
    backing: {
      short: 'B',
      long: 'backing',
      arg: 'BACKING_FILE',
      complete: 'file',
      doc: 'the new image is based on BACKING_FILE, which has the content of the old base',
    },
    backingFormat: {
      short: 'F',
      long: 'backing-format',
      arg: 'BACKING_FMT',
      complete: 'format',
      doc: 'format of BACKING_FILE',
    },
    bitmaps: { long: 'bitmaps', doc: 'copy persistent bitmaps too' },
    noCreate: {
      short: 'n',
      long: 'no-create',
      exact: true,
      doc: 'write into an image that exists',
    },
    forceShare: shared.forceShare,
    rate: shared.rate,
    parallel: {
      short: 'm',
      long: 'parallel',
      arg: 'NUMBER',
      doc: 'pieces in flight, 1 to 16; default 8',
    },
    copyRange: {
      short: 'C',
      long: 'copy-range-offloading',
      doc: 'let the host copy inside itself where it can',
    },
    outOfOrder: {
      short: 'W',
      long: 'oob-writes',
      doc: 'write pieces in any order, for targets that are allocated already',
    },
    unpack: {
      long: 'unpack',
      aliases: ['decompress'],
      exact: true,
      doc: 'FILENAME may be compressed (gzip, xz, zstd, bzip2) or an .ova: convert what is inside',
    },
    verify: {
      long: 'verify',
      exact: true,
      doc: 'read the new image back at the end, and compare it with the source',
    },
    resume: {
      long: 'resume',
      exact: true,
      doc: 'go on where an interrupted run with --resume stopped, by a journal beside the target',
    },
    profile: {
      long: 'profile',
      exact: true,
      arg: 'PROFILE',
      complete: ['azure', 'hyperv', 'esxi', 'virtualbox', 'aws'],
      doc: "format, options and rounding of the size for a kind of host; 'help' lists them",
    },
    quiet: shared.quiet,
    progress: shared.progress,
  },
});

const usage = [
  '[-f FMT | --image-opts] [-T CACHE] [-l SNAPSHOT] [-U] [-O FMT] [-o OPTIONS]',
  '[-t CACHE] [-c] [-B BACKING_FILE -F BACKING_FMT] [-S SIZE] [-n [--target-is-zero]',
  '[--target-image-opts]] [-m NUMBER] [-W] [-C] [-r RATE] [--salvage]',
  '[--bitmaps [--skip-broken-bitmaps]] [--unpack] [--verify] [--resume]',
  '[--profile PROFILE] [-p] [-q]',
  'FILENAME … OUTPUT_FILENAME',
];

type FlagKey =
  | 'salvage'
  | 'skipBrokenBitmaps'
  | 'bitmaps'
  | 'targetIsZero'
  | 'compress'
  | 'noCreate'
  | 'forceShare'
  | 'copyRange'
  | 'outOfOrder'
  | 'quiet'
  | 'unpack'
  | 'verify'
  | 'resume'
  | 'targetImageOpts';

type TextKey =
  'format' | 'outputFormat' | 'sourceCache' | 'cache' | 'backingFile' | 'backingFormat';

/** Sets one option; returns true when it was one that holds a plain text or a flag. */
function setPlain(asked: Asked, key: string, value: string): void {
  const texts: Readonly<Record<string, TextKey>> = {
    format: 'format',
    outputFormat: 'outputFormat',
    sourceCache: 'sourceCache',
    cache: 'cache',
    backing: 'backingFile',
    backingFormat: 'backingFormat',
  };
  const text = texts[key];
  if (text !== undefined) asked[text] = value;
  else if (key === 'sourceImageOpts') asked.imageOpts = true;
  else asked[key as FlagKey] = true;
}

const MAX_SPARSE = 16 * 1024 * 1024;
const MAX_PARALLEL = 16;

/** `-S`: rounded to sectors; QEMU's bounds and words. */
function sparseSize(text: string): number {
  const size = parseSize(text);
  if (size.status === 'ok' && size.bytes <= MAX_SPARSE && size.bytes % SECTOR === 0) {
    return size.bytes;
  }
  if (size.status === 'range' || size.status === 'invalid') {
    return sizeArgument('buffer size for sparse output', text);
  }
  throw new Failure(
    `Invalid buffer size for sparse output specified. Valid sizes are multiples of ` +
      `${String(SECTOR)} up to ${String(MAX_SPARSE)}. Select 0 to disable sparse detection ` +
      '(fully allocates output).',
  );
}

async function run(program: Program, args: readonly string[]): Promise<number> {
  const objects = new ToolObjects();
  const operands: string[] = [];
  const asked = defaults();
  for (const { key, value = '' } of commandArguments(program, spec, usage, args)) {
    if (key === undefined) operands.push(value);
    else if (key === 'options') addOptionText(asked.optionTexts, value);
    else if (key === 'profile') asked.profile = value;
    else if (key === 'snapshot') asked.snapshot = parseSnapshotName(program, value);
    else if (key === 'sparseSize') asked.minSparse = sparseSize(value);
    else if (key === 'rate') asked.rate = sizeArgument('rate limit', value);
    else if (key === 'parallel') {
      asked.parallel = countArgument('number of coroutines', value, 1, MAX_PARALLEL);
    } else if (key === 'object') await objects.add(value);
    else if (key === 'progress') asked.progress = progressWish(value);
    else setPlain(asked, key, value);
  }
  if (asked.profile === 'help') {
    program.print((await import('./profiles.js')).profileHelp());
    return 0;
  }
  checkCombination(asked);
  if (asked.profile !== undefined) await applyProfile(asked, asked.profile);
  if (!asked.targetImageOpts) asked.outputFormat ??= 'raw';
  if (hasHelp(asked.optionTexts.join(','))) {
    if (asked.outputFormat === undefined) {
      throw new Failure('Option help requires a format be specified');
    }
    const target = operands.length > 1 ? operands.at(-1) : undefined;
    return printCreateHelp(program, asked.outputFormat, target);
  }
  const target = operands.at(-1);
  if (operands.length < 2 || target === undefined) {
    throw new Failure('Must specify image file name');
  }
  return convertNames(program, objects, asked, operands.slice(0, -1), target);
}

/** What a profile says goes before what the line says. */
async function applyProfile(asked: Asked, name: string): Promise<void> {
  const { findProfile } = await import('./profiles.js');
  const { format, options, sizeUnit } = findProfile(name);
  if (asked.noCreate) throw new Failure('--profile has no effect when skipping image creation');
  if (asked.outputFormat !== undefined && asked.outputFormat !== format) {
    throw new Failure(`Profile '${name}' makes '${format}' images, not '${asked.outputFormat}'`);
  }
  asked.outputFormat = format;
  if (options !== '') asked.optionTexts.unshift(options);
  asked.sizeUnit = sizeUnit;
}

/** Combinations that make no sense, in qemu-img's words. */
function checkCombination(asked: Asked): void {
  const fail = (text: string): never => {
    throw new Failure(text);
  };
  if (asked.skipBrokenBitmaps && !asked.bitmaps) {
    fail('Use of --skip-broken-bitmaps requires --bitmaps');
  }
  if (asked.copyRange && asked.compress) fail('Cannot enable copy offloading when -c is used');
  if (asked.copyRange && asked.minSparse !== undefined) {
    fail('Cannot enable copy offloading when -S is used');
  }
  if (asked.salvage && asked.copyRange) fail('Cannot use copy offloading in salvaging mode');
  if (asked.targetImageOpts && !asked.noCreate) fail('--target-image-opts requires use of -n flag');
  const source = asked.imageOpts && asked.format !== undefined;
  if (source || (asked.targetImageOpts && asked.outputFormat !== undefined)) {
    fail('--image-opts and --format are mutually exclusive');
  }
  if (asked.noCreate && asked.optionTexts.length > 0) {
    fail('-o has no effect when skipping image creation');
  }
  if (asked.targetIsZero && !asked.noCreate) fail('--target-is-zero requires use of -n flag');
}

export const convert: ImgCommand = { spec, usage, run };
