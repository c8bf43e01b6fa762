/**
 * The native addon: its functions as types, and how it is found.
 *
 * `native/build/Release` of a checkout comes first, then a prebuilt binary of the package
 * (the order of node-gyp-build). Set VDISK_NO_NATIVE=1 to do without it, VDISK_NATIVE_ADDON
 * to the path of another build (with a sanitizer, say).
 */
import { createRequire } from 'node:module';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { existsSync } from 'node:fs';
import { isFromTheseSources } from './native-engine.js';

/** Handles that only the addon looks into. */
export interface NativeContext {
  readonly kind?: 'context';
}
export interface NativeSectorKey {
  readonly kind?: 'key';
}

/** What native/src exports; results named errno are 0 or a negative errno. */
export interface NativeBinding {
  /** sizeof(struct shared), to be sure that both sides mean the same layout. */
  readonly sharedBytes: number;
  /** How many operations there are, for the same reason. */
  readonly operations: number;
  /** `pollNs`: how long to look for completions before sleeping, at most; 0: never. */
  create(shared: ArrayBuffer, deliver: (count: number) => void, pollNs: number): NativeContext;
  arm(context: NativeContext): void;
  submit(context: NativeContext): void;
  /** errno; `which` is an EngineCode. */
  openEngine(context: NativeContext, which: number): number;
  /** The loop looks for data on a socket a while before it sleeps. */
  watchSocket(context: NativeContext, fd: number, on: boolean): void;
  /** Batches, inline, ring, aio, pool, rounds, wakes, polls since the start. */
  stats(context: NativeContext): number[];
  /** Address of the first byte of the view's ArrayBuffer. */
  addressOf(view: ArrayBufferView): number;
  allocateAligned(bytes: number): ArrayBuffer;
  /** errno; out: offset, memory, transfer, optimal, discard. */
  fileLimits(fd: number, direct: boolean, out: Float64Array): number;
  /** errno; out: size, allocated bytes. */
  fileSize(fd: number, out: Float64Array): number;
  /** errno */
  setDirect(fd: number, direct: boolean): number;
  /** errno; with `test` 1 when another holder conflicts. Types: unlock, shared, exclusive. */
  lock(fd: number, type: 0 | 1 | 2, offset: number, bytes: number, test: boolean): number;
  /** Bytes of the run at `offset`; negative for a hole; 0 for none. */
  extentAt(fd: number, offset: number): number;
  /** Bits: 1 zlib, 2 zstd. */
  codecs(): number;
  /** Bytes that the kernel took of `count` (address, length) pairs; or a negative errno. */
  sendPieces(fd: number, address: number, count: number): number;
  /**
   * Bytes of memory and of a file's cached pages behind it that the socket took at once; 0 also
   * when that cannot be.
   */
  sendFile(
    socket: number,
    file: number,
    offset: number,
    bytes: number,
    head: number,
    headBytes: number,
  ): number;
  /** Whether a range of a file is in the page cache; false where the kernel does not tell. */
  isCached(file: number, offset: number, bytes: number): boolean;
  /** A second descriptor of a socket, whose send buffer is set; or a negative errno. */
  duplicate(fd: number, sendBuffer: number): number;
  isZero(b: Uint8Array): boolean;
  crc32c(b: Uint8Array, seed: number): number;
  countPlain(table: Uint8Array, from: number, counts: Uint8Array, scan: Float64Array): number;
  equalCounts(block: Uint8Array, counts: Uint8Array): number;
  /** `tables`: without the CPU's AES instructions. */
  xtsKey(key: Uint8Array, tables: boolean): NativeSectorKey;
  /** IVs of 64 (`wide`) or 32 bits, encrypted with `ivKey` unless that is empty. */
  cbcKey(key: Uint8Array, wide: boolean, ivKey: Uint8Array, tables: boolean): NativeSectorKey;
  keyAddress(key: NativeSectorKey): number;
  sectorCrypt(
    key: NativeSectorKey,
    b: Uint8Array,
    sectorBytes: number,
    firstSector: number,
    encrypt: boolean,
  ): void;
}

/** The folder that holds native/, from wherever this module was bundled to. */
function nativeFolder(): string | undefined {
  let folder = dirname(fileURLToPath(import.meta.url));
  for (;;) {
    if (existsSync(join(folder, 'native', 'binding.gyp'))) return join(folder, 'native');
    const parent = dirname(folder);
    if (parent === folder) return undefined;
    folder = parent;
  }
}

/** require() of an addon without the resolution of names, which costs more than the rest. */
function open(path: string): NativeBinding {
  const module: { exports: Partial<NativeBinding> } = { exports: {} };
  process.dlopen(module, path);
  return module.exports as NativeBinding;
}

/** The addon, or why there is none that can be used. */
function load(): NativeBinding | string {
  const found = tryLoad();
  if (typeof found === 'string' || isFromTheseSources(found)) return found;
  return 'it was built from other sources (npm run build:native builds it anew)';
}

function tryLoad(): NativeBinding | string {
  if (process.env['VDISK_NO_NATIVE'] === '1') return 'VDISK_NO_NATIVE is set';
  const named = process.env['VDISK_NATIVE_ADDON'];
  try {
    if (named !== undefined) return open(resolve(named));
    const folder = nativeFolder();
    if (folder === undefined) return 'the package has no native folder';
    const built = join(folder, 'build', 'Release', 'vdisk_native.node');
    if (existsSync(built)) return open(built);
    const require = createRequire(import.meta.url);
    const find = require('node-gyp-build') as (folder: string) => NativeBinding;
    return find(folder);
  } catch (error) {
    return error instanceof Error ? (error.message.split('\n')[0] ?? '') : String(error);
  }
}

let loaded: NativeBinding | string | undefined;

/** The addon, or undefined where it is not there (see {@link whyNoNative}). */
export function tryNative(): NativeBinding | undefined {
  loaded ??= load();
  return typeof loaded === 'string' ? undefined : loaded;
}

/** Why {@link tryNative} has none; undefined when it has one. */
export function whyNoNative(): string | undefined {
  loaded ??= load();
  return typeof loaded === 'string' ? loaded : undefined;
}
