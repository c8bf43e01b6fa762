/** `vdisk graph`: a picture of the block graph of images, or of a program that runs. */
import { connect } from 'node:net';
import { formatSize } from '../../lib/sizes.js';
import { describeGraph } from '../../monitor/block-info.js';
import type { GraphFacts } from '../../monitor/graph-picture.js';
import { dotPicture, svgPicture } from '../../monitor/graph-picture.js';
import { command } from '../../options/getopt.js';
import { toHostError } from '../../host/node/errors.js';
import { errorText } from '../../block/errors.js';
import { openImage, toolGraph } from '../images.js';
import type { ImgCommand } from '../img/options.js';
import { checkImageOpts, commandArguments, shared } from '../img/options.js';
import { ToolObjects } from '../objects.js';
import type { Program } from '../program.js';
import { Failure, UsageError } from '../program.js';

const spec = command({
  name: 'graph',
  summary: 'draw the nodes of images, or of a program with a monitor',
  operands: '[FILENAME]...',
  completeOperand: 'file',
  doc:
    'Prints the graph for Graphviz, or with --output svg as a picture: nodes with driver and\n' +
    'size, what stands on them, and what each edge may do (r: read, w: write, u: write what\n' +
    'is there, s: resize). With --qmp it asks a running vdisk-storage-daemon, vdisk-system or\n' +
    'QEMU at a Unix socket.',
  options: {
    help: shared.help,
    format: shared.format,
    imageOpts: shared.imageOpts,
    object: shared.object,
    output: {
      long: 'output',
      arg: 'dot|svg',
      complete: ['dot', 'svg'],
      doc: 'language of the picture; default dot',
    },
    qmp: {
      long: 'qmp',
      arg: 'SOCKET',
      complete: 'file',
      doc: 'draw the graph of the program whose QMP monitor listens at this Unix socket',
    },
  },
});

const usage = [
  '[-f FMT | --image-opts] [--output dot|svg] FILENAME...',
  '--qmp SOCKET [--output dot|svg]',
];

interface Asked {
  format: string | undefined;
  imageOpts: boolean;
  svg: boolean;
  qmp: string | undefined;
}

async function run(program: Program, args: readonly string[]): Promise<number> {
  const objects = new ToolObjects({ iothreads: true });
  const names: string[] = [];
  const asked: Asked = { format: undefined, imageOpts: false, svg: false, qmp: undefined };
  for (const { key, value = '' } of commandArguments(program, spec, usage, args)) {
    if (key === undefined) names.push(value);
    else if (key === 'format') asked.format = value;
    else if (key === 'imageOpts') asked.imageOpts = true;
    else if (key === 'qmp') asked.qmp = value;
    else if (key === 'object') await objects.add(value);
    else if (key === 'output') asked.svg = wantsSvg(value);
  }
  checkImageOpts(asked.imageOpts, asked.format);
  const { qmp } = asked;
  if ((qmp === undefined) === (names.length === 0)) {
    throw new UsageError('Expecting image file names, or --qmp SOCKET');
  }
  const { facts, about } =
    qmp === undefined ? await ofImages(program, objects, asked, names) : await ofMonitor(qmp);
  program.print(asked.svg ? svgPicture(facts, about) : dotPicture(facts, about));
  return 0;
}

function wantsSvg(word: string): boolean {
  if (word === 'dot' || word === 'svg') return word === 'svg';
  throw new UsageError('--output must be used with dot or svg as argument.');
}

interface Drawn {
  readonly facts: GraphFacts;
  readonly about: Map<string, readonly string[]>;
}

async function ofImages(
  program: Program,
  objects: ToolObjects,
  { format, imageOpts }: Asked,
  names: readonly string[],
): Promise<Drawn> {
  const graph = toolGraph(program, objects);
  try {
    for (const name of names) {
      const image = { name, imageOpts, format };
      const backend = await openImage(program, graph, image, { forceShare: true });
      // An edge of the picture shows which image is meant.
      backend.name = name;
      graph.deviceBackends.add(backend);
    }
    const about = new Map<string, readonly string[]>();
    for (const node of graph.nodes.values()) {
      about.set(node.name, [node.driver.name, formatSize(node.size), shorten(node.filename)]);
    }
    return { facts: describeGraph(graph), about };
  } finally {
    for (const backend of graph.deviceBackends) await backend.close();
    await graph.close();
  }
}

/** File names end in what tells them apart. */
function shorten(name: string): string {
  return name.length <= 40 ? name : `…${name.slice(-39)}`;
}

interface NamedNode {
  readonly 'node-name'?: string;
  readonly drv: string;
  readonly file: string;
  readonly image?: { readonly 'virtual-size'?: number };
}

async function ofMonitor(path: string): Promise<Drawn> {
  const replies = await ask(path, [
    { execute: 'qmp_capabilities' },
    { execute: 'x-debug-query-block-graph' },
    { execute: 'query-named-block-nodes', arguments: { flat: true } },
  ]);
  const about = new Map<string, readonly string[]>();
  for (const node of replies[2] as readonly NamedNode[]) {
    const size = node.image?.['virtual-size'];
    const sizeLine = size === undefined ? [] : [formatSize(size)];
    about.set(node['node-name'] ?? '', [node.drv, ...sizeLine, shorten(node.file)]);
  }
  return { facts: replies[1] as GraphFacts, about };
}

/** Sends requests to a QMP monitor; what it returns, in their order. Throws Failure. */
function ask(path: string, requests: readonly object[]): Promise<unknown[]> {
  return new Promise((resolve, reject) => {
    const replies: unknown[] = [];
    let text = '';
    const socket = connect(path);
    socket.on('error', (e) => {
      reject(new Failure(`Could not connect to '${path}': ${errorText(toHostError(e))}`));
    });
    socket.on('close', () => {
      reject(new Failure(`The monitor at '${path}' hung up`));
    });
    socket.on('data', (piece: Buffer) => {
      text += piece.toString();
      for (let end = text.indexOf('\n'); end >= 0; end = text.indexOf('\n')) {
        const message = JSON.parse(text.slice(0, end)) as Record<string, unknown>;
        text = text.slice(end + 1);
        const error = message['error'] as { desc?: string } | undefined;
        if (error !== undefined) reject(new Failure(`The monitor says: ${error.desc ?? ''}`));
        if ('return' in message) replies.push(message['return']);
      }
      if (replies.length < requests.length) return;
      resolve(replies);
      socket.destroy();
    });
    socket.write(requests.map((each) => `${JSON.stringify(each)}\n`).join(''));
  });
}

export const graph: ImgCommand = { spec, usage, run };
