/** Ctrl-C and its kin: a command ends its operation, closes its images, and then itself. */
import { constants } from 'node:os';

const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

/** What a command learns of signals while it runs. */
export interface Interrupts {
  /** Aborted by the first signal. */
  readonly signal: AbortSignal;
  /** Exit status for the signal that came: 130 for Ctrl-C; undefined when none did. */
  readonly status: () => number | undefined;
  /** Signals have their usual effect again. */
  readonly dispose: () => void;
}

/** Listens; a second signal ends the process at once. */
export function watchInterrupts(): Interrupts {
  const controller = new AbortController();
  let status: number | undefined;
  const onSignal = (name: NodeJS.Signals): void => {
    const code = 128 + constants.signals[name];
    if (status !== undefined) process.exit(code);
    status = code;
    controller.abort();
  };
  for (const name of signals) process.on(name, onSignal);
  return {
    signal: controller.signal,
    status: () => status,
    dispose: () => {
      for (const name of signals) process.off(name, onSignal);
    },
  };
}
