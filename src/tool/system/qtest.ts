/**
 * The lines of qtest's socket that need no device: a machine without devices answers them, so that
 * test programs that always connect find a peer.
 */
import type { ByteStream } from '../../host/socket.js';
import type { QtestServerOptions } from '../../machine/qtest.js';

/** Longest line; longer ones end the connection. */
const MAX_LINE = 1024 * 1024;

const decoder = new TextDecoder();
const encoder = new TextEncoder();

/** The virtual clock, which only lines of qtest move. */
export class VirtualClock {
  nowNs = 0n;
}

/** Answers a line; undefined: it has no answer. */
export function answerLine(line: string, clock: VirtualClock): string {
  const [word = '', number] = line.trim().split(/\s+/);
  switch (word) {
    case 'endianness':
      return 'OK little';
    case 'clock_step':
      clock.nowNs += number === undefined ? 0n : BigInt(number);
      return `OK ${String(clock.nowNs)}`;
    case 'clock_set': {
      const wanted = BigInt(number ?? '0');
      if (wanted > clock.nowNs) clock.nowNs = wanted;
      return `OK ${String(clock.nowNs)}`;
    }
    default:
      return `FAIL Unknown command '${word}'`;
  }
}

/** Serves one peer until it is `gone`. */
export function serveQtest(
  stream: ByteStream,
  clock: VirtualClock,
  { gone, traffic }: QtestServerOptions,
): void {
  let held = '';
  stream.onData = (piece): void => {
    held += decoder.decode(piece, { stream: true });
    for (let end = held.indexOf('\n'); end >= 0; end = held.indexOf('\n')) {
      const line = held.slice(0, end);
      held = held.slice(end + 1);
      traffic?.received(line);
      const answer = safeAnswer(line, clock);
      traffic?.sent(answer);
      stream.write([encoder.encode(`${answer}\n`)]);
    }
    if (held.length > MAX_LINE) stream.destroy();
  };
  stream.onClose = (): void => {
    void stream.end();
    traffic?.gone();
    gone?.();
  };
}

function safeAnswer(line: string, clock: VirtualClock): string {
  try {
    return answerLine(line, clock);
  } catch {
    return `FAIL ${line.trim()}`;
  }
}
