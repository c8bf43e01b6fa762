/** Reference texts made from the declarations of commands: Markdown, man pages. */
import type { CommandSpec, OptionSpec } from '../options/getopt.js';
import { optionForms } from '../options/getopt.js';

/** A subcommand with its usage lines, as the tools declare it. */
export interface ReferenceEntry {
  readonly spec: CommandSpec;
  readonly usage: readonly string[];
}

/** A command line and what it is good for. */
export type Example = readonly [line: string, what: string];

/** Command lines with what they do behind them, as in `--help`. */
export function exampleLines(examples: readonly Example[]): string[] {
  const lines = examples.filter(([, what]) => what !== '').map(([line]) => line.length);
  const width = Math.min(60, Math.max(...lines));
  return examples.map(([line, what]) =>
    what === '' ? `  ${line}` : `  ${line.padEnd(width)}  ${what}`,
  );
}

/** Words in indented lines of at most 78 columns. */
export function wordLines(words: readonly string[]): string[] {
  const lines: string[] = [];
  let line = ' ';
  for (const word of words) {
    if (line.length + word.length > 77) {
      lines.push(line);
      line = ' ';
    }
    line += ` ${word}`;
  }
  return [...lines, line];
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

/** What a page of section 1 is made from. */
export interface ManPage {
  readonly name: string;
  readonly summary: string;
  /** What may follow the name, one line for each way. */
  readonly synopsis: readonly string[];
  /** Paragraphs. */
  readonly description: readonly string[];
  /** Options of the program itself. */
  readonly options?: CommandSpec;
  readonly commands?: readonly ReferenceEntry[];
  /** Commands that are no command lines: usage, and what they do. */
  readonly words?: readonly (readonly [string, string])[];
  readonly exitStatus: readonly (readonly [string, string])[];
  readonly examples: readonly Example[];
  readonly seeAlso: readonly string[];
}

/** Text without roff's own characters, in ASCII. */
function roff(text: string): string {
  return text
    .replaceAll('\\', '\\e')
    .replaceAll('…', '...')
    .replaceAll('-', '\\-')
    .replaceAll("'", '\\(aq')
    .replaceAll('^', '\\(ha')
    .replaceAll('~', '\\(ti')
    .replaceAll('`', '\\(ga')
    .replace(
      /[^\0-\x7f]/gu,
      (c) => `\\[u${(c.codePointAt(0) ?? 0).toString(16).toUpperCase().padStart(4, '0')}]`,
    )
    .replace(/^\./gm, '\\&.');
}

function optionLines(spec: CommandSpec): string[] {
  return shown(spec).flatMap((option) => ['.TP', `.B ${roff(forms(option))}`, roff(option.doc)]);
}

function paragraphs(texts: readonly string[]): string[] {
  return texts.flatMap((text, i) => (i === 0 ? [roff(text)] : ['.PP', roff(text)]));
}

/** The page; `version` is vdisk's. */
export function manPage(page: ManPage, version: string): string {
  const { name, synopsis, description, options, commands = [], words = [] } = page;
  const lines = [
    `.TH ${name.toUpperCase()} 1 "" "vdisk ${version}" "User Commands"`,
    '.SH NAME',
    `${roff(name)} \\- ${roff(page.summary)}`,
    '.SH SYNOPSIS',
  ];
  synopsis.forEach((line, i) => {
    if (i > 0) lines.push('.br');
    lines.push(`.B ${roff(name)}`, roff(line));
  });
  lines.push('.SH DESCRIPTION', ...paragraphs(description));
  if (options !== undefined) lines.push('.SH OPTIONS', ...optionLines(options));
  if (commands.length + words.length > 0) lines.push('.SH COMMANDS');
  for (const entry of commands) lines.push(...commandLines(name, entry));
  for (const [usage, what] of words) lines.push('.TP', `.B ${roff(usage)}`, roff(what));
  lines.push('.SH EXIT STATUS');
  for (const [status, meaning] of page.exitStatus) {
    lines.push('.TP', `.B ${roff(status)}`, roff(meaning));
  }
  lines.push('.SH EXAMPLES', '.nf');
  for (const [line, what] of page.examples) {
    if (what !== '') lines.push(roff(`# ${what}`));
    lines.push(roff(line), '.sp');
  }
  lines.pop();
  lines.push('.fi', '.SH SEE ALSO');
  lines.push(page.seeAlso.map((other) => `\\fB${roff(other)}\\fR(1)`).join(',\n'));
  return `${lines.join('\n')}\n`;
}

function commandLines(tool: string, { spec, usage }: ReferenceEntry): string[] {
  const lines = [`.SS ${roff(spec.name)}`, `${roff(spec.summary)}.`, '.PP', '.nf'];
  usage.forEach((line, i) => {
    lines.push(roff(i === 0 ? `${tool} ${spec.name} ${line}` : `    ${line}`));
  });
  lines.push('.fi');
  if (spec.doc !== undefined) lines.push('.PP', roff(spec.doc));
  return [...lines, ...optionLines(spec)];
}
