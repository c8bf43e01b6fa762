/** `--list`: what a server offers, in qemu-nbd's layout. */
import type { TlsCredentials } from '../../host/socket.js';
import { StreamReader } from '../../host/stream-reader.js';
import type { NbdListing } from '../../protocol/nbd/handshake.js';
import { listExports } from '../../protocol/nbd/handshake.js';
import { NbdFlag } from '../../wire/nbd.js';
import type { Program } from '../program.js';
import type { NbdArguments } from './arguments.js';
import { addressOf, credentials, loadSockets, makeObjects } from './serve.js';

/** Words for transmission flags, in the order in which they are printed. */
const flagWords: readonly (readonly [number, string])[] = [
  [NbdFlag.readOnly, 'readonly'],
  [NbdFlag.sendFlush, 'flush'],
  [NbdFlag.sendFua, 'fua'],
  [NbdFlag.rotational, 'rotational'],
  [NbdFlag.sendTrim, 'trim'],
  [NbdFlag.sendWriteZeroes, 'zeroes'],
  [NbdFlag.sendDf, 'df'],
  [NbdFlag.canMultiConn, 'multi'],
  [NbdFlag.sendResize, 'resize'],
  [NbdFlag.sendCache, 'cache'],
  [NbdFlag.sendFastZero, 'fast-zero'],
  [NbdFlag.blockStatusPayload, 'block-status-payload'],
];

/** Prints the exports of the server at the address of the command line; the exit status. */
export async function list(program: Program, asked: NbdArguments): Promise<number> {
  const objects = await makeObjects(asked);
  const tls =
    asked.tlsCreds === undefined ? undefined : await credentials(objects, asked.tlsCreds, 'client');
  const sockets = await loadSockets();
  const stream = await sockets.connect(addressOf(asked));
  try {
    const found = await listExports(new StreamReader(stream), tlsStart(asked, tls));
    program.print(`exports available: ${String(found.length)}\n`);
    for (const each of found) program.print(describe(each));
  } catch (e) {
    stream.destroy();
    throw e;
  }
  return 0;
}

function tlsStart(
  asked: NbdArguments,
  tls: TlsCredentials | undefined,
): Parameters<typeof listExports>[1] {
  if (tls === undefined) return undefined;
  const host = asked.socket === undefined ? (asked.bind ?? '0.0.0.0') : undefined;
  const hostname = asked.tlsHostname ?? host;
  return async (reader) =>
    new StreamReader(await reader.stream.startTls({ credentials: tls, hostname }));
}

function describe(each: NbdListing): string {
  const lines = [` export: '${each.name}'`];
  if (each.description !== '') lines.push(`  description: ${each.description}`);
  const { size, flags = 0, blocks } = each;
  if ((flags & NbdFlag.hasFlags) !== 0) {
    lines.push(`  size:  ${String(size)}`);
    const words = flagWords.filter(([bit]) => (flags & bit) !== 0).map(([, word]) => `${word} `);
    lines.push(`  flags: 0x${flags.toString(16)} ( ${words.join('')})`);
  }
  if (blocks !== undefined) {
    lines.push(`  min block: ${String(blocks.min)}`);
    lines.push(`  opt block: ${String(blocks.preferred)}`);
    lines.push(`  max block: ${String(blocks.max)}`);
  }
  lines.push(`  transaction size: ${each.extended ? '64-bit' : '32-bit'}`);
  if (each.contexts.length > 0) {
    lines.push(`  available meta contexts: ${String(each.contexts.length)}`);
    for (const context of each.contexts) lines.push(`   ${context}`);
  }
  return `${lines.join('\n')}\n`;
}
