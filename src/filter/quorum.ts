/**
 * Filter `quorum`: the same data in several images. A write must succeed in `vote-threshold`
 * of them; a read compares what all hold and gives what at least so many agree upon.
 *
 * `read-pattern=fifo` reads from the first child that can be read instead. With
 * `rewrite-corrupted` a child that was outvoted gets the right data written over its own.
 * `blkverify` is for two children with a threshold of two: QEMU ends the process at the first
 * difference, here the read fails with EIO.
 *
 * Children can be added and removed while it is in use (`x-blockdev-change`).
 *
 * Events: `QUORUM_REPORT_BAD` for each child that failed or was outvoted, `QUORUM_FAILURE`
 * where no agreement was possible.
 */
import { blockdevRef } from '../block/blockdev-types.js';
import type { Child } from '../block/child.js';
import type { Driver, DriverInstance, NodeOptions, OpenContext } from '../block/driver.js';
import { BlockError, errorCode, errorText } from '../block/errors.js';
import type { BlockNode } from '../block/node.js';
import { isObject } from '../block/node-options.js';
import { attachChild } from '../block/open.js';
import type { DriverStatus } from '../block/types.js';
import { Perm, Req, Role } from '../block/types.js';
import { Iov } from '../lib/iov.js';
import type { Infer } from '../options/schema.js';
import { parseValue, t } from '../options/schema.js';

/** Most children, as in QEMU. */
const MOST_CHILDREN = 32;
const SECTOR = 512;

const flags = {
  blkverify: t.bool({ default: false, doc: 'fail at the first difference of two children' }),
  'rewrite-corrupted': t.bool({ default: false, doc: 'repair children that were outvoted' }),
};

/** BlockdevOptionsQuorum without the children. */
export const quorumOptions = t.struct('BlockdevOptionsQuorum', {
  'vote-threshold': t.int({}, { default: 0, doc: 'children that must agree' }),
  ...flags,
  'read-pattern': t.str({
    default: 'quorum',
    doc: 'quorum: vote on reads; fifo: first that works',
  }),
});

type QuorumOptions = Infer<typeof quorumOptions>;

function invalid(message: string): BlockError {
  return new BlockError('EINVAL', message);
}

/** Keys of the children: `children.0`, `children.1`, … */
function childKeys(options: NodeOptions): string[] {
  const { children } = options;
  const given = Array.isArray(children) ? children.length : Object.keys(listOf(children)).length;
  if (given === 0) throw invalid('Number of provided children must be 1 or more');
  if (given > MOST_CHILDREN) {
    throw invalid(`Number of provided children must be ${MOST_CHILDREN} or less`);
  }
  return Array.from({ length: given }, (_, i) => `children.${i}`);
}

function listOf(children: unknown): NodeOptions {
  if (children === undefined) return {};
  const keys = isObject(children)
    ? Object.keys(children).sort((a, b) => Number(a) - Number(b))
    : [];
  if (!isObject(children) || keys.some((key, i) => key !== String(i))) {
    throw invalid('Option children is not a valid array');
  }
  return children;
}

function parseOptions(own: NodeOptions, children: number): QuorumOptions {
  const given = { ...own };
  Reflect.deleteProperty(given, 'children');
  const options = parseValue(quorumOptions, given, { from: 'opts' });
  const threshold = options['vote-threshold'];
  if (threshold < 1) throw invalid("Parameter 'vote-threshold' expects a value >= 1");
  if (threshold > children) throw invalid('threshold may not exceed children count');
  const pattern = options['read-pattern'];
  if (pattern !== 'quorum' && pattern !== 'fifo') {
    throw invalid('Please set read-pattern as fifo or quorum');
  }
  if (pattern === 'fifo') return options;
  if (options.blkverify && (children !== 2 || threshold !== 2)) {
    throw invalid(
      'blkverify=on can only be set if there are exactly two files and vote-threshold is 2',
    );
  }
  if (options.blkverify && options['rewrite-corrupted']) {
    throw invalid('rewrite-corrupted=on cannot be used with blkverify=on');
  }
  return options;
}

type Operation = 'read' | 'write' | 'flush';

/** One version of the data that children hold. */
interface Version {
  readonly data: Uint8Array;
  readonly children: Child[];
}

class Quorum {
  readonly #context: OpenContext;
  readonly #children: Child[];
  /** Number of the next child that is added. */
  #next: number;
  readonly #options: QuorumOptions;

  constructor(context: OpenContext, children: Child[], options: QuorumOptions) {
    this.#next = children.length;
    this.#context = context;
    this.#children = children;
    this.#options = options;
  }

