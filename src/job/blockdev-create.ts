/** Job `create`: makes a file, or an image on nodes that are open. */
import { Backend } from '../block/backend.js';
import type { BlockdevCreate, Driver, NodeOptions } from '../block/driver.js';
import { BlockError, errorCode } from '../block/errors.js';
import type { BlockGraph } from '../block/graph.js';
import type { BlockNode } from '../block/node.js';
import { MAX_LENGTH, Perm } from '../block/types.js';
import type { CreateValues } from '../options/create-options.js';
import type { JobControl, JobWork } from './work.js';

/** A node's name, or the options of a new one. */
type Reference = string | NodeOptions;

/**
 * The work of `blockdev-create`; `options` are checked BlockdevCreateOptions. Throws BlockError for
 * drivers that make no images.
 */
export function createWork(graph: BlockGraph, options: NodeOptions): JobWork {
  const driver = graph.driver(String(options['driver']));
  const how = driver.blockdevCreate;
  if (how === undefined) {
    throw new BlockError('ENOTSUP', 'Driver does not support blockdev-create');
  }
  return {
    type: 'create',
    run: async (job: JobControl) => {
      job.progress.total = 1;
      try {
        await create(graph, driver, how, options);
      } finally {
        job.progress.done = 1;
      }
    },
  };
}

async function create(
  graph: BlockGraph,
  driver: Driver,
  how: BlockdevCreate,
  options: NodeOptions,
): Promise<void> {
  const own = { ...createValues(driver, options), ...how.values?.(options) };
  const nodes: BlockNode[] = [];
  const open = async (reference: Reference): Promise<BlockNode> => {
    const node = await openReference(graph, reference);
    nodes.push(node);
    return node;
  };
  try {
    const file = options['file'] as Reference | undefined;
    const main = file === undefined ? undefined : await open(file);
    const others: BlockNode[] = [];
    for (const each of how.others?.(options) ?? []) others.push(await open(each));
    const dataFile = others[0]?.filename;
    const values = dataFile === undefined ? own : { ...own, data_file: dataFile };
    const { size } = options;
    // From 2^53 on; no format has such sizes.
    if (typeof size === 'bigint') throw new BlockError('EFBIG');
    await write(graph, driver, values, main?.filename ?? String(options['filename']), (name) =>
      name === undefined ? main : others.shift(),
    );
  } catch (e) {
    if (errorCode(e) !== 'EFBIG') throw e;
    const size = options['size'] as number | bigint;
    const text = how.tooLarge?.(size) ?? 'Image size is too large';
    throw new BlockError('EFBIG', text, { cause: e });
  } finally {
    for (const node of nodes.reverse()) await graph.release(node);
  }
}

async function write(
  graph: BlockGraph,
  driver: Driver,
  values: CreateValues,
  filename: string,
  nodeFor: (name: string | undefined) => BlockNode | undefined,
): Promise<void> {
  if ((values.size ?? 0) > (driver.maxSize ?? MAX_LENGTH)) throw new BlockError('EFBIG');
  await driver.create?.({
    graph,
    host: graph.host,
    filename,
    values,
    keepsFiles: true,
    // Of the others a data file may hold a disk already, which the image is to show.
    createFile: (bytes, name) => useFile(graph, nodeFor(name), bytes, name === undefined),
  });
}

/** A node to write an image into; `empties`: what it holds goes, where it can be cut off. */
async function useFile(
  graph: BlockGraph,
  node: BlockNode | undefined,
  bytes: number,
  empties: boolean,
): Promise<Backend> {
  if (node === undefined) throw new BlockError('EINVAL', 'There is no node for this file');
  const perm = Perm.consistentRead | Perm.write | Perm.resize;
  const backend = new Backend({ graph, name: '', perm, shared: Perm.all });
  await backend.attach(node);
  backend.allowBeyondEof = true;
  try {
    if (empties) await backend.truncate(0, { exact: false });
    if (bytes > 0) await backend.truncate(bytes, { exact: false });
  } catch (e) {
    await backend.close();
    throw e;
  }
  return backend;
}

async function openReference(graph: BlockGraph, reference: Reference): Promise<BlockNode> {
  if (typeof reference !== 'string') {
    return graph.open({ options: reference, flags: { writable: true } });
  }
  if (graph.tryNode(reference) === undefined) {
    const text = `Cannot find device='${reference}' nor node-name='${reference}'`;
    throw new BlockError('ENODEV', text);
  }
  return graph.open({ reference });
}

/** The options that are called as those of `-o` are, but for `_`. */
function createValues(driver: Driver, options: NodeOptions): CreateValues {
  const known = new Set(driver.createOptions?.options.map((each) => each.name));
  const values: Record<string, string | number | boolean> = {};
  for (const [name, value] of Object.entries(options)) {
    const isPlain = ['string', 'number', 'boolean'].includes(typeof value);
    if (!isPlain || name === 'driver' || name === 'file' || name === 'data-file') continue;
    values[known.has(name) ? name : name.replaceAll('-', '_')] = value as string;
  }
  return values;
}
