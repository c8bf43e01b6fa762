/** What a client sees of a storage daemon while it works through a list of requests, as text. */
import { join } from 'node:path';
import { formatJson } from '../../src/lib/json-text.js';
import type { Message } from '../qmp/support.js';
import { DaemonProcess, isReply } from '../qmp/support.js';
import { findCommand, tempDir } from '../support/index.js';

/** A request, and the state of a job, or the event, that is waited for before the next. */
export interface Step {
  readonly request: Message;
  readonly until: string | undefined;
}

export const cmd = (execute: string, args: Message = {}, until?: string): Step => ({
  request: { execute, arguments: args },
  until,
});

/** The images of a run, in a folder of its own. */
export interface Folder {
  readonly dir: string;
  readonly at: (name: string) => string;
}

export interface Script {
  /** Makes the images; QEMU's tools are given. */
  prepare(folder: Folder, img: string, io: string): Promise<void>;
  steps(dir: string): Step[];
  /** Lines on the images afterwards. */
  judge(folder: Folder, img: string): Promise<string[]>;
}

function scrub({ timestamp: _, ...message }: Message, folder: string): string {
  return (
    formatJson(message)
      .replaceAll(folder, 'DIR')
      .replace(/#block\d+/g, '#block')
      .replace(/"actual-size": \d+/g, '"actual-size": N')
      // How far a job has come when it is stopped, and what that has made of the files.
      .replace(/(CANCELLED.*"offset": )\d+/, '$1N')
      .replace(
        /"virtual-size": \d+(, "filename": "[^"]*", "format": "file")/g,
        '"virtual-size": N$1',
      )
  );
}

function hasState(message: Message, state: string): boolean {
  const data = message['data'] as Message | undefined;
  return message['event'] === state || data?.['status'] === state;
}

async function take(daemon: DaemonProcess, step: Step, from: number): Promise<readonly Message[]> {
  daemon.child.stdin.write(`${JSON.stringify(step.request)}\n`);
  const { until } = step;
  const seen = await daemon.lines.until((all) => {
    const now = all.slice(from);
    const failed = now.some((m) => 'error' in m);
    const reached = until === undefined || now.some((m) => hasState(m, until));
    return now.some(isReply) && (failed || reached);
  });
  return seen.slice(from);
}

/** Of each step the request, the events, the reply; then how the program ended, and the images. */
export async function transcript(program: string, script: Script): Promise<string[]> {
  const dir = tempDir();
  const folder: Folder = { dir, at: (name) => join(dir, name) };
  const img = findCommand('qemu-img') ?? 'qemu-img';
  await script.prepare(folder, img, findCommand('qemu-io') ?? 'qemu-io');
  const daemon = await new DaemonProcess(program).ready();
  const out: string[] = [];
  let from = daemon.lines.seen.length;
  for (const step of script.steps(dir)) {
    out.push(`> ${formatJson(step.request)}`.replaceAll(dir, 'DIR'));
    const messages = await take(daemon, step, from);
    from += messages.length;
    const texts = (which: boolean): string[] =>
      messages.filter((m) => isReply(m) === which).map((m) => scrub(m, dir));
    out.push(...texts(false), ...texts(true));
  }
  out.push(`status ${String(await daemon.quit())}`);
  out.push(...daemon.lines.seen.slice(from).map((m) => scrub(m, dir)));
  out.push(...(await script.judge(folder, img)));
  return out;
}
