// Goal: option, size, JSON and command-line errors read as QEMU 10's. Method: the same input goes
// to the real tools and to our parsers; the texts after the program's name are compared, for
// tables of cases and for random input (seed printed on failure).
import { execFileSync } from 'node:child_process';
import { basename } from 'node:path';
import { describe, expect, it } from 'vitest';
import { JsonError, parseJson } from '../../src/lib/json-text.js';
import { formatSizeExact, parseSize } from '../../src/lib/sizes.js';
import { createOptions, parseCreateOptions } from '../../src/options/create-options.js';
import { crumple } from '../../src/options/flatten.js';
import { command, GetoptError, parseArgs } from '../../src/options/getopt.js';
import { parseKeyval } from '../../src/options/keyval.js';
import { parseOpts } from '../../src/options/qemu-opts.js';
import { OptionError, parseValue, t } from '../../src/options/schema.js';
import type { Decl } from '../../src/options/schema.js';
import { findCommand, requires, run, seededRandom, tempDir } from '../support/index.js';

/** The tool when it is of QEMU 10 (older ones word many errors in other ways). */
function ofQemu10(name: string): string | undefined {
  const path = findCommand(name);
  if (path === undefined) return undefined;
  const version = execFileSync(path, ['--version'], { encoding: 'utf8' });
  return /version 10\./.test(version) ? path : undefined;
}

const qemuImg = ofQemu10('qemu-img');
const daemon = ofQemu10('qemu-storage-daemon');
const needs = (name: string, found: string | undefined, body: () => void) => {
  if (found === undefined) describe.skip(`${name} [needs QEMU 10]`, body);
  else requires(found)(name, body);
};

/** What the tool prints on standard error, without its own name at the beginnings of lines. */
async function complaint(tool: string, args: readonly string[], cwd: string): Promise<string> {
  const { stderr } = await run(tool, args, { cwd });
  return stderr
    .replaceAll(`${tool} `, '')
    .replaceAll(`${basename(tool)}: `, '')
    .trimEnd();
}

/** What our parser says: message and hint as a tool would print them, or ''. */
function ours(act: () => unknown): string {
  try {
    act();
  } catch (error) {
    if (error instanceof OptionError) {
      return error.hint === undefined ? error.message : `${error.message}\n${error.hint}`;
    }
    if (error instanceof JsonError || error instanceof GetoptError) return error.message;
    throw error;
  }
  return '';
}

const size = { type: 'size', help: '' } as const;
const qcow2 = createOptions({
  size,
  cluster_size: size,
  refcount_bits: { type: 'number', help: '' },
  lazy_refcounts: { type: 'bool', help: '' },
  compat: { type: 'str', help: '' },
});

needs('qemu-img create -o', qemuImg, () => {
  it.each([
    ...['foo=1', 'foo', 'nofoo', 'no_such', 'nocompat_x', 'no', '=1', '=,x', 'helpx', 'help=1'],
    ...['nohelp', ' compat=1', 'compat =1', 'Compat=1', 'a=1=2', 'lazy_refcounts,,x', 'a,,b=1'],
    ...['cluster_size', 'cluster_size=x', 'cluster_size=', 'cluster_size=-1', 'cluster_size=16E'],
    ...['cluster_size=64kB', 'cluster_size=1k,,', 'cluster_size=64k,,,foo', 'cluster_size=1.5'],
    ...['lazy_refcounts=x', 'lazy_refcounts=', 'lazy_refcounts=ON', 'refcount_bits=1k'],
    ...['refcount_bits=', 'refcount_bits=99999999999999999999999', 'refcount_bits=08'],
    ...['size=x', 'size=18446744073709551616', 'lazy_refcounts,foo', 'id=1,foo', 'id=,foo'],
    ...['', ',', ',,', 'compat=1,', 'compat=1,,,', ',compat=1'],
  ])('%j', async (list) => {
    const dir = tempDir();
    const args = ['create', '-q', '-f', 'qcow2', '-o', list, 'z.img', '1M'];
    const theirs = (await complaint(qemuImg ?? '', args, dir)).replace(/^z\.img: /, '');
    expect(ours(() => parseCreateOptions(qcow2, [list])).trimEnd()).toBe(theirs);
  });
});

