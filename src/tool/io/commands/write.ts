/** `write` and `writev`: one request, waited for. */
import type { Backend } from '../../../block/backend.js';
import { Perm, Req } from '../../../block/types.js';
import { Iov } from '../../../lib/iov.js';
import type { Reporting } from '../request.js';
import { filled, filledFromFile, readLengths, report, succeeds, writeVmState } from '../request.js';
import type { ImageCommand, IoSession } from '../session.js';
import { letters } from '../session.js';
import {
  MAX_REQUEST,
  readOptions,
  readPattern,
  readSize,
  refuse,
  refuseUsage,
  requireSectors,
} from '../words.js';

/** The byte that is written when none is given. */
export const DEFAULT_PATTERN = 0xcd;

const sharedOptions = letters({
  C: 'print the statistics as one line of values between commas',
  f: 'the write is durable when it completes (Force Unit Access)',
  P: `BYTE: fill with this byte instead of 0x${DEFAULT_PATTERN.toString(16)}`,
  q: 'print no statistics',
  r: 'registered buffer; accepted, makes no difference here',
});

interface WriteOptions {
  vmState: boolean;
  compressed: boolean;
  fua: boolean;
  noFallback: boolean;
  registered: boolean;
  unmap: boolean;
  zero: boolean;
  pattern: number | undefined;
  source: string | undefined;
}

export const write: ImageCommand = {
  kind: 'image',
  name: 'write',
  alias: 'w',
  min: 2,
  args: '[-bcCfnqruz] [-P pattern | -s source_file] off len',
  summary: 'write len bytes at off',
  doc: ["'write 512 1k' fills 1 KiB that begins at byte 512."],
  options: {
    ...letters({
      b: 'write vm state instead of the disk',
      c: 'store the data compressed',
      n: 'with -z: fail rather than write zeroes as data',
      p: 'accepted, as in old scripts',
      s: 'FILE: fill with the content of this file, repeated',
      u: 'with -z: space may be released',
      z: 'write zeroes by the way that the format has for it',
    }),
    ...sharedOptions,
  },
  perm: Perm.write,
  async run(session, words, backend) {
    const how: Reporting = { quiet: false, terse: false };
    const options: WriteOptions = {
      vmState: false,
      compressed: false,
      fua: false,
      noFallback: false,
      registered: false,
      unmap: false,
      zero: false,
      pattern: undefined,
      source: undefined,
    };
    const operands = readOptions(session, write, words, (letter, value) => {
      if (letter === 'C') how.terse = true;
      else if (letter === 'q') how.quiet = true;
      else setOption(session, options, letter, value);
    });
    const [offsetWord, bytesWord] = operands;
    if (offsetWord === undefined || bytesWord === undefined || operands.length > 2) {
      return refuseUsage(session, write);
    }
    checkCombination(session, options);
    const offset = readSize(session, offsetWord);
    const bytes = readSize(session, bytesWord);
    if (bytes > MAX_REQUEST && !options.noFallback) {
      refuse(session, `length cannot exceed ${MAX_REQUEST} without -n, given ${bytesWord}`);
    }
    if (options.vmState || options.compressed) {
      requireSectors(session, offset, 'offset');
      requireSectors(session, bytes, 'count');
    }
    if (options.zero && options.registered) {
      refuse(session, 'cannot combine zero write with registered I/O buffer');
    }
    const data = options.zero ? Iov.alloc(0) : contentOf(session, options, bytes);
    const startedMs = performance.now();
    const done = await succeeds(session, 'write', () =>
      submit(backend, options, offset, bytes, data),
    );
    if (done) report(session, how, { verb: 'wrote', offset, bytes, startedMs });
    return done;
  },
};

function setOption(session: IoSession, options: WriteOptions, letter: string, value: string): void {
  if (letter === 'b') options.vmState = true;
  if (letter === 'c') options.compressed = true;
  if (letter === 'f') options.fua = true;
  if (letter === 'n') options.noFallback = true;
  if (letter === 'P') options.pattern = readPattern(session, value);
  if (letter === 'r') options.registered = true;
  if (letter === 's') options.source = value;
  if (letter === 'u') options.unmap = true;
  if (letter === 'z') options.zero = true;
}

function checkCombination(session: IoSession, options: WriteOptions): void {
  const { vmState, compressed, fua, noFallback, unmap, zero, pattern, source } = options;
  if (vmState && zero) refuse(session, '-b and -z cannot be specified at the same time');
  if (fua && (vmState || compressed)) {
    refuse(session, '-f and -b or -c cannot be specified at the same time');
  }
  if (noFallback && !zero) refuse(session, '-n requires -z to be specified');
  if (unmap && !zero) refuse(session, '-u requires -z to be specified');
  if (Number(zero) + Number(pattern !== undefined) + Number(source !== undefined) > 1) {
    refuse(session, 'Only one of -z, -P, and -s can be specified at the same time');
  }
}

function contentOf(session: IoSession, options: WriteOptions, bytes: number): Iov {
  if (options.source !== undefined) return filledFromFile(session, options.source, bytes);
  return filled([bytes], options.pattern ?? DEFAULT_PATTERN);
}

function submit(
  backend: Backend,
  options: WriteOptions,
  offset: number,
  bytes: number,
  data: Iov,
): Promise<void> {
  if (options.vmState) return writeVmState(backend, offset, data);
  let flags: number = options.fua ? Req.fua : 0;
  if (!options.zero) {
    return backend.write(offset, data, options.compressed ? Req.compressed : flags);
  }
  if (options.unmap) flags |= Req.mayUnmap;
  if (options.noFallback) flags |= Req.noFallback;
  return backend.writeZeroes(offset, bytes, flags);
}

export const writev: ImageCommand = {
  kind: 'image',
  name: 'writev',
  min: 2,
  args: '[-Cfqr] [-P pattern] off len [len..]',
  summary: 'write from one buffer for each len, starting at off, in one request',
  doc: ["'writev 512 1k 1k' fills 2 KiB that begin at byte 512."],
  options: sharedOptions,
  perm: Perm.write,
  async run(session, words, backend) {
    const how: Reporting = { quiet: false, terse: false };
    let fua = false;
    let pattern = DEFAULT_PATTERN;
    const operands = readOptions(session, writev, words, (letter, value) => {
      if (letter === 'C') how.terse = true;
      if (letter === 'f') fua = true;
      if (letter === 'P') pattern = readPattern(session, value);
      if (letter === 'q') how.quiet = true;
    });
    const [offsetWord, ...lengthWords] = operands;
    if (offsetWord === undefined || lengthWords.length === 0) {
      return refuseUsage(session, writev);
    }
    const offset = readSize(session, offsetWord);
    const data = filled(readLengths(session, lengthWords), pattern);
    const startedMs = performance.now();
    const done = await succeeds(session, 'writev', () =>
      backend.write(offset, data, fua ? Req.fua : 0),
    );
    if (done) report(session, how, { verb: 'wrote', offset, bytes: data.bytes, startedMs });
    return done;
  },
};
