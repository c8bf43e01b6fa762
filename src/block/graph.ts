/**
 * The block graph: named nodes, their edges, and how they come and go.
 *
 * Invariants
 *  G1  Node names are unique among the open nodes of a graph.
 *  G2  A node lives while an edge or a handle refers to it; the last one closes it,
 *      then its children are let go in the reverse order of their attachment.
 *  G3  Permissions hold over each change (P1 to P3 in permissions.ts).
 *  G4  The graph has no cycle: a node becomes a child before it can have that parent.
 *
 * A program may have several graphs; nothing is shared between them.
 */
import type { Host } from '../host/host.js';
import type { HostCrypto } from '../host/crypto.js';
import type { HostFiles } from '../host/file.js';
import type { TlsCredentials } from '../host/socket.js';
import { assert } from '../lib/assert.js';
import { isUtf8 } from '../lib/json-string.js';
import { Mutex } from '../lib/mutex.js';
import { checkActivity, isSuspended, suspendEdge } from './activity.js';
import { Backend, toolPerms } from './backend.js';
import type { Child } from './child.js';
import type { Driver, DriverInstance, NodeOptions, OpenFlags, PermPair } from './driver.js';
import { BlockError } from './errors.js';
import { refuseCycle } from './chain.js';
import { filenameOf } from './filename.js';
import type { BlockNode } from './node.js';
import { openNode } from './open.js';
import type { ReopenItem } from './reopen-plan.js';
import { reopenNodes } from './reopen.js';
import type { ThrottleGroup } from './throttle-group.js';
import { applyPerms, childPerms, cumulativePerms } from './permissions.js';

/** What to open: a file name, options, or both; or the name of an open node. */
export interface OpenSpec {
  /** Plain, with a protocol, or `json:{…}`. */
  readonly filename?: string | undefined;
  /** Name of an open node; then nothing else is given. */
  readonly reference?: string | undefined;
  /** Nested or dotted options; scalars may be strings. */
  readonly options?: NodeOptions | undefined;
  readonly flags?: Partial<OpenFlags> | undefined;
}

export interface GraphInit {
  readonly host: Host;
  /** The catalogue; see catalog/drivers.ts. */
  readonly drivers: readonly Driver[];
  /** Receives one-line warnings ("Image format was not specified …"). */
  readonly onWarning?: (message: string) => void;
  /** Receives one-line news that are no warnings ("blkdebug: Suspended request 'a'"). */
  readonly onNotice?: (message: string) => void;
  /** A filter that compares has found a difference; where absent, its request fails with EIO. */
  readonly onMismatch?: (message: string) => void;
  /** Receives QMP events that nodes cause (`QUORUM_FAILURE`); `data` as in the event. */
  readonly onEvent?: (name: string, data: Readonly<Record<string, unknown>>) => void;
  /** Requests that backends account take so many nanoseconds, however long they took (qtest). */
  readonly accountedNs?: number;
  /** Throttle groups by name; several graphs may share them. */
  readonly throttleGroups?: Map<string, ThrottleGroup>;
  /** Looks up the secret of a `key-secret=ID` option. */
  readonly secret?: (id: string) => Promise<Uint8Array>;
  /** Looks up the TLS credentials of a `tls-creds=ID` option. */
  readonly tlsCredentials?: (id: string) => Promise<TlsCredentials>;
}

export class BlockGraph {
  readonly host: Host;
  readonly drivers: readonly Driver[];
  readonly nodes = new Map<string, BlockNode>();
  /**
   * Block devices by name: backends that commands may name (`-drive id=…`), the oldest first.
   * Whoever makes and removes drives keeps it up to date. Their names are no names of nodes.
   */
  readonly backends = new Map<string, Backend>();
  /** Backends of devices that stand on a node of its own, without a drive's name. */
  readonly deviceBackends = new Set<Backend>();
  /** Throttle groups by name; whoever creates and removes objects keeps it up to date. */
  readonly throttleGroups: Map<string, ThrottleGroup>;
  /** See {@link GraphInit.accountedNs}. */
  readonly accountedNs: number | undefined;
  /** Nodes are opened inactive unless options say `active`: the machine is still elsewhere. */
  opensInactive = false;
  /** The legacy AES encryption of qcow and qcow2 is for tools that convert away from it. */
  refusesLegacyAes = false;
  readonly #onWarning: (message: string) => void;
  readonly #onNotice: (message: string) => void;
  readonly #onMismatch: ((message: string) => void) | undefined;
  readonly #onEvent: NonNullable<GraphInit['onEvent']>;
  readonly #secret: ((id: string) => Promise<Uint8Array>) | undefined;
  readonly #tlsCredentials: ((id: string) => Promise<TlsCredentials>) | undefined;
  readonly #permLock = new Mutex();
  #nextName = 0;
  #warnings = 0;

