/** The guest's serial ports and the terminal: `-serial`, `-nographic` and what they stand for. */
import type { SerialPort } from '../../machine/v86/serial.js';
import { OptionError } from '../../options/option-error.js';
import type { Daemon } from '../daemon/run.js';
import { isTerminal } from '../terminal.js';
import { readDeviceWords } from './device-words.js';
import { Mux } from './mux.js';
import type { GivenOption } from './options.js';
import { connectSerial, serialToFile } from './serial.js';

const INTERRUPT = 3;

/** What `-serial` is when it is not given, and whether the monitor shares its terminal. */
export function serialWords(given: readonly GivenOption[]): string[] {
  const has = (...names: string[]): boolean => given.some(({ name }) => names.includes(name));
  const words = given.filter(({ name }) => name === 'serial').map(({ value }) => value);
  if (words.length > 0) return words;
  if (has('nodefaults') || !has('nographic') || has('daemonize')) return [];
  return [has('monitor', 'qmp', 'qmp-pretty', 'mon') ? 'stdio' : 'mon:stdio'];
}

export interface ConsolesInit {
  readonly daemon: Daemon;
  readonly ports: readonly SerialPort[];
  /** Ctrl-A X, or Ctrl-C where it is not the guest's. */
  readonly quit: () => void;
}

/** What the guest's ports are connected to. */
export class Consoles {
  readonly #init: ConsolesInit;
  readonly #closers: (() => void)[] = [];

  constructor(init: ConsolesInit) {
    this.#init = init;
  }

  /** Connects a port as an argument of `-serial` says. Throws OptionError, QmpError, HostError. */
  async connect(number: number, words: string): Promise<void> {
    const port = this.#init.ports[number];
    if (port === undefined) throw new OptionError('there are at most four serial ports');
    if (words.startsWith('file:')) {
      this.#closers.push(serialToFile(port, words.slice('file:'.length)));
      return;
    }
    const id = `serial${String(number)}`;
    const found = readDeviceWords(words, id);
    if (found.kind === 'none') return;
    if (found.kind === 'new') await this.#init.daemon.chardev(found.chardev);
    const name = found.kind === 'new' ? id : found.id;
    const chardev = this.#init.daemon.chardevs.find(name);
    if (chardev === undefined) throw new OptionError(`chardev "${name}" not found`);
    const isStdio = chardev.filename === 'stdio';
    const hasMonitor = words.startsWith('mon:');
    if (isStdio) this.#takeTerminal(hasMonitor);
    chardev.attach((stream, gone) => {
      if (!hasMonitor) {
        connectSerial(port, stream, gone);
        return;
      }
      const mux = new Mux({
        stream,
        openMonitor: (end) => {
          this.#init.daemon.attachMonitor(end);
        },
        quit: this.#init.quit,
      });
      connectSerial(port, mux.console, gone);
    });
  }

  /** Keys come at once and unchanged; Ctrl-C is the guest's only where Ctrl-A X ends. */
  #takeTerminal(hasMonitor: boolean): void {
    const { stdin } = process;
    if (!isTerminal(0)) return;
    stdin.setRawMode(true);
    this.#closers.push(() => {
      stdin.setRawMode(false);
    });
    if (hasMonitor) return;
    const watch = (piece: Buffer | string): void => {
      if (typeof piece !== 'string' && piece.includes(INTERRUPT)) this.#init.quit();
    };
    stdin.on('data', watch);
    this.#closers.push(() => {
      stdin.off('data', watch);
    });
  }

  close(): void {
    for (const close of this.#closers.splice(0)) close();
  }
}
