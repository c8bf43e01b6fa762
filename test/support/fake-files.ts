/**
 * HostFiles in memory: simulated disks ({@link FakeDisk} states the fault model), locks between
 * open files, faults on request, and power cuts at any point.
 *
 *     const files = new FakeFiles({ seed });
 *     files.put('/a.qcow2', bytes);            // durable from the start
 *     files.cutAfter(17);                      // the 18th changing operation fails with EIO …
 *     … use it through fakeHost({ files }) …   // … and so does everything after it
 *     const next = files.afterPowerCut(random); // what a restarted machine finds
 *
 * With `reorder`, operations in flight run in random order, each as one step; without it each
 * runs when it is called. Buffers are read when the operation runs, so one that is changed too
 * early shows.
 */
import type {
  EngineName,
  FileExtent,
  FileKind,
  FileLimits,
  FileOpenOptions,
  FileRun,
  FileStat,
  HostFile,
  HostFiles,
  LockRequest,
} from '../../src/host/file.js';
import { HostError } from '../../src/host/file.js';
import * as paths from '../../src/host/node/paths.js';
import type { Iov } from '../../src/lib/iov.js';
import { SparseMemory } from '../../src/lib/sparse-memory.js';
import { Iov as List } from '../../src/lib/iov.js';
import type { CutStyle } from './fake-disk.js';
import { FakeDisk } from './fake-disk.js';
import { Random } from './random.js';

export type FakeOp =
  | 'open'
  | 'read'
  | 'write'
  | 'flush'
  | 'truncate'
  | 'allocate'
  | 'punch'
  | 'zero'
  | 'extent'
  | 'copy'
  | 'pass';

/** What shall go wrong, and when. The first fault that fits an operation is taken. */
export interface Fault {
  readonly op: FakeOp;
  /** errno name. */
  readonly code: string;
  readonly path?: string;
  /** Only operations that touch [offset, offset + bytes). */
  readonly offset?: number;
  readonly bytes?: number;
  /** Let so many go by first. */
  skip?: number;
  /** How often; for ever when absent. */
  times?: number;
  /** A write stores so many bytes before it fails. */
  readonly partial?: number;
}

export interface FakeFilesInit {
  readonly seed?: number;
  /** Run operations in flight in random order. */
  readonly reorder?: boolean;
  /** What files opened with O_DIRECT ask for; they reject everything else with EINVAL. */
  readonly directAlignment?: number;
  /** Longest file; growing beyond fails with ENOSPC after writing what fits. */
  readonly maxBytes?: number;
  /** Calls that this file system does not have. */
  readonly without?: readonly (
    'punch' | 'zero' | 'allocate' | 'extent' | 'copy' | 'locks' | 'pass'
  )[];
}

const changing = new Set<FakeOp>([
  'write',
  'flush',
  'truncate',
  'allocate',
  'punch',
  'zero',
  'copy',
]);

export class FakeFiles implements HostFiles {
  readonly disks = new Map<string, FakeDisk>();
  /** Kinds of the files that are not regular. */
  readonly kinds = new Map<string, FileKind>();
  readonly faults: Fault[] = [];
  /** How many operations of each kind ran. */
  readonly counts = new Map<FakeOp, number>();
  readonly locks = new Map<FakeDisk, HeldLock[]>();
  /** Called before each operation runs; for tests that look at the order of things. */
  onOp: ((op: FakeOp, path: string, offset: number, bytes: number) => void) | undefined;
  /** An operation waits for the promise before it runs, and fails as it does. */
  hold:
    | ((op: FakeOp, path: string, offset: number, bytes: number) => Promise<void> | undefined)
    | undefined;
  readonly dirname = paths.dirname;
  readonly join = paths.join;
  readonly isAbsolute = paths.isAbsolute;
  readonly init: FakeFilesInit;
  readonly #random: Random;
  #changesLeft = Infinity;
  #queue: (() => void)[] = [];

  constructor(init: FakeFilesInit = {}) {
    this.init = init;
    this.#random = new Random(init.seed ?? 1);
  }

  /** Puts a durable file there. */
  put(
    path: string,
    content: Uint8Array | SparseMemory | number = 0,
    kind: FileKind = 'regular',
  ): FakeDisk {
    this.kinds.set(path, kind);
    const memory = content instanceof SparseMemory ? content : new SparseMemory();
    if (typeof content === 'number') memory.resize(content);
    else if (content instanceof Uint8Array) memory.write(0, List.of(content));
    const disk = new FakeDisk(memory);
    this.disks.set(path, disk);
    return disk;
  }

  /** The newest content of a file. */
  bytesOf(path: string): Uint8Array {
    const disk = this.#disk(path);
    const out = new Uint8Array(disk.bytes);
    disk.current.read(0, List.of(out));
    return out;
  }

