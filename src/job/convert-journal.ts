/**
 * The journal of a conversion that can be resumed: a small file beside the target that says what
 * it is bound to and up to where the target is durable. docs/internals/convert-resume.md tells why
 * that is enough.
 *
 *  RJ1  A record that says `done` is written when all of the target before `done` was flushed.
 *  RJ2  Records go to two places in turn, each flushed before the next: a torn one leaves the
 *       other.
 *  RJ3  A conversion goes on only where sources, options and target are those of the journal.
 *  RJ4  What the target has behind `done` was not flushed: it is made zero before it is used.
 *  RJ5  The journal is removed when all of the target was flushed and closed.
 */
import type { Backend } from '../block/backend.js';
import { BlockError, errorCode, messageOf } from '../block/errors.js';
import type { BlockNode } from '../block/node.js';
import { chainStatus } from '../block/status.js';
import { Req } from '../block/types.js';
import type { HostFile, HostFiles } from '../host/file.js';
import { crc32c } from '../lib/crc32c.js';
import { Iov } from '../lib/iov.js';

/** A file, and how to know it again. */
interface KnownFile {
  readonly path: string;
  readonly identity: string;
  readonly size: number;
  readonly modified: string;
}

/** What a conversion is bound to (RJ3). */
export interface JournalBinding {
  /** All files that the sources are made of, backing files included. */
  readonly sources: readonly KnownFile[];
  /** Identity of the target's file. */
  readonly target: string;
  /** What was asked for, as text. */
  readonly options: string;
}

interface JournalRecord {
  readonly sequence: number;
  readonly done: number;
  readonly binding: JournalBinding;
}

const MAGIC = 0x7672_6a31;
const HEAD_BYTES = 12;
/** Bytes of each of the two places. */
const PLACE_BYTES = 64 * 1024;

/** Every file below the sources. Throws ENOTSUP for what cannot be known again. */
export async function knownFiles(
  files: HostFiles,
  sources: readonly Backend[],
): Promise<KnownFile[]> {
  const found = new Map<string, KnownFile>();
  const visit = async (node: BlockNode): Promise<void> => {
    for (const child of node.children.values()) await visit(child.node);
    if (node.driver.kind !== 'protocol') return;
    const stat = node.driver.name === 'file' ? await files.stat(node.filename) : undefined;
    if (stat?.kind !== 'regular') {
      throw new BlockError(
        'ENOTSUP',
        `Cannot keep a journal on '${node.filename}': only regular files can be known again`,
      );
    }
    const { identity, size, modified = '' } = stat;
    found.set(identity, { path: node.filename, identity, size, modified });
  };
  for (const source of sources) await visit(source.node);
  return [...found.values()];
}

/** An open journal. */
export class ConvertJournal {
  readonly #files: HostFiles;
  readonly #file: HostFile;
  readonly #path: string;
  readonly binding: JournalBinding;
  #sequence: number;
  /** Up to where the target is durable, in bytes. */
  done: number;

  private constructor(files: HostFiles, path: string, file: HostFile, record: JournalRecord) {
    this.#files = files;
    this.#file = file;
    this.#path = path;
    this.binding = record.binding;
    this.#sequence = record.sequence;
    this.done = record.done;
  }

  /**
   * The journal at `path`; undefined when there is none that says anything. Throws EINVAL for a
   * file that is no journal: to begin one would overwrite it.
   */
  static async tryOpen(files: HostFiles, path: string): Promise<ConvertJournal | undefined> {
    let file: HostFile;
    try {
      file = await files.open(path, { writable: true, direct: false, engine: 'auto' });
    } catch (e) {
      if (errorCode(e) === 'ENOENT') return undefined;
      throw new BlockError(errorCode(e), `Cannot open '${path}': ${messageOf(e)}`, { cause: e });
    }
    try {
      const places = [await readPlace(file, 0), await readPlace(file, 1)];
      // What a power cut leaves of a place that was never whole is zeroes or begins with the mark.
      if (places.some((bytes) => ![0, MAGIC].includes(new DataView(bytes.buffer).getUint32(0)))) {
        throw new BlockError('EINVAL', `'${path}' is not the journal of a conversion`);
      }
      const newest = places
        .flatMap((bytes) => parseRecord(bytes) ?? [])
        .sort((a, b) => b.sequence - a.sequence)[0];
      if (newest !== undefined) return new ConvertJournal(files, path, file, newest);
    } catch (e) {
      await file.close();
      throw e;
    }
    await file.close();
    return undefined;
  }

