/** `check`: the block map against itself and the header. Repairs are refused, as QEMU does. */
import type { CheckOptions, CheckResult } from '../../block/driver.js';
import { BlockError } from '../../block/errors.js';
import type { VdiImage } from './image.js';
import { Entry } from './layout.js';

export function checkImage(image: VdiImage, options: CheckOptions): CheckResult {
  if (options.fixErrors || options.fixLeaks) throw new BlockError('ENOTSUP');
  const { entries, count, isCut } = image.map;
  /** Entry that names a block, plus one; 0: none so far. */
  const owner = new Uint32Array(entries.length);
  let corruptions = 0;
  let allocated = 0;
  const report = (line: string): void => {
    corruptions++;
    options.report(`ERROR: ${line}`);
  };
  for (let index = 0; index < entries.length; index++) {
    const block = entries[index]!;
    if (block >= Entry.firstSpecial) continue;
    if (block >= count) {
      report(`block index ${String(index)} too large, is ${String(block)}`);
      continue;
    }
    allocated++;
    if ((owner[block] ?? 0) === 0) owner[block] = index + 1;
    else report(`block index ${String(index)} also used by ${String(owner[block]! - 1)}`);
  }
  if (isCut) report(`the file ends before the block map, at entry ${String(entries.length)}`);
  const { blocks_allocated: promised } = image.header.fields;
  if (allocated !== promised) {
    report(`allocated blocks mismatch, is ${String(allocated)}, should be ${String(promised)}`);
  }
  return {
    corruptions,
    leaks: 0,
    checkErrors: 0,
    corruptionsFixed: 0,
    leaksFixed: 0,
  };
}
