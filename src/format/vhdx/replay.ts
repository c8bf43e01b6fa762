/** 2.3.3 Log replay: finding the entries that are not applied yet, and applying them. */
import type { Child } from '../../block/child.js';
import { BlockError } from '../../block/errors.js';
import { Iov } from '../../lib/iov.js';
import type { Crc } from './header.js';
import { structureSum } from './header.js';
import type { HeaderRecord, LogEntryRecord } from './layout.js';
import { Limit, LOG_SECTOR, MiB } from './layout.js';
import { entryChanges, tryEntryHeader } from './log-entry.js';

/** An entry whose checksum is right. */
interface Found {
  readonly entry: LogEntryRecord;
  readonly position: number;
}

/** Checksums are taken of at most so many times the log, whatever entries pretend to be. */
const MAX_WORK = 4;
/** The longest log that is replayed; those of Hyper-V and QEMU have a few MiB. */
const MAX_LOG = 256 * MiB;

export class LogReader {
  readonly #file: Child;
  readonly #offset: number;
  readonly #bytes: number;
  readonly #guid: Uint8Array;
  readonly #crc: Crc;

  constructor(file: Child, header: HeaderRecord, crc: Crc) {
    this.#file = file;
    this.#offset = header.log_offset;
    this.#bytes = header.log_length;
    this.#guid = header.log_guid;
    this.#crc = crc;
  }

  /**
   * The active sequence: the newest entry and those before it back to its tail, oldest first;
   * empty where there is no valid entry. Throws EFBIG for a log that is too long to look through.
   */
  async active(): Promise<readonly Found[]> {
    if (this.#bytes > MAX_LOG) {
      throw new BlockError('EFBIG', `The VHDX log to be replayed is longer than ${MAX_LOG} bytes`);
    }
    const entries = await this.#entries();
    const newestFirst = [...entries.values()].sort((a, b) =>
      a.entry.sequence_number > b.entry.sequence_number ? -1 : 1,
    );
    for (const head of newestFirst) {
      const sequence = this.#sequence(entries, head);
      if (sequence !== undefined) return sequence;
    }
    return [];
  }

  /** The entries from the tail of `head` to itself, if all are there in a row. */
  #sequence(entries: ReadonlyMap<number, Found>, head: Found): readonly Found[] | undefined {
    const out: Found[] = [];
    let position = head.entry.tail;
    for (let i = 0; i <= entries.size; i++) {
      const found = entries.get(position);
      if (found === undefined) return undefined;
      const before = out.at(-1)?.entry.sequence_number;
      if (before !== undefined && found.entry.sequence_number !== before + 1n) return undefined;
      out.push(found);
      if (found === head) return out;
      position = (position + found.entry.entry_length) % this.#bytes;
    }
    return undefined;
  }

  /** All valid entries by their positions. */
  async #entries(): Promise<Map<number, Found>> {
    const entries = new Map<number, Found>();
    let work = MAX_WORK * this.#bytes;
    for (let base = 0; base < this.#bytes; base += MiB) {
      const piece = await this.#read(base, Math.min(MiB, this.#bytes - base));
      for (let at = 0; at < piece.length; at += LOG_SECTOR) {
        const sector = piece.subarray(at, at + LOG_SECTOR);
        const entry = tryEntryHeader(sector, this.#guid, this.#bytes);
        if (entry === undefined) continue;
        work -= entry.entry_length;
        if (work < 0) throw new BlockError('EINVAL', 'The VHDX log is damaged: entries overlap');
        const position = base + at;
        const bytes = await this.#read(position, entry.entry_length);
        if (entry.checksum === structureSum(bytes, this.#crc)) {
          entries.set(position, { entry, position });
        }
      }
    }
    return entries;
  }

  /** Bytes of the log, which goes on at its start. */
  async #read(position: number, bytes: number): Promise<Uint8Array> {
    const out = new Uint8Array(bytes);
    const first = Math.min(bytes, this.#bytes - position);
    await this.#file.read(this.#offset + position, Iov.of(out.subarray(0, first)));
    if (first < bytes) await this.#file.read(this.#offset, Iov.of(out.subarray(first)));
    return out;
  }

  /**
   * Applies the entries and makes them durable. Throws EINVAL where they contradict themselves or
   * the file is shorter than it was when they were written.
   */
  async apply(sequence: readonly Found[]): Promise<void> {
    for (const { entry, position } of sequence) {
      const { flushed_file_offset: flushed, last_file_offset: last } = entry;
      if (flushed > this.#file.size) {
        const text = `The VHDX image is truncated: it has ${this.#file.size} bytes, and its log `;
        throw new BlockError('EINVAL', `${text}expects ${flushed}`);
      }
      if (last > Limit.fileBytes) throw new BlockError('EINVAL', 'The VHDX log is damaged');
      if (last > this.#file.size) await this.#file.truncate(last, { exact: false });
      const bytes = await this.#read(position, entry.entry_length);
      for (const { offset, zeroes, page } of entryChanges(bytes, entry)) {
        if (page !== undefined) await this.#file.write(offset, Iov.of(page));
        else await this.#zero(offset, zeroes ?? 0);
      }
    }
    await this.#file.flush();
  }

  /** What lies past the end is zero already. */
  async #zero(offset: number, bytes: number): Promise<void> {
    const end = Math.min(offset + bytes, this.#file.size);
    if (end > offset) await this.#file.writeZeroes(offset, end - offset);
  }
}
