/** Arguments of the daemon's options, from text to what commands take. */
import { parseJson } from '../../lib/json-text.js';
import { isJsonArgument, parseKeyval } from '../../options/keyval.js';
import { OptionError } from '../../options/option-error.js';
import type { Decl, Infer } from '../../options/schema.js';
import { parseValue, t } from '../../options/schema.js';

/** QMP's MonitorOptions. */
export const monitorOptions = t.struct('MonitorOptions', {
  id: t.optional(t.str({ doc: 'name of the monitor' })),
  mode: t.optional(t.enumOf('readline', 'control', { name: 'MonitorMode' })),
  pretty: t.bool({ default: false, doc: 'replies over several lines' }),
  chardev: t.str({ doc: 'character device whose peers are served' }),
});

/** How an argument is written and read. */
export interface ArgumentForm<D extends Decl> {
  readonly decl: D;
  /** Key of a first parameter without one. */
  readonly implied?: string;
  readonly types?: ReadonlyMap<string, Decl>;
  readonly givenOnly?: boolean;
}

/** Reads JSON or dotted keys. Throws OptionError or JsonError with QEMU's text. */
export function readArgument<D extends Decl>(form: ArgumentForm<D>, text: string): Infer<D> {
  const { types } = form;
  const how = {
    ...(types === undefined ? {} : { types }),
    withoutDefaults: form.givenOnly ?? false,
  };
  if (isJsonArgument(text)) {
    const value = parseJson(text, { doubles: 'keep' });
    return parseValue(form.decl, value, { ...how, from: 'qmp' });
  }
  const { value, help } = parseKeyval(text, form.implied);
  if (help) throw new OptionError('Help is not available for this option');
  return parseValue(form.decl, value, { ...how, from: 'keyval' });
}