  inject(fault: Fault): void {
    this.faults.push(fault);
  }

  /** Power fails after `n` more operations that change something or flush. */
  cutAfter(n: number): void {
    this.#changesLeft = n;
  }

  /** Whether the power is off: every operation fails with EIO. */
  get isOff(): boolean {
    return this.#changesLeft < 0;
  }

  /** Changing operations and flushes so far. */
  get changes(): number {
    let n = 0;
    for (const op of changing) n += this.counts.get(op) ?? 0;
    return n;
  }

  /** The machine after a restart. What was not flushed is decided by `random`. */
  afterPowerCut(random: Random = this.#random, style?: CutStyle): FakeFiles {
    const next = new FakeFiles(this.init);
    for (const [path, disk] of this.disks) {
      next.put(path, disk.afterPowerCut(random, style), this.kinds.get(path));
    }
    return next;
  }

  async open(path: string, options: FileOpenOptions): Promise<HostFile> {
    this.#step('open', path, 0, 0);
    let disk = this.disks.get(path);
    if (disk === undefined) {
      if (options.create === undefined) throw new HostError('ENOENT');
      this.disks.set(path, (disk = new FakeDisk()));
    } else if (options.create === 'exclusive') throw new HostError('EEXIST');
    else if (options.create === 'truncate') disk.resize(0);
    return new FakeFile(this, path, disk, options);
  }

  async stat(path: string): Promise<FileStat> {
    const kind = this.kinds.get(path) ?? 'regular';
    return { kind, size: this.#disk(path).bytes, identity: `fake:${path}` };
  }

  async unlink(path: string): Promise<void> {
    this.#disk(path);
    this.disks.delete(path);
  }

  async list(folder: string): Promise<readonly string[]> {
    const prefix = folder.endsWith('/') ? folder : `${folder}/`;
    const inside = [...this.disks.keys()].filter((path) => path.startsWith(prefix));
    return inside.map((path) => path.slice(prefix.length)).filter((name) => !name.includes('/'));
  }

  async engines(): Promise<readonly EngineName[]> {
    return ['node-fs'];
  }

  #disk(path: string): FakeDisk {
    const disk = this.disks.get(path);
    if (disk === undefined) throw new HostError('ENOENT');
    return disk;
  }

  /** Runs `fn` now, or with `reorder` in some order among those in flight. */
  schedule<T>(fn: () => T): Promise<T> {
    if (this.init.reorder !== true) {
      try {
        return Promise.resolve(fn());
      } catch (e) {
        return Promise.reject(e instanceof Error ? e : new Error(String(e)));
      }
    }
    return new Promise((resolve, reject) => {
      this.#queue.push(() => {
        try {
          resolve(fn());
        } catch (e) {
          reject(e instanceof Error ? e : new Error(String(e)));
        }
      });
      if (this.#queue.length === 1) setImmediate(this.#pump);
    });
  }

  readonly #pump = (): void => {
    const queue = this.#queue;
    // Not all at once: those that stay may be overtaken by later ones.
    const n = this.#random.int(1, queue.length);
    for (let i = 0; i < n; i++) {
      const at = this.#random.int(0, queue.length - 1);
      const run = queue[at]!;
      queue[at] = queue[queue.length - 1]!;
      queue.pop();
      run();
    }
    if (queue.length > 0) setImmediate(this.#pump);
  };

  /** Counts an operation; throws what a power cut or a fault says; the fault of a partial write. */
  #step(op: FakeOp, path: string, offset: number, bytes: number): Fault | undefined {
    if (changing.has(op)) this.#changesLeft--;
    if (this.isOff) throw new HostError('EIO');
    this.counts.set(op, (this.counts.get(op) ?? 0) + 1);
    this.onOp?.(op, path, offset, bytes);
    if (this.faults.length === 0) return undefined;
    const fault = this.faults.find((f) => fits(f, op, path, offset, bytes));
    if (fault === undefined) return undefined;
    if ((fault.skip ?? 0) > 0) {
      fault.skip = (fault.skip ?? 0) - 1;
      return undefined;
    }
    if (fault.times !== undefined && --fault.times === 0) {
      this.faults.splice(this.faults.indexOf(fault), 1);
    }
    if (fault.partial !== undefined) return fault;
    throw new HostError(fault.code);
  }

  step(op: FakeOp, path: string, offset = 0, bytes = 0): Fault | undefined {
    return this.#step(op, path, offset, bytes);
  }
}

function fits(f: Fault, op: FakeOp, path: string, offset: number, bytes: number): boolean {
  if (f.op !== op || (f.path !== undefined && f.path !== path)) return false;
  if (f.offset === undefined) return true;
  return offset < f.offset + (f.bytes ?? 1) && offset + bytes > f.offset;
}

