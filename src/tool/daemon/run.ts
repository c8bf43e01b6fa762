/** The daemon: its graph, monitor, exports and objects, from the command line to a clean end. */
import { unlinkSync, writeFileSync } from 'node:fs';
import { errorText, messageOf } from '../../block/errors.js';
import type { NodeOptions } from '../../block/driver.js';
import type { BlockGraph } from '../../block/graph.js';
import type { BlockNode } from '../../block/node.js';
import { blockdevOptions, blockdevTypes } from '../../catalog/blockdev-types.js';
import { drivers } from '../../catalog/drivers.js';
import { toHostError } from '../../host/node/errors.js';
import { nodeHost } from '../../host/node/index.js';
import type { HostSockets } from '../../host/socket.js';
import { JobList } from '../../job/job-list.js';
import { Chardevs } from '../../monitor/chardevs.js';
import { addNode } from '../../monitor/commands/blockdev.js';
import type { Command } from '../../monitor/command.js';
import { commands } from '../../monitor/commands/index.js';
import type { MonitorContext } from '../../monitor/context.js';
import { eventKinds } from '../../monitor/event-kinds.js';
import { BlockExports } from '../../monitor/exports.js';
import type { MachineControl } from '../../monitor/machine.js';
import { Monitor } from '../../monitor/monitor.js';
import { blockExportOptions, nbdServerOptions } from '../../monitor/types/export.js';
import { toolGraph } from '../images.js';
import { ToolObjects } from '../objects.js';
import type { Program } from '../program.js';
import { Failure } from '../program.js';
import { PEER_RELEASE, version } from '../version.js';
import { tryObjectHelp } from './object-help.js';
import { monitorOptions, readArgument } from './options.js';

/** What a program adds that is more than a daemon. */
export interface DaemonInit {
  /** Commands of its monitors; default: those of a storage daemon. */
  readonly commands?: readonly Command[];
  /** Makes the machine, whose monitors may be human ones. */
  readonly machine?: (daemon: Daemon) => MachineControl;
  /** See BlockGraph. */
  readonly accountedNs?: number;
}

export async function loadSockets(): Promise<HostSockets> {
  const sockets = await nodeHost().loadSockets?.();
  if (sockets === undefined) throw new Failure('There are no sockets here');
  return sockets;
}

/** One storage daemon. */
export class Daemon {
  readonly #program: Program;
  readonly #objects = new ToolObjects();
  readonly #machine: MachineControl | undefined;
  readonly #graph: BlockGraph;
  readonly #monitor: Monitor;
  readonly #exports: BlockExports;
  readonly #chardevs: Chardevs;
  readonly #jobs: JobList;
  readonly #owned = new Set<BlockNode>();
  readonly #types = blockdevTypes(drivers);
  /** Resolves when a client asked the daemon to end. */
  readonly ended: Promise<void>;
  #quit: () => void = () => undefined;
  #quitting = false;
  /** Resolves when exports and nodes are closed. */
  readonly #cleaned: Promise<void>;
  #tellCleaned: () => void = () => undefined;
  #pidFile: string | undefined;