needs('sizes', qemuImg, () => {
  async function theirSize(dir: string, text: string): Promise<string> {
    const args = ['create', '-f', 'raw', '-u', '--', 'z.raw', text];
    const { stdout, stderr } = await run(qemuImg ?? '', args, { cwd: dir });
    const made = / size=(\d+)/.exec(stdout)?.[1];
    if (made !== undefined) return made;
    return stderr.includes('Must be between') ? 'range' : 'invalid';
  }

  const ourSize = (text: string): string => {
    const result = parseSize(text);
    if (result.status === 'ok') return String(result.bytes);
    if (result.status !== 'limit') return result.status;
    return result.value >= 2n ** 63n ? 'range' : String(result.value);
  };

  it('mean the same number of bytes, in random notations', async () => {
    const dir = tempDir();
    const random = seededRandom();
    for (let turn = 0; turn < 150; turn++) {
      let text = random.pick(['', '', '', ' ', '+', '-', '0x', '0']);
      const digits = random.int(0, 5);
      for (let i = 0; i < digits; i++) text += String(random.int(0, 9));
      if (random.chance()) text += `.${String(random.int(0, 99999))}`;
      text += random.pick(['', '', 'k', 'K', 'M', 'G', 'b', 'B', 'e', 'x', 'kB', ' ']);
      expect(`${text}: ${ourSize(text)}`).toBe(`${text}: ${await theirSize(dir, text)}`);
    }
  });

  it('print alike', async () => {
    const dir = tempDir();
    const random = seededRandom();
    for (let turn = 0; turn < 40; turn++) {
      const bytes = Math.floor(random.float() * 2 ** random.int(10, 42)) & ~511;
      const sectors = Math.floor(Math.abs(bytes) / 512) * 512;
      await run(qemuImg ?? '', ['create', '-q', '-f', 'raw', 'p.raw', String(sectors)], {
        cwd: dir,
      });
      const { stdout } = await run(qemuImg ?? '', ['info', '-f', 'raw', 'p.raw'], { cwd: dir });
      expect(stdout).toContain(`virtual size: ${formatSizeExact(sectors)}\n`);
    }
  });
});

needs('json: file names', qemuImg, () => {
  async function theirError(dir: string, text: string): Promise<string> {
    const all = await complaint(qemuImg ?? '', ['info', `json:${text}`], dir);
    const mark = "': Could not parse the JSON options: ";
    const at = all.lastIndexOf(mark);
    return at < 0 ? '' : all.slice(at + mark.length);
  }

  const table = [
    ...['', ' ', '{', '}', '[', '[1 2', '{"a" 1', '{"a":1} x', '{"a":tru} x', '{}{}', '{"a":01}'],
    ...['{"a":1.}', '{"a":.5}', '{"a":- 1}', '{"a":nul}', '{"a":True}', '{"a":0x10}', '"\\z"'],
    ...['"\\u12"', '"\\ud800"', '"\\ud83d\\ud"', '"\\ufffe"', '"\\u+123"', '"\t"', "'abc", '[1,]'],
    ...['{,}', '{"a"}', '{"a":1,}', '{a:1}', '{1:1}', '{"a":1,"a":2}', '%d', '{"a" 1, @}', '[}'],
  ];

  it.each(table)('%j', async (text) => {
    const dir = tempDir();
    expect(ours(() => parseJson(text)).trimEnd()).toBe(await theirError(dir, text));
  });

  it('are refused alike when they are random', async () => {
    const dir = tempDir();
    const random = seededRandom();
    const pieces = [
      ...['{', '}', '[', ']', ',', ':', '"a"', "'b'", '1', '-1.5', '1e3', 'true', 'null', 'nope'],
      ...[' ', '"\\u00e9"', '"\\ud83d"', '01', '-', '@', '"a":', '{"x":1', '"\\q"'],
    ];
    for (let turn = 0; turn < 150; turn++) {
      let text = random.pick(['', '{', '[', '{"a":']);
      for (let n = random.int(1, 6); n > 0; n--) text += random.pick(pieces);
      expect(`${text}: ${ours(() => parseJson(text))}`).toBe(
        `${text}: ${await theirError(dir, text)}`,
      );
    }
  });
});

