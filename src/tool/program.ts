/** What a tool's command needs of its surroundings: the name it was called by, and its outputs. */
import { beforeOf, hintOf, messageOf } from '../block/errors.js';
import { GetoptError } from '../options/getopt.js';
import { OptionError } from '../options/option-error.js';
import type { IoOutput } from './io/output.js';

/** Wrong use of the command line; status 1. */
export class UsageError extends Error {
  override readonly name = 'UsageError';
  /** Point to `--help` in a line of its own. */
  readonly tryHelp: boolean;
  constructor(message: string, tryHelp = true) {
    super(message);
    this.tryHelp = tryHelp;
  }
}

/** A failure with a status of its own; `message` undefined: everything has been told already. */
export class Failure extends Error {
  override readonly name = 'Failure';
  readonly told: boolean;
  readonly status: number;
  readonly hint: string | undefined;
  constructor(message: string | undefined, status = 1, hint?: string) {
    super(message ?? '');
    this.told = message === undefined;
    this.status = status;
    this.hint = hint;
  }
}

/** Beginnings of messages that stand without the program's name. */
const ownMarks = [
  'WARNING: ',
  'ERROR ',
  "Can't get refcount ",
  'Leaked ',
  'Repairing ',
  'Rebuilding ',
  'qcow2: ',
  'qcow2_free_clusters ',
];

/** Something was asked for instead of work: `text` is printed, and the status is 0. */
export class Answer extends Error {
  override readonly name = 'Answer';
  readonly text: string;
  constructor(text: string) {
    super('');
    this.text = text;
  }
}

/**
 * What `--trace` was given: patterns are accepted, `help` is answered by the events that there are,
 * none. Throws Answer, and OptionError for a word that is no part of such an option.
 */
export function acceptTrace(text: string): void {
  if (text === 'help') throw new Answer('');
  for (const part of text.split(',')) {
    const name = /^([^=]*)=/.exec(part)?.[1];
    if (name !== undefined && !['enable', 'events', 'file'].includes(name)) {
      throw new OptionError(`Invalid parameter '${name}'`);
    }
  }
}

/** Exit status of a program that Ctrl-C ended, as shells give it. */
export const INTERRUPTED = 130;

export class Program {
  /** Stands before each message: the name by which the program was called. */
  readonly name: string;
  /** As in usage lines: with the subcommand. */
  commandName: string;
  readonly output: IoOutput;
  /** Point to `--help` as qemu-nbd does. */
  hintsAsNbd = false;
  #held: string[] | undefined;

  constructor(name: string, output: IoOutput) {
    this.name = name;
    this.commandName = name;
    this.output = output;
  }

  print(text: string): void {
    this.output.out(text);
  }

  error(message: string, hint?: string): void {
    this.output.err(`${this.name}: ${message}\n${hint === undefined ? '' : `${hint}\n`}`);
  }

  /** From now on warnings about flushes wait for {@link releaseWarnings}. */
  holdWarnings(): void {
    this.#held = [];
  }

  /** Prints what was held back, unless an error has told more than that already. */
  releaseWarnings(print: boolean): void {
    const held = this.#held ?? [];
    this.#held = undefined;
    if (print) for (const message of held) this.warning(message);
  }

  /** A warning; texts with a mark of their own, and findings of a repair, stand as they are. */
  warning(message: string): void {
    if (this.#held !== undefined && message.startsWith('Failed to flush')) {
      this.#held.push(message);
      return;
    }
    if (ownMarks.some((mark) => message.startsWith(mark))) this.output.err(`${message}\n`);
    else if (/^(?:Failed to flush|Lost persistent)/.test(message)) this.error(message);
    else this.output.err(`${this.name}: warning: ${message}\n`);
  }

  /** Where the command line is explained; qemu-nbd says it in other words than qemu-img. */
  tryHelp(parsing: boolean): void {
    const { name, commandName } = this;
    if (!this.hintsAsNbd) this.output.err(`Try '${commandName} --help' for more info\n`);
    else {
      const before = parsing ? `${name}: ` : '';
      this.output.err(`${before}Try \`${name} --help' for more information.\n`);
    }
  }

  /** Tells any error in one line (and its hint); the exit status. */
  report(e: unknown): number {
    if (e instanceof GetoptError) {
      this.output.err(`${this.commandName}: ${e.message}\n`);
      this.tryHelp(true);
      return 1;
    }
    if (e instanceof Answer) {
      this.print(e.text);
      return 0;
    }
    if (e instanceof UsageError) {
      this.error(e.message);
      if (e.tryHelp) this.tryHelp(false);
      return 1;
    }
    if (e instanceof Failure) {
      if (!e.told) this.error(e.message, e.hint);
      return e.status;
    }
    const before = beforeOf(e);
    if (before !== undefined) this.error(before);
    this.error(messageOf(e), hintOf(e));
    if (process.env['VDISK_DEBUG'] !== undefined && e instanceof Error) {
      this.output.err(`${e.stack ?? ''}\n`);
    }
    return 1;
  }
}

/**
 * Carries out what a program's command line asks for; resolves to the exit status when everything
 * has been printed. `report` tells of an error and says the status that it means.
 */
export async function runTool(
  program: Program,
  work: () => Promise<number>,
  report = (e: unknown): number => program.report(e),
): Promise<number> {
  let status: number;
  try {
    status = await work();
  } catch (e) {
    status = report(e);
  }
  program.output.flush();
  return status;
}
