// Random calls of vdisk-io: options and commands, right and wrong, on images that exist (see
// `prepareImages`), do not exist, or are opened in other ways. Left out is what ends the program by
// a signal, what waits for a time or a request for ever, and help, which has words of its own.
import type { Random } from '../support/index.js';

const IMAGES = [
  ['-f', 'raw', 'r.raw'],
  ['-f', 'qcow2', 'a.qcow2'],
  ['-f', 'qcow2', 't.qcow2'],
  ['-f', 'qcow2', 't2.qcow2'],
  ['-f', 'qcow2', 'u.qcow2'],
  ['-f', 'qcow2', 's.qcow2'],
  ['-f', 'qcow2', 'v2.qcow2'],
  ['-f', 'qcow2', 'x.qcow2'],
  ['-f', 'qcow2', 'd.qcow2'],
  ['a.qcow2'],
  ['t.qcow2'],
];
const STRANGE = [
  [],
  ['none'],
  ['.'],
  [''],
  ['-f', 'qcow2', 'txt'],
  ['-f', 'raw', 'empty'],
  ['-f', 'nope', 'a.qcow2'],
  ['-f', 'raw', '--image-opts', 'driver=raw,file.filename=r.raw'],
  ['--image-opts', 'driver=qcow2,file.filename=a.qcow2'],
  ['--image-opts', 'driver=null-co,size=1M'],
  ['--image-opts', 'driver=null-co,size=1M,read-zeroes=on'],
  ['--image-opts', 'driver=nope'],
  ['json:{"driver":"qcow2","file.filename":"a.qcow2"}'],
  ['json:{'],
  ['blkdebug::a.qcow2'],
  ['-f', 'raw', 'r.raw', 'a.qcow2'],
];
const OPTIONS = [
  ['-r'],
  ['-s'],
  ['-n'],
  ['-C'],
  ['-U'],
  ['-k'],
  ['-m'],
  ['-i', 'threads'],
  ['-i', 'native'],
  ['-i', 'bad'],
  ['-t', 'none'],
  ['-t', 'writeback'],
  ['-t', 'unsafe'],
  ['-t', 'bad'],
  ['-d', 'unmap'],
  ['-d', 'off'],
  ['-d', 'bad'],
  ['--cache=writethrough'],
  ['--discard', 'ignore'],
  ['--read-only'],
  ['--bogus'],
  ['-z'],
  ['-f'],
];

const sizes = (random: Random): string =>
  random.chance(0.85)
    ? random.pick(['0', '512', '4k', '64k', '65536', '100', '1', '0x200', '960k', '1M', '700k'])
    : random.pick(['', '-1', 'x', '1z', '1.5k', '2M', '3G', '8E', '1e3', '+1', '0.1', '4P']);
const patterns = (random: Random): string =>
  random.pick(['0', '1', '2', '7', '0xff', '255', '256', '-1', 'x', '']);

type Part = (random: Random) => string;

const flags =
  (...words: readonly string[]): Part =>
  (random) =>
    Array.from({ length: random.pick([0, 0, 1, 1, 2]) }, () => random.pick(words)).join(' ');
const filled =
  (part: Part): Part =>
  (random) =>
    random.chance(0.5) ? `${part(random)} -P ${patterns(random)}` : part(random);
const range: Part = (random) => `${sizes(random)} ${sizes(random)}`;
const vector: Part = (random) =>
  [sizes(random), ...Array.from({ length: random.int(1, 3) }, () => sizes(random))].join(' ');
const openWords: Part = (random) =>
  random.pick([
    'a.qcow2',
    '-r a.qcow2',
    '-o driver=raw r.raw',
    '-o driver=qcow2 a.qcow2',
    '-o driver=nope a.qcow2',
    '-o foo',
    '-s -o driver=qcow2 t.qcow2',
    'none',
    '',
    '-x a.qcow2',
    '-o driver=qcow2,backing.driver=raw t.qcow2',
    '-o lazy-refcounts=on a.qcow2',
    '-r -o driver=raw,offset=512,size=1024 r.raw',
    'a.qcow2 r.raw',
  ]);
