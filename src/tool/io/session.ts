/** State of an exerciser session, and what a command is. */
import type { Backend } from '../../block/backend.js';
import type { BlockGraph } from '../../block/graph.js';
import { messageOf } from '../../block/errors.js';
import type { OptionSpec } from '../../options/getopt.js';
import { formatOptions } from '../../options/getopt.js';
import type { IoOutput } from './output.js';

/** Requests of aio commands that have not been reported yet, by graph. */
const pendingByGraph = new WeakMap<BlockGraph, Set<Promise<void>>>();

/** One user's view: what is open, and where text goes. */
export class IoSession {
  readonly graph: BlockGraph;
  readonly output: IoOutput;
  /** Stands before error messages. */
  readonly program: string;
  backend: Backend | undefined;
  /** `open` takes a list of options in place of a file name (`--image-opts`). */
  imageOpts = false;
  /** `quit` was given. */
  ended = false;

  constructor(init: {
    readonly graph: BlockGraph;
    readonly output: IoOutput;
    readonly program: string;
    readonly backend?: Backend;
  }) {
    this.graph = init.graph;
    this.output = init.output;
    this.program = init.program;
    this.backend = init.backend;
  }

  out(text: string): void {
    this.output.out(text);
  }

  /** `program: message` on standard error, with an error's hint on lines of its own. */
  error(e: unknown): false {
    const message = typeof e === 'string' ? e : messageOf(e);
    const hint = e instanceof Error && 'hint' in e ? e.hint : undefined;
    const more = typeof hint === 'string' && hint !== '' ? `${hint}\n` : '';
    if (this.output.report === undefined) {
      this.output.err(`${this.program}: ${message}\n${more}`);
    } else {
      this.output.report(`${message}\n${more}`);
    }
    return false;
  }

  /** Lets `request` run beside later commands; it reports by itself and never rejects. */
  start(request: Promise<void>): void {
    const pending = this.#pending();
    pending.add(request);
    void request.finally(() => pending.delete(request));
  }

  /** Waits until no aio request of this graph is in flight. */
  async drain(): Promise<void> {
    const pending = this.#pending();
    while (pending.size > 0) await Promise.all(pending);
  }

  #pending(): Set<Promise<void>> {
    let set = pendingByGraph.get(this.graph);
    if (set === undefined) {
      set = new Set();
      pendingByGraph.set(this.graph, set);
    }
    return set;
  }
}

/** A command that needs no open image. */
interface CommandBase {
  readonly name: string;
  readonly alias?: string;
  /** How many words may follow the name, options included; `max` undefined: any number. */
  readonly min: number;
  readonly max?: number;
  /** The words that may follow, as usage and help show them. */
  readonly args?: string;
  readonly summary: string;
  /** An example or a remark, for `help NAME`. */
  readonly doc?: readonly string[];
  /** By letter. */
  readonly options?: Readonly<Record<string, OptionSpec>>;
}

/** `run` gets the words of the line, the command's name first, and tells whether all went well. */
export interface ProgramCommand extends CommandBase {
  readonly kind: 'program';
  run(session: IoSession, words: readonly string[]): boolean | Promise<boolean>;
}

/** A command on the open image. */
export interface ImageCommand extends CommandBase {
  readonly kind: 'image';
  /** Or-ed permissions on the image that the command cannot do without. */
  readonly perm?: number;
  run(session: IoSession, words: readonly string[], backend: Backend): boolean | Promise<boolean>;
}

export type IoCommand = ProgramCommand | ImageCommand;

/** The line that `help` and wrong usage print; `name` is the word that the user typed. */
export function usageLine(command: IoCommand, name: string): string {
  const args = command.args === undefined ? '' : ` ${command.args}`;
  return `${name}${args} -- ${command.summary}\n`;
}

/** Declarations of options without arguments, and with one where the text says `ARG: doc`. */
export function letters(docs: Readonly<Record<string, string>>): Record<string, OptionSpec> {
  const options: Record<string, OptionSpec> = {};
  for (const [short, text] of Object.entries(docs)) {
    const [, arg, doc] = /^(?:([A-Z]+): )?(.*)$/s.exec(text) ?? [];
    options[short] = { short, ...(arg === undefined ? {} : { arg }), doc: doc ?? '' };
  }
  return options;
}

/** What `help NAME` prints below the usage line. */
export function helpText(command: IoCommand): string {
  const parts: string[] = [];
  if (command.doc !== undefined)
    parts.push(`${command.doc.map((line) => ` ${line}`).join('\n')}\n`);
  if (command.options !== undefined) {
    const { name, summary, options } = command;
    parts.push(`${formatOptions({ name, summary, options })}\n`);
  }
  return parts.map((part) => `\n${part}`).join('');
}