const info = command({
  name: 'info',
  summary: '',
  options: {
    help: { short: 'h', long: 'help', doc: '' },
    format: { short: 'f', long: 'format', arg: 'FMT', doc: '' },
    output: { long: 'output', arg: 'human|json', doc: '' },
    chain: { short: 'b', long: 'backing-chain', doc: '' },
    object: { long: 'object', arg: 'OBJDEF', doc: '' },
    imageOpts: { long: 'image-opts', doc: '' },
    forceShare: { short: 'U', long: 'force-share', doc: '' },
  },
});

needs('qemu-img info with wrong options', qemuImg, () => {
  it.each<string[][]>([
    [['--foo']],
    [['--foo=1', 'a']],
    [['-Z']],
    [['-UZf', 'raw']],
    [['-f']],
    [['-Ubf']],
    [['-U=x']],
    [['--output']],
    [['--outp']],
    [['--o', 'json']],
    [['--=x']],
    [['--f']],
    [['---']],
    [['--image-opts=1']],
    [['--force=1']],
    [['a', '-q']],
  ])('%j', async (argv) => {
    const dir = tempDir();
    const theirs = await complaint(qemuImg ?? '', ['info', ...argv], dir);
    const [first] = theirs.split('\n');
    expect(`info: ${ours(() => parseArgs(info, argv))}`).toBe(first);
  });
});

/** Crumples what follows `server.` in a list for the nbd driver, as --image-opts does. */
function crumpleServer(list: string): void {
  const flat: Record<string, string> = {};
  for (const [name, value] of parseOpts(list).values) {
    if (name.startsWith('server.')) flat[name.slice(7)] = value;
  }
  crumple(flat);
}

needs('--image-opts', qemuImg, () => {
  it.each([
    ...[
      'server.0=x,server.2=x',
      'server.0=a,server.x=b',
      'server.1=x',
      'server.00=x',
      'server.0=x',
    ],
    ...['server.type=inet,server.type.x=1', 'server.0.x=1,server.0=1', 'server.x.0=1,server.x.y=1'],
    ...['server.-1=x', 'server.+1=x', 'server.01=x,server.0=y', 'server.2147483648=x'],
  ])('%j', async (list) => {
    const dir = tempDir();
    const text = `driver=nbd,${list}`;
    const all = await complaint(qemuImg ?? '', ['info', '--image-opts', text], dir);
    expect(`Could not open '${text}': ${ours(() => crumpleServer(list))}`).toBe(all);
  });

  it('refuses an id that is none', async () => {
    const dir = tempDir();
    const text = 'driver=null-co,id=1';
    const all = await complaint(qemuImg ?? '', ['info', '--image-opts', text], dir);
    expect(ours(() => parseOpts(text, { implied: 'file' }))).toBe(all);
  });

  it('warns of flags', async () => {
    const dir = tempDir();
    const text = 'driver=null-co,read-zeroes,nox';
    const all = await complaint(qemuImg ?? '', ['info', '--image-opts', text], dir);
    const { warnings } = parseOpts(text, { implied: 'file', warnFlags: true });
    const ourWarnings = warnings.map((each) => `warning: ${each}`).join('\n');
    expect(all.startsWith(`${ourWarnings}\n`)).toBe(true);
  });
});

const nullNode = t.struct('Null', {
  size: t.optional(t.size({ qapi: 'int' })),
  'latency-ns': t.optional(t.uint({ bits: 64 })),
  'read-zeroes': t.optional(t.bool()),
});
const inet = t.struct('Inet', { host: t.str(), port: t.str(), numeric: t.optional(t.bool()) });
const blockdev = t.union(
  'BlockdevOptions',
  'driver',
  {
    'null-co': nullNode,
    quorum: t.struct('Quorum', {
      children: t.arrayOf(
        t.alternate({ str: t.str(), object: t.ref('BlockdevOptions') }, { name: 'BlockdevRef' }),
      ),
      'vote-threshold': t.int(),
    }),
    nbd: t.struct('Nbd', {
      server: t.union('SocketAddress', 'type', { inet }),
      'reconnect-delay': t.optional(t.uint({ bits: 32 })),
    }),
  },
  {
    base: {
      'node-name': t.optional(t.str()),
      discard: t.optional(t.enumOf('ignore', 'unmap')),
      cache: t.optional(t.struct('Cache', { direct: t.optional(t.bool()) })),
      'read-only': t.optional(t.bool()),
    },
  },
);
const types = new Map<string, Decl>([['BlockdevOptions', blockdev]]);

