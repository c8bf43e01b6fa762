/** The command line of `vdisk-nbd`: qemu-nbd's grammar, checked in its order and words. */
import type { CacheMode, DetectZeroes } from '../../block/types.js';
import { parseInteger } from '../../lib/sizes.js';
import { command, readArgs } from '../../options/getopt.js';
import { parseAioMode, parseCacheMode, parseDiscardMode } from '../io/image.js';
import { acceptTrace, Failure, UsageError } from '../program.js';
import { answerObjectHelp } from '../objects.js';
import type { Example } from '../reference.js';

/** What people mostly want, without the program's name. */
export const nbdExamples: readonly Example[] = [
  ['-r -f qcow2 disk.qcow2', 'serve an image read-only on port 10809'],
  ['-t -e 0 -f raw -k /run/disk.sock disk.raw', 'to any number of clients, until killed'],
  ['--fork --pid-file disk.pid disk.qcow2', 'in the background'],
  ['--list -b server.example', 'see what a server offers'],
];

export const nbdSpec = command({
  name: 'vdisk-nbd',
  summary: 'serve an image to NBD clients, or show what a server offers',
  operands: 'FILE',
  completeOperand: 'file',
  options: {
    help: { short: 'h', long: 'help', doc: 'show this text' },
    version: { short: 'V', long: 'version', doc: 'show the version' },
    port: { short: 'p', long: 'port', arg: 'PORT', doc: 'TCP port to listen on; default 10809' },
    bind: { short: 'b', long: 'bind', arg: 'ADDRESS', doc: 'listen there; default 0.0.0.0' },
    socket: {
      short: 'k',
      long: 'socket',
      arg: 'PATH',
      complete: 'file',
      doc: 'listen on a Unix socket, which is made; an absolute path',
    },
    snapshot: {
      short: 's',
      long: 'snapshot',
      doc: 'keep writes in a temporary overlay, which is gone at the end',
    },
    shared: {
      short: 'e',
      long: 'shared',
      arg: 'NUM',
      doc: 'how many clients at a time; default 1, 0 for no limit',
    },
    persistent: {
      short: 't',
      long: 'persistent',
      doc: 'go on when the last client has left',
    },
    verbose: { short: 'v', long: 'verbose', doc: 'tell of connections that end with an error' },
    exportName: {
      short: 'x',
      long: 'export-name',
      arg: 'NAME',
      doc: 'name by which clients ask for the export; default empty',
    },
    description: {
      short: 'D',
      long: 'description',
      arg: 'TEXT',
      doc: 'what clients that list exports are told of it',
    },
    handshakeLimit: {
      long: 'handshake-limit',
      arg: 'SECONDS',
      doc: 'how long a client may take to agree; default 10, 0 for no limit',
    },
    offset: { short: 'o', long: 'offset', arg: 'BYTES', doc: 'leave out so much of the image' },
    allocationDepth: {
      short: 'A',
      long: 'allocation-depth',
      doc: 'offer qemu:allocation-depth: in which image of the chain data is',
    },
    bitmap: {
      short: 'B',
      long: 'bitmap',
      arg: 'NAME',
      repeat: true,
      doc: 'offer a dirty bitmap as qemu:dirty-bitmap:NAME; may be given several times',
    },
    list: { short: 'L', long: 'list', doc: 'show the exports of the server at -b, -p or -k' },
    object: {
      long: 'object',
      arg: 'OBJDEF',
      repeat: true,
      doc: 'object that options refer to: secret, tls-creds-x509, tls-creds-psk, authz-list, …',
    },
    tlsCreds: {
      long: 'tls-creds',
      arg: 'ID',
      doc: 'demand TLS of clients (with --list: use it) with these credentials',
    },
    tlsHostname: {
      long: 'tls-hostname',
      arg: 'NAME',
      doc: "with --list: name that the server's certificate must carry",
    },
    tlsAuthz: { long: 'tls-authz', arg: 'ID', doc: 'access list for the names that TLS proves' },
    trace: {
      short: 'T',
      long: 'trace',
      arg: 'PATTERN',
      doc: 'accepted for compatibility; there are no trace events',
    },
    fork: { long: 'fork', doc: 'return when clients can connect, and serve in the background' },
    pidFile: {
      long: 'pid-file',
      arg: 'PATH',
      complete: 'file',
      doc: 'write the number of the serving process there',
    },
    selinuxLabel: {
      long: 'selinux-label',
      arg: 'LABEL',
      doc: 'refused: not supported',
      hidden: true,
    },
    connect: {
      short: 'c',
      long: 'connect',
      arg: 'DEVICE',
      doc: 'let the kernel show the export as the block device DEVICE (/dev/nbd0)',
    },
    disconnect: { short: 'd', long: 'disconnect', doc: 'take the device FILE away again' },
    format: {
      short: 'f',
      long: 'format',
      arg: 'FORMAT',
      complete: 'format',
      doc: 'format of FILE; without it, it is guessed from the content',
    },
    readOnly: { short: 'r', long: 'read-only', doc: 'clients cannot write' },
    loadSnapshot: {
      short: 'l',
      long: 'load-snapshot',
      arg: 'SNAPSHOT',
      doc:
        'show an internal snapshot, read-only: ID or name, or ' +
        'snapshot.id=ID,snapshot.name=NAME',
    },
    nocache: { short: 'n', long: 'nocache', doc: 'the same as --cache=none' },
    cache: {
      long: 'cache',
      arg: 'MODE',
      complete: ['none', 'writeback', 'writethrough', 'directsync', 'unsafe'],
      doc: 'cache mode of FILE; default writeback',
    },
    aio: {
      long: 'aio',
      arg: 'MODE',
      complete: ['threads', 'native', 'io_uring'],
      doc: 'how requests reach the kernel: threads, native or io_uring',
    },
    discard: {
      long: 'discard',
      arg: 'MODE',
      complete: ['ignore', 'unmap'],
      doc: 'whether trims give space back: ignore (the default) or unmap',
    },
    detectZeroes: {
      long: 'detect-zeroes',
      arg: 'MODE',
      complete: ['off', 'on', 'unmap'],
      doc: 'turn writes of zeroes into zero writes: off, on or unmap',
    },
    imageOpts: { long: 'image-opts', doc: 'FILE is a list of options, not a name' },
  },
});