interface HeldLock {
  readonly owner: FakeFile;
  readonly at: number;
  exclusive: boolean;
}

/** An open file of {@link FakeFiles}. */
class FakeFile implements HostFile {
  readonly kind: FileKind;
  readonly engine = 'node-fs';
  readonly writable: boolean;
  direct: boolean;
  #inFlight = 0;
  #idle: (() => void) | undefined;
  #closed = false;

  constructor(
    private readonly files: FakeFiles,
    readonly path: string,
    private readonly disk: FakeDisk,
    options: FileOpenOptions,
  ) {
    this.kind = files.kinds.get(path) ?? 'regular';
    this.writable = options.writable;
    this.direct = options.direct;
  }

  get limits(): FileLimits {
    const align = this.direct ? (this.files.init.directAlignment ?? 512) : 1;
    return {
      requestAlignment: align,
      memoryAlignment: 1,
      maxTransfer: 1 << 30,
      optimalTransfer: 4096,
      discardAlignment: 0,
    };
  }

  #run<T>(op: FakeOp, offset: number, bytes: number, fn: (f: Fault | undefined) => T): Promise<T> {
    if (this.#closed) return Promise.reject(new HostError('EBADF'));
    const align = this.limits.requestAlignment;
    if ((op === 'read' || op === 'write') && (offset % align !== 0 || bytes % align !== 0)) {
      return Promise.reject(new HostError('EINVAL'));
    }
    if (changing.has(op) && op !== 'flush' && !this.writable) {
      return Promise.reject(new HostError('EBADF'));
    }
    const held = this.files.hold?.(op, this.path, offset, bytes);
    if (held !== undefined) {
      return held.then(() => fn(this.files.step(op, this.path, offset, bytes)));
    }
    if (this.files.init.reorder !== true) {
      return this.files.schedule(() => fn(this.files.step(op, this.path, offset, bytes)));
    }
    this.#inFlight++;
    return this.files
      .schedule(() => fn(this.files.step(op, this.path, offset, bytes)))
      .finally(() => {
        if (--this.#inFlight === 0) this.#idle?.();
      });
  }

  #unless(missing: 'punch' | 'zero' | 'allocate' | 'extent' | 'copy' | 'locks'): void {
    if (this.files.init.without?.includes(missing) === true) throw new HostError('ENOTSUP');
  }

  async size(): Promise<number> {
    return this.disk.bytes;
  }

  async allocatedBytes(): Promise<number> {
    return this.disk.current.allocatedBytes;
  }