function readBlockdev(text: string): void {
  if (text.startsWith('{')) {
    parseValue(blockdev, parseJson(text, { doubles: 'keep' }), { from: 'qmp', types });
  } else {
    parseValue(blockdev, parseKeyval(text, 'driver').value, { from: 'keyval', types });
  }
}

needs('qemu-storage-daemon --blockdev', daemon, () => {
  const long = 'a'.repeat(128);

  it.each([
    ...['', ',', '=x', 'driver', 'foo', 'driver=null-co,size', 'a..b=1', '.a=1', 'a.=1', '0=a'],
    ...['a.0b=1', '-a=1', '_a=1', '__a=1', 'a%=1', 'x,,y', 'a,,', 'driver=x,,', 'a=1,a.b=2'],
    ...['a.b=1,a=2', 'a.b=1,a.b.c=2', 'a.0=1,a.2=1', 'a.0=1,a.x=2', 'a.0.1=1', `${long}=1`],
    ...[`b.${long}=1`, 'driver.x=1', 'driver=null-co,read-only=1', 'driver=null-co,size=1G'],
    ...['driver=null-co,size=9223372036854775808', 'driver=null-co,latency-ns=', 'driver=help'],
    ...['driver=null-co,foo=1', 'driver=null-co,cache=1', 'driver=null-co,cache.foo=1'],
    ...['driver=null-co,cache.direct=1', 'driver=null-co,discard=x', 'driver=null-co,size.a=1'],
    ...['driver=quorum,children=b,vote-threshold=1', 'driver=quorum,children.0=a,vote-threshold=x'],
    ...['driver=quorum,children.0=a,children.1.driver=null-co,children.1.foo=1,vote-threshold=1'],
    ...['driver=nbd', 'driver=nbd,server=x', 'driver=nbd,server.type=xx', 'driver=nbd,server.x=1'],
    ...['driver=nbd,server.type=inet,server.host=x', 'driver=nbd,server.type=inet,server.host.x=1'],
    ...['driver=nbd,server.type=inet,server.host=x,server.port=1,reconnect-delay=4294967296'],
    ...['driver=nbd,server.type=inet,server.host=x,server.port=1,server.numeric=1'],
    ...['{"driver":', '{"driver":1}', '{"driver":"x"}', '{"driver":"null-co","read-only":"on"}'],
    ...['{"driver":"null-co","size":1.0}', '{"driver":"null-co","latency-ns":"1"}'],
    ...['{"driver":"null-co","cache":[]}', '{"driver":"null-co","__proto__":1}'],
    ...['{"driver":"quorum","children":[1]}', '{"driver":"quorum","children":[{"driver":1}]}'],
    ...['{"driver":"nbd","server":{"type":"inet","host":"x","port":1}}', '{"driver":"nbd"}'],
    ...['{"driver":"nbd","server":{"type":"inet","host":"x","port":"1","y":1}}'],
  ])('%j', async (text) => {
    const dir = tempDir();
    const all = await complaint(daemon ?? '', ['--blockdev', text], dir);
    expect(`--blockdev ${text}: ${ours(() => readBlockdev(text))}`).toBe(all);
  });

  it('refuses random lists alike', async () => {
    const dir = tempDir();
    const random = seededRandom();
    const keys = ['a', 'b', 'a.b', 'a.0', 'a.1', 'a.b.c', 'driver', '1', '', 'x-y', 'a.01', 'help'];
    for (let turn = 0; turn < 150; turn++) {
      const parts: string[] = [];
      for (let n = random.int(1, 4); n > 0; n--) {
        parts.push(random.pick(keys) + random.pick(['=1', '=', '', '=x,,y', '=,']));
      }
      const text = parts.join(',');
      const all = await complaint(daemon ?? '', ['--blockdev', text], dir);
      const what = ours(() => {
        const { help } = parseKeyval(text, 'driver');
        if (help) throw new OptionError('Help is not available for this option');
        readBlockdev(text);
      });
      expect(`--blockdev ${text}: ${what}`).toBe(all);
    }
  });
});
