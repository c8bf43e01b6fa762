/** Commands about the program itself: `help`, `quit`, `sleep`, `sigraise`, `abort`. */
import { parseInteger } from '../../../lib/sizes.js';
import type { IoCommand, ProgramCommand } from '../session.js';
import { helpText, usageLine } from '../session.js';
import { readSize, refuse } from '../words.js';

/** `help` over the commands that `list` gives when it runs. */
export function helpCommand(list: () => readonly IoCommand[]): ProgramCommand {
  return {
    kind: 'program',
    name: 'help',
    alias: '?',
    min: 0,
    max: 1,
    args: '[command]',
    summary: 'show what the commands do, or all about one',
    run(session, words) {
      const [, name] = words;
      if (name === undefined) {
        for (const command of list()) session.out(usageLine(command, command.name));
        session.out("\nUse 'help commandname' for extended help.\n");
        return true;
      }
      const command = list().find((c) => c.name === name || c.alias === name);
      if (command === undefined) return refuse(session, `command ${name} not found`);
      session.out(usageLine(command, name));
      session.out(helpText(command));
      return true;
    },
  };
}

export const quit: ProgramCommand = {
  kind: 'program',
  name: 'quit',
  alias: 'q',
  min: 0,
  summary: 'end the program',
  run(session) {
    session.ended = true;
    return true;
  },
};

const MAX_SLEEP = (1n << 63n) - 1n;
/** Longest time that a timer takes. */
const MAX_TIMER_MS = 0x7fffffff;

export const sleep: ProgramCommand = {
  kind: 'program',
  name: 'sleep',
  min: 1,
  max: 1,
  summary: 'wait for so many milliseconds',
  async run(session, words) {
    const [, word = ''] = words;
    const given = parseInteger(word);
    if (given === undefined || given < 0n || given > MAX_SLEEP) {
      return refuse(session, `${word} is not a valid number`);
    }
    let left = Number(given);
    do {
      const ms = Math.min(left, MAX_TIMER_MS);
      await new Promise((done) => setTimeout(done, ms));
      left -= ms;
    } while (left > 0);
    return true;
  },
};

/** One past the highest signal number of Linux. */
const SIGNAL_COUNT = 65;

export const sigraise: ProgramCommand = {
  kind: 'program',
  name: 'sigraise',
  min: 1,
  max: 1,
  args: 'signal',
  summary: 'send this program a signal, given by its number',
  doc: ["'sigraise 15' sends SIGTERM. What was printed before is not lost."],
  async run(session, words) {
    const [, word = ''] = words;
    const signal = readSize(session, word);
    if (signal > SIGNAL_COUNT) {
      refuse(session, `signal argument '${word}' is too large to be a valid signal`);
    }
    session.output.flush();
    return raise(signal);
  },
};

async function raise(signal: number): Promise<boolean> {
  try {
    process.kill(process.pid, signal);
  } catch {
    // As raise(3): a number that is no signal changes nothing.
    return true;
  }
  // Delivery may take until the event loop turns.
  await new Promise((done) => setImmediate(done));
  return true;
}

export const abort: ProgramCommand = {
  kind: 'program',
  name: 'abort',
  min: 0,
  max: 0,
  summary: 'end this program by SIGABRT, as a crash would',
  run: () => raise(6),
};
