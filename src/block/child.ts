/** Edges of the block graph: who uses a node, as what, and with which permissions. */
import type { Iov } from '../lib/iov.js';
import type { PermPair, TruncateOptions } from './driver.js';
import type { BlockNode } from './node.js';
import type { BlockStatus } from './types.js';
import { Perm, Role } from './types.js';

/** Whoever can hold a child: a node, a backend, a job. */
export interface ChildParent {
  /** For messages: `node 'disk0'`, `block device 'ide0-hd0'`, `mirror job 'j'`. */
  describeParent(): string;
  /** The node that this parent is, if it is one. */
  readonly asNode: BlockNode | undefined;
  /** No new requests through the edge until drainEnd; resolves when none is in flight. */
  drainBegin(): Promise<void>;
  drainEnd(): void;
  /** Its edges stay where they are when a node is replaced or gets a filter on top (jobs). */
  readonly staysAtNode?: boolean;
  /** It lets its nodes become inactive and has no permissions on them meanwhile (activity.ts). */
  readonly mayBeInactive?: boolean;
  /** The child's length changed. */
  childResized?(child: Child): void;
}

/** A named edge from a parent to a node. Forwards requests; the node does the work. */
export class Child {
  /** Changes only while the parent is drained. */
  node: BlockNode;
  readonly name: string;
  /** Or-ed {@link Role}s. */
  readonly role: number;
  readonly parent: ChildParent;
  perm: number;
  shared: number;
  /** What it gets back when the node becomes active. */
  suspended: PermPair | undefined;
  /** Why the edge must stay as it is (a job runs over it); undefined: it may change. */
  frozen: string | undefined;

  constructor(parent: ChildParent, name: string, role: number, node: BlockNode, perms: PermPair) {
    this.parent = parent;
    this.name = name;
    this.role = role;
    this.node = node;
    this.perm = perms.perm;
    this.shared = perms.shared;
  }

  /** Length of the node in bytes, as last known. */
  get size(): number {
    return this.node.size;
  }

  read(offset: number, iov: Iov, flags = 0): Promise<void> {
    return this.node.read(offset, iov, flags);
  }

  write(offset: number, iov: Iov, flags = 0): Promise<void> {
    return this.node.write(offset, iov, flags);
  }

  writeZeroes(offset: number, bytes: number, flags = 0): Promise<void> {
    return this.node.writeZeroes(offset, bytes, flags);
  }

  discard(offset: number, bytes: number): Promise<void> {
    return this.node.discard(offset, bytes);
  }

  /** Makes all completed writes durable, those of the node's own children included. */
  flush(): Promise<void> {
    return this.node.flush();
  }

  truncate(bytes: number, options?: Partial<TruncateOptions>): Promise<void> {
    return this.node.truncate(bytes, options);
  }

  blockStatus(offset: number, bytes: number, wantZero = true): Promise<BlockStatus> {
    return this.node.blockStatus(offset, bytes, wantZero);
  }

  /** Whether a node below acts at named points (`debugEvent`). */
  get isDebugged(): boolean {
    for (let node: BlockNode | undefined = this.node; node !== undefined; node = node.file?.node) {
      if (node.instance.breakpoints !== undefined) return true;
    }
    return false;
  }

  /** Tells the node that a named point was reached; undefined when nobody listens. */
  debugEvent(event: string): Promise<void> | undefined {
    return this.node.instance.debugEvent?.(event);
  }
}

/**
 * Permissions that a node takes on a child by the child's role, given what the
 * node's own parents take and share. `writable`: the node is open for writing;
 * `io`: guest data will be accessed.
 */
export function defaultPerms(
  role: number,
  parents: PermPair,
  node: { readonly writable: boolean; readonly io: boolean },
): PermPair {
  if ((role & Role.filtered) !== 0) return parents;
  if ((role & Role.cow) !== 0) return backingPerms(parents);
  let { perm, shared } = parents;
  if ((role & Role.metadata) !== 0) {
    // Metadata may be written although no guest writes (dirty bits, lazy updates).
    if (node.writable) perm |= Perm.write | Perm.resize;
    if (node.io) perm |= Perm.consistentRead;
    shared &= ~(Perm.write | Perm.resize);
  }
  if ((role & Role.data) !== 0) {
    // Others may write what is only passed on, but the length is relied upon.
    shared &= ~Perm.resize;
    if ((perm & Perm.writeUnchanged) !== 0) perm |= Perm.write;
    if ((perm & Perm.write) !== 0) perm |= Perm.resize;
  }
  return { perm, shared };
}

/** A backing file is only read; others may write it if our own reader tolerates changes. */
function backingPerms(parents: PermPair): PermPair {
  const shared = (parents.shared & Perm.write) !== 0 ? Perm.write | Perm.resize : 0;
  return {
    perm: parents.perm & Perm.consistentRead,
    shared: shared | Perm.consistentRead | Perm.writeUnchanged,
  };
}

const permWords: readonly (readonly [number, string])[] = [
  [Perm.consistentRead, 'consistent read'],
  [Perm.write, 'write'],
  [Perm.writeUnchanged, 'write unchanged'],
  [Perm.resize, 'resize'],
];

/** `'write', 'resize'`-style list for messages, unquoted parts joined by commas. */
export function permNames(perm: number): string {
  const words = permWords.filter(([bit]) => (perm & bit) !== 0).map(([, word]) => word);
  return words.length === 0 ? 'none' : words.join(', ');
}
