/**
 * Dirty bitmaps that go with a machine.
 *
 * Section `bitmap`, one or more for each: JSON facts, a zero byte, and a run of bits. Names are
 * aliases, which the parameter `block-bitmap-mapping` translates on either side.
 */
import { DirtyBitmap } from '../../block/dirty-bitmap.js';
import type { BlockGraph } from '../../block/graph.js';
import type { BlockNode } from '../../block/node.js';
import { skipFilters } from '../../block/status.js';
import { formatJson, parseJson } from '../../lib/json-text.js';
import type { Section, StateWriter } from '../../machine/state/stream.js';
import { badState } from '../../machine/state/stream.js';
import type { Infer } from '../../options/schema.js';
import { parseValue, t } from '../../options/schema.js';
import { QmpError } from '../qmp-error.js';
import type { Parameters } from './settings.js';

type Mapping = Parameters['block-bitmap-mapping'];

/** Bytes of bits in one section. */
const RUN = 1 << 19;
const MAX_NAME = 255;
/** Most memory that a stream can ask for one bitmap. */
const MAX_BITS = 1 << 29;

const facts = t.struct('BitmapFacts', {
  node: t.str({ doc: 'alias of the node' }),
  name: t.str({ doc: 'alias of the bitmap' }),
  granularity: t.uint({ min: 512, max: 2 ** 31 }, { doc: 'bytes of a bit' }),
  size: t.uint({}, { doc: 'bytes of the node' }),
  enabled: t.bool({ doc: 'it records writes' }),
  persistent: t.bool({ doc: 'it is stored in the image' }),
  offset: t.uint({}, { doc: 'where in the bits this run begins' }),
  last: t.bool({ doc: 'no run follows' }),
});

type Facts = Infer<typeof facts>;

/** A bitmap that is sent. */
interface Outgoing {
  readonly bitmap: DirtyBitmap;
  readonly node: string;
  readonly name: string;
  readonly persistent: boolean;
}

/** What bitmaps go along. Throws QmpError for those that cannot. */
export function outgoingBitmaps(graph: BlockGraph, mapping: Mapping): Outgoing[] {
  const found: Outgoing[] = [];
  const names = new Map<BlockNode, string>();
  for (const [name, backend] of graph.backends) {
    if (backend.isInserted) names.set(skipFilters(backend.node), name);
  }
  for (const node of graph.nodes.values()) {
    const name = names.get(node) ?? node.name;
    const alias = mapping?.find(
      (each) => each['node-name'] === name || each['node-name'] === node.name,
    );
    if (mapping !== undefined && alias === undefined) continue;
    for (const bitmap of node.dirtyBitmaps.values()) {
      // Those of jobs have no name and stay.
      if (bitmap.name === '') continue;
      const known = alias?.bitmaps.find((each) => each.name === bitmap.name);
      if (alias !== undefined && known === undefined) continue;
      checkSendable(bitmap, name, known?.alias ?? bitmap.name);
      found.push({
        bitmap,
        node: alias?.alias ?? name,
        name: known?.alias ?? bitmap.name,
        persistent: known?.transform?.persistent ?? bitmap.persistent,
      });
    }
  }
  return found;
}

function checkSendable(bitmap: DirtyBitmap, node: string, alias: string): void {
  const { name } = bitmap;
  const fail = (why: string): never => {
    throw new QmpError(`Cannot migrate bitmap '${name}' on node '${node}': ${why}`);
  };
  if (node.startsWith('#')) fail('Node has an auto-generated name');
  if (bitmap.busy) fail('It is in use by another operation');
  if (bitmap.inconsistent) fail('It is inconsistent');
  const length = new TextEncoder().encode(alias).length;
  if (length > MAX_NAME) fail(`Name is longer than ${String(MAX_NAME)} bytes`);
}

/** Writes the bitmaps; nothing is written to their nodes any more. */
export async function saveBitmaps(
  bitmaps: readonly Outgoing[],
  writer: StateWriter,
): Promise<void> {
  for (const { bitmap, node, name, persistent } of bitmaps) {
    const { granularity, length: size, enabled } = bitmap;
    const bits = bitmap.raw();
    for (let offset = 0; offset === 0 || offset < bits.length; offset += RUN) {
      const run = bits.subarray(offset, offset + RUN);
      const last = offset + RUN >= bits.length;
      const all: Facts = { node, name, granularity, size, enabled, persistent, offset, last };
      const text = new TextEncoder().encode(`${formatJson(all)}\0`);
      const content = new Uint8Array(text.length + run.length);
      content.set(text);
      content.set(run, text.length);
      await writer.section('bitmap', 1, content);
    }
  }
}

