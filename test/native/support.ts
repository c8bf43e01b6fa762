// What the tests of the native engine share.
import { build } from 'esbuild';
import { execFileSync } from 'node:child_process';
import { describe } from 'vitest';
import type { EngineName, HostFile } from '../../src/host/file.js';
import { nodeFiles } from '../../src/host/node/files.js';
import { tryNative, whyNoNative } from '../../src/host/node/native-binding.js';
import { missingCommands, rootPath } from '../support/index.js';

/** A `describe` that is skipped, and says why, where the addon was not built. */
export const withAddon: (name: string, body: () => void) => void =
  tryNative() === undefined
    ? (name, body) => void describe.skip(`${name} [needs the native addon: ${why()}]`, body)
    : (name, body) => void describe(name, body);

const why = (): string => whyNoNative() ?? '';

/** A `describe` for tests that set up devices or mounts: needs root and the commands. */
export function asRoot(...commands: string[]): (name: string, body: () => void) => void {
  const missing = missingCommands(...commands);
  if (process.getuid?.() !== 0) missing.unshift('root');
  if (missing.length === 0) return withAddon;
  return (name, body) => void describe.skip(`${name} [needs ${missing.join(', ')}]`, body);
}

/** Runs a command to its end, and throws with its words when it fails. */
export const sh = (command: string, ...args: string[]): string =>
  execFileSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] }).trim();

/**
 * The host as one module for child processes and workers, which cannot load TypeScript.
 * Resolves to its path; it exports nodeFiles, tryNativeEngine, tryNativeXts and Iov.
 */
export async function bundleHost(): Promise<string> {
  const outfile = rootPath(`.cache/test-native-${String(process.pid)}.mjs`);
  const contents = `
    export { nodeFiles, tryNativeEngine } from './src/host/node/files.js';
    export { tryNativeXts } from './src/host/node/bulk-cipher.js';
    export { Iov } from './src/lib/iov.js';`;
  await build({
    stdin: { contents, resolveDir: rootPath('.') },
    bundle: true,
    platform: 'node',
    format: 'esm',
    target: 'node20',
    packages: 'external',
    outfile,
  });
  return outfile;
}

/** The engines under test; `native` needs O_DIRECT. */
export const engines: readonly EngineName[] = ['io_uring', 'native', 'threads', 'node-fs'];

/** Opens `path` for writing, new and empty unless `keep`. */
export function openFile(
  path: string,
  engine: EngineName | 'auto',
  options: { direct?: boolean; keep?: boolean; maxBatch?: number } = {},
): Promise<HostFile> {
  const { direct = false, keep = false, maxBatch = 0 } = options;
  const create = keep ? 'keep' : 'truncate';
  return nodeFiles.open(path, { writable: true, direct, engine, create, maxBatch });
}
