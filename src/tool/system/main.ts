/** `vdisk-system`: a machine under the control of monitors, with QEMU's command line. */
import { hintOf, messageOf } from '../../block/errors.js';
import { systemProgramCommands } from '../../monitor/commands/index.js';
import { parseUri } from '../../monitor/migration/address.js';
import { BugError } from '../../lib/assert.js';
import { parseOpts } from '../../options/qemu-opts.js';
import type { Machine } from '../../machine/machine.js';
import { QtestServer } from '../../machine/qtest.js';
import { OptionError } from '../../options/option-error.js';
import { reportReady, runInBackground } from '../background.js';
import { Daemon } from '../daemon/run.js';
import { watchInterrupts } from '../interrupt.js';
import type { IoOutput } from '../io/output.js';
import { ProcessOutput } from '../io/output.js';
import { Program, runTool } from '../program.js';
import { wordLines } from '../reference.js';
import { isTerminal } from '../terminal.js';
import { versionText } from '../version.js';
import type { V86Processor } from '../../machine/v86/processor.js';
import { Consoles, serialWords } from './consoles.js';
import { Curses } from './curses.js';
import { checkDisplay, displayHelp, displayOf, readDisplay } from './display.js';
import { SystemControl } from './control.js';
import { driveHelp } from './drive-help.js';
import { readDeviceWords } from './device-words.js';
import type { GuestInit } from './guest.js';
import {
  attachDrive,
  defaultDrives,
  driveArgument,
  machineInit,
  makeMachine,
  readDevice,
  tryDeviceHelp,
} from './guest.js';
import { machineHelp, readMachine } from './machines.js';
import type { GivenOption } from './options.js';
import { readSystemOptions, SystemUsageError, systemOptions } from './options.js';
import type { GuestEnd } from './processor.js';
import { hasDisplay, makeGuest } from './processor.js';
import { QtestLog } from './qtest-log.js';
import { serveQtest, VirtualClock } from './qtest.js';

/** As under QEMU's qtest accelerator every request counts as one of a millisecond. */
const QTEST_LATENCY_NS = 1_000_000;

/** An option could not be carried out; the message is complete but for the program's name. */
class StartError extends Error {
  override readonly name = 'StartError';
  readonly hint: string | undefined;
  constructor(written: string, cause: unknown) {
    super(`${written}: ${messageOf(cause)}`);
    this.hint = hintOf(cause);
  }
}

/** The text of `-help`. */
export function systemHelp(name: string): string {
  const lines = [`${name}: a machine with virtual disks`, '', 'Usage:', `  ${name} [OPTIONS]`, ''];
  for (const { name: option, arg, use, doc } of systemOptions.values()) {
    if (use !== 'used') continue;
    const form = `  -${option}${arg === undefined ? '' : ` ${arg}`}`;
    lines.push(form.length < 30 ? `${form.padEnd(30)} ${doc}` : `${form}\n${' '.repeat(31)}${doc}`);
  }
  const others = [...systemOptions.values()].filter(({ use }) => use === 'accepted');
  const words = wordLines(others.map((each) => `-${each.name}`));
  lines.push('', 'Accepted, without effect:', ...words, '');
  return lines.join('\n');
}

/** Runs `vdisk-system ARGS`; resolves to the exit status when it has ended. */
export async function systemMain(
  name: string,
  args: readonly string[],
  output: IoOutput = new ProcessOutput(isTerminal(1)),
): Promise<number> {
  const program = new Program(name, output);
  return runTool(
    program,
    () => new System(program, readSystemOptions(args)).run(),
    (e) => {
      if (e instanceof BugError) throw e;
      program.error(messageOf(e), e instanceof StartError ? e.hint : undefined);
      return 1;
    },
  );
}

