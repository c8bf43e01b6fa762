/**
 * Commands of the 82078 (data sheet, chapter 6): codes, which bits of the first byte are flags,
 * and how many bytes follow it.
 */

/** What a command does, by name. */
export type CommandName =
  | 'read'
  | 'read-deleted'
  | 'read-track'
  | 'write'
  | 'write-deleted'
  | 'verify'
  | 'scan-equal'
  | 'scan-low'
  | 'scan-high'
  | 'format'
  | 'read-id'
  | 'recalibrate'
  | 'seek'
  | 'seek-out'
  | 'seek-in'
  | 'sense-interrupt'
  | 'sense-drive'
  | 'specify'
  | 'configure'
  | 'dump-registers'
  | 'perpendicular'
  | 'lock'
  | 'version'
  | 'part-id'
  | 'powerdown'
  | 'option'
  | 'save'
  | 'restore'
  | 'drive-specification';

export interface Command {
  readonly name: CommandName;
  /** The command is meant when the first byte, masked, is `code`. */
  readonly code: number;
  readonly mask: number;
  /** Bytes that follow the first. */
  readonly parameters: number;
}

type Row = readonly [CommandName, number, number, number];

const rows: readonly Row[] = [
  ['read', 0x06, 0x1f, 8],
  ['read-deleted', 0x0c, 0x1f, 8],
  ['read-track', 0x02, 0x9f, 8],
  ['write', 0x05, 0x3f, 8],
  ['write-deleted', 0x09, 0x3f, 8],
  ['verify', 0x16, 0x1f, 8],
  ['scan-equal', 0x11, 0x1f, 8],
  ['scan-low', 0x19, 0x1f, 8],
  ['scan-high', 0x1d, 0x1f, 8],
  ['format', 0x0d, 0xbf, 5],
  ['read-id', 0x0a, 0xbf, 1],
  ['recalibrate', 0x07, 0xff, 1],
  ['seek', 0x0f, 0xff, 2],
  ['seek-out', 0x8f, 0xff, 2],
  ['seek-in', 0xcf, 0xff, 2],
  ['sense-interrupt', 0x08, 0xff, 0],
  ['sense-drive', 0x04, 0xff, 1],
  ['specify', 0x03, 0xff, 2],
  ['configure', 0x13, 0xff, 3],
  ['dump-registers', 0x0e, 0xff, 0],
  ['perpendicular', 0x12, 0xff, 1],
  ['lock', 0x14, 0x7f, 0],
  ['version', 0x10, 0xff, 0],
  ['part-id', 0x18, 0xff, 0],
  ['powerdown', 0x17, 0xff, 1],
  ['option', 0x33, 0xff, 1],
  ['save', 0x2e, 0xff, 0],
  ['restore', 0x4e, 0xff, 16],
  // One byte for each of up to four drives, and one that ends it; an earlier end is in bit 7.
  ['drive-specification', 0x8e, 0xff, 5],
];

const commands: readonly Command[] = rows.map(([name, code, mask, parameters]) => ({
  name,
  code,
  mask,
  parameters,
}));

/** The command that begins with a byte; undefined: it is none. */
export function fdcCommand(first: number): Command | undefined {
  return commands.find(({ code, mask }) => (first & mask) === code);
}

/** The most bytes that a command or a result has. */
export const MAX_PHASE_BYTES = 1 + Math.max(...commands.map(({ parameters }) => parameters));
