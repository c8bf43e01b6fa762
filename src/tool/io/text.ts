/**
 * How the I/O exerciser writes numbers, times and bytes; the text is compared by scripts, so each
 * digit is as C's printf makes it.
 */

const UNITS = [' EiB', ' PiB', ' TiB', ' GiB', ' MiB', ' KiB'] as const;

/** A quantity in bytes: `512 bytes`, `64 KiB`, `1.001 KiB`, `827.087445 bytes`. */
export function formatAmount(bytes: number): string {
  let size = 2 ** 60;
  for (const unit of UNITS) {
    if (bytes >= size) return withoutZeroFraction(formatFixed(bytes / size, 3)) + unit;
    size /= 1024;
  }
  return `${withoutZeroFraction(formatFixed(bytes, 6))} bytes`;
}

function withoutZeroFraction(text: string): string {
  return text.replace(/\.0+$/, '');
}

/**
 * `value` with `digits` digits after the point, rounded as C does: to the nearest, and to the even
 * digit where the value lies exactly in the middle (JavaScript's toFixed would round up).
 */
export function formatFixed(value: number, digits: number): string {
  const short = value.toFixed(digits);
  const exact = value.toFixed(100);
  const rest = exact.slice(exact.indexOf('.') + 1 + digits);
  if (!/^50*$/.test(rest)) return short;
  const below = exact.slice(0, exact.length - rest.length);
  const last = below.replace(/\.$/, '').at(-1) ?? '0';
  return '02468'.includes(last) ? below.replace(/\.$/, '') : short;
}

/** Seconds as in a report line: `00.03 sec`, or `1:02:03.45` from a minute on. */
export function formatTime(seconds: number): string {
  return seconds < 60 ? `${pad(seconds)} sec` : formatClock(seconds);
}

/** Seconds as hours, minutes, seconds and hundredths: `0:00:00.03`. */
export function formatClock(seconds: number): string {
  const minutes = Math.floor(seconds / 60);
  const hours = Math.floor(minutes / 60);
  return `${String(hours)}:${twoDigits(minutes % 60)}:${pad(seconds - minutes * 60)}`;
}

function pad(seconds: number): string {
  const hundredths = Math.floor(seconds * 100);
  return `${twoDigits(Math.floor(hundredths / 100))}.${twoDigits(hundredths % 100)}`;
}

function twoDigits(n: number): string {
  return String(n).padStart(2, '0');
}

/** What a report line is about. */
export interface Report {
  /** `wrote`, `read` or `discard`. */
  readonly verb: string;
  readonly offset: number;
  /** Bytes that were asked for, and those that were done. */
  readonly wanted: number;
  readonly done: number;
  readonly seconds: number;
}

/** The two lines after a request, or with `terse` one line of values between commas. */
export function formatReport(report: Report, terse: boolean): string {
  const seconds = Math.max(report.seconds, 1e-9);
  const rate = report.done / seconds;
  const ops = 1 / seconds;
  if (terse) {
    const values = [String(report.done), '1', formatClock(seconds)];
    return `${[...values, formatFixed(rate, 3), formatFixed(ops, 3)].join(',')}\n`;
  }
  return (
    `${report.verb} ${report.done}/${report.wanted} bytes at offset ${report.offset}\n` +
    `${formatAmount(report.done)}, 1 ops; ${formatTime(seconds)} ` +
    `(${formatAmount(rate)}/sec and ${formatFixed(ops, 4)} ops/sec)\n`
  );
}

const HEX: readonly string[] = Array.from({ length: 256 }, (_, i) =>
  i.toString(16).padStart(2, '0'),
);
/** Only letters and digits of ASCII are shown as themselves. */
const SHOWN: readonly string[] = Array.from({ length: 256 }, (_, i) => {
  const character = String.fromCharCode(i);
  return /[0-9A-Za-z]/.test(character) ? character : '.';
});

/** Pieces of a dump of `data`, which stands at `offset` of the image; 16 bytes a line. */
export function* dumpLines(data: Uint8Array, offset: number): Generator<string> {
  let text = '';
  for (let at = 0; at < data.length; at += 16) {
    const end = Math.min(at + 16, data.length);
    let hex = '';
    let characters = '';
    for (let i = at; i < end; i++) {
      hex += `${HEX[data[i]!]!} `;
      characters += SHOWN[data[i]!]!;
    }
    text += `${(offset + at).toString(16).padStart(8, '0')}:  ${hex} ${characters}\n`;
    if (text.length > DUMP_PIECE) {
      yield text;
      text = '';
    }
  }
  if (text !== '') yield text;
}

/** Characters of a dump that are handed on at once. */
const DUMP_PIECE = 64 * 1024;
