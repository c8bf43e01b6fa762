// What the scripts in tools/ share: hashing files, atomic writes. Only Node's own modules.
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, statSync } from 'node:fs';
import { writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** The project's folder. */
export const root = dirname(dirname(fileURLToPath(import.meta.url)));

/** Every file under the given files and folders that the filter takes, sorted, absolute. */
export function filesUnder(paths, filter = () => true) {
  const found = [];
  const visit = (path) => {
    if (!existsSync(path)) return;
    if (!statSync(path).isDirectory()) {
      if (filter(path)) found.push(path);
      return;
    }
    for (const name of readdirSync(path).sort()) {
      if (name !== 'node_modules' && name !== 'build') visit(join(path, name));
    }
  };
  for (const path of paths) visit(join(root, path));
  return found;
}

/** One hash over names and contents of files, and over anything else that a result depends on. */
export function hashOf(files, ...more) {
  const hash = createHash('sha256').update(JSON.stringify([process.version, ...more]));
  for (const file of files) {
    hash.update(`\0${file.slice(root.length)}\0`).update(readFileSync(file));
  }
  return hash.digest('hex').slice(0, 32);
}

/** The text of a small file; undefined when it cannot be read. */
export function tryRead(path) {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
}

/** Writes by renaming, so that a program that starts meanwhile sees the old file or the new one. */
export function writeAtomically(path, content) {
  mkdirSync(dirname(path), { recursive: true });
  const temporary = `${path}.${process.pid}.tmp`;
  writeFileSync(temporary, content);
  renameSync(temporary, path);
}
