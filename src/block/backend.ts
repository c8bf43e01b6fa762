/**
 * Backend: the handle through which a device, export, job or tool uses a node.
 * Requests begin here (N1 in node.ts): bounds are checked, the write cache mode is
 * applied, and requests in flight are counted so that the graph can be drained.
 */
import type { FileRun } from '../host/file.js';
import type { Iov } from '../lib/iov.js';
import { IoAccounting } from './accounting.js';
import type { ChildParent } from './child.js';
import { Child } from './child.js';
import type { OpenFlags, PermPair, TruncateOptions } from './driver.js';
import { BlockError } from './errors.js';
import type { BlockGraph } from './graph.js';
import type { BlockNode } from './node.js';
import type { ThrottleGroup, ThrottleMember } from './throttle-group.js';
import type { BlockStatus } from './types.js';
import { MAX_LENGTH, Perm, Req } from './types.js';

/** What stands in front of a backend: a device that a guest sees. */
export interface BackendUser {
  /** Id of the device, or its path, as queries tell it. */
  readonly qdev: string;
  /** Its path among the machine's objects, below which QEMU has a virtio disk. */
  readonly qomPath: string;
  /** Its medium can be taken out. */
  readonly isRemovable: boolean;
  /** It has a tray, which is open or not; false where it has none. */
  readonly hasTray: boolean;
  readonly isTrayOpen: boolean;
  /** The guest does not let the medium go. */
  readonly isLocked: boolean;
  /** Somebody pressed the button: the guest is asked to let go; `force`: it is not asked. */
  requestEject(force: boolean): void;
  /** A medium was put in (true) or taken out. */
  mediumChanged(isInserted: boolean): void;
  /** Opens or closes the tray. */
  moveTray(open: boolean): void;
}

/** Whether the guest stands still for a request of a device that failed. */
export type IoStatus = 'ok' | 'failed' | 'nospace';

/** What a device does when a request fails. */
export type ErrorAction = 'report' | 'ignore' | 'stop' | 'enospc';

export interface BackendInit extends PermPair {
  readonly graph: BlockGraph;
  /** For messages and the monitor; '' for anonymous ones. */
  readonly name: string;
}

export class Backend implements ChildParent {
  readonly graph: BlockGraph;
  name: string;
  readonly asNode = undefined;
  /** With the write cache off each write is durable when it completes. */
  writeCache = true;
  /** Called when the node's length changed. */
  onResize: (() => void) | undefined;
  /** Lets requests past the end reach the node (qemu-io on growable images). */
  allowBeyondEof = false;
  /** The node may become inactive although this backend wants to write. */
  allowsInactive = false;
  /** The device that this backend serves, if one does. */
  user: BackendUser | undefined;
  /** What the device does when a read fails. */
  onReadError: ErrorAction = 'report';
  /** What it does when anything else fails. */
  onWriteError: ErrorAction = 'enospc';
  /** Whether the guest waits for an error to be mended; undefined: the device never lets it. */
  ioStatus: IoStatus | undefined;
  /** How a medium is opened that is put in later. */
  mediumFlags: Partial<OpenFlags> = {};
  /** What devices and other users of this backend count; see accounting.ts. */
  readonly accounting: IoAccounting;
  #root: Child | undefined;
  #perms: PermPair;
  #inFlight = 0;
  #quiesced = 0;
  /** Reasons why requests do not go the short way: drained sections, and limits. */
  #held = 0;
  #throttle: ThrottleMember | undefined;
  #waiting: (() => void)[] = [];
  #idle: (() => void)[] = [];

  constructor(init: BackendInit) {
    this.graph = init.graph;
    this.name = init.name;
    this.#perms = { perm: init.perm, shared: init.shared };
    this.accounting = new IoAccounting(init.graph.host.clock, init.graph.accountedNs);
  }

  describeParent(): string {
    return this.name === '' ? 'an unnamed block device' : `block device '${this.name}'`;
  }

  /** Devices and drives take a break; others may not be cut off from writing. */
  get mayBeInactive(): boolean {
    return this.allowsInactive || this.user !== undefined || this.name !== '';
  }

