/** The machine as its monitors see it: its state, its drives, its exerciser. */
import { activateAll } from '../../block/activity.js';
import type { Backend } from '../../block/backend.js';
import type { BlockGraph } from '../../block/graph.js';
import { messageOf } from '../../block/errors.js';
import type {
  DeviceFacts,
  Drive,
  DriveInterface,
  MachineControl,
  RunState,
} from '../../monitor/machine.js';
import type { Machine, PauseReason } from '../../machine/machine.js';
import { Migration } from '../../monitor/migration/migration.js';
import { MachineSnapshots } from '../../monitor/migration/snapshots.js';
import { QmpError } from '../../monitor/qmp-error.js';
import { parseOpts } from '../../options/qemu-opts.js';
import type { Daemon } from '../daemon/run.js';
import { runIoCommand } from '../io/run.js';
import type { IoOutput } from '../io/output.js';
import type { Program } from '../program.js';
import { forgetDrive, makeDrive } from './drive.js';
import { readDevice } from './guest.js';

const noUuid = '00000000-0000-0000-0000-000000000000';

export class SystemControl implements MachineControl {
  vmName: string | undefined;
  uuid = noUuid;
  runState: RunState = 'running';
  /** `-snapshot`: drives of the command line write to temporary files. */
  snapshotAll = false;
  /** What a drive without `if=` is attached to. */
  defaultInterface: DriveInterface = 'ide';
  readonly drives = new Map<string, Drive>();
  /** The machine with its devices; undefined: there is none (`-machine none`), or none yet. */
  machine: Machine | undefined;
  /** The guest runs when the machine is here; `-S` and `stop` say otherwise. */
  autostart = true;
  /** No machine will come: the program ends. */
  onIncomingFailed: () => void = () => undefined;
  /** `-preconfig`: makes the machine. */
  maker: (() => Promise<void>) | undefined;
  readonly migration: Migration;
  readonly snapshots: MachineSnapshots;
  readonly #daemon: Daemon;
  readonly #program: Program;

  constructor(daemon: Daemon, program: Program) {
    this.#daemon = daemon;
    this.#program = program;
    this.migration = new Migration(this);
    this.snapshots = new MachineSnapshots(this, () => this.migration.isActive);
  }

  get hasProcessor(): boolean {
    return this.machine?.hasProcessor === true;
  }

  get isBeingMade(): boolean {
    return this.maker !== undefined;
  }

  async make(): Promise<void> {
    await this.maker?.();
    this.maker = undefined;
    if (this.autostart) this.proceed();
  }

  get graph(): BlockGraph {
    return this.#daemon.graph;
  }

  emit(name: string, data: Readonly<Record<string, unknown>>): void {
    this.#daemon.emit(name, data);
  }

  exclusively<T>(work: () => Promise<T>): Promise<T> {
    return this.#daemon.exclusively(work);
  }

  complain(text: string): void {
    this.#program.error(text);
  }

  incomingFailed(): void {
    this.onIncomingFailed();
  }

  /** The guest stands still in a state of its own. */
  halt(state: RunState): void {
    const { runState } = this;
    this.runState = state;
    if (runState !== 'running') return;
    this.machine?.pause('paused');
    this.#daemon.emit('STOP');
  }

  /** The guest goes on, with images that are active. */
  proceed(): void {
    this.runState = 'running';
    this.#daemon.emit('RESUME');
    this.machine?.resume();
  }

  async stop(): Promise<void> {
    if (this.runState !== 'running') {
      // A machine that has not begun stays so when it is told to go on later.
      if (this.runState === 'prelaunch') this.runState = 'paused';
      if (this.runState === 'inmigrate') this.autostart = false;
      return;
    }
    this.runState = 'paused';
    this.machine?.pause('paused');
    this.#daemon.emit('STOP');
    await this.flush();
  }

  /** What drives hold back goes to their images; what cannot is told of. */
  async flush(): Promise<void> {
    for (const { backend } of this.drives.values()) await this.#flush(backend);
  }

