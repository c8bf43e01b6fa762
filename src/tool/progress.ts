/**
 * Progress on the command line. With `-p` to a file or pipe: qemu-img's text,
 * `    (12.34/100%)` and a carriage return. On a terminal: a bar with rate and time left. Without
 * `-p`: one line on standard error for each SIGUSR1.
 */
import type { Progress } from '../job/operation.js';
import { formatSize } from '../lib/sizes.js';
import type { Program } from './program.js';
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

/** Chooses how to show progress. `quiet` wins over `wanted`. */
export function showProgress(program: Program, wanted: boolean, quiet: boolean): ProgressShow {
  if (!wanted || quiet) return onSignal(program);
  return isTerminal(1) ? bar(program) : percentText(program);
}

function percent({ done, total }: Progress): number {
  return total === 0 ? 0 : Math.min(100, (done * 100) / total);
}

function percentLine(value: number): string {
  return `    (${value.toFixed(2)}/100%)`;
}

/** qemu-img's own way. */
function percentText(program: Program): ProgressShow {
  let shown = 0;
  const show = (value: number): void => {
    shown = value;
    program.print(`${percentLine(value)}\r`);
    program.output.flush();
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
      program.print('\n');
      program.output.flush();
    },
  };
}

function bar(program: Program): ProgressShow {
  let shownAt = 0;
  let width = 0;
  const show = (progress: Progress): void => {
    const line = barLine(progress);
    program.print(`\r${line.padEnd(width)}`);
    width = line.length;
    program.output.flush();
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
      program.print('\n');
      program.output.flush();
    },
  };
}

/** ` 45.2% [=======>    ]  1.21 GiB of 2 GiB  512 MiB/s  0:03 left`. */
export function barLine(progress: Progress): string {
  const { done, total, bytesPerSecond, secondsLeft } = progress;
  const part = percent(progress) / 100;
  const full = Math.floor(part * BAR_COLUMNS);
  const head = full > 0 && full < BAR_COLUMNS ? `${'='.repeat(full - 1)}>` : '='.repeat(full);
  const parts = [
    `${(part * 100).toFixed(1).padStart(5)}% [${head.padEnd(BAR_COLUMNS)}]`,
    `${formatSize(done)} of ${formatSize(total)}`,
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
