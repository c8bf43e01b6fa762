/** `aio_read`, `aio_write`, `aio_flush`: requests that run beside later commands. */
import type { Backend } from '../../../block/backend.js';
import { errorText } from '../../../block/errors.js';
import { Perm, Req } from '../../../block/types.js';
import { Iov } from '../../../lib/iov.js';
import type { Done, Reporting } from '../request.js';
import { dump, filled, readLengths, report, verify } from '../request.js';
import type { ImageCommand, IoSession } from '../session.js';
import { letters } from '../session.js';
import { readOptions, readPattern, readSize, refuse, refuseUsage } from '../words.js';
import { DEFAULT_PATTERN } from './write.js';

const sharedDoc = [
  'The command ends when the request is on its way; what becomes of it is printed when it',
  'completes, at the latest by aio_flush or at the end. Errors do not fail the command.',
];

const sharedOptions = letters({
  C: 'print the statistics as one line of values between commas',
  i: 'submit nothing: an invalid request, for the accounting of such',
  q: 'print neither data nor statistics',
  r: 'registered buffer; accepted, makes no difference here',
});

/**
 * Lets `request` run. What it prints appears in a later turn of the event loop, even if it fails
 * at once: a command's own output comes first.
 */
function begin(
  session: IoSession,
  what: string,
  request: () => Promise<void>,
  done: () => void,
): void {
  const finish = async (): Promise<void> => {
    let failure: { readonly cause: unknown } | undefined;
    try {
      await request();
    } catch (cause) {
      failure = { cause };
    }
    await nextTurn();
    if (failure === undefined) done();
    else session.out(`${what} failed: ${errorText(failure.cause)}\n`);
  };
  session.start(finish());
}

function nextTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

export const aioRead: ImageCommand = {
  kind: 'image',
  name: 'aio_read',
  min: 2,
  args: '[-Ciqrv] [-P pattern] off len [len..]',
  summary: 'begin a read into one buffer for each len, starting at off',
  doc: ["'aio_read -v 512 1k 1k' prints 2 KiB that begin at byte 512.", ...sharedDoc],
  options: {
    ...sharedOptions,
    ...letters({
      P: 'BYTE: compare what was read with this byte',
      v: 'print the data in hexadecimal',
    }),
  },
  run(session, words, backend) {
    const how: Reporting = { quiet: false, terse: false };
    const flags = { invalid: false, verbose: false };
    let pattern: number | undefined;
    const operands = readOptions(
      session,
      aioRead,
      words,
      (letter, value) => {
        if (letter === 'C') how.terse = true;
        if (letter === 'i') flags.invalid = true;
        if (letter === 'P') pattern = readPattern(session, value);
        if (letter === 'q') how.quiet = true;
        if (letter === 'v') flags.verbose = true;
      },
      'i',
    );
    if (flags.invalid) {
      session.out('injecting invalid read request\n');
      return true;
    }
    const [offsetWord, ...lengthWords] = operands;
    if (offsetWord === undefined || lengthWords.length === 0) {
      return refuseUsage(session, aioRead);
    }
    const offset = readSize(session, offsetWord);
    const data = Iov.from(readLengths(session, lengthWords).map((n) => new Uint8Array(n)));
    const done: Done = { verb: 'read', offset, bytes: data.bytes, startedMs: performance.now() };
    begin(
      session,
      'readv',
      () => backend.read(offset, data),
      () => {
        const expected = { pattern: pattern ?? 0, start: 0, bytes: data.bytes };
        if (pattern !== undefined) verify(session, data, offset, expected);
        if (flags.verbose && !how.quiet) dump(session, data, offset);
        report(session, how, done);
      },
    );
    return true;
  },
};

interface AioWriteOptions {
  fua: boolean;
  invalid: boolean;
  registered: boolean;
  unmap: boolean;
  zero: boolean;
  pattern: number | undefined;
}

export const aioWrite: ImageCommand = {
  kind: 'image',
  name: 'aio_write',
  min: 2,
  args: '[-Cfiqruz] [-P pattern] off len [len..]',
  summary: 'begin a write from one buffer for each len, starting at off',
  doc: ["'aio_write 512 1k 1k' fills 2 KiB that begin at byte 512.", ...sharedDoc],
  options: {
    ...sharedOptions,
    ...letters({
      f: 'the write is durable when it completes (Force Unit Access)',
      P: `BYTE: fill with this byte instead of 0x${DEFAULT_PATTERN.toString(16)}; no use with -z`,
      u: 'with -z: space may be released',
      z: 'write zeroes by the way that the format has for it',
    }),
  },
  perm: Perm.write,
  run(session, words, backend) {
    const how: Reporting = { quiet: false, terse: false };
    const options: AioWriteOptions = {
      fua: false,
      invalid: false,
      registered: false,
      unmap: false,
      zero: false,
      pattern: undefined,
    };
    const operands = readOptions(
      session,
      aioWrite,
      words,
      (letter, value) => {
        if (letter === 'C') how.terse = true;
        if (letter === 'f') options.fua = true;
        if (letter === 'i') options.invalid = true;
        if (letter === 'P') options.pattern = readPattern(session, value);
        if (letter === 'q') how.quiet = true;
        if (letter === 'r') options.registered = true;
        if (letter === 'u') options.unmap = true;
        if (letter === 'z') options.zero = true;
      },
      'i',
    );
    if (options.invalid) {
      session.out('injecting invalid write request\n');
      return true;
    }
    const [offsetWord, ...lengthWords] = operands;
    if (offsetWord === undefined || lengthWords.length === 0) {
      return refuseUsage(session, aioWrite);
    }
    checkCombination(session, options, lengthWords.length);
    const offset = readSize(session, offsetWord);
    if (options.zero) beginZeroes(session, backend, how, options, offset, lengthWords[0] ?? '');
    else beginWrite(session, backend, how, options, offset, lengthWords);
    return true;
  },
};

function checkCombination(session: IoSession, options: AioWriteOptions, lengths: number): void {
  const { zero, unmap, registered } = options;
  if (zero && lengths !== 1) refuse(session, '-z supports only a single length parameter');
  if (unmap && !zero) refuse(session, '-u requires -z to be specified');
  if (zero && registered) {
    refuse(session, 'cannot combine zero write with registered I/O buffer');
  }
}

function beginZeroes(
  session: IoSession,
  backend: Backend,
  how: Reporting,
  options: AioWriteOptions,
  offset: number,
  word: string,
): void {
  const bytes = readSize(session, word);
  const done: Done = { verb: 'wrote', offset, bytes, startedMs: performance.now() };
  const flags = (options.fua ? Req.fua : 0) | (options.unmap ? Req.mayUnmap : 0);
  begin(
    session,
    'aio_write',
    () => backend.writeZeroes(offset, bytes, flags),
    () => {
      report(session, how, done);
    },
  );
}

function beginWrite(
  session: IoSession,
  backend: Backend,
  how: Reporting,
  options: AioWriteOptions,
  offset: number,
  lengths: readonly string[],
): void {
  const data = filled(readLengths(session, lengths), options.pattern ?? DEFAULT_PATTERN);
  const done: Done = { verb: 'wrote', offset, bytes: data.bytes, startedMs: performance.now() };
  begin(
    session,
    'aio_write',
    () => backend.write(offset, data, options.fua ? Req.fua : 0),
    () => {
      report(session, how, done);
    },
  );
}

export const aioFlush: ImageCommand = {
  kind: 'image',
  name: 'aio_flush',
  min: 0,
  max: 0,
  summary: 'wait until no aio request is in flight',
  async run(session) {
    await session.drain();
    return true;
  },
};
