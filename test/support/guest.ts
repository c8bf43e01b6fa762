// Guests for tests: what they need, and programs of a few bytes that firmware starts.
import { existsSync } from 'node:fs';
import { describe } from 'vitest';
import { hasV86, tryFindFirmware } from '../../src/host/node/v86.js';
import type { DescribeWithPeers } from './requires.js';
import { missingCommands } from './requires.js';
import { rootPath } from './paths.js';

/** A file that `npm run setup:guest` made. */
export function guestFile(name: string): string {
  return rootPath('.cache', 'guest', name);
}

function missingForGuests(): string[] {
  const missing: string[] = [];
  if (!hasV86()) missing.push('the npm package v86');
  for (const name of ['bios-256k.bin', 'vgabios-stdvga.bin']) {
    if (tryFindFirmware([name]) === undefined) missing.push(`${name} of the package seabios`);
  }
  return missing;
}

function describeUnless(missing: readonly string[]): DescribeWithPeers {
  if (missing.length === 0) return (name, body) => void describe(name, body);
  return (name, body) => void describe.skip(`${name} [needs ${missing.join(', ')}]`, body);
}

/** A `describe` for tests that run firmware; skipped by name without it or v86. */
export function requiresFirmware(...commands: string[]): DescribeWithPeers {
  return describeUnless([...missingForGuests(), ...missingCommands(...commands)]);
}

/** The same for tests that boot Linux or GRUB, which `npm run setup:guest` gets. */
export function requiresGuest(...commands: string[]): DescribeWithPeers {
  const missing = [...missingForGuests(), ...missingCommands(...commands)];
  if (!existsSync(guestFile('.stamp'))) missing.push('npm run setup:guest');
  return describeUnless(missing);
}

/**
 * A disk of `sectors` sectors whose boot sector reads the next one by firmware, sends its text to
 * the first serial port, and switches the machine off.
 */
export function bootDisk(text: string, sectors = 8192): Uint8Array {
  const disk = new Uint8Array(512 * sectors);
  disk.set([
    ...[0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0, 0xbc, 0x00, 0x7c], // segments, stack
    ...[0xb8, 0x01, 0x02, 0xbb, 0x00, 0x7e, 0xb9, 0x02, 0x00, 0xb6, 0x00, 0xcd, 0x13], // read
    ...[0xbe, 0x00, 0x7e], // mov si, 0x7e00
    ...[0xac, 0x84, 0xc0, 0x74, 0x06, 0xba, 0xf8, 0x03, 0xee, 0xeb, 0xf5], // send up to the zero
    ...[0xba, 0x04, 0xb0, 0xb8, 0x00, 0x20, 0xef], // out 0xb004, sleep type 0
    ...[0xfa, 0xf4], // cli; hlt
  ]);
  disk.set([0x55, 0xaa], 510);
  disk.set(new TextEncoder().encode(`${text}\0`), 512);
  return disk;
}
