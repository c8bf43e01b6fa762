// Random command lines of vdisk-img: every subcommand with its options, values right and wrong, and
// names of images that exist (see `prepareImages`), do not exist, or are written in other ways.
import type { Random } from '../support/index.js';

type Value = (random: Random) => string;

interface Option {
  readonly names: readonly string[];
  readonly value?: Value;
}

interface Grammar {
  readonly options: readonly Option[];
  readonly operands: (random: Random) => string[];
}

/** Images of the folder in which a line is run. */
const IMAGES = [
  'r.raw',
  'a.qcow2',
  't.qcow2',
  't2.qcow2',
  'u.qcow2',
  's.qcow2',
  'v2.qcow2',
  'x.qcow2',
  'd.qcow2',
];
const STRANGE = ['txt', 'empty', 'none', 'nodir/x', '.'];
const WRITTEN_OTHERWISE = [
  'json:{"driver":"qcow2","file":{"driver":"file","filename":"a.qcow2"}}',
  'json:{"driver":"raw","file.filename":"r.raw"}',
  'json:{',
  'json:{}',
  'file:a.qcow2',
  'nbd:x',
  'nope:x',
  'driver=qcow2,file.filename=a.qcow2',
  'driver=raw,file.filename=r.raw',
  'file.filename=a.qcow2',
  'driver=nope',
  'driver=qcow2',
  'json:{"driver":"null-co","size":65536}',
  'driver=null-co,size=1M,read-zeroes=on',
  'blkdebug::a.qcow2',
  './a.qcow2',
  '',
];

const oneOf =
  (...words: readonly string[]): Value =>
  (random) =>
    random.pick(words);

/** Mostly one of the first words, sometimes one of the others. */
function mostly(likely: readonly string[], others: readonly string[], part: number): Value {
  return (random) => (random.chance(part) ? random.pick(likely) : random.pick(others));
}

const image: Value = (random) => {
  if (random.chance(0.14)) return random.pick(WRITTEN_OTHERWISE);
  return random.chance(0.15) ? random.pick(STRANGE) : random.pick(IMAGES);
};
const target = oneOf('n1', 'n1', 'n1', 'n2', 'a.qcow2', 'r.raw', 'nodir/n', 's.qcow2', '.');
const format = mostly(
  ['raw', 'qcow2'],
  ['nope', '', 'luks', 'vdi', 'file', 'qed', 'vpc', 'vhdx', 'vmdk', 'null-co'],
  0.8,
);
const size = mostly(
  ['1M', '512', '0', '64k', '1', '1.5M', '2M', '1048576', '3M'],
  ['100', '-1', 'x', '', '1z', '0x1000', '1e3', '1 M', '+1M', '-512k', '+0', '1025', '1T', '0.3k'],
  0.7,
);
const cache = mostly(
  ['none', 'writeback', 'unsafe'],
  ['directsync', 'writethrough', 'bad', '', 'off'],
  0.7,
);
const output = oneOf('human', 'json', 'json', 'xml', '');
const snapshot = oneOf(
  'snap',
  '1',
  'snapshot.id=1',
  'snapshot.name=snap',
  'nosuch',
  '',
  'snapshot.foo=1',
  'snapshot.id=1,snapshot.name=snap',
);
const bitmap = oneOf('b0', 'b0', 'b1', '', 'x'.repeat(20));
const rate = oneOf('1G', 'x', '0', '1M');
const object = oneOf(
  'secret,id=s0,data=abc',
  'secret,id=s0',
  'secret',
  'nope,id=a',
  'secret,id=,data=a',
  'secret,data=a,id=1x',
  '{"qom-type":"secret","id":"s0","data":"abc"}',
  'secret,id=s0,file=/nonexistent',
);