const reopenWords: Part = (random) =>
  random.pick([
    '',
    '-r',
    '-w',
    '-c none',
    '-c writeback',
    '-c bad',
    '-o lazy-refcounts=on',
    '-o driver=raw',
    '-o read-only=on',
    '-r -o read-only=off',
    '-o foo=bar',
    '-o cache.direct=on',
    '-c none -o cache.direct=on',
    '-o detect-zeroes=on',
    '-o discard=unmap',
    '-o overlap-check=none',
    '-o overlap-check=bad',
    '-o l2-cache-size=64k',
    '-o l2-cache-size=1',
    '-r -w',
    '-x',
    'a.qcow2',
  ]);

/** Words after each command. */
const COMMANDS: Readonly<Record<string, Part>> = {
  read: (random) => {
    const options = flags('-b', '-C', '-q', '-r', '-p', '-s 100', '-l 512', '-x');
    return `${filled(options)(random)} ${range(random)}`;
  },
  write: (random) =>
    `${filled(
      flags('-b', '-c', '-C', '-f', '-n', '-q', '-r', '-u', '-z', '-s txt', '-s none', '-x'),
    )(random)} ${range(random)}`,
  readv: (random) => `${filled(flags('-C', '-q', '-r', '-x'))(random)} ${vector(random)}`,
  writev: (random) => `${filled(flags('-C', '-f', '-q', '-r', '-x'))(random)} ${vector(random)}`,
  aio_read: (random) => `${filled(flags('-C', '-i', '-q', '-r'))(random)} ${vector(random)}`,
  aio_write: (random) =>
    `${filled(flags('-C', '-f', '-i', '-q', '-r', '-u', '-z'))(random)} ${vector(random)}`,
  aio_flush: () => '',
  flush: () => '',
  discard: (random) => `${flags('-C', '-q', '-x')(random)} ${range(random)}`,
  truncate: (random) => `${flags('-m off', '-m falloc', '-m bad')(random)} ${sizes(random)}`,
  alloc: range,
  map: () => '',
  length: () => '',
  info: () => '',
  open: openWords,
  close: () => '',
  reopen: reopenWords,
  quit: () => '',
  zone_report: range,
  zone_open: range,
  zone_append: vector,
  sleep: (random) => random.pick(['0', '1', 'x', '']),
  remove_break: () => 'a',
  resume: () => 'a',
  break: (random) => random.pick(['read_aio a', 'nope a', 'a']),
  nonsense: () => '1',
};
const names = Object.keys(COMMANDS);
const likely = ['read', 'read', 'write', 'write', 'write', 'map', 'aio_write', 'readv', 'discard'];

function command(random: Random): string {
  const name = random.pick([...names, ...likely, ...likely]);
  let words = COMMANDS[name]?.(random) ?? '';
  const shorter = random.chance(0.03);
  const longer = !shorter && random.chance(0.03);
  if (shorter) words = words.split(' ').slice(0, -1).join(' ');
  if (longer) words += ' 1';
  return `${name} ${words}`.replace(/ +/g, ' ').trim();
}

/** The words of a random call; it always has commands, and so reads no standard input. */
export function ioLine(random: Random): string[] {
  const words: string[] = [];
  for (let i = random.pick([0, 0, 0, 1, 2]); i > 0; i--) words.push(...random.pick(OPTIONS));
  const commands = Array.from({ length: random.int(1, 6) }, () => command(random));
  for (const each of commands) {
    words.push('-c', each);
    // When else it completes is a matter of luck.
    if (each.startsWith('aio_')) words.push('-c', 'aio_flush');
  }
  return [...words, ...(random.chance(0.85) ? random.pick(IMAGES) : random.pick(STRANGE))];
}
