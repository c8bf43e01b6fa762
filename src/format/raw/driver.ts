/**
 * Format `raw`: the image is the file, or a window [offset, offset + size) of it.
 *
 * Invariants
 *  R1  With `size` the window is inside the file and has that length for good; without it the
 *      window ends where the file ends.
 *  R2  A raw image whose format was guessed never gets a first sector that another format
 *      would be recognised by: a guest could otherwise make the host open an image that names
 *      any file as its backing file. Such writes fail with EPERM.
 */
import type {
  CreateContext,
  Driver,
  DriverInstance,
  MeasureResult,
  OpenContext,
  ReopenRequest,
  ReopenStep,
  TruncateOptions,
} from '../../block/driver.js';
import type { Child } from '../../block/child.js';
import { reopenNames } from '../../block/node-options.js';
import { BlockError, withErrno } from '../../block/errors.js';
import { bestFormat } from '../../block/open.js';
import type { BlockLimits, DriverStatus, Preallocation } from '../../block/types.js';
import { MAX_LENGTH, Req, Role } from '../../block/types.js';
import type { FileRun } from '../../host/file.js';
import { Iov } from '../../lib/iov.js';
import { onFile } from '../../block/blockdev-types.js';
import { createOptions } from '../../options/create-options.js';
import type { Infer } from '../../options/schema.js';
import { fieldsOf, parseValue, t } from '../../options/schema.js';

/** Options of a raw node besides `file` (QMP: BlockdevOptionsRaw). */
export const rawOptions = t.struct('BlockdevOptionsRaw', {
  offset: t.optional(
    t.size({ qapi: 'int', doc: 'where the image begins in the file, in bytes', reopen: true }),
  ),
  size: t.optional(
    t.size({
      qapi: 'int',
      doc: 'length of the image in bytes; default: to the end of the file',
      reopen: true,
    }),
  ),
});

type RawOptions = Infer<typeof rawOptions>;

const SECTOR = 512;

interface Window {
  readonly offset: number;
  /** Undefined: to the end of the file. */
  readonly size: number | undefined;
}

/** The window that the options ask for, checked against the file (R1). */
function windowOf(options: RawOptions, fileBytes: number): Window {
  const offset = options.offset ?? 0;
  const { size } = options;
  if (offset > fileBytes) {
    throw new BlockError(
      'EINVAL',
      `Offset (${offset}) cannot be greater than size of the containing file (${fileBytes})`,
    );
  }
  if (size !== undefined && size > fileBytes - offset) {
    throw new BlockError(
      'EINVAL',
      `The sum of offset (${offset}) and size (${size}) has to be smaller or equal to the ` +
        ` actual size of the containing file (${fileBytes})`,
    );
  }
  if (size !== undefined && size % SECTOR !== 0) {
    throw new BlockError('EINVAL', 'Specified size is not multiple of 512');
  }
  return { offset, size };
}

const passedFlags = Req.fua | Req.writeUnchanged;

class RawInstance implements DriverInstance {
  readonly writeFlags = passedFlags;
  readonly zeroFlags = passedFlags | Req.mayUnmap | Req.noFallback;
  readonly #file: Child;
  readonly #context: OpenContext;
  /** The format was guessed, so the first sector is guarded (R2). */
  readonly #guarded: boolean;
  #options: RawOptions;
  #window: Window;

  constructor(context: OpenContext, file: Child, options: RawOptions) {
    this.#context = context;
    this.#file = file;
    this.#options = options;
    this.#window = windowOf(options, file.size);
    this.#guarded = context.node.probed;
  }