  constructor(program: Program, init: DaemonInit = {}) {
    this.#program = program;
    this.ended = new Promise((resolve) => {
      this.#quit = resolve;
    });
    this.#cleaned = new Promise((resolve) => {
      this.#tellCleaned = resolve;
    });
    const emit = (name: string, data: Readonly<Record<string, unknown>>): void => {
      this.#monitor.emit(name, data);
    };
    this.#graph = toolGraph(program, this.#objects, emit, init.accountedNs);
    this.#exports = new BlockExports({ graph: this.#graph, objects: this.#objects, emit });
    this.#jobs = new JobList({
      clock: nodeHost().clock,
      emit,
      exclusive: (work) => this.#monitor.runExclusive(work),
    });
    this.#chardevs = new Chardevs(loadSockets, (message) => {
      program.error(`info: ${message}`);
    });
    this.#monitor = new Monitor({
      clock: nodeHost().clock,
      commands: init.commands ?? commands,
      events: eventKinds,
      version: { qemu: PEER_RELEASE, package: `vdisk ${version}` },
      types: this.#types,
      context: () => this.#context(emit),
    });
    this.#machine = init.machine?.(this);
  }

  get graph(): BlockGraph {
    return this.#graph;
  }

  get chardevs(): Chardevs {
    return this.#chardevs;
  }

  /** Tells monitors of an event. */
  emit(name: string, data: Readonly<Record<string, unknown>> = {}): void {
    this.#monitor.emit(name, data);
  }

  /** Runs `work` when no command is carried out. */
  runExclusive<T>(work: () => T | Promise<T>): Promise<T> {
    return this.#monitor.runExclusive(work);
  }

  #context(emit: MonitorContext['emit']): MonitorContext {
    return {
      graph: this.#graph,
      owned: this.#owned,
      exports: this.#exports,
      chardevs: this.#chardevs,
      objects: this.#objects,
      jobs: this.#jobs,
      machine: this.#machine,
      version: this.#monitor.version,
      commands: this.#monitor.commands,
      types: this.#types,
      emit,
      print: (line) => {
        this.#program.print(`${line}\n`);
        this.#program.output.flush();
      },
      quit: () => {
        this.#quitting = true;
        if (this.#machine !== undefined) {
          this.emit('SHUTDOWN', { guest: false, reason: 'host-qmp-quit' });
        }
        this.#quit();
        return this.#cleaned;
      },
    };
  }

  /** Runs `work` before commands of clients. */
  exclusively<T>(work: () => Promise<T>): Promise<T> {
    return this.#monitor.runExclusive(work);
  }

  /** `--blockdev` */
  async blockdev(text: string): Promise<void> {
    const form = { decl: blockdevOptions, implied: 'driver', types: this.#types, givenOnly: true };
    const options = readArgument(form, text);
    await addNode({ graph: this.#graph, owned: this.#owned }, options);
  }

  /** `--chardev`; a text to print instead when help was asked for. */
  async chardev(text: string): Promise<string | undefined> {
    if (text === 'help' || text === '?') return Chardevs.help();
    await this.#chardevs.add(text);
    return undefined;
  }

  /** `--export` */
  async export(text: string): Promise<void> {
    await this.#exports.add(readArgument({ decl: blockExportOptions, implied: 'type' }, text));
  }

  /** `--monitor` */
  monitor(text: string): void {
    const options = readArgument({ decl: monitorOptions, implied: 'chardev' }, text);
    const chardev = this.#chardevs.find(options.chardev);
    if (chardev === undefined) throw new Failure(`chardev "${options.chardev}" not found`);
    const lines =
      options.mode === undefined ? this.#machine !== undefined : options.mode === 'readline';
    if (lines && this.#machine === undefined) throw new Failure('Only QMP is supported');
    if (lines && options.pretty) {
      throw new Failure("'pretty' is not compatible with HMP monitors");
    }
    chardev.attach((stream, gone) => {
      if (lines) this.#monitor.attachLines(stream, gone);
      else this.#monitor.attach(stream, options.pretty, gone);
    });
  }

  /** `--nbd-server` */
  async nbdServer(text: string): Promise<void> {
    await this.#exports.startServer(readArgument({ decl: nbdServerOptions }, text));
  }

  /** `--object`; a text to print instead when help was asked for. */
  async object(text: string): Promise<string | undefined> {
    const help = tryObjectHelp(text);
    if (help === undefined) await this.#objects.add(text);
    return help;
  }

  /** `--pidfile`: the file is removed at the end. Throws Failure. */
  writePid(path: string): void {
    try {
      writeFileSync(path, `${String(process.pid)}\n`, { mode: 0o600 });
    } catch (e) {
      const text = errorText(toHostError(e));
      throw new Failure(`cannot create PID file: Could not create '${path}': ${text}`);
    }
    this.#pidFile = path;
  }

  /** Opens a node for the monitors. Throws QmpError, BlockError or OptionError. */
  async addNode(options: NodeOptions): Promise<void> {
    await addNode({ graph: this.#graph, owned: this.#owned }, options);
  }

  /**
   * No command is taken any more; jobs are cancelled, exports end, images are flushed and closed;
   * `more` closes what else stands on nodes.
   */
  async close(more?: () => Promise<void>): Promise<void> {
    this.#monitor.stop();
    // A command that ends the daemon waits itself for what follows.
    if (!this.#quitting) await this.#monitor.idle();
    await this.#jobs.close();
    await this.#exports.close();
    await more?.();
    for (const node of this.#owned) await this.#flush(node);
    this.#owned.clear();
    await this.#graph.close();
    this.#tellCleaned();
    await this.#monitor.close();
    await this.#chardevs.close();
    if (this.#pidFile === undefined) return;
    try {
      unlinkSync(this.#pidFile);
    } catch {
      // Somebody else has removed it.
    }
  }

  async #flush(node: BlockNode): Promise<void> {
    try {
      await node.flush();
    } catch (e) {
      this.#program.error(`Cannot flush node '${node.name}': ${messageOf(e)}`);
    }
  }
}
