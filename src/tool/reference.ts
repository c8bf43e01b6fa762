/** Reference texts made from the declarations of commands: Markdown, man pages. */
import type { CommandSpec, OptionSpec } from '../options/getopt.js';
import { optionForms } from '../options/getopt.js';

/** A subcommand with its usage lines, as the tools declare it. */
export interface ReferenceEntry {
  readonly spec: CommandSpec;
  readonly usage: readonly string[];
}

function shown(spec: CommandSpec): OptionSpec[] {
  return Object.values(spec.options).filter((option) => option.hidden !== true);
}

/** `-f, --format FMT` with the aliases behind it. */
function forms(option: OptionSpec): string {
  const more = (option.aliases ?? []).map((name) => `, --${name}`).join('');
  const text = optionForms(option);
  const space = option.arg === undefined ? text.length : text.lastIndexOf(' ');
  return text.slice(0, space) + more + text.slice(space);
}

/** One section per subcommand of `tool`. */
export function markdownReference(tool: string, entries: readonly ReferenceEntry[]): string {
  return entries.map((entry) => markdownSection(tool, entry)).join('\n');
}

function markdownSection(tool: string, { spec, usage }: ReferenceEntry): string {
  const lines = [`## ${spec.name}: ${spec.summary}`, '', '```'];
  usage.forEach((line, i) => lines.push(`${i === 0 ? `${tool} ${spec.name} ` : '    '}${line}`));
  lines.push('```', '');
  if (spec.doc !== undefined) lines.push(spec.doc, '');
  for (const option of shown(spec)) {
    lines.push(`- \`${forms(option)}\`: ${option.doc}`);
  }
  return `${lines.join('\n')}\n`;
}

/** Roff's own characters as text. */
function roff(text: string): string {
  return text
    .replace(/\\/g, '\\e')
    .replace(/-/g, '\\-')
    .replace(/^([.'])/gm, '\\&$1');
}

/** A page of section 1 about `tool` and its subcommands. */
export function manPage(
  tool: string,
  summary: string,
  version: string,
  entries: readonly ReferenceEntry[],
): string {
  const lines = [
    `.TH ${tool.toUpperCase()} 1 "" "vdisk ${version}"`,
    '.SH NAME',
    `${roff(tool)} \\- ${roff(summary)}`,
    '.SH SYNOPSIS',
    `.B ${roff(tool)}`,
    '.I COMMAND',
    '[\\fIARGUMENTS\\fR]',
    '.SH COMMANDS',
  ];
  for (const { spec, usage } of entries) {
    lines.push(`.SS ${roff(spec.name)}`, `${roff(spec.summary)}.`, '.PP', '.nf');
    usage.forEach((line, i) => {
      lines.push(roff(i === 0 ? `${tool} ${spec.name} ${line}` : `    ${line}`));
    });
    lines.push('.fi');
    if (spec.doc !== undefined) lines.push('.PP', roff(spec.doc));
    for (const option of shown(spec)) {
      lines.push('.TP', `.B ${roff(forms(option))}`, roff(option.doc));
    }
  }
  return `${lines.join('\n')}\n`;
}

/** A page of section 1 about a tool without subcommands. */
export function programPage(tool: string, spec: CommandSpec, version: string): string {
  const lines = [
    `.TH ${tool.toUpperCase()} 1 "" "vdisk ${version}"`,
    '.SH NAME',
    `${roff(tool)} \\- ${roff(spec.summary)}`,
    '.SH SYNOPSIS',
    `.B ${roff(tool)}`,
    `[\\fIOPTIONS\\fR] \\fI${spec.operands ?? ''}\\fR`,
    '.SH OPTIONS',
  ];
  for (const option of shown(spec)) {
    lines.push('.TP', `.B ${roff(forms(option))}`, roff(option.doc));
  }
  return `${lines.join('\n')}\n`;
}