const CREATE = [
  'cluster_size=64k',
  'cluster_size=4k',
  'cluster_size=512',
  'cluster_size=3k',
  'cluster_size=4M',
  'cluster_size=',
  'compat=0.10',
  'compat=1.1',
  'compat=v3',
  'compat=9',
  'lazy_refcounts=on',
  'lazy_refcounts=x',
  'refcount_bits=1',
  'refcount_bits=64',
  'refcount_bits=3',
  'preallocation=off',
  'preallocation=metadata',
  'preallocation=full',
  'preallocation=falloc',
  'preallocation=bad',
  'size=2M',
  'size=x',
  'backing_file=a.qcow2',
  'backing_file=none',
  'backing_fmt=qcow2',
  'backing_fmt=raw',
  'backing_fmt=bad',
  'encryption=on',
  'extended_l2=on',
  'compression_type=zstd',
  'compression_type=x',
  'data_file=new.d',
  'data_file_raw=on',
  'nocow=on',
  'nocow=x',
  'foo=bar',
  'foo',
  '',
  'cluster_size',
  'encrypt.format=luks',
  'encrypt.format=bad',
  'extent_size_hint=1M',
  ',',
  'size=1M,size=2M',
  'lazy_refcounts',
];
const createOptions: Value = (random) =>
  Array.from({ length: random.pick([1, 1, 1, 2]) }, () => random.pick(CREATE)).join(',');

const flag = (...names: string[]): Option => ({ names });
const takes = (value: Value, ...names: string[]): Option => ({ names, value });

const quiet = flag('-q');
const progress = flag('-p');
const imageOpts = flag('--image-opts');
const share = flag('-U');
const formatOf = takes(format, '-f');
const longFormat = takes(format, '-f', '--format');

const one = (random: Random): string[] => [image(random)];
const layered = (random: Random): string[] => [
  random.chance(0.4) ? image(random) : random.pick(['t.qcow2', 't2.qcow2', 'u.qcow2']),
];

const operations = oneOf(
  'bs=512',
  'bs=4k',
  'bs=0',
  'bs=x',
  'count=1',
  'count=0',
  'count=x',
  'skip=1',
  'skip=99999',
  'foo=1',
  'bs',
  'bs=',
  'count=3',
  'count=1k',
  'bs=1M',
  'skip=-1',
);

function ddOperands(random: Random): string[] {
  const words = [`if=${image(random)}`, `of=${target(random)}`];
  if (random.chance()) words.reverse();
  if (random.chance(0.1)) words.pop();
  for (let i = random.pick([0, 0, 1, 2]); i > 0; i--) words.push(operations(random));
  return words;
}

function rebaseOperands(random: Random): string[] {
  const base = random.pick(['', 'a.qcow2', 'r.raw', 't.qcow2']);
  return [...(random.chance(0.8) ? ['-b', base] : []), ...layered(random)];
}

const number = oneOf('1', '4', '16', '17', '0', '-1', 'x', '1k', '8');

