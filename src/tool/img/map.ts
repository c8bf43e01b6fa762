/** `map`: where the data of an image is. */
import type { MapExtent } from '../../job/map.js';
import { allocationMap } from '../../job/map.js';
import { command } from '../../options/getopt.js';
import { ascii, AsciiLines } from '../ascii-lines.js';
import { openImage, toolGraph } from '../images.js';
import { ToolObjects } from '../objects.js';
import type { Program } from '../program.js';
import { Failure } from '../program.js';
import type { ImgCommand } from './options.js';
import { commandArguments, checkImageOpts, oneOperand, outputFormat, shared } from './options.js';
import { offsetArgument } from './options.js';

const spec = command({
  name: 'map',
  summary: 'show where the data of an image is',
  operands: 'FILENAME',
  completeOperand: 'file',
  doc:
    'For people: the ranges that hold data, and where they lie in which file.\n' +
    'As JSON: all ranges, those of zeroes too, each with the depth in the backing chain.',
  options: {
    help: shared.help,
    format: shared.format,
    imageOpts: shared.imageOpts,
    startOffset: {
      short: 's',
      long: 'start-offset',
      arg: 'OFFSET',
      doc: 'begin at this byte of the image',
    },
    maxLength: { short: 'l', long: 'max-length', arg: 'LENGTH', doc: 'end after this many bytes' },
    output: shared.output,
    forceShare: shared.forceShare,
    object: shared.object,
  },
});

const usage = [
  '[-f FMT | --image-opts] [--start-offset OFFSET] [--max-length LENGTH]',
  '[--output human|json] [-U] FILENAME',
];

/** Characters that are put together before they are printed. */
const CHUNK = 32 * 1024;

async function run(program: Program, args: readonly string[]): Promise<number> {
  const objects = new ToolObjects();
  const operands: string[] = [];
  let format: string | undefined;
  let json = false;
  let imageOpts = false;
  let forceShare = false;
  let start = 0;
  let length = Infinity;
  for (const { key, value = '' } of commandArguments(program, spec, usage, args)) {
    if (key === undefined) operands.push(value);
    else if (key === 'format') format = value;
    else if (key === 'output') json = outputFormat(value) === 'json';
    else if (key === 'imageOpts') imageOpts = true;
    else if (key === 'forceShare') forceShare = true;
    else if (key === 'startOffset') start = offsetArgument('start offset', value);
    else if (key === 'maxLength') length = offsetArgument('max length', value);
    else if (key === 'object') await objects.add(value);
  }
  const name = oneOperand(operands);
  checkImageOpts(imageOpts, format);
  const graph = toolGraph(program, objects);
  const backend = await openImage(program, graph, { name, imageOpts, format }, { forceShare });
  const print = json ? jsonPrinter(program) : humanPrinter(program);
  try {
    print.start();
    let count = 0;
    for await (const batch of allocationMap(backend.node, { start, length })) {
      for (const extent of batch) print.extent(extent);
      count += batch.length;
    }
    if (count === 0) print.extent(nothing(start));
    print.end();
  } finally {
    print.flush();
    await backend.close();
    await graph.close();
  }
  return 0;
}

/** What is printed when there is nothing in the range. */
function nothing(start: number): MapExtent {
  const none = { present: false, zero: false, data: false, compressed: false };
  return { start, length: 0, depth: 0, ...none, offset: undefined, file: undefined };
}

interface MapPrinter {
  readonly start: () => void;
  readonly extent: (extent: MapExtent) => void;
  readonly end: () => void;
  readonly flush: () => void;
}

/** Collects text so that a long map is few writes. */
function collector(program: Program): { add: (text: string) => void; flush: () => void } {
  let text = '';
  const flush = (): void => {
    program.print(text);
    text = '';
  };
  return {
    add: (more) => {
      text += more;
      if (text.length > CHUNK) flush();
    },
    flush,
  };
}

/** The words of a line of JSON behind its length, by depth and flags. */
function jsonTail({ depth, present, zero, data, compressed }: MapExtent): string {
  return (
    `, "depth": ${depth}, "present": ${present}, "zero": ${zero}, "data": ${data}, ` +
    `"compressed": ${compressed}`
  );
}

function jsonPrinter(program: Program): MapPrinter {
  const lines = new AsciiLines((bytes) => program.output.out(bytes));
  const before = ascii('{ "start": ');
  const length = ascii(', "length": ');
  const offset = ascii(', "offset": ');
  const end = ascii('}');
  const separator = ascii(',\n');
  const tails = new Map<number, Uint8Array>();
  const tailOf = (extent: MapExtent): Uint8Array => {
    const { present, zero, data, compressed } = extent;
    const flags = (present ? 1 : 0) | (zero ? 2 : 0) | (data ? 4 : 0) | (compressed ? 8 : 0);
    const key = extent.depth * 16 + flags;
    const known = tails.get(key);
    if (known !== undefined) return known;
    const tail = ascii(jsonTail(extent));
    tails.set(key, tail);
    return tail;
  };
  let first = true;
  return {
    start: () => lines.text(ascii('[')),
    extent: (extent) => {
      if (!first) lines.text(separator);
      first = false;
      lines.text(before);
      lines.number(extent.start);
      lines.text(length);
      lines.number(extent.length);
      lines.text(tailOf(extent));
      if (extent.offset !== undefined) {
        lines.text(offset);
        lines.number(extent.offset);
      }
      lines.text(end);
    },
    end: () => lines.text(ascii(']\n')),
    flush: () => lines.flush(),
  };
}

/** `0x1f000`, but `0` for zero, as printf's `%#lx`. */
function hex(value: number): string {
  return value === 0 ? '0' : `0x${value.toString(16)}`;
}

function humanPrinter(program: Program): MapPrinter {
  const { add, flush } = collector(program);
  const row = (cells: readonly [string, string, string, string]): void => {
    const [offset, length, mapped, file] = cells;
    add(`${offset.padEnd(16)}${length.padEnd(16)}${mapped.padEnd(16)}${file}\n`);
  };
  return {
    start: () => row(['Offset', 'Length', 'Mapped to', 'File']),
    extent: ({ start, length, zero, data, offset, file }) => {
      if (!data || zero) return;
      if (offset === undefined) {
        throw new Failure('File contains external, encrypted or compressed clusters.');
      }
      row([hex(start), hex(length), hex(offset), file?.filename ?? '']);
    },
    end: () => undefined,
    flush,
  };
}

export const map: ImgCommand = { spec, usage, run };
