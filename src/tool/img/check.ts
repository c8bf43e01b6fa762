/** `check`: is the image sound, and repairing it. */
import type { Backend } from '../../block/backend.js';
import type { CheckResult } from '../../block/driver.js';
import { errorCode, withErrno } from '../../block/errors.js';
import { skipFilters } from '../../block/status.js';
import { command } from '../../options/getopt.js';
import { cacheMode, openImage, toolGraph } from '../images.js';
import { ToolObjects } from '../objects.js';
import type { Program } from '../program.js';
import { Failure, UsageError } from '../program.js';
import { jsonText } from './json.js';
import type { ImgCommand } from './options.js';
import { commandArguments, checkImageOpts, oneOperand, outputFormat, shared } from './options.js';

const spec = command({
  name: 'check',
  summary: 'check an image for damage and repair it',
  operands: 'FILENAME',
  completeOperand: 'file',
  doc:
    'Exit status: 0 the image is sound (now), 1 the check failed, 2 it is damaged,\n' +
    '3 it has leaked clusters but no damage, 63 the format cannot be checked.',
  options: {
    help: shared.help,
    format: shared.format,
    imageOpts: shared.imageOpts,
    quiet: shared.quiet,
    repair: {
      short: 'r',
      long: 'repair',
      arg: 'leaks|all',
      complete: ['leaks', 'all'],
      doc: 'repair: give leaked clusters back, or everything that is wrong',
    },
    output: shared.output,
    cache: shared.sourceCache,
    forceShare: shared.forceShare,
    object: shared.object,
  },
});

const usage = [
  '[-f FMT | --image-opts] [-r leaks|all] [-T CACHE] [-U] [--output human|json] FILENAME',
];

interface Asked {
  name: string;
  format: string | undefined;
  imageOpts: boolean;
  quiet: boolean;
  json: boolean;
  repair: 'none' | 'leaks' | 'all';
  cache: string;
  forceShare: boolean;
}

/** Exit statuses. */
const CORRUPT = 2;
const LEAKS = 3;
const NOT_SUPPORTED = 63;

async function run(program: Program, args: readonly string[]): Promise<number> {
  const objects = new ToolObjects();
  const operands: string[] = [];
  const asked: Asked = {
    name: '',
    format: undefined,
    imageOpts: false,
    quiet: false,
    json: false,
    repair: 'none',
    cache: 'writeback',
    forceShare: false,
  };
  for (const { key, value = '' } of commandArguments(program, spec, usage, args)) {
    if (key === undefined) operands.push(value);
    else if (key === 'format') asked.format = value;
    else if (key === 'repair') asked.repair = repairWord(value);
    else if (key === 'output') asked.json = outputFormat(value) === 'json';
    else if (key === 'cache') asked.cache = value;
    else if (key === 'imageOpts') asked.imageOpts = true;
    else if (key === 'quiet') asked.quiet = true;
    else if (key === 'forceShare') asked.forceShare = true;
    else if (key === 'object') await objects.add(value);
  }
  asked.name = oneOperand(operands);
  checkImageOpts(asked.imageOpts, asked.format);
  return checkImage(program, objects, asked);
}

function repairWord(word: string): 'leaks' | 'all' {
  if (word === 'leaks' || word === 'all') return word;
  throw new UsageError(`--repair (-r) expects 'leaks' or 'all' not '${word}'`);
}

async function checkImage(program: Program, objects: ToolObjects, asked: Asked): Promise<number> {
  const cache = cacheMode(asked.cache, 'Invalid source cache option');
  const graph = toolGraph(program, objects);
  const backend = await openImage(program, graph, asked, {
    flags: { writable: asked.repair !== 'none', unmap: true, check: true },
    cache,
    forceShare: asked.forceShare,
  });
  try {
    return await checkOpen(program, backend, asked);
  } finally {
    await backend.close();
    await graph.close();
  }
}