  /** Begins a journal; nothing is done yet. */
  static async create(
    files: HostFiles,
    path: string,
    binding: JournalBinding,
  ): Promise<ConvertJournal> {
    const how = { writable: true, direct: false, engine: 'auto', create: 'truncate' } as const;
    const file = await files.open(path, how);
    const journal = new ConvertJournal(files, path, file, { sequence: 0, done: 0, binding });
    await journal.save(0);
    return journal;
  }

  /** The target is durable up to `done` (RJ1, RJ2). */
  async save(done: number): Promise<void> {
    const sequence = this.#sequence + 1;
    const record: JournalRecord = { sequence, done, binding: this.binding };
    const text = new TextEncoder().encode(JSON.stringify(record));
    if (HEAD_BYTES + text.length > PLACE_BYTES) {
      throw new BlockError('EFBIG', 'Cannot resume from so many files');
    }
    const bytes = new Uint8Array(HEAD_BYTES + text.length);
    const view = new DataView(bytes.buffer);
    view.setUint32(0, MAGIC);
    view.setUint32(4, text.length);
    view.setUint32(8, crc32c(text));
    bytes.set(text, HEAD_BYTES);
    await this.#file.write((sequence % 2) * PLACE_BYTES, Iov.of(bytes));
    await this.#file.flush();
    this.#sequence = sequence;
    this.done = done;
  }

  async close(): Promise<void> {
    await this.#file.close();
  }

  /** RJ5. */
  async remove(): Promise<void> {
    await this.close();
    await this.#files.unlink(this.#path);
  }
}

async function readPlace(file: HostFile, place: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(PLACE_BYTES);
  await file.read(place * PLACE_BYTES, Iov.of(bytes));
  return bytes;
}

/** The record in a place, if it is whole. */
function parseRecord(bytes: Uint8Array): JournalRecord | undefined {
  const view = new DataView(bytes.buffer);
  const length = view.getUint32(4);
  if (view.getUint32(0) !== MAGIC || length > PLACE_BYTES - HEAD_BYTES) return undefined;
  const text = bytes.subarray(HEAD_BYTES, HEAD_BYTES + length);
  if (crc32c(text) !== view.getUint32(8)) return undefined;
  return JSON.parse(new TextDecoder().decode(text)) as JournalRecord;
}

/** Why a journal with `was` is not for what is asked now; undefined: it is. */
export function mismatch(was: JournalBinding, now: JournalBinding): string | undefined {
  if (was.options !== now.options) return 'it was begun with other options';
  if (was.target !== now.target) return 'the target is not the file that was begun';
  for (const file of now.sources) {
    const before = was.sources.find(({ identity }) => identity === file.identity);
    if (before === undefined) return `'${file.path}' is another file than before`;
    if (before.size !== file.size || before.modified !== file.modified) {
      return `'${file.path}' has changed since`;
    }
  }
  return was.sources.length === now.sources.length ? undefined : 'a source is missing';
}

/**
 * RJ4: the target reads as zeroes from `from` on. `unmap`: what was stored there is given up.
 * For targets that read as zeroes when they are new.
 */
export async function clearTail(target: Backend, from: number, unmap: boolean): Promise<void> {
  for (let at = from; at < target.size;) {
    const status = await chainStatus(target.node, undefined, at, target.size - at);
    const bytes = status.bytes === 0 ? target.size - at : status.bytes;
    if (!status.zero) await target.writeZeroes(at, bytes, unmap ? Req.mayUnmap : 0);
    at += bytes;
  }
}