  constructor(init: GraphInit) {
    this.host = init.host;
    this.drivers = init.drivers;
    this.#onWarning = init.onWarning ?? ((): void => undefined);
    this.#onNotice = init.onNotice ?? ((): void => undefined);
    this.#onMismatch = init.onMismatch;
    this.#onEvent = init.onEvent ?? ((): void => undefined);
    this.accountedNs = init.accountedNs;
    this.throttleGroups = init.throttleGroups ?? new Map<string, ThrottleGroup>();
    this.#secret = init.secret;
    this.#tlsCredentials = init.tlsCredentials;
  }

  /** The host's files; throws where there is no file system. */
  get files(): HostFiles {
    const { files } = this.host;
    if (files === undefined) throw new BlockError('ENOTSUP', 'There is no file system here');
    return files;
  }

  /** The host's ciphers and hashes; throws where there are none. */
  async crypto(): Promise<HostCrypto> {
    const { loadCrypto } = this.host;
    if (loadCrypto === undefined) throw new BlockError('ENOTSUP', 'There is no cryptography here');
    return loadCrypto();
  }

  /** Tells that two images that should be equal differ; may end the program. */
  mismatch(message: string): void {
    if (this.#onMismatch === undefined) this.warn(message);
    else this.#onMismatch(message);
  }

  warn(message: string): void {
    this.#warnings++;
    this.#onWarning(message);
  }

  /** How often {@link warn} was called. */
  get warnings(): number {
    return this.#warnings;
  }

  /** Tells of something that QMP has an event for. */
  emit(name: string, data: Readonly<Record<string, unknown>>): void {
    this.#onEvent(name, data);
  }

  notice(message: string): void {
    this.#onNotice(message);
  }

  /** The passphrase with this id. Throws BlockError when there is none, or it is not UTF-8. */
  async secret(id: string): Promise<Uint8Array> {
    if (this.#secret === undefined) throw new BlockError('EINVAL', `No secret with id '${id}'`);
    const found = await this.#secret(id);
    if (!isUtf8(found)) {
      throw new BlockError('EINVAL', `Data from secret ${id} is not valid UTF-8`);
    }
    return found;
  }

  /** The TLS credentials with this id. Throws BlockError when there are none. */
  async tlsCredentials(id: string): Promise<TlsCredentials> {
    if (this.#tlsCredentials === undefined) {
      throw new BlockError('EINVAL', `No TLS credentials with id '${id}'`);
    }
    return this.#tlsCredentials(id);
  }

  tryDriver(name: string): Driver | undefined {
    return this.drivers.find((d) => d.name === name);
  }

  driver(name: string): Driver {
    const found = this.tryDriver(name);
    if (found === undefined) throw new BlockError('EINVAL', `Unknown driver '${name}'`);
    return found;
  }

  tryNode(name: string): BlockNode | undefined {
    return this.nodes.get(name);
  }

  /** Opens or finds a node and takes a handle on it; give it back with {@link release}. */
  async open(spec: OpenSpec): Promise<BlockNode> {
    const node = await openNode(this, spec);
    node.refs++;
    return node;
  }

  /** Gives a handle back; the last user closes the node (G2). */
  async release(node: BlockNode): Promise<void> {
    assert(node.refs > 0, `node '${node.name}' has no handle to release`);
    node.refs--;
    await this.closeUnused(node);
  }

  /** Opens a node and a backend over it. Default: what a tool needs (`toolPerms`). */
  async openBackend(
    spec: OpenSpec,
    init: Partial<PermPair> & { name?: string } = {},
  ): Promise<Backend> {
    const defaults = toolPerms(spec.flags?.writable ?? false);
    const node = await this.open(spec);
    const backend = new Backend({
      graph: this,
      name: init.name ?? '',
      perm: init.perm ?? defaults.perm,
      shared: init.shared ?? defaults.shared,
    });
    // Opened together with a node that waits for a machine to come.
    backend.allowsInactive = !node.isActive;
    try {
      await backend.attach(node);
      backend.writeCache = node.flags.cache.writeback;
    } finally {
      await this.release(node);
    }
    return backend;
  }

  /** A name for a node that got none (`#block042`). */
  generateName(): string {
    let name: string;
    do name = `#block${String(this.#nextName++).padStart(3, '0')}`;
    while (this.nodes.has(name));
    return name;
  }

  addNode(node: BlockNode): void {
    assert(!this.nodes.has(node.name), `G1: two nodes named '${node.name}'`);
    this.nodes.set(node.name, node);
  }

  /** Connects an edge whose node exists; checks permissions of the whole graph below. */
  attachEdge(edge: Child): Promise<void> {
    return this.#permLock.run(async () => {
      checkEdge(edge, edge.node);
      if (isSuspended(edge)) suspendEdge(edge);
      await applyPerms(new Map([[edge, { perm: edge.perm, shared: edge.shared }]]));
      edge.node.parents.add(edge);
      edge.parent.asNode?.children.set(edge.name, edge);
      for (let i = 0; i < edge.node.quiesced; i++) await edge.parent.drainBegin();
    });
  }

