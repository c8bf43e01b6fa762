/** Whether a descriptor is a terminal, without loading node:tty, which costs a start-up 1 ms. */
import { fstatSync } from 'node:fs';

/** Linux's major device number of memory devices: /dev/null, /dev/zero, … */
const MEMORY_DEVICES = 1;

export function isTerminal(fd: number): boolean {
  try {
    const stat = fstatSync(fd);
    return stat.isCharacterDevice() && ((stat.rdev >> 8) & 0xfff) !== MEMORY_DEVICES;
  } catch {
    return false;
  }
}