/** The command line, checked as far as that is possible without opening anything. */
export interface NbdArguments {
  port: string | undefined;
  bind: string | undefined;
  socket: string | undefined;
  /** Clients at a time; 0: no limit. */
  shared: number;
  persistent: boolean;
  verbose: boolean;
  exportName: string | undefined;
  description: string | undefined;
  /** Seconds; 0: no limit. */
  handshakeLimit: number;
  offset: number;
  allocationDepth: boolean;
  readonly bitmaps: string[];
  list: boolean;
  readonly objects: string[];
  tlsCreds: string | undefined;
  tlsAuthz: string | undefined;
  tlsHostname: string | undefined;
  fork: boolean;
  pidFile: string | undefined;
  connect: string | undefined;
  disconnect: boolean;
  format: string | undefined;
  readOnly: boolean;
  snapshot: boolean;
  loadSnapshot: string | undefined;
  cache: CacheMode | undefined;
  aio: string | undefined;
  unmap: boolean | undefined;
  detectZeroes: DetectZeroes | undefined;
  imageOpts: boolean;
  /** Image, or with `disconnect` the device; '' with `list`. */
  file: string;
}

const writeback: CacheMode = { writeback: true, direct: false, noFlush: false };

/** Cache mode that holds when none is asked for. */
export const defaultCache = writeback;

const MAX_UINT32 = 0xffff_ffff;
const MAX_INT32 = 0x7fff_ffff;

function empty(): NbdArguments {
  return {
    port: undefined,
    bind: undefined,
    socket: undefined,
    shared: 1,
    persistent: false,
    verbose: false,
    exportName: undefined,
    description: undefined,
    handshakeLimit: 10,
    offset: 0,
    allocationDepth: false,
    bitmaps: [],
    list: false,
    objects: [],
    tlsCreds: undefined,
    tlsAuthz: undefined,
    tlsHostname: undefined,
    fork: false,
    pidFile: undefined,
    connect: undefined,
    disconnect: false,
    format: undefined,
    readOnly: false,
    snapshot: false,
    loadSnapshot: undefined,
    cache: undefined,
    aio: undefined,
    unmap: undefined,
    detectZeroes: undefined,
    imageOpts: false,
    file: '',
  };
}

type Key = keyof typeof nbdSpec.options;
type Setter = (a: NbdArguments, value: string) => void;

