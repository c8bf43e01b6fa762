/** Properties of IDE disks beyond those of all disks, and the names that they tell the guest. */
import { OptionError } from '../../../options/option-error.js';
import type { Infer } from '../../../options/schema.js';
import { t } from '../../../options/schema.js';
import { identifyLimits } from './identify.js';

/** Properties that ide-hd and ide-cd share. */
export const ideProperties = {
  unit: t.optional(
    t.uint({ bits: 32 }, { doc: 'master (0) or slave (1); default: the first free' }),
  ),
  serial: t.optional(t.str({ doc: 'serial number, at most 20 characters' })),
  ver: t.optional(t.str({ doc: 'firmware revision, at most 8 characters' })),
  model: t.optional(t.str({ doc: 'model name, at most 40 characters' })),
  wwn: t.id64({ default: 0n, doc: 'world wide name; 0: none' }),
} as const;

/** The same as a declaration of its own, for its type. */
export const ideStruct = t.struct('IdeProperties', ideProperties);
type IdeProperties = Infer<typeof ideStruct>;

/** What a unit calls itself. */
export interface IdeNames {
  readonly serial: string;
  readonly version: string;
  readonly model: string;
  readonly wwn: bigint;
}

/** Checks the names' lengths. `number`: of the unit on the whole machine. Throws OptionError. */
export function ideNames(given: IdeProperties, model: string, number: number): IdeNames {
  const names = {
    serial: given.serial ?? `QM${String(number + 1).padStart(5, '0')}`,
    version: given.ver ?? '2.5+',
    model: given.model ?? model,
    wwn: given.wwn,
  };
  for (const name of ['serial', 'version', 'model'] as const) {
    if (names[name].length > identifyLimits[name]) {
      throw new OptionError(
        `${name === 'version' ? 'ver' : name} is longer than ${identifyLimits[name]} characters`,
        name,
      );
    }
  }
  return names;
}
