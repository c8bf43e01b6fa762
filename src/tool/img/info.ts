/** `info`: what an image is. */
import type { Backend } from '../../block/backend.js';
import { BlockError } from '../../block/errors.js';
import { nameSeenFrom } from '../../block/filename.js';
import type { BlockGraph } from '../../block/graph.js';
import { command } from '../../options/getopt.js';
import { openImage, toolGraph } from '../images.js';
import { ToolObjects } from '../objects.js';
import type { Program } from '../program.js';
import type { GraphInfo } from '../../block/image-info.js';
import { graphInfo } from '../../block/image-info.js';
import { infoText } from '../../block/info-text.js';
import { jsonText } from './json.js';
import type { ImgCommand } from './options.js';
import { commandArguments, checkImageOpts, oneOperand, outputFormat, shared } from './options.js';

const spec = command({
  name: 'info',
  summary: 'show what an image is',
  operands: 'FILENAME',
  completeOperand: 'file',
  options: {
    help: shared.help,
    format: shared.format,
    imageOpts: shared.imageOpts,
    backingChain: {
      short: 'b',
      long: 'backing-chain',
      doc: 'show the backing file too, and its backing file, and so on',
    },
    forceShare: shared.forceShare,
    output: shared.output,
    object: shared.object,
  },
});

const usage = ['[-f FMT | --image-opts] [-b] [-U] [--output human|json] FILENAME'];

async function run(program: Program, args: readonly string[]): Promise<number> {
  const objects = new ToolObjects();
  const operands: string[] = [];
  let format: string | undefined;
  let json = false;
  let imageOpts = false;
  let chain = false;
  let forceShare = false;
  for (const { key, value = '' } of commandArguments(program, spec, usage, args)) {
    if (key === undefined) operands.push(value);
    else if (key === 'format') format = value;
    else if (key === 'output') json = outputFormat(value) === 'json';
    else if (key === 'imageOpts') imageOpts = true;
    else if (key === 'backingChain') chain = true;
    else if (key === 'forceShare') forceShare = true;
    else if (key === 'object') await objects.add(value);
  }
  const name = oneOperand(operands);
  checkImageOpts(imageOpts, format);
  const graph = toolGraph(program, objects);
  try {
    const image = { name, imageOpts, format };
    const infos = await collect(program, graph, image, forceShare, chain);
    if (!json) program.print(infos.map((info) => infoText(info)).join('\n'));
    else program.print(jsonText(chain ? infos : infos[0]));
  } finally {
    await graph.close();
  }
  return 0;
}

/** The image, and with `chain` all that it is based on. */
async function collect(
  program: Program,
  graph: BlockGraph,
  first: { name: string; imageOpts: boolean; format: string | undefined },
  forceShare: boolean,
  chain: boolean,
): Promise<GraphInfo[]> {
  const infos: GraphInfo[] = [];
  const seen = new Set<string>();
  let next: typeof first | undefined = first;
  while (next !== undefined) {
    if (seen.has(next.name)) {
      throw new BlockError('ELOOP', `Backing file '${next.name}' creates an infinite loop.`);
    }
    seen.add(next.name);
    const how = { flags: { noBacking: true, noIo: true }, forceShare };
    const backend = await openImage(program, graph, next, how);
    try {
      infos.push(await graphInfo(backend.node));
      next = chain ? backingOf(graph, backend) : undefined;
    } finally {
      await backend.close();
    }
  }
  return infos;
}

function backingOf(
  graph: BlockGraph,
  backend: Backend,
): { name: string; imageOpts: boolean; format: string | undefined } | undefined {
  const { node } = backend;
  if (node.backingFile === '') return undefined;
  let name: string;
  try {
    name = nameSeenFrom(graph.files, node, node.backingFile);
  } catch (e) {
    throw new BlockError(
      'EINVAL',
      `Could not determine absolute backing filename, but backing filename '${node.backingFile}' ` +
        'present',
      { cause: e },
    );
  }
  const format = node.backingFormat === '' ? undefined : node.backingFormat;
  return { name, imageOpts: false, format };
}

export const info: ImgCommand = { spec, usage, run };
