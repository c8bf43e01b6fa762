/** `resize`: another virtual size for an image. */
import type { Backend } from '../../block/backend.js';
import type { Preallocation } from '../../block/types.js';
import { parseSize } from '../../lib/sizes.js';
import { command } from '../../options/getopt.js';
import { optSize } from '../../options/opt-values.js';
import { openImage, toolGraph } from '../images.js';
import { ToolObjects } from '../objects.js';
import type { Program } from '../program.js';
import { Failure, UsageError } from '../program.js';
import type { ImgCommand } from './options.js';
import { commandArguments, checkImageOpts, shared } from './options.js';

/** QEMU's longest image: 2^63 - 1 bytes, less what is no multiple of its alignment. */
const MAX_LENGTH = 0x7fff_ffff_c000_0000n;

const modes: readonly Preallocation[] = ['off', 'metadata', 'falloc', 'full'];

const spec = command({
  name: 'resize',
  summary: 'change the size of an image',
  operands: 'FILENAME [+-]SIZE',
  completeOperand: 'file',
  doc:
    'SIZE is the new virtual size, or with + or - in front, by how much it changes. Shrink the\n' +
    'partitions and file systems inside before you shrink an image, or data is lost.',
  options: {
    help: shared.help,
    quiet: shared.quiet,
    format: shared.format,
    imageOpts: shared.imageOpts,
    shrink: { long: 'shrink', doc: 'allow that the image becomes smaller' },
    preallocation: {
      long: 'preallocation',
      arg: 'MODE',
      complete: modes,
      doc: 'how the new area is allocated: off (the default), metadata, falloc or full',
    },
    object: shared.object,
  },
});

const usage = ['[-f FMT | --image-opts] [--shrink] [--preallocation MODE] FILENAME [+-]SIZE'];

interface Asked {
  format: string | undefined;
  imageOpts: boolean;
  quiet: boolean;
  shrink: boolean;
  preallocation: Preallocation;
}

async function run(program: Program, args: readonly string[]): Promise<number> {
  const objects = new ToolObjects();
  const operands: string[] = [];
  const asked: Asked = {
    format: undefined,
    imageOpts: false,
    quiet: false,
    shrink: false,
    preallocation: 'off',
  };
  // The last word is the size, even if it looks like an option: -512.
  const last = args.at(-1);
  const hasSize = last !== undefined && /^-\d/.test(last);
  const words = hasSize ? args.slice(0, -1) : args;
  for (const { key, value = '' } of commandArguments(program, spec, usage, words)) {
    if (key === undefined) operands.push(value);
    else if (key === 'format') asked.format = value;
    else if (key === 'preallocation') asked.preallocation = preallocationMode(value);
    else if (key === 'imageOpts') asked.imageOpts = true;
    else if (key === 'quiet') asked.quiet = true;
    else if (key === 'shrink') asked.shrink = true;
    else if (key === 'object') await objects.add(value);
  }
  if (hasSize) operands.push(last);
  const [name, size, extra] = operands;
  if (name === undefined || size === undefined) {
    throw new UsageError('Expecting image file name and size');
  }
  if (extra !== undefined) throw new UsageError('Extra argument(s) in command line');
  const { sign, bytes } = parseChange(size);
  checkImageOpts(asked.imageOpts, asked.format);
  const graph = toolGraph(program, objects);
  try {
    const image = { name, imageOpts: asked.imageOpts, format: asked.format };
    const backend = await openImage(program, graph, image, { flags: { writable: true } });
    try {
      await resizeOpen(program, asked, backend, sign, bytes);
    } finally {
      await backend.close();
    }
  } finally {
    await graph.close();
  }
  if (!asked.quiet) program.print('Image resized.\n');
  return 0;
}

function preallocationMode(word: string): Preallocation {
  const mode = modes.find((each) => each === word);
  if (mode === undefined) throw new Failure(`Invalid preallocation mode '${word}'`);
  return mode;
}

function parseChange(text: string): { sign: -1 | 0 | 1; bytes: bigint } {
  const sign = text.startsWith('+') ? 1 : text.startsWith('-') ? -1 : 0;
  const plain = sign === 0 ? text : text.slice(1);
  const size = parseSize(plain);
  // What is too large is told when the image is open.
  if (size.status === 'limit') return { sign, bytes: size.value };
  return { sign, bytes: BigInt(optSize('size', plain)) };
}

async function resizeOpen(
  program: Program,
  asked: Asked,
  backend: Backend,
  sign: -1 | 0 | 1,
  bytes: bigint,
): Promise<void> {
  const current = backend.size;
  const exact = BigInt.asIntN(64, sign === 0 ? bytes : BigInt(current) + BigInt(sign) * bytes);
  if (exact <= 0n) throw new Failure('New image size must be positive');
  if (exact > MAX_LENGTH) {
    throw new Failure(`offset(${String(exact)}) exceeds maximum(${String(MAX_LENGTH)})`);
  }
  const wanted = Number(exact);
  if (!Number.isSafeInteger(wanted)) {
    throw new Failure("Parameter 'size' expects a value from 0 to 9007199254740991 (2^53 - 1)");
  }
  if (wanted <= current && asked.preallocation !== 'off') {
    throw new Failure('Preallocation can only be used for growing images');
  }
  if (wanted < current && !asked.shrink) {
    program.error('Use the --shrink option to perform a shrink operation.');
    program.warning(
      "Shrinking an image will delete all data beyond the shrunken image's end. Before " +
        'performing such an operation, make sure there is no important data there.',
    );
    throw new Failure(undefined);
  }
  await backend.truncate(wanted, { exact: true, prealloc: asked.preallocation });
}

export const resize: ImgCommand = { spec, usage, run };