  read(offset: number, iov: Iov): Promise<number> {
    return this.#run('read', offset, iov.bytes, () => {
      const n = Math.max(0, Math.min(iov.bytes, this.disk.bytes - offset));
      this.disk.current.read(offset, n === iov.bytes ? iov : iov.slice(0, n));
      return n;
    });
  }

  write(offset: number, iov: Iov): Promise<void> {
    return this.#run('write', offset, iov.bytes, (fault) => {
      const room = Math.max(0, (this.files.init.maxBytes ?? Infinity) - offset);
      const keep = Math.min(iov.bytes, fault?.partial ?? Infinity, room);
      if (keep > 0) this.disk.write(offset, iov.slice(0, keep));
      if (fault !== undefined) throw new HostError(fault.code);
      if (keep < iov.bytes) throw new HostError('ENOSPC');
    });
  }

  flush(): Promise<void> {
    const mark = this.disk.mark();
    return this.#run('flush', 0, 0, () => {
      this.disk.flushTo(mark);
    });
  }

  truncate(bytes: number): Promise<void> {
    return this.#run('truncate', bytes, 0, () => {
      if (bytes > (this.files.init.maxBytes ?? Infinity)) throw new HostError('EFBIG');
      this.disk.resize(bytes);
    });
  }

  allocate(offset: number, bytes: number): Promise<void> {
    return this.#run('allocate', offset, bytes, () => {
      this.#unless('allocate');
      const end = offset + bytes;
      if (end > (this.files.init.maxBytes ?? Infinity)) throw new HostError('ENOSPC');
      if (end > this.disk.bytes) this.disk.resize(end);
    });
  }

  punchHole(offset: number, bytes: number): Promise<void> {
    return this.#run('punch', offset, bytes, () => {
      this.#unless('punch');
      this.disk.zero(offset, bytes, false);
    });
  }

  zeroRange(offset: number, bytes: number): Promise<void> {
    return this.#run('zero', offset, bytes, () => {
      this.#unless('zero');
      if (offset + bytes > (this.files.init.maxBytes ?? Infinity)) throw new HostError('ENOSPC');
      this.disk.zero(offset, bytes, true);
    });
  }

  extentAt(offset: number): Promise<FileExtent | undefined> {
    return this.#run('extent', offset, 0, () => {
      if (this.files.init.without?.includes('extent') === true) return undefined;
      if (offset >= this.disk.bytes) return undefined;
      return this.disk.current.runAt(offset, this.disk.bytes - offset);
    });
  }

  copyFrom(source: HostFile, from: number, to: number, bytes: number): Promise<number> {
    return this.#run('copy', to, bytes, () => {
      this.#unless('copy');
      if (!(source instanceof FakeFile)) throw new HostError('EXDEV');
      const n = Math.max(0, Math.min(bytes, source.disk.bytes - from));
      const data = List.alloc(n);
      source.disk.current.read(from, data);
      if (n > 0) this.disk.write(to, data);
      return n;
    });
  }

  isCached(): boolean {
    return !this.direct && this.files.init.without?.includes('pass') !== true;
  }

  async tryFindZeroes(
    offset: number,
    bytes: number,
    blockBytes: number,
    skew: number,
    zero: Uint8Array,
  ): Promise<boolean> {
    if (!this.isCached()) return false;
    const data = List.alloc(bytes);
    try {
      await this.read(offset, data);
    } catch {
      return false;
    }
    zero.fill(1, 0, Math.ceil((skew + bytes) / blockBytes));
    const all = data.flatten();
    for (let i = 0; i < bytes; i++) {
      if (all[i] !== 0) zero[Math.floor((skew + i) / blockBytes)] = 0;
    }
    return true;
  }

  /** In one write, or with a `zeroBlock` one for each block that is not zero. */
  tryWriteFrom(source: FileRun, offset: number, zeroBlock: number): Promise<void> | undefined {
    if (!(source.file instanceof FakeFile) || !this.isCached()) return undefined;
    return this.#writeFrom(source, offset, zeroBlock);
  }

  async #writeFrom(source: FileRun, offset: number, zeroBlock: number): Promise<void> {
    // Counted, and failing, on its own.
    await this.#run('pass', offset, source.bytes, (fault) => {
      if (fault !== undefined) throw new HostError(fault.code);
    });
    const data = List.alloc(source.bytes);
    await source.file.read(source.offset, data);
    const unit = zeroBlock > 0 ? zeroBlock : data.bytes;
    for (let at = 0; at < data.bytes;) {
      const n = Math.min(unit - (zeroBlock > 0 ? (offset + at) % unit : 0), data.bytes - at);
      const part = data.slice(at, n);
      if (zeroBlock === 0 || !part.isZero()) await this.write(offset + at, part);
      at += n;
    }
  }

  async tryLock(request: LockRequest): Promise<boolean> {
    this.#unless('locks');
    const held = this.#held();
    const end = request.offset + request.bytes;
    if (request.type !== 'unlock' && !this.#isFree(request)) return false;
    const rest = held.filter((l) => l.owner !== this || l.at < request.offset || l.at >= end);
    if (request.type !== 'unlock') {
      const exclusive = request.type === 'exclusive';
      for (let at = request.offset; at < end; at++) rest.push({ owner: this, at, exclusive });
    }
    this.files.locks.set(this.disk, rest);
    return true;
  }

  async testLock(request: LockRequest): Promise<boolean> {
    this.#unless('locks');
    return this.#isFree(request);
  }

  #held(): readonly HeldLock[] {
    return this.files.locks.get(this.disk) ?? [];
  }

  #isFree(request: LockRequest): boolean {
    const end = request.offset + request.bytes;
    return !this.#held().some(
      (l) =>
        l.owner !== this &&
        l.at >= request.offset &&
        l.at < end &&
        (l.exclusive || request.type === 'exclusive'),
    );
  }

  async setDirect(direct: boolean): Promise<void> {
    this.direct = direct;
  }

  async dropCache(): Promise<void> {
    // There is no cache.
  }

  async close(): Promise<void> {
    this.#closed = true;
    if (this.#inFlight > 0) {
      await new Promise<void>((resolve) => {
        this.#idle = resolve;
      });
    }
    const rest = this.#held().filter((l) => l.owner !== this);
    this.files.locks.set(this.disk, rest);
  }
}

/** Counts, while writes to `path` are slow, how many bytes and how many of them are under way. */
export function slowWrites(files: FakeFiles, path: string): { bytes: number; count: number } {
  const most = { bytes: 0, count: 0 };
  let bytes = 0;
  let count = 0;
  files.hold = (op, of, _offset, length) => {
    if (op !== 'write' || of !== path) return undefined;
    most.bytes = Math.max(most.bytes, (bytes += length));
    most.count = Math.max(most.count, ++count);
    return new Promise((resolve) => {
      setImmediate(() => {
        bytes -= length;
        count--;
        resolve();
      });
    });
  };
  return most;
}
