/** Commands for zoned devices: none of the drivers has zones, and each says so by its name. */
import { errnoText } from '../../../lib/errno.js';
import type { ImageCommand } from '../session.js';
import { readLengths } from '../request.js';
import { readSize } from '../words.js';

function zoneCommand(
  name: string,
  alias: string,
  what: string,
  more: {
    readonly args: string;
    readonly summary: string;
    readonly min: number;
    readonly max: number;
  },
): ImageCommand {
  return {
    kind: 'image',
    name: `zone_${name}`,
    alias,
    ...more,
    run(session, words, backend) {
      const [offsetWord = '', ...rest] = words.slice(1);
      const offset = readSize(session, offsetWord);
      const isRange = name !== 'append' && name !== 'report';
      const numbers =
        name === 'append'
          ? readLengths(session, rest)
          : rest.map((word) => readSize(session, word));
      const beyond = isRange && offset + (numbers[0] ?? 0) > backend.size;
      session.out(`zone ${what} failed: ${errnoText(beyond ? 'EIO' : 'ENOTSUP')}\n`);
      return false;
    },
  };
}

const range = { args: 'offset len', min: 2, max: 2 };

export const zoneCommands: readonly ImageCommand[] = [
  zoneCommand('append', 'zap', 'append', {
    args: 'offset len [len..]',
    summary: 'append to a zone; not supported',
    min: 3,
    max: 4,
  }),
  zoneCommand('close', 'zc', 'close', { ...range, summary: 'close zones; not supported' }),
  zoneCommand('finish', 'zf', 'finish', { ...range, summary: 'finish zones; not supported' }),
  zoneCommand('open', 'zo', 'open', { ...range, summary: 'open zones; not supported' }),
  zoneCommand('report', 'zrp', 'report', {
    args: 'offset number',
    summary: 'report zones; not supported',
    min: 2,
    max: 2,
  }),
  zoneCommand('reset', 'zrs', 'reset', { ...range, summary: 'reset zones; not supported' }),
];
