/**
 * The monitor: its clients, its commands, its events.
 *
 * Commands of all clients are carried out one after another, in the order in which they came, so
 * that a command never sees another one's work half done. Events go to every client that has
 * negotiated, in the order in which they happened; an event that a command causes comes before
 * that command's reply.
 */
import type { Clock } from '../host/host.js';
import type { ByteStream } from '../host/socket.js';
import type { Decl } from '../options/schema.js';
import { fieldsOf, parseValue, t } from '../options/schema.js';
import type { Command } from './command.js';
import type { MonitorContext, VersionInfo } from './context.js';
import type { EventKind } from './events.js';
import { EventGate } from './events.js';
import { HmpSession } from './hmp/session.js';
import type { HmpHost } from './hmp/session.js';
import type { HmpSink } from './hmp/run.js';
import { runHmp } from './hmp/run.js';
import { checkPreconfig } from './preconfig.js';
import type { SessionHost } from './session.js';
import { QmpSession } from './session.js';

const noArguments = t.struct('q_empty', {});

export interface MonitorInit {
  readonly clock: Clock;
  readonly commands: readonly Command[];
  readonly events: readonly EventKind[];
  readonly version: VersionInfo;
  /** What `t.ref` stands for in the commands' declarations. */
  readonly types: ReadonlyMap<string, Decl>;
  /** What commands work on; asked for when the first one runs. */
  readonly context: () => MonitorContext;
}

type EventListener = (name: string, data: Readonly<Record<string, unknown>>) => void;

export class Monitor implements SessionHost, HmpHost {
  readonly version: VersionInfo;
  readonly clock: Clock;
  readonly commands: ReadonlyMap<string, Command>;
  readonly types: ReadonlyMap<string, Decl>;
  readonly #context: () => MonitorContext;
  readonly #sessions = new Set<QmpSession>();
  readonly #lineSessions = new Set<HmpSession>();
  readonly #listeners = new Set<EventListener>();
  readonly #gate: EventGate;
  #last: Promise<unknown> = Promise.resolve();

  constructor(init: MonitorInit) {
    this.version = init.version;
    this.clock = init.clock;
    this.commands = new Map(init.commands.map((command) => [command.name, command]));
    this.types = init.types;
    this.#context = init.context;
    this.#gate = new EventGate(init.events, init.clock, (message) => {
      for (const session of this.#sessions) session.emit(message);
      const { event, data = {} } = message;
      for (const listener of this.#listeners) listener(event, data);
    });
  }

  /** Serves a client until it is `gone`; `pretty`: replies over several lines. */
  attach(stream: ByteStream, pretty: boolean, gone: () => void = (): void => undefined): void {
    const session = new QmpSession(this, stream, pretty);
    this.#sessions.add(session);
    session.onGone = (): void => {
      this.#sessions.delete(session);
      gone();
    };
  }

  /** Serves a person, or a script that types like one, until it is `gone`. */
  attachLines(stream: ByteStream, gone: () => void = (): void => undefined): void {
    const session = new HmpSession(this, stream);
    this.#lineSessions.add(session);
    session.onGone = (): void => {
      this.#lineSessions.delete(session);
      gone();
    };
  }

  /** Carries out a line of the human monitor, after all that came before. */
  executeLine(line: string, sink: HmpSink): Promise<void> {
    return this.runExclusive(() => runHmp(this.#context(), line, sink));
  }

  /** Calls `listener` at each event, as clients are told of it; returns what ends that. */
  listen(listener: EventListener): () => void {
    // The same listener may be there twice.
    const own: EventListener = (name, data) => {
      listener(name, data);
    };
    this.#listeners.add(own);
    return () => this.#listeners.delete(own);
  }

  /** Tells every client of an event, at once or when its rate allows. */
  emit(name: string, data: Readonly<Record<string, unknown>>): void {
    this.#gate.emit(name, data);
  }

  /**
   * Checks the arguments and carries a command out, after all that came before. Rejects with
   * QmpError, OptionError or BlockError; then nothing has changed.
   */
  execute(command: Command, args: unknown): Promise<unknown> {
    return this.runExclusive(() => {
      const context = this.#context();
      checkPreconfig(context, command.name);
      const decl = command.args ?? noArguments;
      const how = { from: 'qmp', types: this.types, withoutDefaults: command.givenOnly } as const;
      if (command.takesMore === true && typeof args === 'object') {
        const declared = fieldsOf(decl);
        const given = Object.entries(args ?? {});
        const own = given.filter(([name]) => Object.hasOwn(declared, name));
        const checked: unknown = parseValue(decl, Object.fromEntries(own), how);
        return command.run(context, Object.assign(Object.fromEntries(given), checked));
      }
      return command.run(context, parseValue(decl, args, how));
    });
  }

  /** Runs `work` when no command is carried out, and lets none begin before it ends. */
  runExclusive<T>(work: () => T | Promise<T>): Promise<T> {
    const result = this.#last.then(work);
    this.#last = result.catch(() => undefined);
    return result;
  }

  /** No command is taken any more; {@link idle} tells when the one in work is done. */
  stop(): void {
    for (const session of this.#sessions) session.stop();
    for (const session of this.#lineSessions) session.stop();
  }

  /** Resolves when no command is carried out. */
  async idle(): Promise<void> {
    await this.#last;
  }

  /** Ends all sessions: each gets what it is owed. */
  async close(): Promise<void> {
    this.#gate.close();
    await Promise.all([...this.#sessions].map((session) => session.close()));
    await Promise.all([...this.#lineSessions].map((session) => session.close()));
    this.#sessions.clear();
  }
}