const grammars: Readonly<Record<string, Grammar>> = {
  amend: {
    options: [
      quiet,
      progress,
      longFormat,
      imageOpts,
      takes(cache, '-t'),
      flag('--force'),
      takes(createOptions, '-o', '--options'),
    ],
    operands: one,
  },
  bench: {
    options: [
      formatOf,
      imageOpts,
      takes(cache, '-t'),
      takes(number, '-d'),
      takes(size, '-o', '-s', '-S'),
      takes(oneOf('threads', 'native', 'x'), '-i'),
      flag('-n'),
      flag('-w'),
      takes(oneOf('1', '256', '-1', 'x', '0xff'), '--pattern'),
      takes(oneOf('1', '0', '100', 'x'), '--flush-interval'),
      flag('--no-drain'),
      share,
      quiet,
    ],
    operands: (random) => ['-c', random.pick(['1', '10', '10', 'x', '0']), image(random)],
  },
  bitmap: {
    options: [
      formatOf,
      imageOpts,
      flag('--add', '--remove', '--clear', '--enable', '--disable'),
      takes(bitmap, '--merge'),
      takes(image, '-b'),
      takes(format, '-F'),
      takes(size, '-g'),
    ],
    operands: (random) => [random.chance() ? image(random) : 's.qcow2', bitmap(random)],
  },
  check: {
    options: [
      quiet,
      formatOf,
      imageOpts,
      takes(oneOf('leaks', 'all', 'x', ''), '-r'),
      takes(cache, '-T'),
      share,
      takes(output, '--output'),
    ],
    operands: one,
  },
  commit: {
    options: [
      quiet,
      progress,
      formatOf,
      imageOpts,
      takes(cache, '-t'),
      takes(image, '-b'),
      flag('-d'),
      takes(rate, '-r'),
    ],
    operands: layered,
  },
  compare: {
    options: [
      quiet,
      progress,
      takes(format, '-f', '-F'),
      imageOpts,
      flag('-s'),
      takes(cache, '-T'),
      share,
    ],
    operands: (random) => [image(random), image(random)],
  },
  convert: {
    options: [
      imageOpts,
      formatOf,
      takes(cache, '-T', '-t'),
      takes(snapshot, '-l'),
      takes(size, '-S'),
      flag('--salvage'),
      flag('--skip-broken-bitmaps'),
      takes(format, '-O', '--output-format'),
      flag('--target-image-opts', '--target-is-zero'),
      takes(createOptions, '-o'),
      flag('-c'),
      takes(image, '-B'),
      takes(format, '-F'),
      flag('--bitmaps'),
      flag('-n'),
      share,
      takes(rate, '-r'),
      takes(number, '-m'),
      flag('-W'),
      flag('-C'),
      progress,
      quiet,
    ],
    operands: (random) => [
      ...Array.from({ length: random.pick([1, 1, 1, 1, 2]) }, () => image(random)),
      target(random),
    ],
  },
  create: {
    options: [
      quiet,
      takes(format, '-f', '--format'),
      takes(createOptions, '-o'),
      takes(image, '-b'),
      takes(format, '-F'),
      flag('-u'),
    ],
    operands: (random) => [target(random), ...(random.chance(0.75) ? [size(random)] : [])],
  },
  dd: {
    options: [formatOf, takes(format, '-O'), imageOpts, share],
    operands: ddOperands,
  },
  info: {
    options: [longFormat, imageOpts, flag('--backing-chain'), share, takes(output, '--output')],
    operands: one,
  },
  map: {
    options: [
      formatOf,
      imageOpts,
      takes(size, '-s', '-l', '--start-offset', '--max-length'),
      takes(output, '--output'),
      share,
    ],
    operands: one,
  },
  measure: {
    options: [
      formatOf,
      imageOpts,
      takes(createOptions, '-o'),
      takes(format, '-O'),
      takes(snapshot, '-l'),
      takes(output, '--output'),
      takes(size, '--size'),
      share,
    ],
    operands: (random) => (random.chance(0.6) ? one(random) : ['--size', size(random)]),
  },
  rebase: {
    options: [
      formatOf,
      imageOpts,
      takes(cache, '-t', '-T'),
      takes(mostly(['', 'a.qcow2', 'r.raw', 'none'], IMAGES, 0.7), '-b'),
      takes(format, '-F'),
      flag('-u'),
      progress,
      quiet,
      share,
    ],
    operands: rebaseOperands,
  },
  resize: {
    options: [
      quiet,
      formatOf,
      imageOpts,
      flag('--shrink'),
      takes(oneOf('off', 'metadata', 'falloc', 'full', 'bad'), '--preallocation'),
    ],
    operands: (random) => [image(random), size(random)],
  },
  snapshot: {
    options: [quiet, formatOf, imageOpts, share, flag('-l'), takes(snapshot, '-c', '-a', '-d')],
    operands: (random) => [random.chance() ? image(random) : 's.qcow2'],
  },
};

const commands = Object.keys(grammars);
const likely = ['convert', 'convert', 'convert', 'create', 'create', 'rebase', 'map', 'measure'];

/** An option as a line holds it: `-f x`, `-fx`, `--format x`, `--format=x`. */
function written(random: Random, { names, value }: Option): string[] {
  const name = random.pick(names);
  if (value === undefined) return [name];
  const text = value(random);
  if (name.startsWith('--')) return random.chance() ? [`${name}=${text}`] : [name, text];
  return random.chance(0.1) && text !== '' ? [name + text] : [name, text];
}

/** A random command line: the subcommand and what follows. */
export function commandLine(random: Random): string[] {
  const command = random.pick([...commands, ...likely]);
  const { options, operands } = grammars[command]!;
  const words: string[] = [];
  for (let i = random.pick([0, 0, 1, 1, 1, 2, 2, 3]); i > 0; i--) {
    words.push(...written(random, random.pick(options)));
  }
  if (random.chance(0.02) && command !== 'bench') words.push('--object', object(random));
  const tail = operands(random);
  const isList = tail.some((word) => /^(?:driver|file\.filename)=/.test(word));
  if (isList && random.chance(0.6)) words.push('--image-opts');
  if (random.chance(0.04)) tail.pop();
  else if (random.chance(0.03)) tail.push(image(random));
  if (random.chance(0.02)) {
    words.push(random.pick(['-z', '--bogus', '--', '-x1', '--outp=json', '--f=raw', '--forc']));
  }
  const ahead = random.chance(0.1);
  return ahead ? [command, ...tail, ...words] : [command, ...words, ...tail];
}
