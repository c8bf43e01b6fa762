/**
 * What a writer does besides writing: headers and log. A session begins with the first change and
 * ends when the image is closed or becomes read-only; in between the headers name a log.
 */
import type { Child } from '../../block/child.js';
import type { RandomSource } from '../../host/host.js';
import { Iov } from '../../lib/iov.js';
import { settleAll } from '../../lib/settle-all.js';
import { newGuid } from './guid.js';
import type { Crc } from './header.js';
import { encodeHeader } from './header.js';
import type { HeaderRecord } from './layout.js';
import { LOG_FIRST_DESCRIPTORS, Place } from './layout.js';
import type { LoggedPage } from './log-entry.js';
import { encodeEntry } from './log-entry.js';

export interface SessionInit {
  readonly file: Child;
  readonly header: HeaderRecord;
  /** Which of the two headers is the current one. */
  readonly index: 0 | 1;
  readonly crc: Crc;
  readonly random: RandomSource;
}

export class Session {
  readonly #file: Child;
  readonly #crc: Crc;
  readonly #random: RandomSource;
  #header: HeaderRecord;
  #index: 0 | 1;
  #starting: Promise<void> | undefined;
  #isOpen = false;
  #position = 0;
  #sequence = 1n;

  constructor({ file, header, index, crc, random }: SessionInit) {
    this.#file = file;
    this.#header = header;
    this.#index = index;
    this.#crc = crc;
    this.#random = random;
  }

  /** The headers say that somebody writes. */
  get isOpen(): boolean {
    return this.#isOpen;
  }

  get dataWriteGuid(): Uint8Array {
    return this.#header.data_write_guid;
  }

  /**
   * Begins the session, once: an entry that repeats `page`, which is in the file already, then a
   * header that names its log; so a log that is named always has a valid entry.
   */
  begin(page: () => LoggedPage): Promise<void> {
    this.#starting ??= this.#begin(page()).catch((e: unknown) => {
      this.#starting = undefined;
      throw e;
    });
    return this.#starting;
  }

  async #begin(page: LoggedPage): Promise<void> {
    const log_guid = newGuid(this.#random);
    this.#position = 0;
    this.#sequence = 1n;
    await this.#append([page], log_guid, this.#file.size);
    await this.#writeHeader({
      ...this.#header,
      log_guid,
      file_write_guid: newGuid(this.#random),
      data_write_guid: newGuid(this.#random),
    });
    this.#isOpen = true;
  }

  /**
   * Changes pages of metadata: logged and durable first, then in place (L1 in driver.ts). All that
   * was written to the file before is durable before them.
   */
  async change(pages: readonly LoggedPage[]): Promise<void> {
    for (let i = 0; i < pages.length; i += LOG_FIRST_DESCRIPTORS) {
      const part = pages.slice(i, i + LOG_FIRST_DESCRIPTORS);
      // What the file has now is durable when the entry says so; it may grow meanwhile.
      const { size } = this.#file;
      // The entries before this one are applied for good: it is its own tail.
      await this.#file.flush();
      await this.#append(part, this.#header.log_guid, size);
      await settleAll(part.map(({ offset, bytes }) => this.#file.write(offset, Iov.of(bytes))));
    }
  }

  /** Writes one entry and makes it durable. */
  async #append(
    pages: readonly LoggedPage[],
    logGuid: Uint8Array,
    fileBytes: number,
  ): Promise<void> {
    const { log_offset: offset, log_length: length } = this.#header;
    const place = { position: this.#position, sequence: this.#sequence++, logGuid, fileBytes };
    const entry = encodeEntry(pages, place, this.#crc);
    // The log is a ring.
    const first = Math.min(entry.length, length - this.#position);
    await this.#file.write(offset + this.#position, Iov.of(entry.subarray(0, first)));
    if (first < entry.length) await this.#file.write(offset, Iov.of(entry.subarray(first)));
    this.#position = (this.#position + entry.length) % length;
    await this.#file.flush();
  }

  /** Ends the session: what was logged is in place and durable, so the log is not needed. */
  async end(): Promise<void> {
    if (!this.#isOpen) return;
    await this.#file.flush();
    await this.clearLog();
    this.#isOpen = false;
    this.#starting = undefined;
  }

  /** The current header names no log any more. */
  async clearLog(): Promise<void> {
    await this.#writeHeader({ ...this.#header, log_guid: new Uint8Array(16) });
  }

  /** 2.2.2: the header that is not current gets a higher number and is durable then. */
  async #writeHeader(header: HeaderRecord): Promise<void> {
    const index = this.#index === 0 ? 1 : 0;
    const next = { ...header, sequence_number: this.#header.sequence_number + 1n };
    await this.#file.write(Place.headers[index], Iov.of(encodeHeader(next, this.#crc)));
    await this.#file.flush();
    this.#header = next;
    this.#index = index;
  }
}
