/**
 * Filter `blklogwrites`: keeps a log of all that is written, in the format of the Linux
 * device mapper's log-writes target, so that its tools can replay a disk to any point.
 *
 * Format (little-endian; the unit is the log's sector): sector 0 holds magic, version, number
 * of entries and sector size. Then, for each write, one sector with its place (in sectors of
 * the log's size), length, flags and length of extra data, followed by the data; flushes and
 * discards have none.
 *
 * The super block is written after each flush, and every `log-super-update-interval` entries.
 */
import { blockdevRef, onFile } from '../block/blockdev-types.js';
import type { Child } from '../block/child.js';
import type { Driver, DriverInstance, OpenContext } from '../block/driver.js';
import { BlockError, withErrno } from '../block/errors.js';
import { passThrough } from '../block/pass-through.js';
import { Perm, Role } from '../block/types.js';
import { Iov } from '../lib/iov.js';
import { Mutex } from '../lib/mutex.js';
import type { Infer } from '../options/schema.js';
import { fieldsOf, parseValue, t } from '../options/schema.js';

const MAGIC = 0x6a736677736872n;
const VERSION = 1n;
/** Bytes of an entry's, or the super block's, fields. */
const HEAD_BYTES = 32;
/** Longest log that is read through at the start, in entries. */
const MOST_ENTRIES = 2 ** 32;

const Flag = { flush: 1, fua: 2, discard: 4, mark: 8 } as const;

/** BlockdevOptionsBlklogwrites without the children. */
export const blklogwritesOptions = t.struct('BlockdevOptionsBlklogwrites', {
  'log-sector-size': t.uint({ bits: 32 }, { default: 512, doc: 'sector size of the log' }),
  'log-append': t.bool({ default: false, doc: 'continue a log instead of starting a new one' }),
  'log-super-update-interval': t.uint(
    { bits: 64 },
    { default: 4096, doc: 'entries after which the super block is written' },
  ),
});

type Options = Infer<typeof blklogwritesOptions>;

function isSectorSize(bytes: number): boolean {
  return bytes >= 512 && bytes <= 2 ** 23 && (bytes & (bytes - 1)) === 0;
}

function checkOptions(options: Options): void {
  const size = options['log-sector-size'];
  if (!isSectorSize(size)) throw new BlockError('EINVAL', `Invalid log sector size ${size}`);
  const interval = options['log-super-update-interval'];
  if (interval === 0) {
    throw new BlockError('EINVAL', `Invalid log superblock update interval ${interval}`);
  }
}

/** The log: where it ends, and how entries get into it. */
class WriteLog {
  readonly #log: Child;
  readonly sectorBytes: number;
  readonly #interval: number;
  /** Sector at which the next entry goes. */
  #next = 1;
  #entries = 0;
  readonly #superLock = new Mutex();

  constructor(log: Child, sectorBytes: number, interval: number) {
    this.#log = log;
    this.sectorBytes = sectorBytes;
    this.#interval = interval;
  }

  /** Goes behind the last entry of a log that is there. Throws EINVAL when it is none. */
  static async append(log: Child, interval: number): Promise<WriteLog> {
    const head = await readHead(log, 0, 'Could not read log superblock');
    if (head.getBigUint64(0, true) !== MAGIC) {
      throw new BlockError('EINVAL', 'Invalid log superblock magic');
    }
    if (head.getBigUint64(8, true) !== VERSION) {
      throw new BlockError('EINVAL', 'Unsupported log version');
    }
    const sectorBytes = head.getUint32(24, true);
    if (!isSectorSize(sectorBytes)) {
      throw new BlockError('EINVAL', `Invalid log sector size ${sectorBytes}`);
    }
    const result = new WriteLog(log, sectorBytes, interval);
    const entries = Number(head.getBigUint64(16, true));
    if (entries > MOST_ENTRIES) throw new BlockError('EINVAL', 'Invalid number of log entries');
    for (let i = 0; i < entries; i++) await result.#skipEntry();
    return result;
  }

  async #skipEntry(): Promise<void> {
    const at = this.#next * this.sectorBytes;
    const entry = await readHead(this.#log, at, 'Failed to read log entry');
    const sectors = Number(entry.getBigUint64(8, true));
    const flags = entry.getUint32(16, true);
    const data = (flags & Flag.discard) === 0 ? sectors : 0;
    this.#next += 1 + data;
    this.#entries++;
    if (this.#next * this.sectorBytes > this.#log.size) {
      throw new BlockError('EINVAL', 'Log entries reach beyond the end of the log');
    }
  }