  length(): number {
    const { offset, size } = this.#window;
    return size ?? Math.max(0, this.#file.size - offset);
  }

  limits(): Partial<BlockLimits> {
    const below = this.#file.node.limits;
    // A guarded sector is checked as a whole.
    return this.#guarded ? { requestAlignment: SECTOR, maxTransfer: below.maxTransfer } : {};
  }

  // hot: bench/layers
  read(offset: number, iov: Iov, flags: number): Promise<void> {
    const event = this.#file.debugEvent('read_aio');
    const at = this.#window.offset + offset;
    if (event !== undefined) return event.then(() => this.#file.read(at, iov, flags));
    return this.#file.read(at, iov, flags);
  }

  tryFileRun(offset: number, bytes: number): FileRun | undefined {
    return this.#file.node.tryFileRun(this.#window.offset + offset, bytes);
  }

  // hot: bench/layers
  write(offset: number, iov: Iov, flags: number): Promise<void> {
    const { size, offset: start } = this.#window;
    if (offset < SECTOR && this.#guarded) return this.#guardedWrite(offset, iov, flags);
    if (size !== undefined && offset + iov.bytes > size) return Promise.reject(pastEnd());
    const event = this.#file.debugEvent('write_aio');
    if (event !== undefined) return event.then(() => this.#file.write(start + offset, iov, flags));
    return this.#file.write(start + offset, iov, flags);
  }

  get takesFileRuns(): boolean {
    return this.#file.node.takesFileRuns;
  }

  get zeroUnit(): number | undefined {
    return this.#file.node.instance.zeroUnit;
  }

  tryWriteFrom(offset: number, run: FileRun, zeroBlock: number): Promise<void> | undefined {
    const { size, offset: start } = this.#window;
    if (offset < SECTOR && this.#guarded) return undefined;
    if (size !== undefined && offset + run.bytes > size) return undefined;
    return this.#file.node.tryWriteFrom(start + offset, run, zeroBlock);
  }

  /** A copy is checked and written, for the guest may change its buffer meanwhile (R2). */
  async #guardedWrite(offset: number, iov: Iov, flags: number): Promise<void> {
    const data = new Uint8Array(iov.bytes);
    iov.copyTo(data);
    const head = data.subarray(0, SECTOR);
    const format = bestFormat(this.#context.graph, head, '');
    if (format.name !== 'raw') throw new BlockError('EPERM');
    const { size, offset: start } = this.#window;
    if (size !== undefined && offset + iov.bytes > size) throw pastEnd();
    await this.#file.debugEvent('write_aio');
    await this.#file.write(start + offset, Iov.of(data), flags);
  }

  writeZeroes(offset: number, bytes: number, flags: number): Promise<void> {
    return this.#file.writeZeroes(this.#window.offset + offset, bytes, flags);
  }

  discard(offset: number, bytes: number): Promise<void> {
    return this.#file.discard(this.#window.offset + offset, bytes);
  }

  async blockStatus(offset: number, bytes: number): Promise<DriverStatus> {
    return {
      bytes,
      data: false,
      zero: false,
      allocated: true,
      offset: this.#window.offset + offset,
      file: this.#file.node,
      recurse: true,
    };
  }

  async truncate(bytes: number, options: TruncateOptions): Promise<void> {
    const { offset, size } = this.#window;
    if (size !== undefined) throw new BlockError('ENOTSUP', 'Cannot resize fixed-size raw disks');
    if (bytes > MAX_LENGTH - offset) {
      throw new BlockError('EINVAL', 'Disk size too large for the chosen offset');
    }
    await this.#file.truncate(bytes + offset, options);
  }

  async hasZeroInit(): Promise<boolean> {
    return (await this.#file.node.instance.hasZeroInit?.()) ?? false;
  }

  async reopenPrepare(request: ReopenRequest): Promise<ReopenStep> {
    const options = parseValue(rawOptions, request.options, { from: 'opts' });
    const window = windowOf(options, this.#file.size);
    return {
      commit: () => {
        this.#options = options;
        this.#window = window;
      },
      abort: () => undefined,
    };
  }

  strongOptions(): Record<string, unknown> {
    return { ...this.#options };
  }

  async close(): Promise<void> {
    // Nothing is held.
  }
}

function pastEnd(): BlockError {
  return new BlockError('ENOSPC');
}

async function open(context: OpenContext): Promise<DriverInstance> {
  const options = parseValue(rawOptions, context.options, { from: 'opts' });
  // The whole file, as it is: what users of the image share, users of the file share.
  const isWindow = options.offset !== undefined || options.size !== undefined;
  const role = (isWindow ? Role.data : Role.filtered) | Role.primary;
  const file = await context.openChild('file', { role });
  const { node } = context;
  try {
    await file.node.refreshLength();
  } catch (e) {
    throw withErrno('Could not get image size', e);
  }
  const instance = new RawInstance(context, file, options);
  if (node.probed && !node.readOnly) {
    const name = file.node.filename;
    context.graph.warn(
      `WARNING: Image format was not specified for '${name}' and probing guessed raw.\n` +
        '         Automatically detecting the format is dangerous for raw images, write ' +
        'operations on block 0 will be restricted.\n' +
        "         Specify the 'raw' format explicitly to remove the restrictions.",
    );
  }
  return instance;
}

async function create(context: CreateContext): Promise<void> {
  const size = roundUp(context.values.size ?? 0);
  const prealloc = preallocationOf(context.values['preallocation']);
  const file = await context.createFile(prealloc === 'off' ? size : 0);
  try {
    if (prealloc !== 'off') await file.truncate(size, { prealloc });
  } finally {
    await file.detach();
  }
}

/** The option is declared by the protocol, which knows it when it creates the file alone. */
function preallocationOf(value: string | number | boolean | undefined): Preallocation {
  const mode = value ?? 'off';
  if (mode === 'off' || mode === 'metadata' || mode === 'falloc' || mode === 'full') return mode;
  const text = `invalid parameter value: ${String(mode)}`;
  throw new BlockError('EINVAL', text);
}

const roundUp = (bytes: number): number => bytes + ((SECTOR - (bytes % SECTOR)) % SECTOR);

export const rawDriver: Driver = {
  name: 'raw',
  kind: 'format',
  needsFile: true,
  optionNames: ['offset', 'size'],
  blockdev: t.struct('BlockdevOptionsRaw', { ...onFile, ...fieldsOf(rawOptions) }),
  reopenOptions: reopenNames(rawOptions),
  // Any file can be a raw image: recognised where nothing else is.
  probe: () => 1,
  open,
  createOptions: createOptions({ size: { type: 'size', help: 'Virtual disk size' } }),
  create,
  async measure(values, source): Promise<MeasureResult> {
    const required = roundUp(source === undefined ? (values.size ?? 0) : source.size);
    return { required, fullyAllocated: required };
  },
};
