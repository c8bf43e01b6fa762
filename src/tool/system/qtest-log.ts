/** `-qtest-log`: what goes through qtest's socket, with the seconds since the peer came. */
import { closeSync, openSync, writeSync } from 'node:fs';
import { errorText } from '../../block/errors.js';
import { toHostError } from '../../host/node/errors.js';
import type { QtestTraffic } from '../../machine/qtest.js';
import { OptionError } from '../../options/option-error.js';

const STDERR = 2;

/** Nobody reads such a log: lines are not even made. */
const unread = new Set(['none', '/dev/null']);

export class QtestLog {
  readonly #fd: number | undefined;
  readonly #peers = new Set<QtestTraffic>();

  /** `path`: a file, `none`, or undefined for standard error. Throws OptionError. */
  constructor(path: string | undefined) {
    if (path !== undefined && unread.has(path)) return;
    try {
      this.#fd = path === undefined ? STDERR : openSync(path, 'w');
    } catch (e) {
      const reason = errorText(toHostError(e));
      throw new OptionError(`Failed to open '${path ?? ''}': ${reason}`, 'qtest-log');
    }
  }

  /** A peer has come; undefined: nobody wants to know what it says. */
  peer(): QtestTraffic | undefined {
    const fd = this.#fd;
    if (fd === undefined) return undefined;
    const begin = performance.now();
    const say = (mark: string, text: string): void => {
      const seconds = ((performance.now() - begin) / 1000).toFixed(6);
      writeSync(fd, `[${mark}${seconds}] ${text}\n`);
    };
    const traffic: QtestTraffic = {
      received: (line) => {
        say('R +', line);
      },
      sent: (line) => {
        say('S +', line);
      },
      gone: () => {
        if (this.#peers.delete(traffic)) say('I +', 'CLOSED');
      },
    };
    this.#peers.add(traffic);
    say('I ', 'OPENED');
    return traffic;
  }

  /** The program ends, and with it the peers that are still there. */
  close(): void {
    for (const each of [...this.#peers]) each.gone();
    if (this.#fd !== undefined && this.#fd !== STDERR) closeSync(this.#fd);
  }
}
