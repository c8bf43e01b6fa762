/** Carrying out one command line. */
import type { Backend } from '../../block/backend.js';
import { imageCommands } from './commands/index.js';
import type { IoOutput } from './output.js';
import type { IoCommand, ImageCommand } from './session.js';
import { IoSession } from './session.js';
import { Refused, splitLine } from './words.js';

export type { IoOutput } from './output.js';

/**
 * Runs one line of the exerciser's language (`write -P 3 0 64k`, `aio_read 0 512`, …) on an image
 * that the caller has open; false when the command failed, which it has told by then.
 * Requests of `aio_…` commands go on after the return; `aio_flush` waits for them.
 * `program` stands before error messages.
 */
export async function runIoCommand(
  backend: Backend,
  line: string,
  output: IoOutput,
  program = 'vdisk-io',
): Promise<boolean> {
  const session = new IoSession({ graph: backend.graph, output, program, backend });
  return runLine(session, imageCommands, line);
}

/** As {@link runIoCommand} in a session of any kind; an empty line does nothing. */
export async function runLine(
  session: IoSession,
  commands: readonly IoCommand[],
  line: string,
): Promise<boolean> {
  const words = splitLine(line);
  const name = words[0];
  if (name === undefined) return true;
  const command = commands.find((c) => c.name === name || c.alias === name);
  if (command === undefined) {
    session.output.err(`command "${name}" not found\n`);
    return false;
  }
  try {
    if (command.kind === 'program') {
      return countFits(session, command, words) && (await command.run(session, words));
    }
    return await runOnImage(session, command, words);
  } catch (e) {
    if (e instanceof Refused) return false;
    throw e;
  }
}

async function runOnImage(
  session: IoSession,
  command: ImageCommand,
  words: readonly string[],
): Promise<boolean> {
  const { backend } = session;
  if (backend?.isInserted !== true) {
    session.output.err("no file open, try 'help open'\n");
    return false;
  }
  if (!countFits(session, command, words)) return false;
  const { perm, shared } = backend.perms;
  const more = (command.perm ?? 0) & ~perm;
  if (more !== 0) {
    try {
      await backend.setPerms({ perm: perm | more, shared });
    } catch (e) {
      return session.error(e);
    }
  }
  return command.run(session, words, backend);
}

function countFits(session: IoSession, command: IoCommand, words: readonly string[]): boolean {
  const { min, max } = command;
  const count = words.length - 1;
  if (count >= min && (max === undefined || count <= max)) return true;
  let expected = `between ${min} and ${String(max)}`;
  if (max === undefined) expected = `at least ${min}`;
  else if (max === min) expected = String(min);
  session.output.err(
    `bad argument count ${count} to ${words[0] ?? ''}, expected ${expected} arguments\n`,
  );
  return false;
}