  async cont(): Promise<void> {
    if (this.runState === 'inmigrate') {
      this.autostart = true;
      return;
    }
    if (this.runState === 'finish-migrate') throw new QmpError('Migration is not finalized yet');
    if (this.runState === 'running') return;
    if (this.runState === 'shutdown' || this.runState === 'internal-error') {
      throw new QmpError('Resetting the Virtual Machine is required');
    }
    await activateAll(this.graph);
    this.proceed();
  }

  /** The machine stopped by itself. */
  machineRuns(isRunning: boolean, reason: PauseReason): void {
    if (isRunning || reason === 'paused' || reason === 'prelaunch') return;
    if (this.runState !== 'running') return;
    this.runState = reason;
    // A guest that ends tells of that first.
    if (reason !== 'shutdown') this.#daemon.emit('STOP');
  }

  async addDevice(given: Readonly<Record<string, unknown>> | string): Promise<void> {
    if (this.machine === undefined) throw new QmpError('There is no machine that takes devices');
    const { properties, json } =
      typeof given === 'string' ? readDevice(given) : { properties: given, json: true };
    await this.machine.addDevice(properties, json ? 'qmp' : 'keyval', true);
  }

  devices(): readonly DeviceFacts[] {
    const { machine } = this;
    if (machine === undefined) return [];
    const counts = { unattached: 0, 'peripheral-anon': 0 };
    return [...machine.devices].map((device) => {
      const kind = machine.isOwn(device) ? 'unattached' : 'peripheral-anon';
      const place =
        device.id === undefined
          ? `${kind}/device[${String(counts[kind]++)}]`
          : `peripheral/${device.id}`;
      return {
        path: `/machine/${place}`,
        type: device.type.name,
        bus: device.bus?.name,
        declared: device.type.properties,
        properties: machine.propertiesOf(device),
      };
    });
  }

  async removeDevice(id: string): Promise<void> {
    const device = this.machine?.tryDevice(id);
    if (this.machine === undefined || device === undefined) {
      throw new QmpError(`Device '${id}' not found`, 'DeviceNotFound');
    }
    await this.machine.requestRemoval(device);
  }

  reset(): void {
    this.machine?.reset();
    // As in QEMU a guest that had ended waits for `cont` after its reset.
    if (this.runState === 'shutdown' || this.runState === 'internal-error') {
      this.runState = 'paused';
    }
    this.#daemon.emit('RESET', { guest: false, reason: 'host-qmp-system-reset' });
  }

  powerDown(): void {
    this.machine?.power?.pressButton();
    this.#daemon.emit('POWERDOWN');
  }

  async addDrive(text: string): Promise<Drive> {
    return this.#add(text, false);
  }

  /** As `-drive` on the command line. */
  async commandLineDrive(text: string): Promise<Drive> {
    return this.#add(text, this.snapshotAll);
  }

  async #add(text: string, snapshot: boolean): Promise<Drive> {
    const drive = await makeDrive(
      text,
      {
        graph: this.#daemon.graph,
        drives: this.drives,
        defaultInterface: this.defaultInterface,
        warn: (message) => {
          this.#program.warning(message);
        },
      },
      snapshot,
    );
    this.drives.set(drive.id, drive);
    return drive;
  }

  async removeDrive(id: string): Promise<void> {
    const backend = this.#daemon.graph.backends.get(id);
    if (backend === undefined) throw new QmpError(`Device '${id}' not found`);
    this.drives.delete(id);
    await forgetDrive(backend);
  }

  async addNode(text: string): Promise<void> {
    const { values } = parseOpts(text);
    await this.#daemon.addNode(Object.fromEntries(values));
  }

  async runIo(backend: Backend, line: string, complain: (text: string) => void): Promise<void> {
    const output: IoOutput = {
      out: (text) => {
        this.#program.output.out(text);
        this.#program.output.flush();
      },
      err: (text) => {
        this.#program.output.err(text);
      },
      report: complain,
      flush: () => {
        this.#program.output.flush();
      },
    };
    await runIoCommand(backend, line, output, '');
  }

  async #flush(backend: Backend): Promise<void> {
    if (!backend.isInserted || backend.node.readOnly) return;
    try {
      await backend.flush();
    } catch (e) {
      this.#program.error(`Cannot flush drive '${backend.name}': ${messageOf(e)}`);
    }
  }
}
