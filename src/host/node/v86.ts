/**
 * The npm package v86 and the firmware files of the machine that this program runs on; nothing of
 * it is loaded before a guest shall run.
 */
import { readFileSync, statSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, isAbsolute, join } from 'node:path';
import { compileFunction } from 'node:vm';
import { HostError } from '../file.js';
import type { V86Package } from '../v86.js';
import { toHostError } from './errors.js';

/** Folders of firmware, as distributions have it: Debian's package seabios has the first. */
const folders = ['/usr/share/seabios', '/usr/share/qemu', '/usr/share/vgabios'];
/** The longest firmware image: what the address space has for it. */
const MOST_FIRMWARE = 256 * 1024;

/** The package's folder; undefined: it is not installed. */
function tryFolder(): string | undefined {
  try {
    return dirname(createRequire(import.meta.url).resolve('v86/package.json'));
  } catch {
    return undefined;
  }
}

/** Whether guests can run: the package is installed. */
export function hasV86(): boolean {
  return tryFolder() !== undefined;
}

/** Loads the package v86. Throws HostError when it is not installed. */
export async function loadV86(): Promise<V86Package> {
  const folder = tryFolder();
  if (folder === undefined) {
    throw new HostError(
      'ENOENT',
      'A guest needs the npm package v86, which is not installed: npm install v86@0.5.462',
    );
  }
  const described: unknown = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'));
  const version: unknown = Reflect.get(Object(described), 'version');
  // The file for script elements: it is no module to Node, whose loader the tools do not start.
  const file = join(folder, 'build/libv86.js');
  const module: { exports: Partial<Pick<V86Package, 'V86'>> } = { exports: {} };
  const run = compileFunction(readFileSync(file, 'utf8'), ['module', 'require'], {
    filename: file,
  });
  Reflect.apply(run, module.exports, [module, createRequire(import.meta.url)]);
  const { V86 } = module.exports;
  if (V86 === undefined) throw new HostError('EINVAL', `There is no V86 in ${file}`);
  const compiled = await WebAssembly.compile(readFileSync(join(folder, 'build/v86.wasm')));
  return {
    version: typeof version === 'string' ? version : 'unknown',
    V86,
    instantiate: async (imports) =>
      (await WebAssembly.instantiate(compiled, imports as WebAssembly.Imports)).exports,
  };
}

/** The first of these names in one of the folders; undefined: none is there. */
export function tryFindFirmware(
  names: readonly string[],
  given: readonly string[] = [],
): string | undefined {
  for (const folder of [...given, ...folders]) {
    for (const name of names) {
      const path = isAbsolute(name) ? name : join(folder, name);
      if (statSync(path, { throwIfNoEntry: false })?.isFile() === true) return path;
    }
  }
  return undefined;
}

/** Reads a firmware image. Throws HostError. */
export function readFirmware(path: string): Uint8Array {
  let bytes: Buffer;
  try {
    bytes = readFileSync(path);
  } catch (e) {
    const { code, message } = toHostError(e);
    throw new HostError(code, `Could not open firmware '${path}': ${message}`, { cause: e });
  }
  if (bytes.length === 0 || bytes.length > MOST_FIRMWARE) {
    throw new HostError('EINVAL', `Firmware '${path}' has ${bytes.length} bytes, expected 256 KiB`);
  }
  return new Uint8Array(bytes);
}

/** Firmware images as the command line or a program names them; absent: those of the system. */
export interface FirmwareNames {
  /** A path, or a name in one of the folders. */
  readonly bios?: string | undefined;
  /** Folders to look in first. */
  readonly folders?: readonly string[];
  /** Without a display there is no need for its firmware. */
  readonly display?: boolean;
}

/** Reads firmware. Throws HostError that names what is missing. */
export function loadFirmware(names: FirmwareNames = {}): {
  readonly firmware: Uint8Array;
  readonly videoFirmware?: Uint8Array;
} {
  const { bios, folders: given = [], display = true } = names;
  const wanted = bios === undefined ? ['bios-256k.bin', 'bios.bin'] : [bios];
  const path = tryFindFirmware(wanted, ['.', ...given]);
  if (path === undefined) throw missing(wanted[0]!);
  const firmware = readFirmware(path);
  if (!display) return { firmware };
  const video = tryFindFirmware(['vgabios-stdvga.bin'], given);
  if (video === undefined) throw missing('vgabios-stdvga.bin');
  return { firmware, videoFirmware: readFirmware(video) };
}

function missing(name: string): HostError {
  return new HostError(
    'ENOENT',
    `Could not find firmware '${name}': install the package seabios, or name a folder or file`,
  );
}
