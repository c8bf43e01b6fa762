/** The commands, as plain lists: those of a library session, and those of the program. */
import type { IoCommand } from '../session.js';
import { aioFlush, aioRead, aioWrite } from './aio.js';
import { discard, flush, truncate } from './change.js';
import { removeBreak, resume, setBreak, waitBreak } from './debug.js';
import { close, open, reopen } from './image.js';
import { abort, helpCommand, quit, sigraise, sleep } from './process.js';
import { read, readv } from './read.js';
import { alloc, info, length, map } from './status.js';
import { write, writev } from './write.js';
import { zoneCommands } from './zone.js';

function byName(a: IoCommand, b: IoCommand): number {
  return a.name < b.name ? -1 : 1;
}

function withHelp(commands: readonly IoCommand[]): readonly IoCommand[] {
  const all: IoCommand[] = [...commands, helpCommand(() => all)];
  return all.sort(byName);
}

const common: readonly IoCommand[] = [
  abort,
  aioFlush,
  aioRead,
  aioWrite,
  alloc,
  discard,
  flush,
  info,
  length,
  map,
  read,
  readv,
  removeBreak,
  reopen,
  resume,
  setBreak,
  sigraise,
  sleep,
  truncate,
  waitBreak,
  write,
  writev,
  ...zoneCommands,
];

/** Commands on an image that somebody else opened (a monitor's `qemu-io`). */
export const imageCommands: readonly IoCommand[] = withHelp(common);

/** Commands of the program, which opens images itself. */
export const programCommands: readonly IoCommand[] = withHelp([...common, close, open, quit]);
