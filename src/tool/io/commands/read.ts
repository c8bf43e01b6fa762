/** `read` and `readv`: one request, waited for. */
import { Iov } from '../../../lib/iov.js';
import type { Expected, Reporting } from '../request.js';
import { dump, readLengths, readVmState, report, succeeds, verify } from '../request.js';
import type { ImageCommand } from '../session.js';
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

const sharedOptions = letters({
  C: 'print the statistics as one line of values between commas',
  P: 'BYTE: compare what was read with this byte; the command fails where they differ',
  q: 'print neither data nor statistics',
  r: 'registered buffer; accepted, makes no difference here',
  v: 'print the data in hexadecimal',
});

export const read: ImageCommand = {
  kind: 'image',
  name: 'read',
  alias: 'r',
  min: 2,
  args: '[-abCqrv] [-P pattern [-s off] [-l len]] off len',
  summary: 'read len bytes at off',
  doc: ["'read -v 512 1k' prints 1 KiB that begins at byte 512."],
  options: {
    ...letters({
      b: 'read vm state instead of the disk',
      l: 'LEN: with -P: compare this many bytes only',
      p: 'accepted, as in old scripts',
      s: 'OFF: with -P: compare from this byte of the data on',
    }),
    ...sharedOptions,
  },
  async run(session, words, backend) {
    const how: Reporting = { quiet: false, terse: false };
    const flags = { vmState: false, verbose: false, registered: false };
    let pattern: number | undefined;
    let length: number | undefined;
    let start: number | undefined;
    const operands = readOptions(session, read, words, (letter, value) => {
      if (letter === 'b') flags.vmState = true;
      if (letter === 'C') how.terse = true;
      if (letter === 'l') length = readSize(session, value);
      if (letter === 'P') pattern = readPattern(session, value);
      if (letter === 'q') how.quiet = true;
      if (letter === 'r') flags.registered = true;
      if (letter === 's') start = readSize(session, value);
      if (letter === 'v') flags.verbose = true;
    });
    const [offsetWord, bytesWord] = operands;
    if (offsetWord === undefined || bytesWord === undefined || operands.length > 2) {
      return refuseUsage(session, read);
    }
    const offset = readSize(session, offsetWord);
    const bytes = readSize(session, bytesWord);
    if (bytes > MAX_REQUEST) {
      refuse(session, `length cannot exceed ${MAX_REQUEST}, given ${bytesWord}`);
    }
    if (pattern === undefined && (length !== undefined || start !== undefined)) {
      refuseUsage(session, read);
    }
    const from = start ?? 0;
    const expected: Expected = {
      pattern: pattern ?? 0,
      start: from,
      bytes: length ?? bytes - from,
    };
    if (expected.bytes < 0 || from + expected.bytes > bytes) {
      refuse(session, 'pattern verification range exceeds end of read data');
    }
    if (flags.vmState) {
      requireSectors(session, offset, 'offset');
      requireSectors(session, bytes, 'count');
      if (flags.registered) {
        refuse(session, 'I/O buffer registration is not supported when reading from vmstate');
      }
    }
    const data = Iov.alloc(bytes);
    const startedMs = performance.now();
    const done = await succeeds(session, 'read', () =>
      flags.vmState ? readVmState(backend, offset, data) : backend.read(offset, data),
    );
    if (!done) return false;
    const equal = pattern === undefined || verify(session, data, offset, expected);
    if (flags.verbose && !how.quiet) dump(session, data, offset);
    report(session, how, { verb: 'read', offset, bytes, startedMs });
    return equal;
  },
};

export const readv: ImageCommand = {
  kind: 'image',
  name: 'readv',
  min: 2,
  args: '[-Cqrv] [-P pattern] off len [len..]',
  summary: 'read into one buffer for each len, starting at off, in one request',
  doc: ["'readv -v 512 1k 1k' prints 2 KiB that begin at byte 512."],
  options: sharedOptions,
  async run(session, words, backend) {
    const how: Reporting = { quiet: false, terse: false };
    const flags = { verbose: false };
    let pattern: number | undefined;
    const operands = readOptions(session, readv, words, (letter, value) => {
      if (letter === 'C') how.terse = true;
      if (letter === 'P') pattern = readPattern(session, value);
      if (letter === 'q') how.quiet = true;
      if (letter === 'v') flags.verbose = true;
    });
    const [offsetWord, ...lengthWords] = operands;
    if (offsetWord === undefined || lengthWords.length === 0) {
      return refuseUsage(session, readv);
    }
    const offset = readSize(session, offsetWord);
    const lengths = readLengths(session, lengthWords);
    const data = Iov.from(lengths.map((n) => new Uint8Array(n)));
    const startedMs = performance.now();
    const done = await succeeds(session, 'readv', () => backend.read(offset, data));
    if (!done) return false;
    const expected = { pattern: pattern ?? 0, start: 0, bytes: data.bytes };
    const equal = pattern === undefined || verify(session, data, offset, expected);
    if (flags.verbose && !how.quiet) dump(session, data, offset);
    report(session, how, { verb: 'read', offset, bytes: data.bytes, startedMs });
    return equal;
  },
};