/** What each option does to the arguments; `help` and `version` are the caller's. */
const setters: Readonly<Record<Exclude<Key, 'help' | 'version'>, Setter>> = {
  port: (a, v) => void (a.port = v),
  bind: (a, v) => void (a.bind = v),
  socket: (a, v) => {
    if (!v.startsWith('/')) throw new Failure('socket path must be absolute');
    a.socket = v;
  },
  shared: (a, v) => void (a.shared = integer(v, MAX_INT32, 'shared device number')),
  persistent: (a) => void (a.persistent = true),
  verbose: (a) => void (a.verbose = true),
  exportName: (a, v) => void (a.exportName = shortText(v, 'name')),
  description: (a, v) => void (a.description = shortText(v, 'description')),
  handshakeLimit: (a, v) => void (a.handshakeLimit = integer(v, MAX_UINT32, 'handshake limit')),
  offset: (a, v) => void (a.offset = offset(v)),
  allocationDepth: (a) => void (a.allocationDepth = true),
  bitmap: (a, v) => void a.bitmaps.push(v),
  list: (a) => void (a.list = true),
  object: (a, v) => {
    answerObjectHelp(v, { iothreads: true });
    a.objects.push(v);
  },
  tlsCreds: (a, v) => void (a.tlsCreds = v),
  tlsAuthz: (a, v) => void (a.tlsAuthz = v),
  tlsHostname: (a, v) => void (a.tlsHostname = v),
  trace: (_, text) => {
    acceptTrace(text);
  },
  fork: (a) => void (a.fork = true),
  pidFile: (a, v) => void (a.pidFile = v),
  selinuxLabel: (_a, v) => {
    throw new Failure(`Cannot set SELinux socket create context to ${v}: not supported`);
  },
  connect: (a, v) => void (a.connect = v),
  disconnect: (a) => void (a.disconnect = true),
  format: (a, v) => void (a.format = v),
  readOnly: (a) => void (a.readOnly = true),
  snapshot: (a) => void (a.snapshot = true),
  loadSnapshot: (a, v) => void (a.loadSnapshot = v),
  nocache: (a) => {
    setCache(a, 'none');
  },
  cache: setCache,
  aio: (a, v) => {
    if (a.aio !== undefined) throw new Failure('--aio can only be specified once');
    a.aio = parseAioMode(v);
    if (a.aio === undefined) throw new Failure(`Invalid aio mode '${v}'`);
  },
  discard: (a, v) => {
    if (a.unmap !== undefined) throw new Failure('--discard can only be specified once');
    a.unmap = parseDiscardMode(v);
    if (a.unmap === undefined) throw new Failure(`Invalid discard mode \`${v}'`);
  },
  detectZeroes: (a, v) => {
    if (v !== 'off' && v !== 'on' && v !== 'unmap') {
      throw new Failure(`Failed to parse detect_zeroes mode: invalid parameter value: ${v}`);
    }
    if (v === 'unmap' && a.unmap !== true) {
      throw new Failure(
        'setting detect-zeroes to unmap is not allowed without setting discard operation to unmap',
      );
    }
    a.detectZeroes = v;
  },
  imageOpts: (a) => void (a.imageOpts = true),
};

function setCache(a: NbdArguments, value: string): void {
  if (a.cache !== undefined) throw new Failure('-n and --cache can only be specified once');
  a.cache = parseCacheMode(value);
  if (a.cache === undefined) throw new Failure(`Invalid cache mode \`${value}'`);
}

function integer(text: string, max: number, what: string): number {
  const value = parseInteger(text);
  if (value === undefined || value < 0n || value > BigInt(max)) {
    throw new Failure(`Invalid ${what} '${text}'`);
  }
  return Number(value);
}

function offset(text: string): number {
  const value = parseInteger(text);
  if (value === undefined || value >= 1n << 64n) throw new Failure(`Invalid offset '${text}'`);
  if (value < 0n || value > BigInt(Number.MAX_SAFE_INTEGER)) {
    const shown = BigInt.asIntN(64, value);
    throw new Failure(`Value '${shown}' is out of range for parameter 'offset'`);
  }
  return Number(value);
}

/** Names and descriptions have 4096 bytes at most on the wire. */
function shortText(text: string, what: string): string {
  if (new TextEncoder().encode(text).byteLength > 4096) {
    throw new Failure(`export ${what} '${text}' too long`);
  }
  return text;
}

/** The arguments, or the word `help` or `version`. Throws GetoptError, UsageError or Failure. */
export function readNbdArguments(args: readonly string[]): NbdArguments | 'help' | 'version' {
  const a = empty();
  const operands: string[] = [];
  for (const { key, value = '' } of readArgs(nbdSpec, args)) {
    if (key === 'help' || key === 'version') return key;
    if (key === undefined) operands.push(value);
    else setters[key](a, value);
  }
  if (a.list) {
    checkList(a, operands);
  } else if (operands.length !== 1) {
    throw new UsageError('Invalid number of arguments');
  }
  a.file = operands[0] ?? '';
  checkTls(a);
  if (a.imageOpts && a.format !== undefined) {
    throw new Failure('--image-opts and -f are mutually exclusive');
  }
  return a;
}

function checkList(a: NbdArguments, operands: readonly string[]): void {
  if (operands.length > 0) throw new Failure('List mode is incompatible with a file name');
  const given = [a.exportName, a.description, a.connect, a.format, a.loadSnapshot];
  given.push(a.aio, a.offset === 0 ? undefined : 'offset', a.bitmaps[0]);
  const other = a.cache !== undefined || a.unmap !== undefined;
  if (other || a.disconnect || a.allocationDepth || given.some((each) => each !== undefined)) {
    throw new Failure('List mode is incompatible with per-device settings');
  }
  if (a.fork) throw new Failure('List mode is incompatible with forking');
}

function checkTls(a: NbdArguments): void {
  if (a.tlsCreds === undefined) {
    for (const [name, value] of [
      ['--tls-authz', a.tlsAuthz],
      ['--tls-hostname', a.tlsHostname],
    ] as const) {
      if (value !== undefined) {
        throw new Failure(`${name} is not permitted without --tls-creds`);
      }
    }
    return;
  }
  if (a.connect !== undefined) throw new Failure('TLS is not supported with a host device');
  if (a.tlsAuthz !== undefined && a.list) {
    throw new Failure('TLS authorization is incompatible with export list');
  }
  if (a.tlsHostname !== undefined && !a.list) {
    throw new Failure('TLS hostname is only supported with export list');
  }
}