  /** Takes an edge away; its node closes when nobody else uses it. */
  async detachEdge(edge: Child): Promise<void> {
    await this.#permLock.run(async () => {
      const parent = edge.parent.asNode;
      if (parent?.children.get(edge.name) === edge) parent.children.delete(edge.name);
      edge.node.parents.delete(edge);
      for (let i = 0; i < edge.node.quiesced; i++) edge.parent.drainEnd();
      // Giving permissions back cannot conflict; a lock that cannot be given back goes with close.
      await applyPerms(new Map([[edge, null]]));
    });
    await this.closeUnused(edge.node);
  }

  /**
   * Points `edge` at `to` (undefined: at the node it names already) and takes over how often
   * that is drained. Permissions are the caller's to see to.
   */
  async linkEdge(edge: Child, to: BlockNode | undefined): Promise<void> {
    if (to !== undefined) {
      checkActivity(edge, to);
      this.#dropParent(edge);
      edge.node = to;
    }
    edge.node.parents.add(edge);
    for (let i = 0; i < edge.node.quiesced; i++) await edge.parent.drainBegin();
  }

  /** The reverse of {@link linkEdge}; the node stays open. */
  async unlinkEdge(edge: Child): Promise<void> {
    this.#dropParent(edge);
    await Promise.resolve();
  }

  #dropParent(edge: Child): void {
    if (!edge.node.parents.delete(edge)) return;
    for (let i = 0; i < edge.node.quiesced; i++) edge.parent.drainEnd();
  }

  /** Runs `fn` when no other change of permissions is under way. */
  withPermLock<T>(fn: () => Promise<T>): Promise<T> {
    return this.#permLock.run(fn);
  }

  changePerms(edge: Child, perms: PermPair): Promise<void> {
    return this.#permLock.run(async () => {
      if (isSuspended(edge)) edge.suspended = perms;
      else await applyPerms(new Map([[edge, perms]]));
    });
  }

  /** Recomputes what `node` needs of its children, after its flags or children changed. */
  refreshPerms(node: BlockNode): Promise<void> {
    return this.#permLock.run(async () => {
      const total = cumulativePerms(node);
      const change = new Map<Child, PermPair>();
      for (const child of node.children.values()) {
        change.set(child, childPerms(node, child, total));
      }
      await applyPerms(change);
    });
  }

  /**
   * Puts `to` in the place of what `edge` points at. The caller drains the edge's
   * parent and holds a handle on both nodes. Permissions are checked first (G3).
   */
  async replaceEdge(edge: Child, to: BlockNode): Promise<void> {
    await this.replaceEdges([edge], to);
  }

  /** As {@link replaceEdge} for several at once: their needs change together. All, or none. */
  async replaceEdges(edges: readonly Child[], to: BlockNode): Promise<void> {
    const moved = edges
      .filter((edge) => edge.node !== to)
      .map((edge) => ({ edge, from: edge.node }));
    const left = new Set(moved.map(({ from }) => from));
    if (moved.length === 0) return;
    for (const { edge } of moved) checkEdge(edge, to);
    await this.#permLock.run(async () => {
      for (const { edge, from } of moved) {
        from.parents.delete(edge);
        edge.node = to;
      }
      try {
        const needs = moved.map(
          ({ edge: { perm, shared }, edge }) => [edge, { perm, shared }] as const,
        );
        await applyPerms(new Map(needs), [...left]);
      } catch (e) {
        for (const { edge, from } of moved) {
          edge.node = from;
          from.parents.add(edge);
        }
        throw e;
      }
      for (const { edge, from } of moved) {
        to.parents.add(edge);
        for (let i = from.quiesced; i < to.quiesced; i++) await edge.parent.drainBegin();
        for (let i = to.quiesced; i < from.quiesced; i++) edge.parent.drainEnd();
      }
    });
    for (const { edge } of moved) {
      edge.parent.asNode?.refreshLimits();
      edge.parent.childResized?.(edge);
    }
    for (const from of left) await this.closeUnused(from);
  }

  /** Closes `node` if neither edge nor handle refers to it (G2). */
  async closeUnused(node: BlockNode): Promise<void> {
    if (node.refs > 0 || node.parents.size > 0 || this.nodes.get(node.name) !== node) return;
    this.nodes.delete(node.name);
    let failure: unknown;
    try {
      await node.instance.close();
    } catch (e) {
      failure = e;
    }
    for (const child of [...node.children.values()].reverse()) await this.detachEdge(child);
    if (failure instanceof Error) throw failure;
  }

  /**
   * Reopens nodes with new options, flags or children: all of them, or none when it throws
   * BlockError or OptionError. Options that are not named get their defaults.
   */
  reopen(changes: readonly Omit<ReopenItem, 'keepOld'>[]): Promise<void> {
    return reopenNodes(
      this,
      changes.map((change) => ({ ...change, keepOld: false })),
    );
  }

  /**
   * No request is in flight to `node` and none will begin until {@link drainEnd}:
   * every backend above it is held (N1 in node.ts).
   */
  async drainBegin(node: BlockNode): Promise<void> {
    node.quiesced++;
    // First here, so that what the driver itself holds back (throttling) is let go.
    await opened(node)?.drainBegin?.();
    for (const edge of [...node.parents]) await edge.parent.drainBegin();
  }

  drainEnd(node: BlockNode): void {
    node.quiesced--;
    for (const edge of node.parents) edge.parent.drainEnd();
    opened(node)?.drainEnd?.();
  }

  /** As {@link drainBegin} for all nodes that there are; returns what lets requests go on. */
  async drainAll(): Promise<() => void> {
    const held = [...this.nodes.values()];
    for (const node of held) await this.drainBegin(node);
    return () => {
      for (const node of held) if (this.nodes.get(node.name) === node) this.drainEnd(node);
    };
  }

  /**
   * Drivers below `node`, itself included, let go what they hold back, so that requests in
   * flight end soon. Returns what takes that back.
   */
  async hurry(node: BlockNode): Promise<() => void> {
    const seen = new Set<BlockNode>([node]);
    for (const each of seen) for (const child of each.children.values()) seen.add(child.node);
    const held = [...seen].filter((each) => each.instance.drainBegin !== undefined);
    for (const each of held) await each.instance.drainBegin?.();
    return () => {
      for (const each of held) each.instance.drainEnd?.();
    };
  }

  /** As {@link hurry} for all nodes, for good: the end of a program waits for no limits. */
  async hurryAll(): Promise<void> {
    for (const node of [...this.nodes.values()]) await opened(node)?.drainBegin?.();
  }

  filenameOf(node: BlockNode): string {
    return filenameOf(node);
  }

  /** Releases everything that is still open, for the end of a program. */
  async close(): Promise<void> {
    for (const node of [...this.nodes.values()]) {
      if (node.refs > 0) {
        node.refs = 0;
        await this.closeUnused(node);
      }
    }
  }
}

/** The instance of a node; undefined while it is being opened. */
function opened(node: BlockNode): DriverInstance | undefined {
  return node.instance;
}

/** Throws BlockError when an edge may not lead to `to` (A1, G4). */
function checkEdge(edge: Child, to: BlockNode): void {
  checkActivity(edge, to);
  const parent = edge.parent.asNode;
  if (parent !== undefined) refuseCycle(parent, edge.name, to);
}
