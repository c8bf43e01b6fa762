/** What reading and writing commands share: buffers, patterns, vm state, reports. */
import { closeSync, openSync, readSync } from 'node:fs';
import type { Backend } from '../../block/backend.js';
import { BlockError, errorText } from '../../block/errors.js';
import type { BlockNode } from '../../block/node.js';
import { errnoText } from '../../lib/errno.js';
import { Iov } from '../../lib/iov.js';
import type { IoSession } from './session.js';
import { dumpLines, formatReport } from './text.js';
import { MAX_REQUEST, readSize, refuse, Refused } from './words.js';

/** How a request is reported. */
export interface Reporting {
  quiet: boolean;
  /** One line of values between commas. */
  terse: boolean;
}

/** What a request did. */
export interface Done {
  readonly verb: 'read' | 'wrote' | 'discard';
  readonly offset: number;
  readonly bytes: number;
  readonly startedMs: number;
}

export function report(session: IoSession, how: Reporting, done: Done): void {
  if (how.quiet) return;
  const { verb, offset, bytes, startedMs } = done;
  const seconds = (performance.now() - startedMs) / 1000;
  session.out(formatReport({ verb, offset, wanted: bytes, done: bytes, seconds }, how.terse));
}

/** Runs a request; on an error prints `WHAT failed: REASON` and answers false. */
export async function succeeds(
  session: IoSession,
  what: string,
  request: () => Promise<void>,
): Promise<boolean> {
  try {
    await request();
    return true;
  } catch (e) {
    session.out(`${what} failed: ${errorText(e)}\n`);
    return false;
  }
}

/** Where and with what a pattern is compared. */
export interface Expected {
  readonly pattern: number;
  /** Range inside the data that was read. */
  readonly start: number;
  readonly bytes: number;
}

/** Compares; prints the complaint and answers false when a byte differs. */
export function verify(session: IoSession, data: Iov, offset: number, expected: Expected): boolean {
  const { pattern, start, bytes } = expected;
  if (data.slice(start, bytes).bufs.every((buf) => isFilledWith(buf, pattern))) return true;
  session.out(
    `Pattern verification failed at offset ${String(offset + start)}, ${String(bytes)} bytes\n`,
  );
  return false;
}

function isFilledWith(data: Uint8Array, value: number): boolean {
  if (data.length === 0) return true;
  // Each byte equals its neighbour, and the first is right.
  return data[0] === value && Buffer.compare(data.subarray(1), data.subarray(0, -1)) === 0;
}

/** Prints the bytes that were read, with their offset in the image. */
export function dump(session: IoSession, data: Iov, offset: number): void {
  for (const text of dumpLines(data.flatten(), offset)) session.out(text);
}

/** Memory of `pieces` lengths with each byte set to `value`. */
export function filled(pieces: readonly number[], value: number): Iov {
  return Iov.from(pieces.map((bytes) => new Uint8Array(bytes).fill(value)));
}

/** Lengths of a vectored request; each, and their sum, fits in one request. */
export function readLengths(session: IoSession, words: readonly string[]): number[] {
  let total = 0;
  return words.map((word) => {
    const bytes = readSize(session, word);
    if (bytes > MAX_REQUEST) {
      refuse(session, `Argument '${word}' exceeds maximum size ${MAX_REQUEST}`);
    }
    total += bytes;
    if (total > MAX_REQUEST) {
      refuse(session, `The total number of bytes exceed the maximum size ${MAX_REQUEST}`);
    }
    return bytes;
  });
}

/** The content of a host file, repeated until `bytes` bytes are full. */
export function filledFromFile(session: IoSession, path: string, bytes: number): Iov {
  const complain = (text: string): never => {
    session.output.err(`${path}: ${text}\n`);
    throw new Refused(text);
  };
  const data = new Uint8Array(bytes);
  let got = 0;
  try {
    const fd = openSync(path, 'r');
    try {
      for (let n = -1; n !== 0 && got < bytes; got += n)
        n = readSync(fd, data, got, bytes - got, null);
    } finally {
      closeSync(fd);
    }
  } catch (e) {
    complain(errorText(e));
  }
  if (got === 0) complain('file is empty');
  for (let at = got; at < bytes; at += got) data.copyWithin(at, 0, Math.min(got, bytes - at));
  return Iov.of(data);
}

/** The node at or below `node` that stores vm state. Throws ENOTSUP when there is none. */
function vmStateNode(node: BlockNode): BlockNode {
  for (let at: BlockNode | undefined = node; at !== undefined; at = at.file?.node) {
    if (at.instance.readVmState !== undefined) return at;
  }
  throw new BlockError('ENOTSUP', errnoText('ENOTSUP'));
}

export async function readVmState(backend: Backend, offset: number, data: Iov): Promise<void> {
  await vmStateNode(backend.node).instance.readVmState?.(offset, data);
}

export async function writeVmState(backend: Backend, offset: number, data: Iov): Promise<void> {
  const { instance } = vmStateNode(backend.node);
  if (instance.writeVmState === undefined) throw new BlockError('ENOTSUP');
  await instance.writeVmState(offset, data);
  if (!backend.writeCache) await backend.flush();
}
