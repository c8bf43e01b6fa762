/** `bitmap`: persistent dirty bitmaps of an image. */
import type { Backend } from '../../block/backend.js';
import { addBitmap, changeableBitmap, findBitmap, readableBitmap } from '../../block/bitmaps.js';
import { prepend } from '../../block/errors.js';
import type { BlockNode } from '../../block/node.js';
import { skipFilters } from '../../block/status.js';
import { command } from '../../options/getopt.js';
import { inactivate, openImage, toolGraph } from '../images.js';
import { ToolObjects } from '../objects.js';
import type { Program } from '../program.js';
import { Failure } from '../program.js';
import type { ImgCommand } from './options.js';
import { checkImageOpts, commandArguments, shared, sizeArgument } from './options.js';

const spec = command({
  name: 'bitmap',
  summary: 'change persistent bitmaps of an image',
  operands: 'FILENAME BITMAP',
  completeOperand: 'file',
  doc: 'Actions are carried out in the order in which they are given.',
  options: {
    help: shared.help,
    // A name of ours: what qemu-img lists, but does not know.
    format: { ...shared.format, exact: true },
    imageOpts: shared.imageOpts,
    add: { long: 'add', doc: 'make BITMAP, which records writes from now on' },
    granularity: {
      short: 'g',
      long: 'granularity',
      arg: 'SIZE',
      doc: 'with --add: bytes per bit; default: the cluster size, 4k to 64k',
    },
    remove: { long: 'remove', doc: 'remove BITMAP' },
    clear: { long: 'clear', doc: 'clear BITMAP' },
    enable: { long: 'enable', doc: 'let BITMAP record writes' },
    disable: { long: 'disable', doc: 'let BITMAP record no more writes' },
    merge: {
      long: 'merge',
      arg: 'SOURCE',
      repeat: true,
      doc: 'add what is set in bitmap SOURCE to BITMAP',
    },
    sourceFile: {
      short: 'b',
      long: 'source-file',
      arg: 'SOURCE_FILE',
      complete: 'file',
      doc: 'image in which --merge finds SOURCE',
    },
    sourceFormat: {
      short: 'F',
      long: 'source-format',
      arg: 'SOURCE_FMT',
      complete: 'format',
      doc: 'format of SOURCE_FILE',
    },
    object: shared.object,
  },
});

const usage = [
  '(--merge SOURCE | --add | --remove | --clear | --enable | --disable)…',
  '[-b SOURCE_FILE [-F SOURCE_FMT]] [-g SIZE] [-f FMT | --image-opts] FILENAME BITMAP',
];

interface Action {
  readonly kind: 'add' | 'remove' | 'clear' | 'enable' | 'disable' | 'merge';
  /** Of merge. */
  readonly source: string;
}

interface Asked {
  format: string | undefined;
  imageOpts: boolean;
  granularity: number | undefined;
  sourceFile: string | undefined;
  sourceFormat: string | undefined;
  readonly actions: Action[];
}

async function run(program: Program, args: readonly string[]): Promise<number> {
  const objects = new ToolObjects();
  const operands: string[] = [];
  const asked: Asked = {
    format: undefined,
    imageOpts: false,
    granularity: undefined,
    sourceFile: undefined,
    sourceFormat: undefined,
    actions: [],
  };
  for (const { key, value = '' } of commandArguments(program, spec, usage, args)) {
    if (key === undefined) operands.push(value);
    else if (key === 'format') asked.format = value;
    else if (key === 'imageOpts') asked.imageOpts = true;
    else if (key === 'granularity') asked.granularity = sizeArgument('granularity', value, 1);
    else if (key === 'sourceFile') asked.sourceFile = value;
    else if (key === 'sourceFormat') asked.sourceFormat = value;
    else if (key === 'object') await objects.add(value);
    else if (key !== 'help') asked.actions.push({ kind: key, source: value });
  }
  const [filename, name] = checkCombination(asked, operands);
  checkImageOpts(asked.imageOpts, asked.format);
  const graph = toolGraph(program, objects);
  try {
    const image = { name: filename, imageOpts: asked.imageOpts, format: asked.format };
    // Backing files have no part in it, and may be the other image of a merge.
    const flags = { writable: true, noBacking: true };
    const backend = await openImage(program, graph, image, { flags });
    let source: Backend | undefined;
    try {
      if (asked.sourceFile !== undefined) {
        const from = { name: asked.sourceFile, imageOpts: false, format: asked.sourceFormat };
        source = await openImage(program, graph, from, { flags: { noBacking: true } });
      }
      const from = skipFilters((source ?? backend).node);
      for (const action of asked.actions) {
        await carryOut(skipFilters(backend.node), name, action, asked.granularity, from);
      }
      await inactivate(program, backend);
    } finally {
      await source?.close();
      await backend.close();
    }
  } finally {
    await graph.close();
  }
  return 0;
}

function checkCombination(asked: Asked, operands: readonly string[]): [string, string] {
  const has = (kind: Action['kind']): boolean => asked.actions.some((a) => a.kind === kind);
  if (asked.actions.length === 0) {
    throw new Failure(
      'Need at least one of --add, --remove, --clear, --enable, --disable, or --merge',
    );
  }
  if (asked.granularity !== undefined && !has('add')) {
    throw new Failure('granularity only supported with --add');
  }
  if (asked.sourceFormat !== undefined && asked.sourceFile === undefined) {
    throw new Failure('-F only supported with -b');
  }
  if (asked.sourceFile !== undefined && !has('merge')) {
    throw new Failure('Merge bitmap source file only supported with --merge');
  }
  const [filename, name, extra] = operands;
  if (filename === undefined || name === undefined || extra !== undefined) {
    throw new Failure('Expecting filename and bitmap name');
  }
  return [filename, name];
}

async function carryOut(
  node: BlockNode,
  name: string,
  action: Action,
  granularity: number | undefined,
  source: BlockNode,
): Promise<void> {
  try {
    switch (action.kind) {
      case 'add':
        await addBitmap(node, name, { granularity, persistent: true, enabled: true });
        return;
      case 'remove':
        findBitmap(node, name);
        await node.instance.bitmaps?.remove(name);
        node.dirtyBitmaps.delete(name);
        return;
      case 'clear':
        changeableBitmap(node, name).clear();
        return;
      case 'enable':
        changeableBitmap(node, name).enabled = true;
        return;
      case 'disable':
        changeableBitmap(node, name).enabled = false;
        return;
      case 'merge':
        changeableBitmap(node, name).merge(readableBitmap(source, action.source));
        return;
    }
  } catch (e) {
    throw prepend(`Operation ${action.kind} on bitmap ${name} failed: `, e);
  }
}

export const bitmap: ImgCommand = { spec, usage, run };
