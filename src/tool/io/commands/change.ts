/** `flush`, `discard`, `truncate`. */
import type { Preallocation } from '../../../block/types.js';
import { Perm } from '../../../block/types.js';
import type { Reporting } from '../request.js';
import { report, succeeds } from '../request.js';
import type { ImageCommand } from '../session.js';
import { letters } from '../session.js';
import { MAX_REQUEST, readOptions, readSize, refuse, refuseUsage } from '../words.js';

export const flush: ImageCommand = {
  kind: 'image',
  name: 'flush',
  alias: 'f',
  min: 0,
  max: 0,
  summary: 'make all completed writes durable',
  run(_session, _words, backend) {
    // The error has no text: only the exit status tells it.
    return backend.flush().then(
      () => true,
      () => false,
    );
  },
};

export const discard: ImageCommand = {
  kind: 'image',
  name: 'discard',
  alias: 'd',
  min: 2,
  args: '[-Cq] off len',
  summary: 'give up the content of len bytes at off',
  doc: ["'discard 512 1k' discards 1 KiB that begins at byte 512."],
  options: letters({
    C: 'print the statistics as one line of values between commas',
    q: 'print no statistics',
  }),
  perm: Perm.write,
  async run(session, words, backend) {
    const how: Reporting = { quiet: false, terse: false };
    const operands = readOptions(session, discard, words, (letter) => {
      if (letter === 'C') how.terse = true;
      if (letter === 'q') how.quiet = true;
    });
    const [offsetWord, bytesWord] = operands;
    if (offsetWord === undefined || bytesWord === undefined || operands.length > 2) {
      return refuseUsage(session, discard);
    }
    const offset = readSize(session, offsetWord);
    const bytes = readSize(session, bytesWord);
    if (bytes > MAX_REQUEST) {
      refuse(session, `length cannot exceed ${MAX_REQUEST}, given ${bytesWord}`);
    }
    const startedMs = performance.now();
    const done = await succeeds(session, 'discard', () => backend.discard(offset, bytes));
    if (done) report(session, how, { verb: 'discard', offset, bytes, startedMs });
    return done;
  },
};

const preallocations: readonly string[] = ['off', 'metadata', 'falloc', 'full'];

function isPreallocation(word: string): word is Preallocation {
  return preallocations.includes(word);
}

export const truncate: ImageCommand = {
  kind: 'image',
  name: 'truncate',
  alias: 't',
  min: 1,
  max: 3,
  args: '[-m prealloc_mode] off',
  summary: 'make the disk end at off',
  options: letters({ m: 'MODE: how the new area is allocated: off, metadata, falloc or full' }),
  perm: Perm.write | Perm.resize,
  async run(session, words, backend) {
    let prealloc: Preallocation = 'off';
    let wrong: string | undefined;
    const operands = readOptions(session, truncate, words, (_letter, value) => {
      if (isPreallocation(value)) prealloc = value;
      else wrong ??= value;
    });
    if (wrong !== undefined) return session.error(`Invalid preallocation mode '${wrong}'`);
    const [word] = operands;
    if (word === undefined) return refuseUsage(session, truncate);
    // The complaint shows the first word, whatever it is; scripts that match it know that.
    const bytes = readSize(session, word, words[1]);
    try {
      await backend.truncate(bytes, { exact: false, prealloc });
      return true;
    } catch (e) {
      return session.error(e);
    }
  },
};
