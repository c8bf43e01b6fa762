// A program in a pseudo-terminal, and what that shows.
import { spawn } from 'node:child_process';
import { onTestFinished } from 'vitest';
import { runOk } from './run.js';

/** What a terminal makes of the sequences that a program writes. */
export class FakeTerminal {
  /** What was written outside of the alternate screen, but for sequences. */
  outside = '';
  isAlternate = false;
  isCursorVisible = true;
  cursor: readonly [number, number] = [1, 1];
  /** By row and column, from 1. */
  readonly #cells = new Map<number, Map<number, string>>();
  #rest = '';

  take(text: string): void {
    const [first = '', ...pieces] = (this.#rest + text).split('\x1b');
    this.#print(first);
    this.#rest = '';
    for (const [i, piece] of pieces.entries()) {
      const found = /^\[(\??)([0-9;]*)([A-Za-z])/.exec(piece);
      if (found === null) {
        if (i === pieces.length - 1) this.#rest = `\x1b${piece}`;
        continue;
      }
      this.#control(found[1] === '?', found[2] ?? '', found[3] ?? '');
      this.#print(piece.slice(found[0].length));
    }
  }

  /** The lines of the alternate screen, without blanks at their ends. */
  lines(): string[] {
    const last = Math.max(0, ...this.#cells.keys());
    return Array.from({ length: last }, (_, row) => {
      const cells = this.#cells.get(row + 1) ?? new Map<number, string>();
      const length = Math.max(0, ...cells.keys());
      return Array.from({ length }, (_each, i) => cells.get(i + 1) ?? ' ')
        .join('')
        .trimEnd();
    });
  }

  #print(text: string): void {
    if (!this.isAlternate) {
      this.outside += text;
      return;
    }
    for (const char of text) {
      const [row, column] = this.cursor;
      const cells = this.#cells.get(row) ?? new Map<number, string>();
      this.#cells.set(row, cells.set(column, char));
      this.cursor = [row, column + 1];
    }
  }

  #control(isPrivate: boolean, parameters: string, letter: string): void {
    if (isPrivate) {
      if (parameters === '1049') this.isAlternate = letter === 'h';
      if (parameters === '25') this.isCursorVisible = letter === 'h';
    } else if (letter === 'J') {
      this.#cells.clear();
    } else if (letter === 'H') {
      const [row = 1, column = 1] = parameters.split(';').map(Number);
      this.cursor = [row, column];
    }
  }
}

export interface InTerminal {
  readonly terminal: FakeTerminal;
  type(this: void, text: string): void;
  signal(this: void, name: NodeJS.Signals): void;
  /** The terminal gets another size. */
  resize(this: void, columns: number, rows: number): Promise<void>;
  /** The settings of the terminal as stty tells them. */
  settings(this: void): Promise<string>;
  /** The program's status. The terminal stays until the test ends. */
  readonly ended: Promise<number>;
}

/** Starts a program in a terminal; needs the commands script and stty. */
export async function inTerminal(
  command: string,
  args: readonly string[],
  [columns, rows]: readonly [number, number],
): Promise<InTerminal> {
  const words = [command, ...args].map((word) => `'${word.replaceAll("'", "'\\''")}'`).join(' ');
  const size = `stty rows ${String(rows)} cols ${String(columns)}`;
  const line = `tty; ${size}; sh -c 'echo "pid $$"; exec "$@"' sh ${words}; echo "status $?"; cat`;
  const child = spawn('script', ['-qec', line, '/dev/null'], {
    stdio: ['pipe', 'pipe', 'inherit'],
    env: { ...process.env, SHELL: '/bin/sh', TERM: 'xterm' },
  });
  onTestFinished(() => {
    child.kill('SIGKILL');
  });
  const terminal = new FakeTerminal();
  child.stdout.setEncoding('utf8');
  const wait = (pattern: RegExp): Promise<string> =>
    new Promise((resolve) => {
      const look = (): void => {
        const found = pattern.exec(terminal.outside);
        if (found === null) return;
        child.stdout.off('data', look);
        resolve(found[1] ?? '');
      };
      child.stdout.on('data', look);
    });
  child.stdout.on('data', (text: string) => {
    terminal.take(text);
  });
  const ended = wait(/status (\d+)\r\n/).then(Number);
  const name = wait(/(\/dev\/\S+)\r\n/);
  const pid = Number(await wait(/pid (\d+)\r\n/));
  const path = await name;
  onTestFinished(() => {
    child.stdin.end();
  });
  return {
    terminal,
    type: (text) => void child.stdin.write(text),
    signal: (signal) => void process.kill(pid, signal),
    resize: async (width, height) => {
      await runOk('stty', ['-F', path, 'cols', String(width), 'rows', String(height)]);
    },
    settings: async () => (await runOk('stty', ['-F', path, '-a'])).stdout,
    ended,
  };
}
