/** Who uses a file: locks of files, and processes that have it open. Linux's /proc only. */
import { readdirSync, readFileSync, realpathSync, statSync } from 'node:fs';

/** A process that has the file open. */
export interface Holder {
  readonly pid: number;
  /** Its command line, arguments joined by spaces; cut where it is long. */
  readonly command: string;
  readonly opened: 'for reading' | 'for writing';
  /** What its locks say, by QEMU's convention; empty: it takes none. */
  readonly locks: readonly string[];
}

/** Everybody who could be found. */
export interface Holders {
  readonly processes: readonly Holder[];
  /** Locks on the file whose owner may not be looked at (another user's process). */
  readonly unknownLocks: number;
  /** Loop devices over the file. */
  readonly loops: readonly string[];
}

/** First byte of the locks that say "I do this", and of those that say "nobody else may". */
const DOES = 100;
const FORBIDS = 200;
/** By the distance from these. */
const ACTS = ['read', 'write', 'rewrite what is there', 'resize'];
const MAX_COMMAND = 200;
/** Processes that are looked at. */
const MAX_PROCESSES = 32_768;

/** Looks who has `path` open. Never throws: what cannot be read is left out. */
export function findHolders(path: string): Holders {
  const file = tryStat(path);
  if (file === undefined) return { processes: [], unknownLocks: 0, loops: [] };
  const processes: Holder[] = [];
  let seen = 0;
  for (const name of entries('/proc').slice(0, MAX_PROCESSES)) {
    if (!/^\d+$/.test(name) || Number(name) === process.pid) continue;
    const holder = lookAt(Number(name), file.dev, file.ino);
    if (holder === undefined) continue;
    processes.push(holder.holder);
    seen += holder.locks;
  }
  const all = lockCount(file.ino, file.dev);
  return { processes, unknownLocks: Math.max(0, all - seen), loops: loopsOver(path) };
}

function tryStat(path: string): { dev: number; ino: number } | undefined {
  try {
    return statSync(path);
  } catch {
    return undefined;
  }
}

function entries(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}

function tryRead(path: string): string {
  try {
    return readFileSync(path, 'latin1');
  } catch {
    return '';
  }
}

/** The process, when it has the file open. */
function lookAt(
  pid: number,
  dev: number,
  ino: number,
): { holder: Holder; locks: number } | undefined {
  const folder = `/proc/${String(pid)}`;
  const locks = new Set<string>();
  let lines = 0;
  let isOpen = false;
  let writes = false;
  for (const fd of entries(`${folder}/fd`)) {
    const file = tryStat(`${folder}/fd/${fd}`);
    if (file?.ino !== ino || file.dev !== dev) continue;
    isOpen = true;
    const info = tryRead(`${folder}/fdinfo/${fd}`);
    const flags = Number.parseInt(/^flags:\s*(\d+)/m.exec(info)?.[1] ?? '0', 8);
    if ((flags & 3) !== 0) writes = true;
    for (const line of info.matchAll(/^lock:\s.*$/gm)) {
      lines++;
      for (const text of meaningOf(line[0])) locks.add(text);
    }
  }
  if (!isOpen) return undefined;
  const command = Buffer.from(tryRead(`${folder}/cmdline`), 'latin1').toString('utf8');
  const words = command.replace(/\0+$/, '').split('\0').join(' ');
  const holder: Holder = {
    pid,
    command: words.length > MAX_COMMAND ? `${words.slice(0, MAX_COMMAND)}…` : words,
    opened: writes ? 'for writing' : 'for reading',
    locks: [...locks],
  };
  return { holder, locks: lines };
}

/** `lock: 1: OFDLCK ADVISORY READ -1 fe:00:2615156 100 101` in words. */
function meaningOf(line: string): string[] {
  const found = /(\S+)\s+\S+\s+(READ|WRITE)\s+\S+\s+\S+\s+(\d+)\s+(\d+|EOF)\s*$/.exec(line);
  if (found === null) return [];
  const [, , mode = '', from = '0', to = '0'] = found;
  const [first, last] = [Number(from), to === 'EOF' ? Infinity : Number(to)];
  const texts: string[] = [];
  for (let byte = first; byte <= Math.min(last, FORBIDS + ACTS.length); byte++) {
    const [does, forbids] = [ACTS[byte - DOES], ACTS[byte - FORBIDS]];
    if (does !== undefined) texts.push(`may ${does}`);
    if (forbids !== undefined) texts.push(`lets nobody else ${forbids}`);
  }
  if (texts.length > 0 && last !== Infinity) return texts;
  return [`holds a ${mode === 'READ' ? 'shared' : 'exclusive'} lock of another kind`];
}

/** Lines of /proc/locks about the file. */
function lockCount(ino: number, dev: number): number {
  const [major, minor] = [(dev >> 8) & 0xfff, (dev & 0xff) | ((dev >> 12) & 0xfff00)];
  const hex = (value: number): string => value.toString(16).padStart(2, '0');
  const id = `${hex(major)}:${hex(minor)}:${String(ino)}`;
  return tryRead('/proc/locks')
    .split('\n')
    .filter((line) => line.split(/\s+/).includes(id)).length;
}

/** The file under a loop device; empty when there is none. */
function backingFile(name: string): string {
  const text = tryRead(`/sys/block/${name}/loop/backing_file`);
  return Buffer.from(text, 'latin1').toString('utf8').replace(/\n$/, '');
}

/** The kernel names backing files by their whole path, without links. */
function loopsOver(path: string): string[] {
  let real: string;
  try {
    real = realpathSync(path);
  } catch {
    return [];
  }
  return entries('/sys/block')
    .filter((name) => name.startsWith('loop'))
    .filter((name) => backingFile(name) === real)
    .map((name) => `/dev/${name}`);
}
