/** `-device help` and `-device X,help`, from the declarations. */
import type { DeviceCategory, DeviceType } from '../device/bus/device.js';
import { describeFields } from '../options/help.js';

const headings: Readonly<Record<DeviceCategory, string>> = {
  bridge: 'Controller/Bridge/Hub devices:',
  storage: 'Storage devices:',
  input: 'Input devices:',
  misc: 'Misc devices:',
};

/** The list of devices that a user can add, by category. */
export function deviceListHelp(types: readonly DeviceType[]): string {
  const parts: string[] = [];
  for (const [category, heading] of Object.entries(headings)) {
    const lines = types
      .filter((type) => type.userCreatable && type.category === category)
      .map((type) => {
        const bus = type.bus === 'System' ? '' : `, bus ${type.bus}`;
        return `name "${type.name}"${bus}, desc "${type.description}"`;
      });
    if (lines.length > 0) parts.push([heading, ...lines.sort(), ''].join('\n'));
  }
  return parts.join('\n');
}

/** The properties of one device. */
export function deviceHelp(type: DeviceType): string {
  const lines = describeFields(type.properties).map((row) => {
    const form = `  ${row.name}=<${row.type}>`;
    const shown = row.default === undefined ? '' : ` (default: ${row.default})`;
    const { doc } = row.meta;
    if (doc === undefined && shown === '') return form;
    return `${form.padEnd(24)} - ${doc ?? ''}${shown}`;
  });
  return [`${type.name} options:`, ...lines.sort(), ''].join('\n');
}

/** The reference of devices in Markdown. */
export function deviceReference(types: readonly DeviceType[]): string {
  const parts = types.map((type) => {
    const place = type.bus === 'System' ? '' : `, on a bus of the kind ${type.bus}`;
    const own = type.userCreatable ? '' : ' It comes with the machine only.';
    const rows = describeFields(type.properties).map((row) => {
      const value = row.default === undefined ? '' : `, default ${row.default}`;
      const doc = row.meta.doc === undefined ? '' : `: ${row.meta.doc}`;
      return `- \`${row.name}\` (${row.type.replaceAll('|', ', ')}${value})${doc}`;
    });
    return [`### ${type.name}`, '', `${type.description}${place}.${own}`, '', ...rows, ''].join(
      '\n',
    );
  });
  return `${parts.join('\n').trimEnd()}\n`;
}
