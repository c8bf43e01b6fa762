/**
 * What stands behind a file name of convert and dd that is no image as it is: standard input
 * (`-`), a compressed file, the disk inside an .ova.
 *
 * Raw images are streams from there on. All other formats need to be read here and there: their
 * bytes go to a temporary file first, which has no name and is gone with the process.
 */
import { createReadStream, fstatSync, openSync, closeSync } from 'node:fs';
import { mkdtempSync, readSync, rmdirSync, unlinkSync } from 'node:fs';
import { open } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { BlockError } from '../../block/errors.js';
import type { BlockGraph } from '../../block/graph.js';
import { bestFormat, PROBE_BYTES } from '../../block/open.js';
import type { ByteSource } from '../../host/node/decompress.js';
import { decompressed, packingOf } from '../../host/node/decompress.js';
import { nodeHost } from '../../host/node/index.js';
import type { ImageArgument } from '../images.js';
import { Failure } from '../program.js';
import { findOvaDisk, isTar } from './ova.js';

/** The name of standard input and output. */
export const STANDARD = '-';

/** Something to convert: an image that can be opened, or the bytes of a raw one. */
export type Input =
  | { readonly kind: 'image'; readonly image: ImageArgument }
  | { readonly kind: 'stream'; readonly bytes: ByteSource };

export interface InputOptions {
  readonly graph: BlockGraph;
  /** Look into compressed files and archives. */
  readonly unpack: boolean;
  /** The caller can take a stream; otherwise that, too, goes to a temporary file. */
  readonly streams: boolean;
  /** Ends reading from a pipe. */
  readonly signal: AbortSignal;
}

/** Files that must be closed when the work is done. */
export class InputFiles {
  readonly #cleanups: (() => void)[] = [];

  add(cleanup: () => void): void {
    this.#cleanups.push(cleanup);
  }

