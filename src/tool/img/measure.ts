/** `measure`: how large a new image would be. */
import type { Backend } from '../../block/backend.js';
import { creator } from '../../block/create.js';
import type { Driver, MeasureResult } from '../../block/driver.js';
import { BlockError } from '../../block/errors.js';
import { formatInteger } from '../../lib/sizes.js';
import type { CreateValues } from '../../options/create-options.js';
import { mergeCreateOptions, parseCreateOptions } from '../../options/create-options.js';
import { command } from '../../options/getopt.js';
import { hasHelp } from '../../options/qemu-opts.js';
import { openImage, toolGraph } from '../images.js';
import { ToolObjects } from '../objects.js';
import type { Program } from '../program.js';
import { Failure } from '../program.js';
import { addOptionText, imageSize, printCreateHelp } from './create.js';
import { jsonText } from './json.js';
import type { ImgCommand } from './options.js';
import { commandArguments, checkImageOpts, outputFormat, shared } from './options.js';
import type { SnapshotName } from './snapshot-name.js';
import { loadSnapshot, parseSnapshotName } from './snapshot-name.js';

const spec = command({
  name: 'measure',
  summary: 'tell how large a new image would be',
  operands: '[FILENAME]',
  completeOperand: 'file',
  doc:
    'Either for a new, empty image of --size, or for a conversion of FILENAME. Printed are the\n' +
    'size that the file needs, and the size when all of the image has been written.',
  options: {
    help: shared.help,
    format: shared.format,
    imageOpts: shared.imageOpts,
    options: {
      short: 'o',
      long: 'options',
      arg: 'OPTIONS',
      complete: 'create-options',
      of: 'targetFormat',
      doc: "options of the new format, as in cluster_size=2M; '-o help' lists them",
    },
    targetFormat: {
      short: 'O',
      long: 'target-format',
      arg: 'FMT',
      complete: 'format',
      doc: 'format of the new image; default raw',
    },
    snapshot: {
      short: 'l',
      long: 'snapshot',
      arg: 'SNAPSHOT',
      doc: 'measure this internal snapshot of FILENAME',
    },
    object: shared.object,
    output: shared.output,
    size: { long: 'size', arg: 'SIZE', doc: 'virtual size of a new image' },
    forceShare: shared.forceShare,
  },
});

const usage = [
  '[-O FMT] [-o OPTIONS] [--output human|json] --size SIZE',
  '[-O FMT] [-o OPTIONS] [-f FMT | --image-opts] [-l SNAPSHOT] [-U] FILENAME',
];

interface Asked {
  format: string | undefined;
  imageOpts: boolean;
  optionTexts: string[];
  targetFormat: string;
  snapshot: SnapshotName | undefined;
  json: boolean;
  size: number | undefined;
  forceShare: boolean;
}

async function run(program: Program, args: readonly string[]): Promise<number> {
  const objects = new ToolObjects();
  const operands: string[] = [];
  const asked: Asked = {
    format: undefined,
    imageOpts: false,
    optionTexts: [],
    targetFormat: 'raw',
    snapshot: undefined,
    json: false,
    size: undefined,
    forceShare: false,
  };
  for (const { key, value = '' } of commandArguments(program, spec, usage, args)) {
    if (key === undefined) operands.push(value);
    else if (key === 'format') asked.format = value;
    else if (key === 'options') addOptionText(asked.optionTexts, value);
    else if (key === 'targetFormat') asked.targetFormat = value;
    else if (key === 'snapshot') asked.snapshot = parseSnapshotName(program, value);
    else if (key === 'output') asked.json = outputFormat(value) === 'json';
    else if (key === 'size') asked.size = imageSize(value);
    else if (key === 'imageOpts') asked.imageOpts = true;
    else if (key === 'forceShare') asked.forceShare = true;
    else if (key === 'object') await objects.add(value);
  }
  if (hasHelp(asked.optionTexts.join(','))) {
    return printCreateHelp(program, asked.targetFormat, undefined);
  }
  const name = checkCombination(asked, operands);
  const result = await measureImage(program, objects, asked, name);
  program.print(asked.json ? jsonText(resultFacts(result)) : resultText(result));
  return 0;
}

function checkCombination(asked: Asked, operands: readonly string[]): string | undefined {
  const [name, extra] = operands;
  if (extra !== undefined) throw new Failure('At most one filename argument is allowed.');
  if (name === undefined) {
    if (asked.imageOpts || asked.format !== undefined || asked.snapshot !== undefined) {
      throw new Failure('--image-opts, -f, and -l require a filename argument.');
    }
    if (asked.size === undefined) {
      throw new Failure('Either --size N or one filename must be specified.');
    }
  } else {
    if (asked.size !== undefined) {
      throw new Failure('--size N cannot be used together with a filename.');
    }
    checkImageOpts(asked.imageOpts, asked.format);
  }
  return name;
}

async function measureImage(
  program: Program,
  objects: ToolObjects,
  asked: Asked,
  name: string | undefined,
): Promise<MeasureResult> {
  const graph = toolGraph(program, objects);
  let source: Backend | undefined;
  try {
    if (name !== undefined) {
      const image = { name, imageOpts: asked.imageOpts, format: asked.format };
      source = await openImage(program, graph, image, { forceShare: asked.forceShare });
      if (asked.snapshot !== undefined) await loadSnapshot(source, asked.snapshot);
    }
    const { driver, set: own } = await creator(graph, asked.targetFormat, undefined);
    // Options of files are accepted, too, though they make no difference.
    const set = mergeCreateOptions(own, graph.driver('file').createOptions ?? own);
    let values: CreateValues;
    try {
      values = parseCreateOptions(set, asked.optionTexts).values;
    } catch (e) {
      program.report(e);
      throw new Failure(`Invalid options for file format '${asked.targetFormat}'`);
    }
    const size = asked.size === undefined ? {} : { size: asked.size };
    return await measureWith(driver, { ...values, ...size }, source);
  } finally {
    await source?.close();
    await graph.close();
  }
}

async function measureWith(
  driver: Driver,
  values: CreateValues,
  source: Backend | undefined,
): Promise<MeasureResult> {
  if (driver.measure === undefined) {
    const text = `Block driver '${driver.name}' does not support size measurement`;
    throw new BlockError('ENOTSUP', text);
  }
  return driver.measure(values, source);
}

function resultText(result: MeasureResult): string {
  const bitmaps = result.bitmaps === undefined ? '' : `bitmaps size: ${String(result.bitmaps)}\n`;
  return (
    `required size: ${formatInteger(result.required)}\n` +
    `fully allocated size: ${formatInteger(result.fullyAllocated)}\n${bitmaps}`
  );
}

function resultFacts(result: MeasureResult): Record<string, unknown> {
  return {
    required: result.required,
    'fully-allocated': result.fullyAllocated,
    bitmaps: result.bitmaps,
  };
}

export const measure: ImgCommand = { spec, usage, run };
