/** The daemon: its graph, monitor, exports and objects, from the command line to a clean end. */
import { unlinkSync, writeFileSync } from 'node:fs';
import { errorText } from '../../block/errors.js';
import type { NodeOptions } from '../../block/driver.js';
import type { BlockGraph } from '../../block/graph.js';
import { blockdevOptions } from '../../catalog/blockdev-types.js';
import { drivers } from '../../catalog/drivers.js';
import { toHostError } from '../../host/node/errors.js';
import { nodeHost } from '../../host/node/index.js';
import type { ByteStream, HostSockets } from '../../host/socket.js';
import type { JobList } from '../../job/job-list.js';
import { BlockLayer } from '../../monitor/block-layer.js';
import { Chardevs } from '../../monitor/chardevs.js';
import { addNode } from '../../monitor/commands/blockdev.js';
import type { Command } from '../../monitor/command.js';
import type { MachineControl } from '../../monitor/machine.js';
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
  readonly #objects = new ToolObjects({ iothreads: true });
  readonly #layer: BlockLayer;
  /** Resolves when a client asked the daemon to end. */
  readonly ended: Promise<void>;
  #quit: () => void = () => undefined;
  /** Resolves when exports and nodes are closed. */
  readonly #cleaned: Promise<void>;
  #tellCleaned: () => void = () => undefined;
  #pidFile: string | undefined;

  constructor(program: Program, init: DaemonInit = {}) {
    this.ended = new Promise((resolve) => {
      this.#quit = resolve;
    });
    this.#cleaned = new Promise((resolve) => {
      this.#tellCleaned = resolve;
    });
    this.#layer = new BlockLayer({
      graph: (emit) => toolGraph(program, this.#objects, emit, init.accountedNs),
      drivers,
      objects: this.#objects,
      clock: nodeHost().clock,
      sockets: loadSockets,
      version: { qemu: PEER_RELEASE, package: `vdisk ${version}` },
      ...(init.commands === undefined ? {} : { commands: init.commands }),
      print: (line) => {
        program.print(`${line}\n`);
        program.output.flush();
      },
      notice: (line) => {
        program.error(`info: ${line}`);
      },
      warn: (line) => {
        program.error(line);
      },
      quit: () => {
        if (this.#hasMachine) this.emit('SHUTDOWN', { guest: false, reason: 'host-qmp-quit' });
        this.#quit();
        return this.#cleaned;
      },
    });
    this.#layer.machine = init.machine?.(this);
  }

  get #hasMachine(): boolean {
    return this.#layer.machine !== undefined;
  }

  get jobs(): JobList {
    return this.#layer.jobs;
  }

  get graph(): BlockGraph {
    return this.#layer.graph;
  }

  get chardevs(): Chardevs {
    return this.#layer.chardevs;
  }

  /** Tells monitors of an event. */
  emit(name: string, data: Readonly<Record<string, unknown>> = {}): void {
    this.#layer.monitor.emit(name, data);
  }

  /** Runs `work` when no command is carried out. */
  runExclusive<T>(work: () => T | Promise<T>): Promise<T> {
    return this.#layer.monitor.runExclusive(work);
  }

  /** Runs `work` before commands of clients. */
  exclusively<T>(work: () => Promise<T>): Promise<T> {
    return this.#layer.monitor.runExclusive(work);
  }

  /** `--blockdev` */
  async blockdev(text: string): Promise<void> {
    const { types } = this.#layer.monitor;
    const form = { decl: blockdevOptions, implied: 'driver', types, givenOnly: true };
    const options = readArgument(form, text);
    await addNode(this.#layer, options);
  }

  /** `--chardev`; a text to print instead when help was asked for. */
  async chardev(text: string): Promise<string | undefined> {
    if (text === 'help' || text === '?') return Chardevs.help();
    await this.#layer.chardevs.add(text);
    return undefined;
  }

  /** `--export` */
  async export(text: string): Promise<void> {
    await this.#layer.exports.add(
      readArgument({ decl: blockExportOptions, implied: 'type' }, text),
    );
  }

  /** `--monitor` */
  monitor(text: string): void {
    const options = readArgument({ decl: monitorOptions, implied: 'chardev' }, text);
    const chardev = this.#layer.chardevs.find(options.chardev);
    if (chardev === undefined) throw new Failure(`chardev "${options.chardev}" not found`);
    const lines = options.mode === undefined ? this.#hasMachine : options.mode === 'readline';
    if (lines && !this.#hasMachine) throw new Failure('Only QMP is supported');
    if (lines && options.pretty) {
      throw new Failure("'pretty' is not compatible with HMP monitors");
    }
    chardev.attach((stream, gone) => {
      if (lines) this.#layer.monitor.attachLines(stream, gone);
      else this.#layer.monitor.attach(stream, options.pretty, gone);
    });
  }

  /** A human monitor on a stream that is no character device's. */
  attachMonitor(stream: ByteStream): void {
    this.#layer.monitor.attachLines(stream);
  }

  /** `--nbd-server` */
  async nbdServer(text: string): Promise<void> {
    await this.#layer.exports.startServer(readArgument({ decl: nbdServerOptions }, text));
  }

  /** `--object`; a text to print instead when help was asked for. */
  async object(text: string): Promise<string | undefined> {
    const help = tryObjectHelp(text, true);
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
    await addNode(this.#layer, options);
  }

  /**
   * No command is taken any more; jobs are cancelled, exports end, images are flushed and closed;
   * `more` closes what else stands on nodes.
   */
  async close(more?: () => Promise<void>): Promise<void> {
    await this.#layer.closeGraph(more);
    this.#tellCleaned();
    await this.#layer.closeMonitors();
    if (this.#pidFile === undefined) return;
    try {
      unlinkSync(this.#pidFile);
    } catch {
      // Somebody else has removed it.
    }
  }
}