  /** Adds an entry about [offset, offset + bytes); `data` undefined: zeroes, for a write. */
  async add(offset: number, bytes: number, flags: number, data: Iov | undefined): Promise<void> {
    const at = this.#next * this.sectorBytes;
    const stored = (flags & Flag.discard) === 0 ? bytes : 0;
    this.#next += 1 + stored / this.sectorBytes;
    this.#entries++;
    const head = new Uint8Array(this.sectorBytes);
    const view = new DataView(head.buffer);
    view.setBigUint64(0, BigInt(offset / this.sectorBytes), true);
    view.setBigUint64(8, BigInt(bytes / this.sectorBytes), true);
    view.setBigUint64(16, BigInt(flags), true);
    const entries = this.#entries;
    if (data === undefined) {
      await this.#log.write(at, Iov.of(head));
      if (stored > 0) await this.#log.writeZeroes(at + this.sectorBytes, stored);
    } else {
      await this.#log.write(at, Iov.of(head).concat(data));
    }
    const isFlush = (flags & Flag.flush) !== 0;
    if (isFlush || entries % this.#interval === 0) await this.writeSuper();
  }

  /** Writes the super block: it counts the entries. */
  writeSuper(): Promise<void> {
    return this.#superLock.run(async () => {
      const block = new Uint8Array(this.sectorBytes);
      const view = new DataView(block.buffer);
      view.setBigUint64(0, MAGIC, true);
      view.setBigUint64(8, VERSION, true);
      view.setBigUint64(16, BigInt(this.#entries), true);
      view.setUint32(24, this.sectorBytes, true);
      await this.#log.write(0, Iov.of(block));
      await this.#log.flush();
    });
  }
}

async function readHead(log: Child, offset: number, complaint: string): Promise<DataView> {
  const head = new Uint8Array(HEAD_BYTES);
  try {
    await log.read(offset, Iov.of(head));
  } catch (e) {
    throw withErrno(complaint, e);
  }
  return new DataView(head.buffer);
}

async function openLog(log: Child, options: Options): Promise<WriteLog> {
  const interval = options['log-super-update-interval'];
  if (options['log-append']) return WriteLog.append(log, interval);
  return new WriteLog(log, options['log-sector-size'], interval);
}

function makeInstance(context: OpenContext, file: Child, log: WriteLog): DriverInstance {
  const pass = passThrough(file);
  return {
    ...pass,
    limits: () => ({
      requestAlignment: Math.max(log.sectorBytes, file.node.limits.requestAlignment),
    }),
    // FUA reaches the log as the flush that stands for it.
    writeFlags: 0,
    zeroFlags: 0,
    // First the log, so that it never lacks what the disk has.
    write: async (offset, iov) => {
      await log.add(offset, iov.bytes, 0, iov);
      await file.write(offset, iov);
    },
    writeZeroes: async (offset, bytes, flags) => {
      await log.add(offset, bytes, 0, undefined);
      await file.writeZeroes(offset, bytes, flags);
    },
    discard: async (offset, bytes) => {
      await log.add(offset, bytes, Flag.discard, undefined);
      await file.discard(offset, bytes);
    },
    writeCompressed: () => Promise.reject(new BlockError('ENOTSUP')),
    flushToDisk: async () => {
      await file.flush();
      await log.add(0, 0, Flag.flush, undefined);
    },
    childPerm: (child, parents) => {
      if (child.name === 'file') return parents;
      const write = context.node.readOnly ? 0 : Perm.write | Perm.resize;
      return { perm: Perm.consistentRead | write, shared: Perm.consistentRead };
    },
    strongOptions: () => {
      const own = { ...context.options };
      for (const key of ['file', 'log']) Reflect.deleteProperty(own, key);
      return own;
    },
  };
}

export const blklogwritesDriver: Driver = {
  name: 'blklogwrites',
  kind: 'filter',
  needsFile: true,
  blockdev: t.struct('BlockdevOptionsBlklogwrites', {
    ...onFile,
    log: blockdevRef,
    ...fieldsOf(blklogwritesOptions),
  }),
  optionNames: ['log', 'log-sector-size', 'log-append', 'log-super-update-interval'],
  async open(context) {
    const own = { ...context.options };
    for (const key of ['file', 'log']) Reflect.deleteProperty(own, key);
    const options = parseValue(blklogwritesOptions, own, { from: 'opts' });
    checkOptions(options);
    const file = await context.openChild('file', { role: Role.filtered | Role.primary });
    const child = await context.openChild('log', { role: Role.metadata });
    return makeInstance(context, file, await openLog(child, options));
  },
};