class System {
  readonly #program: Program;
  readonly #given: readonly GivenOption[];
  readonly #daemon: Daemon;
  readonly #control: SystemControl;
  readonly #clock = new VirtualClock();
  readonly #isQtest: boolean;
  #carrier: 'pc' | 'q35' | undefined = 'pc';
  #monitors = 0;
  #processor: V86Processor | undefined;
  #consoles: Consoles | undefined;
  #curses: Curses | undefined;
  #qtestLog: QtestLog | undefined;
  /** The guest ended, and the program with it. */
  #end: (status: number) => void = () => undefined;
  readonly #ended = new Promise<number>((resolve) => {
    this.#end = resolve;
  });

  constructor(program: Program, given: readonly GivenOption[]) {
    this.#program = program;
    this.#given = given;
    const usable = acceleratorsOf(given).filter((each) => accelerators.has(each));
    this.#isQtest = usable[0] === 'qtest';
    let control: SystemControl | undefined;
    this.#daemon = new Daemon(program, {
      commands: systemProgramCommands,
      machine: (daemon) => (control = new SystemControl(daemon, program)),
      ...(this.#isQtest ? { accountedNs: QTEST_LATENCY_NS } : {}),
    });
    if (control === undefined) throw new Error('the daemon made no machine');
    this.#control = control;
  }

  #has(name: string): boolean {
    return this.#given.some((each) => each.name === name);
  }

  /** Calls `work` for each use of an option; what it throws names that use. */
  async #each(name: string, work: (value: string) => Promise<void> | void): Promise<void> {
    for (const option of this.#given) {
      if (option.name !== name) continue;
      try {
        await work(option.value);
      } catch (e) {
        if (e instanceof BugError || e instanceof Ended) throw e;
        throw new StartError(option.written, e);
      }
    }
  }

  async run(): Promise<number> {
    if (this.#has('h') || this.#has('help')) return this.#show(systemHelp(this.#program.name));
    if (this.#has('version')) return this.#show(versionText(this.#program.name));
    if (this.#has('daemonize')) {
      const status = await runInBackground(this.#program, []);
      if (status !== undefined) return status;
    }
    const interrupts = watchInterrupts();
    try {
      await this.#setUp();
      if (this.#has('daemonize')) process.chdir('/');
      await reportReady();
      if (!this.#control.isBeingMade) this.#control.machine?.begin();
      const status = await Promise.race([
        this.#daemon.ended,
        aborted(interrupts.signal),
        this.#ended,
      ]);
      if (typeof status === 'number') return status;
      if (interrupts.signal.aborted) {
        this.#daemon.emit('SHUTDOWN', { guest: false, reason: 'host-signal' });
      }
    } catch (e) {
      if (!(e instanceof Ended)) throw e;
      return this.#show(e.text, e.status);
    } finally {
      await this.#close();
      interrupts.dispose();
    }
    return 0;
  }

  #show(text: string, status = 0): number {
    this.#program.print(text);
    return status;
  }

  /** In QEMU's order: objects, character devices, nodes, drives, devices, monitors. */
  async #setUp(): Promise<void> {
    const control = this.#control;
    for (const other of ['incoming', 'preconfig']) {
      if (!this.#has('loadvm') || !this.#has(other)) continue;
      throw new OptionError(`'${other}' and 'loadvm' options are mutually exclusive`);
    }
    await this.#machine();
    await this.#each('name', (value) => {
      control.vmName = parseOpts(value).values.get('guest') ?? value.split(',')[0] ?? '';
    });
    await this.#each('uuid', (value) => {
      control.uuid = readUuid(value);
    });
    control.snapshotAll = this.#has('snapshot');
    control.graph.refusesLegacyAes = true;
    if (this.#has('S')) {
      control.runState = 'prelaunch';
      control.autostart = false;
    }
    if (this.#has('incoming')) {
      control.runState = 'inmigrate';
      control.graph.opensInactive = true;
    }
    await this.#each('object', async (value) => {
      const help = await this.#daemon.object(value);
      if (help !== undefined) throw new Ended(help);
    });
    await this.#each('chardev', async (value) => {
      const help = await this.#daemon.chardev(value);
      if (help !== undefined) throw new Ended(help);
    });
    await this.#each('blockdev', (value) => this.#daemon.blockdev(value));
    await this.#drives();
    if (this.#has('preconfig')) {
      await this.#beforeMachine();
    } else {
      await this.#guest();
      await this.#each('qtest', (value) => this.#qtest(value));
      await this.#setUpMonitors();
      await this.#setUpSerial();
      this.#setUpDisplay();
      await this.#incoming();
      await this.#loadVm();
    }
    await this.#each('pidfile', (value) => {
      this.#daemon.writePid(value);
    });
  }

  /** Monitors alone; a client has the machine made. What fails then ends the program. */
  async #beforeMachine(): Promise<void> {
    const control = this.#control;
    const last = this.#given.findLast(({ name }) => name === 'incoming');
    if (last !== undefined && last.value !== 'defer') {
      throw new OptionError("'preconfig' supports '-incoming defer' only");
    }
    const hasMachine = this.#carrier !== undefined;
    if (!hasMachine) await this.#each('qtest', (value) => this.#qtest(value));
    await this.#setUpMonitors();
    if (last === undefined) control.runState = 'prelaunch';
    else control.autostart = false;
    control.maker = async () => {
      try {
        await this.#guest();
        if (hasMachine) await this.#each('qtest', (value) => this.#qtest(value));
        await this.#setUpSerial();
        this.#setUpDisplay();
        await this.#incoming();
        control.machine?.begin();
      } catch (e) {
        this.#program.error(messageOf(e), e instanceof StartError ? e.hint : undefined);
        this.#end(1);
        throw e;
      }
    };
  }

  async #machine(): Promise<void> {
    await this.#each('display', (value) => {
      if (isHelp(value)) throw new Ended(displayHelp);
      readDisplay(value);
    });
    const choose = (value: string): void => {
      if (isHelp(value)) throw new Ended(machineHelp());
      if (!parseOpts(value, { implied: 'type' }).values.has('type')) return;
      const kind = readMachine(value);
      this.#control.defaultInterface = kind.defaultInterface;
      this.#carrier = kind.carrier;
    };
    await this.#each('machine', choose);
    await this.#each('M', choose);
    await this.#each('accel', (value) => {
      const accelerator = value.split(',')[0] ?? '';
      if (isHelp(value)) throw new Ended('Accelerators supported in QEMU binary:\nv86\nqtest\n');
      if (accelerators.has(accelerator)) return;
      // As in QEMU the next one is taken where the first cannot be.
      const others = acceleratorsOf(this.#given).filter((each) => accelerators.has(each));
      if (accelerator === 'kvm' && others.length > 0) return;
      throw new OptionError(`invalid accelerator ${accelerator}`);
    });
    this.#lastDisplay(() => {
      checkDisplay(this.#given, this.#runsGuest());
    });
    if (this.#carrier === 'q35' && this.#runsGuest()) {
      throw new StartError(
        '-machine q35',
        new OptionError('guests run on the machine pc; q35 is for -accel qtest'),
      );
    }
  }

  /** Whether a processor executes a guest. */
  #runsGuest(): boolean {
    return !this.#isQtest && this.#carrier !== undefined && !this.#has('incoming');
  }

  /** `-drive`, `-hda` and their likes, in their order. */
  async #drives(): Promise<void> {
    for (const option of this.#given) {
      const argument = driveArgument(option);
      if (argument === undefined) continue;
      try {
        const help = driveHelp(argument);
        if (help !== undefined) throw new Ended(help, 1);
        await this.#control.commandLineDrive(argument);
      } catch (e) {
        if (e instanceof BugError || e instanceof Ended) throw e;
        throw new StartError(option.written, e);
      }
    }
  }

  /** The machine, its drives and devices. */
  async #guest(): Promise<void> {
    const control = this.#control;
    await this.#each('device', (value) => {
      const help = tryDeviceHelp(value);
      if (help !== undefined) throw new Ended(help);
    });
    if (this.#carrier === undefined) {
      await this.#each('device', (value) => {
        throw new OptionError(`'${value}': the machine 'none' has no bus for devices`);
      });
      return;
    }
    const init = {
      daemon: this.#daemon,
      control,
      type: this.#carrier,
      given: this.#given,
      isQtest: this.#isQtest,
    };
    const machine = this.#runsGuest() ? await this.#makeGuest(init) : await makeMachine(init);
    control.machine = machine;
    for (const text of defaultDrives(machine, init)) await control.commandLineDrive(text);
    for (const drive of control.drives.values()) await attachDrive(machine, drive);
    await this.#each('device', async (value) => {
      const { properties, json } = readDevice(value);
      await machine.addDevice(properties, json ? 'qmp' : 'keyval');
    });
  }

  /** The last `-incoming` counts; with `defer` the command migrate-incoming names the place. */
  async #incoming(): Promise<void> {
    const { migration } = this.#control;
    const last = this.#given.findLast(({ name }) => name === 'incoming');
    this.#control.onIncomingFailed = () => {
      this.#end(1);
    };
    if (last === undefined || last.value === 'defer') return;
    try {
      await migration.wait(parseUri(last.value));
    } catch (e) {
      throw new StartError(last.written, e);
    }
  }

  /** The machine goes back to a snapshot before its guest begins; no events tell of that. */
  async #loadVm(): Promise<void> {
    const last = this.#given.findLast(({ name }) => name === 'loadvm');
    if (last === undefined) return;
    const control = this.#control;
    await control.exclusively(async () => {
      const { runState } = control;
      control.runState = 'restore-vm';
      await control.snapshots.load(last.value, {});
      control.runState = runState;
    });
  }

  async #makeGuest(init: GuestInit): Promise<Machine> {
    const { machine, processor } = await makeGuest({
      given: this.#given,
      machine: machineInit(init),
      serialPorts: serialWords(this.#given).length,
      onEnd: (end, error) => {
        void this.#guestEnded(end, error);
      },
      onReset: () => {
        this.#daemon.emit('RESET', { guest: true, reason: 'guest-reset' });
      },
    });
    this.#processor = processor;
    return machine;
  }

  async #guestEnded(end: GuestEnd, error: unknown): Promise<void> {
    if (end === 'fault') {
      const text = `The guest's processor failed: ${messageOf(error)}`;
      if (this.#curses === undefined) this.#program.error(text);
      else this.#curses.notice([text]);
      return;
    }
    this.#daemon.emit('SHUTDOWN', { guest: true, reason: `guest-${end}` });
    await this.#control.flush();
    if (this.#has('no-shutdown')) this.#daemon.emit('STOP');
    else this.#end(0);
  }

  async #setUpSerial(): Promise<void> {
    const words = serialWords(this.#given);
    if (this.#processor === undefined) {
      for (const each of words) readDeviceWords(each, 'serial0');
      return;
    }
    const consoles = new Consoles({
      daemon: this.#daemon,
      ports: this.#processor.serial,
      quit: () => {
        this.#quit();
      },
    });
    this.#consoles = consoles;
    let number = 0;
    for (const each of words) {
      try {
        await consoles.connect(number++, each);
      } catch (e) {
        if (e instanceof BugError) throw e;
        throw new StartError(`-serial ${each}`, e);
      }
    }
  }

  /** Does something for the last `-display`, which counts. */
  #lastDisplay(check: () => void): void {
    const last = this.#given.findLast(({ name }) => name === 'display');
    if (last === undefined) return;
    try {
      check();
    } catch (e) {
      if (e instanceof BugError) throw e;
      throw new StartError(last.written, e);
    }
  }

  #setUpDisplay(): void {
    const processor = this.#processor;
    if (processor === undefined || displayOf(this.#given) !== 'curses') return;
    this.#lastDisplay(() => {
      if (this.#daemon.chardevs.list().every(({ filename }) => filename !== 'stdio')) return;
      throw new OptionError('the display curses has the terminal: stdio cannot be used beside it');
    });
    this.#curses = new Curses({
      processor,
      hasDisplay: hasDisplay(this.#given),
      openMonitor: (stream) => {
        this.#daemon.attachMonitor(stream);
      },
      quit: () => {
        this.#quit();
      },
    });
  }

  /** The user wants the program to end. */
  #quit(): void {
    this.#daemon.emit('SHUTDOWN', { guest: false, reason: 'host-ui' });
    this.#end(0);
  }

  async #setUpMonitors(): Promise<void> {
    await this.#each('mon', (value) => {
      this.#daemon.monitor(value);
    });
    await this.#each('monitor', (value) => this.#monitor(value, 'mode=readline'));
    await this.#each('qmp', (value) => this.#monitor(value, 'mode=control'));
    await this.#each('qmp-pretty', (value) => this.#monitor(value, 'mode=control,pretty=on'));
    const none = !['monitor', 'qmp', 'qmp-pretty', 'mon', 'daemonize'].some((n) => this.#has(n));
    const shares = this.#processor !== undefined && serialWords(this.#given).includes('mon:stdio');
    if (none && !shares && this.#has('nographic')) await this.#monitor('stdio', 'mode=readline');
  }

  async #monitor(words: string, options: string): Promise<void> {
    const id = `compat_monitor${String(this.#monitors)}`;
    const chardev = await this.#chardev(words, id);
    if (chardev === undefined) return;
    this.#monitors++;
    this.#daemon.monitor(`chardev=${chardev},${options}`);
  }

  /** The id of the device that words describe, which is made if need be. */
  async #chardev(words: string, id: string): Promise<string | undefined> {
    const found = readDeviceWords(words, id);
    if (found.kind === 'none') return undefined;
    if (found.kind === 'existing') return found.id;
    await this.#daemon.chardev(found.chardev);
    return id;
  }

  async #qtest(words: string): Promise<void> {
    const id = await this.#chardev(words, 'qtest');
    const chardev = id === undefined ? undefined : this.#daemon.chardevs.find(id);
    if (chardev === undefined) throw new OptionError(`chardev "${id ?? ''}" not found`);
    const path = this.#given.findLast(({ name }) => name === 'qtest-log')?.value;
    const log = (this.#qtestLog ??= new QtestLog(path));
    chardev.attach((stream, gone) => {
      const { machine } = this.#control;
      const options = { gone, traffic: log.peer() };
      if (machine === undefined) serveQtest(stream, this.#clock, options);
      else new QtestServer(machine, stream, options);
    });
  }

  async #close(): Promise<void> {
    this.#curses?.close();
    this.#consoles?.close();
    await this.#control.migration.close();
    // Anonymous users of drives' nodes are gone by then: exports and jobs end in the daemon.
    await this.#daemon.close(async () => {
      const { machine } = this.#control;
      machine?.abandon();
      await machine?.close();
      for (const id of [...this.#control.drives.keys()]) await this.#control.removeDrive(id);
    });
    this.#qtestLog?.close();
  }
}

/** The program ends here, with a text for the user. */
class Ended extends Error {
  override readonly name = 'Ended';
  readonly text: string;
  readonly status: number;
  constructor(text: string, status = 0) {
    super('ended');
    this.text = text;
    this.status = status;
  }
}

const accelerators = new Set(['qtest', 'tcg', 'v86']);

/** What `-accel` and `-machine …,accel=` name, in their order. */
function acceleratorsOf(given: readonly GivenOption[]): string[] {
  return given.flatMap(({ name, value }) => {
    if (name === 'accel') return [value.split(',')[0] ?? ''];
    if (name !== 'machine' && name !== 'M') return [];
    return (/(?:^|,)accel=([^,]*)/.exec(value)?.[1] ?? '').split(':').filter((each) => each !== '');
  });
}

function isHelp(value: string): boolean {
  return value === 'help' || value === '?';
}

function readUuid(text: string): string {
  if (/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(text)) return text.toLowerCase();
  throw new SystemUsageError(`-uuid ${text}: failed to parse UUID string: wrong format`);
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    signal.addEventListener('abort', () => {
      resolve();
    });
    if (signal.aborted) resolve();
  });
}