async function checkOpen(program: Program, backend: Backend, asked: Asked): Promise<number> {
  const all = asked.repair === 'all';
  const leaks = all || asked.repair === 'leaks';
  const say = (text: string): void => {
    if (!asked.quiet && !asked.json) program.print(text);
  };
  let result = await checkOnce(program, backend, leaks, all);
  const fixed = { leaks: result.leaksFixed, corruptions: result.corruptionsFixed };
  if (fixed.leaks > 0 || fixed.corruptions > 0) {
    say(
      'The following inconsistencies were found and repaired:\n\n' +
        `    ${String(fixed.leaks)} leaked clusters\n` +
        `    ${String(fixed.corruptions)} corruptions\n\n` +
        'Double checking the fixed image now...\n',
    );
    result = await checkOnce(program, backend, false, false);
  }
  if (asked.json) {
    program.print(jsonText(checkFacts(backend, asked, result, fixed)));
  } else {
    say(checkText(result));
  }
  if (result.corruptions > 0) return CORRUPT;
  if (result.leaks > 0) return LEAKS;
  return result.checkErrors > 0 ? 1 : 0;
}

async function checkOnce(
  program: Program,
  backend: Backend,
  fixLeaks: boolean,
  fixErrors: boolean,
): Promise<CheckResult> {
  const { instance } = skipFilters(backend.node);
  if (instance.check === undefined) {
    throw new Failure('This image format does not support checks', NOT_SUPPORTED);
  }
  try {
    return await instance.check({
      fixLeaks,
      fixErrors,
      report: (line, asTool) => {
        program.output.err(`${asTool === true ? `${program.name}: ` : ''}${line}\n`);
      },
    });
  } catch (e) {
    if (errorCode(e) === 'ENOTSUP') {
      throw new Failure('This image format does not support checks', NOT_SUPPORTED);
    }
    throw withErrno('Check failed', e);
  }
}

function checkText(result: CheckResult): string {
  let text = '';
  const sound = result.corruptions === 0 && result.leaks === 0 && result.checkErrors === 0;
  if (sound) {
    text += 'No errors were found on the image.\n';
  } else {
    if (result.corruptions > 0) {
      text +=
        `\n${String(result.corruptions)} errors were found on the image.\n` +
        'Data may be corrupted, or further writes to the image may corrupt it.\n';
    }
    if (result.leaks > 0) {
      text +=
        `\n${String(result.leaks)} leaked clusters were found on the image.\n` +
        'This means waste of disk space, but no harm to data.\n';
    }
    if (result.checkErrors > 0) {
      text += `\n${String(result.checkErrors)} internal errors have occurred during the check.\n`;
    }
  }
  const { totalClusters: total = 0, allocatedClusters: allocated = 0 } = result;
  if (total !== 0 && allocated !== 0) {
    const part = (of: number | undefined, whole: number): string =>
      twoDecimals(((of ?? 0) * 100) / whole);
    text +=
      `${String(allocated)}/${String(total)} = ${part(allocated, total)}% allocated, ` +
      `${part(result.fragmentedClusters, allocated)}% fragmented, ` +
      `${part(result.compressedClusters, allocated)}% compressed clusters\n`;
  }
  if (result.imageEndOffset !== undefined && result.imageEndOffset > 0) {
    text += `Image end offset: ${String(result.imageEndOffset)}\n`;
  }
  return text;
}

/** Undefined for 0, which JSON leaves out. */
const nonZero = (value: number | undefined): number | undefined =>
  value === 0 ? undefined : value;

function checkFacts(
  backend: Backend,
  asked: Asked,
  result: CheckResult,
  fixed: { leaks: number; corruptions: number },
): Record<string, unknown> {
  return {
    filename: asked.name,
    format: backend.node.driver.name,
    'check-errors': result.checkErrors,
    'image-end-offset': nonZero(result.imageEndOffset),
    corruptions: nonZero(result.corruptions),
    leaks: nonZero(result.leaks),
    'corruptions-fixed': nonZero(fixed.corruptions),
    'leaks-fixed': nonZero(fixed.leaks),
    'total-clusters': nonZero(result.totalClusters),
    'allocated-clusters': nonZero(result.allocatedClusters),
    'fragmented-clusters': nonZero(result.fragmentedClusters),
    'compressed-clusters': nonZero(result.compressedClusters),
  };
}

export const check: ImgCommand = { spec, usage, run };

/** As C prints `%.2f`: what lies in the middle goes to the even digit. */
function twoDecimals(value: number): string {
  const halves = value * 200;
  if (halves % 2 !== 1) return value.toFixed(2);
  const low = Math.floor(value * 100);
  return ((low % 2 === 0 ? low : low + 1) / 100).toFixed(2);
}