  close(): void {
    for (const cleanup of this.#cleanups.splice(0)) cleanup();
  }
}

/** Whether `image` needs {@link resolveInput}. */
export function isPlain(image: ImageArgument, unpack: boolean): boolean {
  return image.imageOpts || (image.name !== STANDARD && !unpack);
}

/** Finds out what an argument stands for. Throws BlockError, CompressionError or Failure. */
export async function resolveInput(
  image: ImageArgument,
  options: InputOptions,
  files: InputFiles,
): Promise<Input> {
  if (isPlain(image, options.unpack)) return { kind: 'image', image };
  const { name } = image;
  if (name === STANDARD && !canSeek(0)) {
    return fromStream(standardInput(options.signal, files), image, options, files);
  }
  const path = name === STANDARD ? '/dev/stdin' : name;
  if (!options.unpack) return { kind: 'image', image: { ...image, name: path } };
  return fromFile(path, image, options, files);
}

/** Whether a descriptor is one that images can be read from and written to as they are. */
export function canSeek(fd: number): boolean {
  const stat = fstatSync(fd);
  return stat.isFile() || stat.isBlockDevice();
}

function standardInput(signal: AbortSignal, files: InputFiles): ByteSource {
  const { stdin } = process;
  const stop = (): void => {
    stdin.destroy(new BlockError('ECANCELED'));
  };
  signal.addEventListener('abort', stop);
  files.add(() => {
    signal.removeEventListener('abort', stop);
    stdin.destroy();
  });
  return stdin as AsyncIterable<Uint8Array>;
}

async function fromFile(
  path: string,
  image: ImageArgument,
  options: InputOptions,
  files: InputFiles,
): Promise<Input> {
  let fd: number;
  try {
    fd = openSync(path, 'r');
  } catch (e) {
    if (e instanceof Error && 'code' in e) {
      const cause = new BlockError(String(e.code));
      throw new Failure(`Could not open '${image.name}': ${cause.message}`);
    }
    throw e;
  }
  let closed = false;
  files.add(() => {
    if (!closed) closeSync(fd);
    closed = true;
  });
  const head = new Uint8Array(PROBE_BYTES);
  const bytes = readSync(fd, head, 0, head.byteLength, 0);
  const begin = head.subarray(0, bytes);
  const packing = packingOf(begin);
  if (packing !== undefined) {
    return fromStream(decompressed(packing, pieces(path, 0)), image, options, files);
  }
  if (!isTar(begin)) return { kind: 'image', image: { ...image, name: path } };
  const disk = findOvaDisk(fd, image.name);
  readSync(fd, head, 0, head.byteLength, disk.offset);
  const inner = packingOf(head);
  if (inner !== undefined) {
    const content = decompressed(inner, pieces(path, disk.offset, disk.bytes));
    return fromStream(content, image, options, files);
  }
  const start = head.subarray(0, Math.min(head.byteLength, disk.bytes));
  const format = image.format ?? bestFormat(options.graph, start, disk.name).name;
  const list =
    `driver=${format},file.driver=raw,file.offset=${String(disk.offset)},` +
    `file.size=${String(disk.bytes)},file.file.driver=file,` +
    `file.file.filename=${path.replaceAll(',', ',,')}`;
  return { kind: 'image', image: { name: list, imageOpts: true, format: undefined } };
}

/** A part of a file in pieces. */
function pieces(path: string, start: number, bytes?: number): ByteSource {
  const end = bytes === undefined ? {} : { end: start + bytes - 1 };
  return createReadStream(path, { start, ...end, highWaterMark: 1024 * 1024 });
}

async function fromStream(
  stream: ByteSource,
  image: ImageArgument,
  options: InputOptions,
  files: InputFiles,
): Promise<Input> {
  const { head, all } = await peek(stream);
  if (options.unpack) {
    const packing = packingOf(head);
    if (packing !== undefined) {
      return fromStream(decompressed(packing, all), image, options, files);
    }
    if (isTar(head)) return fromFile(await spool(all, files), image, options, files);
  }
  const format = image.format ?? bestFormat(options.graph, head, image.name).name;
  if (format === 'raw' && options.streams) return { kind: 'stream', bytes: all };
  return { kind: 'image', image: { ...image, name: await spool(all, files), format } };
}

/** The bytes of a stream from `start` on, up to `end` (both counted from its beginning). */
export async function* cutStream(
  stream: ByteSource,
  start: number,
  end: number | undefined,
): ByteSource {
  let at = 0;
  for await (const piece of stream) {
    const from = Math.max(0, start - at);
    const to = Math.min(piece.byteLength, (end ?? Infinity) - at);
    if (to > from) yield piece.subarray(from, to);
    at += piece.byteLength;
    if (at >= (end ?? Infinity)) return;
  }
}

/** The first bytes of a stream, and a stream that still has them. */
async function peek(stream: ByteSource): Promise<{ head: Uint8Array; all: ByteSource }> {
  const iterator = stream[Symbol.asyncIterator]();
  const seen: Uint8Array[] = [];
  let bytes = 0;
  while (bytes < PROBE_BYTES) {
    const next = await iterator.next();
    if (next.done === true) break;
    seen.push(next.value);
    bytes += next.value.byteLength;
  }
  const all = async function* (): ByteSource {
    try {
      yield* seen;
      for (;;) {
        const next = await iterator.next();
        if (next.done === true) return;
        yield next.value;
      }
    } finally {
      await iterator.return?.();
    }
  };
  return { head: new Uint8Array(Buffer.concat(seen, Math.min(bytes, PROBE_BYTES))), all: all() };
}

/** A new temporary file without a name: it is gone with the process. */
export async function namelessFile(): Promise<FileHandle> {
  const folder = mkdtempSync(join(tmpdir(), 'vdisk-'));
  const path = join(folder, 'spool');
  const file = await open(path, 'wx+', 0o600);
  unlinkSync(path);
  rmdirSync(folder);
  return file;
}

/** By what path this process can open a file without a name. */
export function pathOf(file: FileHandle): string {
  return `/proc/self/fd/${String(file.fd)}`;
}

/** Writes a stream to a file without a name; the path by which it can be opened. */
async function spool(stream: ByteSource, files: InputFiles): Promise<string> {
  const file = await namelessFile();
  files.add(() => {
    void file.close();
  });
  let at = 0;
  for await (const piece of stream) {
    await writeSparse(file, piece, at);
    at += piece.byteLength;
  }
  await file.truncate(at);
  return pathOf(file);
}

async function writeSparse(file: FileHandle, piece: Uint8Array, at: number): Promise<void> {
  if (nodeHost().hot.isZero(piece)) return;
  for (let done = 0; done < piece.byteLength;) {
    const { bytesWritten } = await file.write(piece, done, piece.byteLength - done, at + done);
    done += bytesWritten;
  }
}
