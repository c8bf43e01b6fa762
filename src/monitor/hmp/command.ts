/**
 * Commands of the human monitor. One declaration gives name, arguments, and help; what a command
 * does is mostly said by a QMP command.
 */
import { parseValue, t } from '../../options/schema.js';
import type { MonitorContext } from '../context.js';
import type { MachineControl } from '../machine.js';
import { QmpError } from '../qmp-error.js';
import type { HmpArguments } from './arguments.js';
import { HmpError } from './arguments.js';

const noArguments = t.struct('q_empty', {});

/** What a command has while it runs. */
export class HmpRun {
  readonly context: MonitorContext;
  readonly args: HmpArguments;
  /** Lines that this monitor's user has entered. */
  readonly history: readonly string[];
  /** Text for the user. */
  readonly print: (text: string) => void;

  constructor(init: {
    readonly context: MonitorContext;
    readonly args: HmpArguments;
    readonly history: readonly string[];
    readonly print: (text: string) => void;
  }) {
    this.context = init.context;
    this.args = init.args;
    this.history = init.history;
    this.print = init.print;
  }

  /** The machine. Throws HmpError where there is none. */
  get machine(): MachineControl {
    const { machine } = this.context;
    if (machine === undefined) throw new HmpError('There is no machine');
    return machine;
  }

  /** A text argument that must be there. */
  text(name: string): string {
    return this.tryText(name) ?? '';
  }

  tryText(name: string): string | undefined {
    const value = this.args.get(name);
    return typeof value === 'string' ? value : undefined;
  }

  tryNumber(name: string): number | undefined {
    const value = this.args.get(name);
    return typeof value === 'number' ? value : undefined;
  }

  flag(name: string): boolean {
    return this.args.get(name) === true;
  }

  /** Carries out a QMP command. Throws what that throws; QmpError when there is none. */
  async qmp(name: string, args: Readonly<Record<string, unknown>> = {}): Promise<unknown> {
    const { commands, types } = this.context;
    const command = commands.get(name);
    if (command === undefined) {
      throw new QmpError(`The command ${name} has not been found`, 'CommandNotFound');
    }
    const checked = parseValue(command.args ?? noArguments, args, {
      from: 'qmp',
      types,
      withoutDefaults: command.givenOnly,
    });
    return command.run(this.context, checked);
  }
}

export interface HmpCommand {
  /** With other names after `|`: `quit|q`. Words of `info` have their name alone. */
  readonly name: string;
  /** See arguments.ts. */
  readonly args: string;
  /** The arguments as help shows them. */
  readonly params: string;
  /** What it does, in a few words. */
  readonly help: string;
  /** Throws HmpError for a text that stands alone, anything else for one after `Error: `. */
  run(this: void, run: HmpRun): Promise<void> | void;
}

/** Whether `name` is one of a command's names. */
export function isNamed(command: HmpCommand, name: string): boolean {
  return command.name.split('|').includes(name);
}
