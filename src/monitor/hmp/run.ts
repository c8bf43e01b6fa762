/** Carrying out one line of the human monitor. */
import { messageOf, hintOf } from '../../block/errors.js';
import { BugError } from '../../lib/assert.js';
import type { MonitorContext } from '../context.js';
import { HmpArgumentError, HmpError, readHmpArguments } from './arguments.js';
import type { HmpCommand } from './command.js';
import { HmpRun, isNamed } from './command.js';
import { hmpCommands, infoCommands } from './commands/index.js';

/** Where a line's output goes. */
export interface HmpSink {
  readonly history: readonly string[];
  print(this: void, text: string): void;
}

/** Runs one line; all that there is to say is printed. */
export async function runHmp(context: MonitorContext, line: string, sink: HmpSink): Promise<void> {
  const text = line.trimStart();
  if (text === '' || text.startsWith('#')) return;
  try {
    const found = find(text);
    const args = readHmpArguments(found.command.name, found.command.args, found.rest);
    await found.command.run(new HmpRun({ context, args, ...sink }));
  } catch (e) {
    if (e instanceof BugError) throw e;
    if (e instanceof HmpError) {
      sink.print(`${e.message}\n`);
      if (e instanceof HmpArgumentError) sink.print(helpHint(text));
      return;
    }
    const hint = hintOf(e);
    sink.print(`Error: ${messageOf(e)}\n${hint === undefined ? '' : `${hint}\n`}`);
  }
}

/** Where the words of the command are that the line begins with. */
function helpHint(line: string): string {
  const words = (/^info\s+\S+/.exec(line) ?? [wordOf(line)])[0];
  return `Try "help ${words}" for more information\n`;
}

/** The command that a line begins with, and what stands behind it. Throws HmpError. */
function find(line: string): { command: HmpCommand; rest: string } {
  const word = wordOf(line);
  const command = hmpCommands.find((each) => isNamed(each, word));
  if (command === undefined) throw new HmpError(`unknown command: '${word}'`);
  const rest = line.slice(word.length);
  const item = wordOf(rest.trimStart());
  if (command.name !== 'info' || item === '') return { command, rest };
  const info = infoCommands.find((each) => isNamed(each, item));
  if (info === undefined) throw new HmpError(`unknown command: 'info ${item}'`);
  return { command: info, rest: rest.trimStart().slice(item.length) };
}

function wordOf(text: string): string {
  return /^[^\s/]*/.exec(text)?.[0] ?? '';
}
