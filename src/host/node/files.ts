/** The files of this machine: which engine carries them, and its names for errors. */
import { existsSync } from 'node:fs';
import { HostError } from '../file.js';
import type { EngineName, FileOpenOptions, HostFile, HostFiles } from '../file.js';
import { AlignedPool } from './aligned.js';
import { openFsFile } from './fs-files.js';
import { listFolder, statPath, unlinkPath } from './fs-calls.js';
import { tryNative, whyNoNative } from './native-binding.js';
import { EngineCode, NativeEngine, errnoError } from './native-engine.js';
import { openNativeFile } from './native-files.js';
import * as paths from './paths.js';

/** What the kernel refused, in QEMU's words. */
const REFUSED = {
  io_uring: 'Unable to use linux io_uring: failed to init linux io_uring ring',
  native: 'Unable to use Linux AIO: failed to create linux AIO context',
  threads: 'Unable to use the thread pool',
} as const;

type NativeEngineName = Exclude<EngineName, 'node-fs'>;

/** The engine of this thread and its aligned memory; made at the first open. */
let native: NativeEngine | undefined;
let pool: AlignedPool | undefined;

/** The addon's engine, undefined where the addon is not there. */
export function tryNativeEngine(): NativeEngine | undefined {
  const binding = tryNative();
  if (binding === undefined) return undefined;
  return (native ??= new NativeEngine(binding));
}

function alignedPool(): AlignedPool {
  const binding = tryNative();
  return (pool ??= new AlignedPool(
    binding === undefined ? undefined : (bytes) => binding.allocateAligned(bytes),
  ));
}

/** The native engine for `name`; undefined when node:fs has to do. */
function pick(name: FileOpenOptions['engine']): NativeEngineName | undefined {
  if (name === 'node-fs') return undefined;
  const engine = tryNativeEngine();
  if (name === 'auto') {
    if (engine === undefined) return undefined;
    return engine.open(EngineCode.io_uring) === 0 ? 'io_uring' : 'threads';
  }
  if (engine === undefined) {
    // Without the addon the thread pool is libuv's.
    if (name === 'threads') return undefined;
    throw new HostError('ENOSYS', `aio=${name} was specified, but is not supported in this build.`);
  }
  const result = engine.open(EngineCode[name]);
  if (result === 0) return name;
  const error = errnoError(result);
  throw new HostError(error.code, `${REFUSED[name]}: ${error.message}`);
}

async function open(path: string, options: FileOpenOptions): Promise<HostFile> {
  const name = pick(options.engine);
  const engine = name === undefined ? undefined : tryNativeEngine();
  if (name === undefined || engine === undefined) return openFsFile(path, options, alignedPool());
  return openNativeFile(path, options, name, engine, alignedPool());
}

/** Linux AIO is there; a context is not made for the question, its end would cost 10 ms. */
function hasAio(): boolean {
  return existsSync('/proc/sys/fs/aio-max-nr');
}

async function engines(): Promise<readonly EngineName[]> {
  const engine = tryNativeEngine();
  if (engine === undefined) return ['node-fs'];
  const names: EngineName[] = ['threads', 'node-fs'];
  if (hasAio()) names.splice(1, 0, 'native');
  if (engine.open(EngineCode.io_uring) === 0) names.unshift('io_uring');
  return names;
}

export const nodeFiles: HostFiles = {
  open,
  stat: statPath,
  unlink: unlinkPath,
  list: listFolder,
  engines,
  alignedBuffer: (bytes) => alignedPool().allocate(bytes),
  engineNote() {
    const why = whyNoNative();
    return why === undefined ? undefined : `native I/O is not available (${why}): using node:fs`;
  },
  ...paths,
};
