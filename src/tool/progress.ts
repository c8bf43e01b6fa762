/**
 * Progress on the command line. With `-p` to a file or pipe: qemu-img's text,
 * `    (12.34/100%)` and a carriage return. On a terminal: a bar with rate and time left. Without
 * `-p`: one line on standard error for each SIGUSR1. `--progress=json`: lines of JSON.
 */
import type { Progress } from '../job/operation.js';
import { formatSize } from '../lib/sizes.js';
import type { Program } from './program.js';
import { UsageError } from './program.js';
import { isTerminal } from './terminal.js';

/** Steps of qemu-img's percentage. */
const STEP_PERCENT = 1;
/** Columns of the bar itself. */
const BAR_COLUMNS = 24;
/** Milliseconds between two pictures of the bar. */
const FRAME_MS = 100;

export interface ProgressShow {
  /** To be called with news; cheap enough for each piece of work. */
  update(progress: Progress): void;
  /** Ends the line; `complete`: shows first that all was done. */
  end(complete: boolean): void;
}

/** What was asked for: `-p`, `--progress=json`. */
export type ProgressWish = 'off' | 'text' | 'json';

/** The argument of `--progress`; a line of its own for another one than `json`. */
export function progressWish(value: string): ProgressWish {
  if (value === '') return 'text';
  if (value === 'json') return 'json';
  throw new UsageError(`--progress expects 'json' not '${value}'`);
}

export interface ShowOptions {
  /** Wins over what was asked for. */
  readonly quiet: boolean;
  /** Standard output carries data: progress goes to standard error. */
  readonly toErrors?: boolean;
  /** Counts are steps, no bytes. */
  readonly steps?: boolean;
}

/** Programs that have shown some progress. */
const begun = new WeakSet<Program>();

/**
 * What qemu-img prints of progress in a file or pipe when a command fails before its work begins;
 * `percent`: that nothing is done, too.
 */
export function endUnbegun(
  program: Program,
  wish: ProgressWish,
  { quiet, percent = true }: ShowOptions & { readonly percent?: boolean },
): void {
  if (wish !== 'text' || quiet || isTerminal(1) || begun.has(program)) return;
  program.print(percent ? `${percentLine(0)}\r\n` : '\n');
}

/** Chooses how to show progress. */
export function showProgress(
  program: Program,
  wish: ProgressWish,
  { quiet, toErrors = false, steps = false }: ShowOptions,
): ProgressShow {
  begun.add(program);
  if (wish === 'off' || quiet) return onSignal(program);
  const print = (text: string): void => {
    if (toErrors) program.output.err(text);
    else program.print(text);
    program.output.flush();
  };
  if (wish === 'json') return jsonLines(print);
  return isTerminal(toErrors ? 2 : 1) ? bar(print, steps) : percentText(print);
}

/** How to print a piece of text at once. */
type Print = (text: string) => void;

function percent({ done, total }: Progress): number {
  return total === 0 ? 0 : Math.min(100, (done * 100) / total);
}

function percentLine(value: number): string {
  return `    (${value.toFixed(2)}/100%)`;
}

/** qemu-img's own way. */
function percentText(print: Print): ProgressShow {
  let shown = 0;
  const show = (value: number): void => {
    shown = value;
    print(`${percentLine(value)}\r`);
  };
  show(0);
  return {
    update(progress) {
      const value = percent(progress);
      const isNews = value >= shown + STEP_PERCENT || value < shown;
      if (isNews || (value === 100 && shown < 100)) show(value);
    },
    end(complete) {
      if (complete) show(100);
      print('\n');
    },
  };
}

function bar(print: Print, steps: boolean): ProgressShow {
  let shownAt = 0;
  let width = 0;
  const show = (progress: Progress): void => {
    const line = barLine(progress, steps);
    print(`\r${line.padEnd(width)}`);
    width = line.length;
  };
  let last: Progress = { done: 0, total: 0, bytesPerSecond: 0, secondsLeft: undefined };
  return {
    update(progress) {
      last = progress;
      const now = performance.now();
      if (now - shownAt < FRAME_MS) return;
      shownAt = now;
      show(progress);
    },
    end(complete) {
      show(complete ? { ...last, done: last.total, secondsLeft: 0 } : last);
      print('\n');
    },
  };
}

/**
 * A line for each step, at most one in {@link FRAME_MS}, and a last one that tells the end. Counts
 * are bytes; what is not known is absent.
 */
function jsonLines(print: Print): ProgressShow {
  let shownAt = -FRAME_MS;
  let last: Progress = { done: 0, total: 0, bytesPerSecond: 0, secondsLeft: undefined };
  const show = (progress: Progress, status: 'running' | 'completed' | 'failed'): void => {
    const { done, total, bytesPerSecond, secondsLeft } = progress;
    const part = status === 'completed' ? 100 : percent(progress);
    const rounded = (value: number): number => Math.round(value * 100) / 100;
    const line = {
      status,
      done,
      total,
      percent: rounded(part),
      ...(bytesPerSecond > 0 ? { 'bytes-per-second': Math.round(bytesPerSecond) } : {}),
      ...(status === 'running' && secondsLeft !== undefined
        ? { 'seconds-left': rounded(secondsLeft) }
        : {}),
    };
    print(`${JSON.stringify(line)}\n`);
  };
  return {
    update(progress) {
      last = progress;
      const now = performance.now();
      if (now - shownAt < FRAME_MS) return;
      shownAt = now;
      show(progress, 'running');
    },
    end(complete) {
      if (complete) show({ ...last, done: last.total }, 'completed');
      else show(last, 'failed');
    },
  };
}

/** ` 45.2% [=======>    ]  1.21 GiB of 2 GiB  512 MiB/s  0:03 left`; of steps no amount. */
export function barLine(progress: Progress, steps = false): string {
  const { done, total, bytesPerSecond, secondsLeft } = progress;
  const part = percent(progress) / 100;
  const full = Math.floor(part * BAR_COLUMNS);
  const head = full > 0 && full < BAR_COLUMNS ? `${'='.repeat(full - 1)}>` : '='.repeat(full);
  const parts = [
    `${(part * 100).toFixed(1).padStart(5)}% [${head.padEnd(BAR_COLUMNS)}]`,
    ...(steps ? [] : [`${formatSize(done)} of ${formatSize(total)}`]),
  ];
  if (bytesPerSecond > 0) parts.push(`${formatSize(Math.round(bytesPerSecond))}/s`);
  if (secondsLeft !== undefined && secondsLeft > 0) parts.push(`${clockText(secondsLeft)} left`);
  return parts.join('  ');
}

function clockText(seconds: number): string {
  const whole = Math.ceil(seconds);
  const text = (value: number): string => String(value).padStart(2, '0');
  const hours = Math.floor(whole / 3600);
  const minutes = Math.floor((whole % 3600) / 60);
  if (hours > 0) return `${String(hours)}:${text(minutes)}:${text(whole % 60)}`;
  return `${String(minutes)}:${text(whole % 60)}`;
}

/** Silent until asked. */
function onSignal(program: Program): ProgressShow {
  let latest = 0;
  const tell = (): void => {
    program.output.err(`${percentLine(latest)}\n`);
  };
  process.on('SIGUSR1', tell);
  return {
    update(progress) {
      latest = percent(progress);
    },
    end() {
      process.off('SIGUSR1', tell);
    },
  };
}
