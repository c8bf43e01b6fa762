/** Words of a command line: options, numbers, pattern bytes. */
import { GetoptError, readArgs } from '../../options/getopt.js';
import { parseInteger, parseSize } from '../../lib/sizes.js';
import type { IoCommand, IoSession } from './session.js';
import { usageLine } from './session.js';

/** Splits a line at spaces; there is no quoting. */
export function splitLine(line: string): string[] {
  return line.split(' ').filter((word) => word !== '');
}

/** A command line that cannot be carried out; what there is to say about it has been said. */
export class Refused extends Error {
  override readonly name = 'Refused';
}

/** Prints `text` among the results and gives up the command. */
export function refuse(session: IoSession, text: string): never {
  session.out(`${text}\n`);
  throw new Refused(text);
}

/** Prints how `command` is used and gives it up. */
export function refuseUsage(session: IoSession, command: IoCommand): never {
  session.out(usageLine(command, command.name));
  throw new Refused('usage');
}

/**
 * Reads the options of a command in order, as getopt(3) does with GNU's permutation: operands may
 * stand anywhere, `--` ends the options. Nothing is read after the option `last`. Returns the
 * operands.
 */
export function readOptions(
  session: IoSession,
  command: IoCommand,
  words: readonly string[],
  onOption: (letter: string, value: string) => void,
  last?: string,
): string[] {
  const { name, summary, options = {} } = command;
  const operands: string[] = [];
  try {
    for (const { key, value = '' } of readArgs({ name, summary, options }, words.slice(1))) {
      if (key === undefined) operands.push(value);
      else onOption(key, value);
      if (key !== undefined && key === last) break;
    }
  } catch (e) {
    if (!(e instanceof GetoptError)) throw e;
    // There are no long options here: the second dash is taken for a letter.
    const text = e.message.startsWith('unrecognized') ? "invalid option -- '-'" : e.message;
    session.output.err(`${words[0] ?? name}: ${text}\n`);
    refuseUsage(session, command);
  }
  return operands;
}

/** Greatest number that counts as an offset or a length: what fits in a signed 64-bit integer. */
const MAX_INT64 = (1n << 63n) - 1n;

/**
 * An offset or a length in bytes, with a suffix if need be. `shown` stands in the complaint.
 * Numbers that are too large for this program but none too large for a 64-bit one end up
 * behind the end of any image, which is what the answer to them depends on.
 */
export function readSize(session: IoSession, text: string, shown = text): number {
  const size = parseSize(text);
  switch (size.status) {
    case 'ok':
      return size.bytes;
    case 'limit':
      if (size.value <= MAX_INT64) return Number(size.value);
      return refuse(session, `Parsing error: argument too large -- ${shown}`);
    case 'range':
      return refuse(session, `Parsing error: argument too large -- ${shown}`);
    case 'invalid':
      return refuse(
        session,
        `Parsing error: non-numeric argument, or extraneous/unrecognized suffix -- ${shown}`,
      );
  }
}

/** A byte to fill or compare with: 0 to 255, decimal, octal or hexadecimal. */
export function readPattern(session: IoSession, text: string): number {
  const value = parseInteger(text);
  if (value !== undefined && value >= 0n && value <= 255n) return Number(value);
  return refuse(session, `${text} is not a valid pattern byte`);
}

/** Longest request: the greatest multiple of a sector that a 32-bit count can hold. */
export const MAX_REQUEST = 2_147_483_136;

export const SECTOR = 512;

/** Gives up unless `value` is a multiple of a sector. */
export function requireSectors(session: IoSession, value: number, what: string): void {
  if (value % SECTOR === 0) return;
  refuse(session, `${value} is not a sector-aligned value for '${what}'`);
}
