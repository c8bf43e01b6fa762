import { fileURLToPath } from 'node:url';
import { resolve } from 'node:path';

const root = resolve(fileURLToPath(import.meta.url), '../../..');

/** Absolute path of a file of the project: `rootPath('examples', 'open.mjs')`. */
export function rootPath(...parts: string[]): string {
  return resolve(root, ...parts);
}

/** Absolute path of a built tool: `binPath('vdisk-img')`. Executable; the bundles are fresh. */
export function binPath(name: string): string {
  return rootPath('bin', name);
}
