/**
 * A block layer that is in use: a graph with its jobs, exports, objects and character devices, and
 * every command on them as a typed call. Monitors may be attached; none is needed.
 *
 * ```ts
 * const layer = await createBlockLayer();
 * layer.on('BLOCK_JOB_READY', ({ device }) => layer.execute('block-job-complete', { device }));
 * await layer.execute('blockdev-add', { driver: 'null-co', 'node-name': 'disk', size: 1 << 20 });
 * const nodes = await layer.execute('query-named-block-nodes', { flat: true });
 * ```
 *
 * Names, arguments and results are those of QMP, and come from the one declaration of each command;
 * so do the checks at run time and their texts.
 */
import { messageOf } from '../block/errors.js';
import type { BlockGraph, GraphInit } from '../block/graph.js';
import type { BlockNode } from '../block/node.js';
import type { Driver } from '../block/driver.js';
import { blockdevTypes } from '../catalog/blockdev-types.js';
import type { Clock } from '../host/host.js';
import type { HostSockets } from '../host/socket.js';
import { JobList } from '../job/job-list.js';
import { assert } from '../lib/assert.js';
import { Chardevs } from './chardevs.js';
import type { ArgumentsOf, Command, ResultOf } from './command.js';
import { commands as blockCommands } from './commands/index.js';
import type { MonitorContext, VersionInfo } from './context.js';
import { eventKinds } from './event-kinds.js';
import type { DataOf } from './events.js';
import { BlockExports } from './exports.js';
import type { MachineControl } from './machine.js';
import { Monitor } from './monitor.js';
import type { Objects } from './objects.js';

type BlockCommand = (typeof blockCommands)[number];
type BlockEvent = (typeof eventKinds)[number];

/** What of the union `C` is called `N`; several commands may share a type but for their names. */
type Named<C, N extends string> = C extends { readonly name: infer M }
  ? N extends M
    ? C
    : never
  : never;

/** Names of the commands, as in QMP. */
export type CommandName = BlockCommand['name'];
/** Arguments of a command. */
export type CommandArguments<N extends CommandName> = ArgumentsOf<Named<BlockCommand, N>>;
/** What a command resolves to. */
export type CommandResult<N extends CommandName> = ResultOf<Named<BlockCommand, N>>;
/** Names of the events, as in QMP. */
export type EventName = BlockEvent['name'];
/** What comes with an event. */
export type EventData<N extends EventName> = DataOf<Named<BlockEvent, N>>;

/** Arguments that may all be missing may be missing themselves. */
type Given<A> = Readonly<Record<never, never>> extends A ? [args?: A] : [args: A];

type Emit = MonitorContext['emit'];

export interface BlockLayerInit {
  /** Makes the graph; its events are to go to `emit`. */
  readonly graph: (emit: NonNullable<GraphInit['onEvent']>) => BlockGraph;
  readonly drivers: readonly Driver[];
  readonly objects: Objects;
  readonly clock: Clock;
  readonly sockets: () => Promise<HostSockets>;
  readonly version: VersionInfo;
  /** Default: all that need no machine. */
  readonly commands?: readonly Command[];
  /** A line for people. Default: dropped. */
  readonly print?: (line: string) => void;
  /** What character devices tell people. Default: dropped. */
  readonly notice?: (line: string) => void;
  /** A node could not be flushed when all was closed. Default: dropped. */
  readonly warn?: (line: string) => void;
  /** `quit` was executed: the owner closes the layer. Resolves when it has, but for monitors. */
  readonly quit?: () => Promise<void>;
}

const nothing = (): void => undefined;

export class BlockLayer {
  readonly graph: BlockGraph;
  readonly monitor: Monitor;
  readonly exports: BlockExports;
  readonly objects: Objects;
  readonly jobs: JobList;
  readonly chardevs: Chardevs;
  /** Nodes that blockdev-add opened. */
  readonly owned = new Set<BlockNode>();
  /** The machine that the layer belongs to, if there is one. */
  machine: MachineControl | undefined;
  readonly #warn: (line: string) => void;
  /** A command closes the layer, which then need not wait for it. */
  #quitting = false;

  constructor(init: BlockLayerInit) {
    const emit: Emit = (name, data) => {
      this.monitor.emit(name, data);
    };
    const { objects } = init;
    const types = blockdevTypes(init.drivers);
    this.#warn = init.warn ?? nothing;
    this.objects = objects;
    this.graph = init.graph(emit);
    this.exports = new BlockExports({ graph: this.graph, objects, emit });
    this.jobs = new JobList({
      clock: init.clock,
      emit,
      exclusive: (work) => this.monitor.runExclusive(work),
    });
    this.chardevs = new Chardevs(init.sockets, init.notice ?? nothing);
    this.monitor = new Monitor({
      clock: init.clock,
      commands: init.commands ?? blockCommands,
      events: eventKinds,
      version: init.version,
      types,
      context: () => ({
        graph: this.graph,
        owned: this.owned,
        exports: this.exports,
        chardevs: this.chardevs,
        objects,
        jobs: this.jobs,
        machine: this.machine,
        version: init.version,
        commands: this.monitor.commands,
        types,
        emit,
        print: init.print ?? nothing,
        quit: (): Promise<void> => {
          this.#quitting = true;
          return init.quit === undefined ? this.close() : init.quit();
        },
      }),
    });
  }

  /**
   * Carries a command out, after all that came before. Rejects with QmpError, OptionError or
   * BlockError, with QEMU's text; then nothing has changed.
   */
  async execute<N extends CommandName>(
    name: N,
    ...[args]: Given<CommandArguments<N>>
  ): Promise<CommandResult<N>> {
    const command = this.monitor.commands.get(name);
    assert(command !== undefined, `The command ${name} has not been found`);
    const result = await this.monitor.execute(command, args ?? {});
    // What the command's declaration says that it returns.
    return (result ?? {}) as CommandResult<N>;
  }

  /** Calls `listener` at each event of this name; returns what ends that. */
  on<N extends EventName>(name: N, listener: (data: EventData<N>) => void): () => void {
    return this.monitor.listen((event, data) => {
      // The name says of which type the data are.
      if (event === name) listener(data as EventData<N>);
    });
  }

  /**
   * No command is taken any more; jobs are cancelled, exports end, images are flushed and closed;
   * `more` closes what else stands on nodes.
   */
  async closeGraph(more?: () => Promise<void>): Promise<void> {
    this.monitor.stop();
    if (!this.#quitting) await this.monitor.idle();
    await this.graph.hurryAll();
    await this.jobs.close();
    await this.exports.close();
    await more?.();
    const failures: string[] = [];
    for (const node of this.owned) {
      await node.flush().catch((e: unknown) => {
        failures.push(`Cannot flush node '${node.name}': ${messageOf(e)}`);
      });
    }
    this.owned.clear();
    const before = this.graph.warnings;
    await this.graph.close();
    // Formats say themselves what of an image could not be stored.
    if (this.graph.warnings === before) for (const failure of failures) this.#warn(failure);
  }

  /** Ends all: what {@link closeGraph} does, then monitors and character devices. */
  async close(): Promise<void> {
    await this.closeGraph();
    await this.closeMonitors();
  }

  /** Clients get what they are owed; then their connections end. */
  async closeMonitors(): Promise<void> {
    await this.monitor.close();
    await this.chardevs.close();
  }
}