  get #threshold(): number {
    return this.#options['vote-threshold'];
  }

  #place(offset: number, bytes: number): Record<string, number> {
    const first = Math.floor(offset / SECTOR);
    const end = Math.ceil((offset + bytes) / SECTOR);
    return { 'sector-num': first, 'sectors-count': end - first };
  }

  #reportBad(child: Child, type: Operation, offset: number, bytes: number, error?: unknown): void {
    const why = error === undefined ? {} : { error: errorText(error) };
    const place = this.#place(offset, bytes);
    const { name } = child.node;
    this.#context.graph.emit('QUORUM_REPORT_BAD', { type, ...why, 'node-name': name, ...place });
  }

  #reportFailure(offset: number, bytes: number): void {
    const reference = this.#context.node.name;
    const place = this.#place(offset, bytes);
    this.#context.graph.emit('QUORUM_FAILURE', { reference, ...place });
  }

  /** Runs a request on all children; throws the commonest error when too few succeed. */
  async all(
    type: Operation,
    offset: number,
    bytes: number,
    request: (child: Child) => Promise<unknown>,
  ): Promise<void> {
    const results = await Promise.allSettled(this.#children.map(request));
    const failures: unknown[] = [];
    results.forEach((result, i) => {
      if (result.status === 'fulfilled') return;
      failures.push(result.reason);
      this.#reportBad(this.#children[i]!, type, offset, bytes, result.reason);
    });
    if (results.length - failures.length >= this.#threshold) return;
    if (type !== 'flush') this.#reportFailure(offset, bytes);
    throw commonest(failures);
  }

  async read(offset: number, iov: Iov, flags: number): Promise<void> {
    if (this.#options['read-pattern'] === 'fifo') return this.#readFirst(offset, iov, flags);
    const { bytes } = iov;
    const buffers = this.#children.map(() => Iov.alloc(bytes));
    await this.all('read', offset, bytes, (child) => {
      const i = this.#children.indexOf(child);
      return child.read(offset, buffers[i]!, flags).then(
        () => undefined,
        (e: unknown) => {
          buffers[i] = new Iov([], 0);
          throw e;
        },
      );
    });
    const versions = this.#versions(buffers);
    const winner = versions[0];
    if (winner === undefined) return;
    if (versions.length > 1) await this.#settle(versions, winner, offset, bytes);
    iov.copyFrom(winner.data);
  }

  /** What the children hold, the version that most agree upon first. */
  #versions(buffers: readonly Iov[]): Version[] {
    const versions: Version[] = [];
    buffers.forEach((buffer, i) => {
      const data = buffer.tryContiguous();
      const child = this.#children[i];
      if (data === undefined || child === undefined) return;
      const same = versions.find((v) => isEqual(v.data, data));
      if (same === undefined) versions.push({ data, children: [child] });
      else same.children.push(child);
    });
    return versions.sort((a, b) => b.children.length - a.children.length);
  }

  async #settle(
    versions: readonly Version[],
    winner: Version,
    offset: number,
    bytes: number,
  ): Promise<void> {
    const { node } = this.#context;
    if (this.#options.blkverify || winner.children.length < this.#threshold) {
      this.#reportFailure(offset, bytes);
      throw new BlockError('EIO', undefined, { op: 'read', node: node.name, offset, bytes });
    }
    for (const version of versions) {
      if (version === winner) continue;
      for (const child of version.children) {
        this.#reportBad(child, 'read', offset, bytes);
        if (!this.#options['rewrite-corrupted'] || node.readOnly) continue;
        // A repair that fails is one that the next read will ask for again.
        await child.write(offset, Iov.of(winner.data)).catch(() => undefined);
      }
    }
  }

  async #readFirst(offset: number, iov: Iov, flags: number): Promise<void> {
    let last: unknown;
    for (const child of this.#children) {
      try {
        await child.read(offset, iov, flags);
        return;
      } catch (e) {
        last = e;
        this.#reportBad(child, 'read', offset, iov.bytes, e);
      }
    }
    throw last;
  }

  /** One more, of which the caller knows that it holds the same. */
  async add(member: BlockNode): Promise<void> {
    const { node, graph } = this.#context;
    if (this.#options.blkverify) throw invalid('Cannot add a child to a quorum in blkverify mode');
    if (this.#children.length === MOST_CHILDREN) throw invalid('Too many children');
    if (member.size !== node.size) {
      throw invalid(`The node ${member.name} has another length than the quorum`);
    }
    const name = `children.${this.#next++}`;
    const child = await attachChild(graph, node, member, name, Role.data);
    try {
      await graph.refreshPerms(node);
    } catch (e) {
      await graph.detachEdge(child);
      throw e;
    }
    this.#children.push(child);
    node.refreshLimits();
  }

  async remove(member: Child): Promise<void> {
    const threshold = this.#threshold;
    if (this.#children.length <= threshold) {
      const text = 'The number of children cannot be lower than the vote threshold';
      throw invalid(`${text} ${threshold}`);
    }
    this.#children.splice(this.#children.indexOf(member), 1);
    const { node, graph } = this.#context;
    await graph.detachEdge(member);
    node.refreshLimits();
  }

  /** Data where any child has data; zeroes where all have. */
  async status(offset: number, bytes: number, wantZero: boolean): Promise<DriverStatus> {
    let shortest = bytes;
    for (const child of this.#children) {
      const run = await child.blockStatus(offset, bytes, wantZero).catch(() => undefined);
      if (run === undefined || run.bytes === 0) continue;
      shortest = Math.min(shortest, run.bytes);
      if (!run.zero) return { bytes: run.bytes, data: true, zero: false, allocated: true };
    }
    return { bytes: shortest, data: false, zero: true, allocated: true };
  }
}

function isEqual(a: Uint8Array, b: Uint8Array): boolean {
  for (let i = 0; i < a.byteLength; i++) if (a[i] !== b[i]) return false;
  return a.byteLength === b.byteLength;
}

function commonest(failures: readonly unknown[]): unknown {
  const counts = new Map<string, number>();
  for (const e of failures) counts.set(errorCode(e), (counts.get(errorCode(e)) ?? 0) + 1);
  const most = Math.max(...counts.values());
  return failures.find((e) => counts.get(errorCode(e)) === most);
}

function makeInstance(
  context: OpenContext,
  children: Child[],
  options: QuorumOptions,
): DriverInstance {
  const quorum = new Quorum(context, children, options);
  const flags = Req.fua | Req.writeUnchanged;
  return {
    // Asynchronous: a child that is resized tells before the others have followed.
    length: async () => lengthOf(children),
    limits: () => ({
      requestAlignment: Math.max(...children.map((c) => c.node.limits.requestAlignment)),
    }),
    writeFlags: flags,
    zeroFlags: flags | Req.mayUnmap,
    read: (offset, iov, reqFlags) => quorum.read(offset, iov, reqFlags),
    write: (offset, iov, reqFlags) =>
      quorum.all('write', offset, iov.bytes, (c) => c.write(offset, iov, reqFlags)),
    writeZeroes: (offset, bytes, reqFlags) =>
      quorum.all('write', offset, bytes, (c) => c.writeZeroes(offset, bytes, reqFlags)),
    flushToDisk: () => quorum.all('flush', 0, 0, (c) => c.flush()),
    blockStatus: (offset, bytes, wantZero) => quorum.status(offset, bytes, wantZero),
    truncate: async (bytes, how) => {
      for (const child of children) await child.truncate(bytes, how);
    },
    childPerm: (_child, { perm, shared }) => ({
      perm: perm | (options['rewrite-corrupted'] ? Perm.write : 0),
      // The children must stay equal, so nobody else writes to one.
      shared: (shared & Perm.consistentRead) | Perm.writeUnchanged,
    }),
    members: quorum,
    strongOptions: () => {
      const own = { ...context.options };
      Reflect.deleteProperty(own, 'children');
      return own;
    },
    close: async () => undefined,
  };
}

/** The length of all children, which must be one. */
function lengthOf(children: readonly Child[]): number {
  const size = children[0]?.size ?? 0;
  if (children.some((c) => c.size !== size)) throw new BlockError('EIO');
  return size;
}

export const quorumDriver: Driver = {
  name: 'quorum',
  kind: 'filter',
  needsFile: false,
  // In QAPI's order: of two wrong members the first is told.
  blockdev: t.struct('BlockdevOptionsQuorum', {
    blkverify: flags.blkverify,
    children: t.arrayOf(blockdevRef),
    'vote-threshold': t.int({}, { doc: 'children that must agree' }),
    'rewrite-corrupted': flags['rewrite-corrupted'],
    'read-pattern': t.enumOf('quorum', 'fifo', { name: 'QuorumReadPattern', default: 'quorum' }),
  }),
  optionNames: ['children', 'vote-threshold', 'blkverify', 'rewrite-corrupted', 'read-pattern'],
  async open(context) {
    const keys = childKeys(context.options);
    const options = parseOptions(context.options, keys.length);
    const children: Child[] = [];
    for (const key of keys) {
      children.push(await context.openChild(key, { role: Role.data, allowFormat: true }));
    }
    return makeInstance(context, children, options);
  },
};