/** Runs `work` while none of the bitmaps is stored in an image: they are elsewhere then. */
export async function withoutStoring<T>(
  bitmaps: readonly Outgoing[],
  work: () => Promise<T>,
): Promise<T> {
  const kept = bitmaps.map(({ bitmap }) => bitmap).filter(({ persistent }) => persistent);
  for (const bitmap of kept) bitmap.persistent = false;
  try {
    return await work();
  } finally {
    for (const bitmap of kept) bitmap.persistent = true;
  }
}

interface Arriving {
  readonly facts: Facts;
  readonly bits: Uint8Array;
  got: number;
}

/** Collects bitmaps of a stream; they come into being when all of it was good. */
export class BitmapLoader {
  readonly #graph: BlockGraph;
  readonly #mapping: Mapping;
  readonly #warn: (text: string) => void;
  readonly #done: { node: BlockNode; bitmap: DirtyBitmap }[] = [];
  #current: Arriving | undefined;

  constructor(graph: BlockGraph, mapping: Mapping, warn: (text: string) => void) {
    this.#graph = graph;
    this.#mapping = mapping;
    this.#warn = warn;
  }

  /** Takes a section; whether it is one of a bitmap. Throws EINVAL. */
  take({ name, version, content }: Section): boolean {
    if (name !== 'bitmap') return false;
    if (version !== 1) throw badState(`version ${String(version)} of 'bitmap' is not known`);
    const split = content.indexOf(0);
    const head = split < 0 ? undefined : readFacts(content.subarray(0, split));
    if (head === undefined) throw badState("section 'bitmap' cannot be read");
    const bytes = Math.ceil(Math.ceil(head.size / head.granularity) / 8);
    if (bytes > MAX_BITS) throw badState(`a bitmap has ${String(bytes)} bytes`);
    const current = (this.#current ??= { facts: head, bits: new Uint8Array(bytes), got: 0 });
    const run = content.subarray(split + 1);
    const isNext =
      head.node === current.facts.node &&
      head.name === current.facts.name &&
      head.size === current.facts.size &&
      head.granularity === current.facts.granularity &&
      head.offset === current.got;
    if (!isNext || head.offset + run.length > bytes) throw badState("'bitmap' is misplaced");
    current.bits.set(run, head.offset);
    current.got += run.length;
    if (!head.last) {
      if (run.length === 0) throw badState("'bitmap' is empty");
      return true;
    }
    if (current.got !== bytes) throw badState('a bitmap is not whole');
    this.#current = undefined;
    this.#finish(current);
    return true;
  }

  /** All was good: the bitmaps are the nodes'. Throws EINVAL. */
  apply(): void {
    if (this.#current !== undefined) throw badState('a bitmap is not whole');
    for (const { node, bitmap } of this.#done) node.dirtyBitmaps.set(bitmap.name, bitmap);
  }

  /** What has no place here is told and left out: the machine can do without. */
  #finish({ facts: head, bits }: Arriving): void {
    const alias = this.#mapping?.find((each) => each.alias === head.node);
    if (this.#mapping !== undefined && alias === undefined) {
      this.#warn(`Unknown node alias '${head.node}'`);
      return;
    }
    const place = alias?.['node-name'] ?? head.node;
    const node = this.#find(place);
    if (node === undefined) {
      this.#warn(`Cannot find device='${place}' nor node-name='${place}'`);
      return;
    }
    const known = alias?.bitmaps.find((each) => each.alias === head.name);
    if (alias !== undefined && known === undefined) {
      this.#warn(`Unknown bitmap alias '${head.name}' on node '${place}' (alias '${head.node}')`);
      return;
    }
    this.#add(node, head, bits, known);
  }

  #find(name: string): BlockNode | undefined {
    const device = this.#graph.backends.get(name);
    if (device?.isInserted === true) return skipFilters(device.node);
    return this.#graph.tryNode(name);
  }

  #add(
    node: BlockNode,
    head: Facts,
    bits: Uint8Array,
    known:
      { name: string; transform?: { persistent?: boolean | undefined } | undefined } | undefined,
  ): void {
    const name = known?.name ?? head.name;
    if (node.dirtyBitmaps.has(name)) {
      throw badState(`Bitmap with the same name ('${name}') already exists on destination`);
    }
    if (node.size !== head.size) {
      throw badState(
        `bitmap '${name}' is of ${String(head.size)} bytes, node '${node.name}' has ` +
          String(node.size),
      );
    }
    const { granularity, enabled } = head;
    const persistent = known?.transform?.persistent ?? head.persistent;
    const bitmap = new DirtyBitmap({ name, granularity, bytes: node.size, enabled, persistent });
    bitmap.load(bits);
    this.#done.push({ node, bitmap });
  }
}

function readFacts(bytes: Uint8Array): Facts | undefined {
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(bytes);
    const head = parseValue(facts, parseJson(text), { from: 'qmp' });
    return Number.isInteger(Math.log2(head.granularity)) ? head : undefined;
  } catch {
    return undefined;
  }
}