  /** The attached node; throws ENOMEDIUM when there is none. */
  get node(): BlockNode {
    const root = this.#root;
    if (root === undefined) throw new BlockError('ENOMEDIUM');
    return root.node;
  }

  get root(): Child | undefined {
    return this.#root;
  }

  get isInserted(): boolean {
    return this.#root !== undefined;
  }

  /** Length in bytes. */
  get size(): number {
    return this.node.size;
  }

  get perms(): PermPair {
    return this.#perms;
  }

  /** Requests wait until a drained section ends. */
  get isQuiesced(): boolean {
    return this.#quiesced > 0;
  }

  /** Requests in flight. */
  get inFlight(): number {
    return this.#inFlight;
  }

  /** Attaches `node`, taking a reference; throws on a permission conflict. */
  async attach(node: BlockNode): Promise<void> {
    if (this.#root !== undefined) throw new BlockError('EBUSY', 'Backend already has a node');
    const edge = new Child(this, 'root', 0, node, this.#perms);
    await this.graph.attachEdge(edge);
    this.#root = edge;
  }

  /** Drains and lets go of the node, which closes if nobody else holds it. */
  async detach(): Promise<void> {
    const root = this.#root;
    if (root === undefined) return;
    const resume = await this.graph.hurry(root.node);
    await this.drainBegin();
    this.#root = undefined;
    this.drainEnd();
    resume();
    await this.graph.detachEdge(root);
  }

  /** Changes what this backend needs and tolerates. */
  async setPerms(perms: PermPair): Promise<void> {
    if (this.#root !== undefined) await this.graph.changePerms(this.#root, perms);
    this.#perms = perms;
  }

  /** As {@link detach}, for a backend that is not used any more. */
  async close(): Promise<void> {
    await this.detach();
  }

  read(offset: number, iov: Iov, flags = 0): Promise<void> {
    const root = this.#root;
    if (root === undefined || this.#held > 0 || !this.#inBounds(root, offset, iov.bytes)) {
      return this.#slow(offset, iov.bytes, 'read', (node) => node.read(offset, iov, flags));
    }
    return this.#track(root.node.read(offset, iov, flags));
  }

  /**
   * Where a range stands in a file of the host byte by byte, for who moves it by other means than
   * a buffer; undefined: it has to be read. Only good until the caller gives up the event loop.
   */
  tryFileRun(offset: number, bytes: number): FileRun | undefined {
    const root = this.#root;
    if (root === undefined || this.#held > 0 || offset < 0) return undefined;
    return root.node.tryFileRun(offset, bytes);
  }

  write(offset: number, iov: Iov, flags = 0): Promise<void> {
    const root = this.#root;
    if (root === undefined || this.#held > 0 || !this.#inBounds(root, offset, iov.bytes)) {
      return this.#slow(offset, iov.bytes, 'write', (node) =>
        node.write(offset, iov, this.#fua(flags)),
      );
    }
    return this.#track(root.node.write(offset, iov, this.#fua(flags)));
  }

  /**
   * As {@link write}, of what stands in a file of the host, which is not brought here; undefined:
   * it has to be read and written. Nothing was done then. May reject with ENOTSUP, too.
   */
  tryWriteFrom(offset: number, run: FileRun, zeroBlock = 0): Promise<void> | undefined {
    const root = this.#root;
    if (root === undefined || this.#held > 0 || !this.#inBounds(root, offset, run.bytes)) {
      return undefined;
    }
    if (!this.writeCache) return undefined;
    const request = root.node.tryWriteFrom(offset, run, zeroBlock);
    return request && this.#track(request);
  }

  writeZeroes(offset: number, bytes: number, flags = 0): Promise<void> {
    const root = this.#root;
    if (root === undefined || this.#held > 0 || !this.#inBounds(root, offset, bytes)) {
      return this.#slow(offset, bytes, 'writeZeroes', (node) =>
        node.writeZeroes(offset, bytes, this.#fua(flags)),
      );
    }
    return this.#track(root.node.writeZeroes(offset, bytes, this.#fua(flags)));
  }

  discard(offset: number, bytes: number): Promise<void> {
    const root = this.#root;
    if (root === undefined || this.#held > 0 || !this.#inBounds(root, offset, bytes)) {
      return this.#slow(offset, bytes, 'discard', (node) => node.discard(offset, bytes));
    }
    return this.#track(root.node.discard(offset, bytes));
  }

  flush(): Promise<void> {
    const root = this.#root;
    if (root === undefined || this.#held > 0) {
      return this.#slow(0, 0, 'flush', (node) => node.flush());
    }
    return this.#track(root.node.flush());
  }

  truncate(bytes: number, options?: Partial<TruncateOptions>): Promise<void> {
    return this.#track(this.node.truncate(bytes, options));
  }

  /** Status of the attached node alone. */
  blockStatus(offset: number, bytes: number, wantZero = true): Promise<BlockStatus> {
    return this.#track(this.node.blockStatus(offset, bytes, wantZero));
  }

  /** Holds new requests back and waits for those in flight. Nests. */
  async drainBegin(): Promise<void> {
    this.#quiesced++;
    this.#held++;
    this.#throttle?.exempt();
    if (this.#inFlight > 0) {
      await new Promise<void>((resolve) => {
        this.#idle.push(resolve);
      });
    }
  }

  drainEnd(): void {
    this.#held--;
    this.#throttle?.restrict();
    if (--this.#quiesced > 0) return;
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const go of waiting) go();
  }

  /** The group whose limits hold for reads and writes of this backend. */
  get throttleGroup(): ThrottleGroup | undefined {
    return this.#throttle?.group;
  }

  /** Gives the backend to a group of limits, or to none; what waits goes at once. */
  set throttleGroup(group: ThrottleGroup | undefined) {
    if (group === this.#throttle?.group) return;
    const old = this.#throttle;
    this.#throttle = group?.join();
    this.#held += (group === undefined ? 0 : 1) - (old === undefined ? 0 : 1);
    for (let i = 0; i < this.#quiesced; i++) this.#throttle?.exempt();
    old?.leave();
  }

  childResized(): void {
    this.onResize?.();
  }

  #fua(flags: number): number {
    return this.writeCache ? flags : flags | Req.fua;
  }

  #inBounds(root: Child, offset: number, bytes: number): boolean {
    const end = offset + bytes;
    return offset >= 0 && (end <= root.node.size || this.allowBeyondEof) && end <= MAX_LENGTH;
  }

  /** Not the common way: no medium, quiesced, limited, or out of bounds. */
  async #slow(
    offset: number,
    bytes: number,
    op: string,
    perform: (node: BlockNode) => Promise<void>,
  ): Promise<void> {
    while (this.#quiesced > 0) {
      await new Promise<void>((resolve) => {
        this.#waiting.push(resolve);
      });
    }
    const node = this.node;
    const root = this.#root;
    if (root === undefined || !this.#inBounds(root, offset, bytes)) {
      // A node may be larger than what offsets reach (Driver.maxSize).
      const code = offset + bytes > MAX_LENGTH && offset + bytes <= node.size ? 'EFBIG' : 'EIO';
      throw new BlockError(code, undefined, { op, node: node.name, offset, bytes });
    }
    if (this.#throttle === undefined || op === 'flush') return this.#track(perform(node));
    // A request that waits is in flight: who drains lets it go.
    const wait = this.#throttle.admit(op === 'read' ? 'read' : 'write', bytes);
    if (wait === undefined) return this.#track(perform(node));
    return this.#track(wait.then(() => perform(this.node)));
  }

  readonly #done = (): void => {
    if (--this.#inFlight === 0 && this.#idle.length > 0) {
      const idle = this.#idle;
      this.#idle = [];
      for (const go of idle) go();
    }
  };

  #track<T>(request: Promise<T>): Promise<T> {
    this.#inFlight++;
    // The handlers run before the caller's own, so that a drained backend is really idle.
    request.then(this.#done, this.#done);
    return request;
  }
}

/** What a tool asks for when it opens an image: reading, and writing if `writable`. */
export function toolPerms(writable: boolean): PermPair {
  const perm = Perm.consistentRead | (writable ? Perm.write | Perm.resize : 0);
  return { perm, shared: Perm.all };
}
