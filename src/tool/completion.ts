/**
 * Shell completion made from the declarations: `vdisk completion bash` and `vdisk completion zsh`
 * print a script for the shell to read at its start:
 *
 *     source <(vdisk completion bash)
 *
 * Both shells run the same function, which looks at the words of a line (options with their `=` in
 * one word) and sets `_vdisk_list`, the words that may stand there (or `_vdisk_files` for names of
 * files), and `_vdisk_rest`, the part of the last word that they replace.
 */
import type { CreateOption } from '../options/create-options.js';
import type { CommandSpec, OptionSpec } from '../options/getopt.js';

/** A program, and under which words its subcommands stand. */
export interface CompletionTool {
  /** Words in front: `['vdisk-img']`, `['vdisk', 'img']`. */
  readonly words: readonly (readonly string[])[];
  /** Of a tool with subcommands; else one entry with an empty name. */
  readonly commands: readonly CommandSpec[];
  /** More words that may stand where the subcommands do. */
  readonly more?: readonly string[];
}

/** A format with what `-o` takes. */
export interface CompletionFormat {
  readonly name: string;
  /** Offered for `-f` and the like. */
  readonly isFormat: boolean;
  readonly create: readonly CreateOption[];
  readonly amend: readonly CreateOption[];
}

function namesOf(option: OptionSpec): string[] {
  const long = [option.long, ...(option.aliases ?? [])].filter((name) => name !== undefined);
  const short = option.short === undefined ? [] : [`-${option.short}`];
  return [...short, ...long.map((name) => `--${name}`)];
}

function shown(spec: CommandSpec): [string, OptionSpec][] {
  return Object.entries(spec.options).filter(([, option]) => option.hidden !== true);
}

/** A word inside single quotes. */
function quote(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** The shell command that says what follows an option. */
function following(option: OptionSpec, formats: readonly CompletionFormat[]): string {
  const { complete } = option;
  if (complete === 'format' || complete === 'protocol') {
    const names = formats.filter((each) => each.isFormat).map((each) => each.name);
    return `_vdisk_list=${quote(names.join(' '))}`;
  }
  if (complete === 'create-options') return '_vdisk_pairs create "$format"';
  if (complete === 'amend-options') return '_vdisk_pairs amend "$format"';
  if (complete === 'file') return '_vdisk_files=1';
  return complete === undefined ? ':' : `_vdisk_list=${quote(complete.join(' '))}`;
}

/** Lines of a `case` for one command: what follows each option. */
function caseOf(path: string, spec: CommandSpec, formats: readonly CompletionFormat[]): string {
  const lines = [`    ${quote(path)})`, '      case "$option" in'];
  for (const [, option] of shown(spec)) {
    if (option.arg === undefined) continue;
    lines.push(`        ${namesOf(option).join('|')}) ${following(option, formats)} ;;`);
  }
  lines.push('        *) return 1 ;;', '      esac ;;');
  return lines.join('\n');
}

/** Which options take an argument in a word of their own. */
function takesOf(path: string, spec: CommandSpec): string {
  const names = shown(spec)
    .filter(([, { arg, optionalArg }]) => arg !== undefined && optionalArg === undefined)
    .flatMap(([, option]) => namesOf(option).map((name) => quote(`${path} ${name}`)));
  return names.length === 0 ? '' : `    ${names.join('|')}) return 0 ;;\n`;
}

/** Options whose argument is the format that `-o` belongs to. */
function formatOptions(path: string, spec: CommandSpec): string[] {
  const keys = shown(spec).flatMap(([, { of }]) => of ?? []);
  const found = shown(spec).filter(([key]) => keys.includes(key));
  return found.flatMap(([, option]) => namesOf(option).map((name) => quote(`${path} ${name}`)));
}

function operandOf(path: string, { completeOperand }: CommandSpec): string {
  const files = '_vdisk_files=1';
  if (completeOperand === 'file') return `    ${quote(path)}) ${files} ;;`;
  if (completeOperand === undefined || typeof completeOperand === 'string') return '';
  const list = quote(completeOperand.join(' '));
  return (
    `    ${quote(path)})\n      case "$cur" in\n` +
    `        if=*|of=*) _vdisk_files=1; _vdisk_rest="\${cur#*=}" ;;\n` +
    `        *) _vdisk_list=${list} ;;\n      esac ;;`
  );
}

/** Lines of a `case` with the keys of `-o`, and with the values of each key. */
function pairsOf(formats: readonly CompletionFormat[]): { keys: string[]; values: string[] } {
  const keys: string[] = [];
  const values: string[] = [];
  const all = { create: new Map<string, CreateOption>(), amend: new Map<string, CreateOption>() };
  const add = (kind: 'create' | 'amend', name: string, options: readonly CreateOption[]): void => {
    if (options.length === 0) return;
    keys.push(
      `    ${kind}:${name}) _vdisk_list='${options.map((o) => `${o.name}=`).join(' ')}' ;;`,
    );
    for (const option of options) {
      const words = option.type === 'bool' ? ['on', 'off'] : (option.values ?? option.words ?? []);
      if (words.length === 0) continue;
      values.push(`    ${kind}:${name}:${option.name}) _vdisk_list=${quote(words.join(' '))} ;;`);
    }
  };
  for (const kind of ['create', 'amend'] as const) {
    for (const format of formats) {
      add(kind, format.name, format[kind]);
      for (const option of format[kind]) {
        if (!all[kind].has(option.name)) all[kind].set(option.name, option);
      }
    }
    add(kind, '*', [...all[kind].values()]);
  }
  return { keys, values };
}

/** The script of a shell. */
export function completionScript(
  shell: 'bash' | 'zsh',
  tools: readonly CompletionTool[],
  formats: readonly CompletionFormat[],
): string {
  const parts = { heads: [], cases: [], takes: [], words: [], operands: [] } as Parts;
  const formatWords: string[] = [];
  const programs = new Set<string>();
  for (const { words, commands, more = [] } of tools) {
    const own = commands.map((spec) => spec.name).filter((name) => name !== '');
    const names = [...own, ...more];
    for (const head of words) {
      const top = head.join(' ');
      programs.add(head[0] ?? '');
      if (names.length > 0)
        parts.heads.push(`    ${quote(top)}) subs=${quote(names.join(' '))} ;;`);
      for (const spec of commands) {
        const path = spec.name === '' ? top : `${top} ${spec.name}`;
        const options = shown(spec).flatMap(([, option]) => namesOf(option));
        parts.cases.push(caseOf(path, spec, formats));
        parts.takes.push(takesOf(path, spec));
        parts.words.push(`    ${quote(path)}) _vdisk_list=${quote(options.join(' '))} ;;`);
        parts.operands.push(operandOf(path, spec));
        formatWords.push(...formatOptions(path, spec));
      }
    }
  }
  const code = sharedCode(parts, formatWords, pairsOf(formats));
  const names = [...programs].join(' ');
  return shell === 'bash'
    ? `${code}${BASH}complete -F _vdisk_complete ${names}\n`
    : zsh(code, names);
}

interface Parts {
  readonly heads: string[];
  readonly cases: string[];
  readonly takes: string[];
  readonly words: string[];
  readonly operands: string[];
}

function zsh(code: string, names: string): string {
  return `#compdef ${names}\n${code}${ZSH}compdef _vdisk_zsh ${names}\n`;
}

/** `case "$1" in …` without empty lines; nothing follows what is not listed. */
function cases(lines: readonly string[]): string {
  return lines.filter((line) => line !== '').join('\n');
}

/** What both shells share; arguments of `_vdisk_words`: the words up to the one that is typed. */
function sharedCode(
  parts: Parts,
  formatWords: readonly string[],
  pairs: { readonly keys: readonly string[]; readonly values: readonly string[] },
): string {
  return `_vdisk_takes() {
  case "$1" in
${parts.takes.join('')}  esac
  return 1
}
_vdisk_names_format() {
  case "$1" in
    ${formatWords.join('|')}) return 0 ;;
  esac
  return 1
}
_vdisk_pairs() {
  local key
  _vdisk_rest="\${_vdisk_rest##*,}"
  case "$_vdisk_rest" in
    *=*)
      key="\${_vdisk_rest%%=*}"
      _vdisk_rest="\${_vdisk_rest#*=}"
      case "$1:$2:$key" in
${cases(pairs.values)}
      esac ;;
    *)
      case "$1:$2" in
${cases(pairs.keys)}
      esac ;;
  esac
}
_vdisk_follow() {
  local option="$2" format="$3"
  case "$1" in
${cases(parts.cases)}
    *) return 1 ;;
  esac
}
${wordsCode(parts)}`;
}

/** The function that goes through the words. */
function wordsCode(parts: Parts): string {
  return `_vdisk_words() {
  local at="\${1##*/}" cur='' prev='' word='' subs='' format='' operands=0 ended=''
  _vdisk_list='' _vdisk_files='' _vdisk_rest=''
  shift
  while [ $# -gt 1 ]; do
    word="$1"
    shift
    subs=''
    case "$at" in
${cases(parts.heads).replaceAll(/subs='[^']*'/g, 'subs=1')}
    esac
    if [ -n "$prev" ]; then
      _vdisk_names_format "$at $prev" && format="$word"
      prev=''
      continue
    fi
    case "$word" in
      --) [ -z "$ended" ] && ended=1 && continue ;;
      --*=*)
        [ -z "$ended" ] && _vdisk_names_format "$at \${word%%=*}" && format="\${word#*=}"
        continue ;;
      -*)
        [ -z "$ended" ] && _vdisk_takes "$at $word" && prev="$word"
        continue ;;
    esac
    if [ -n "$subs" ]; then at="$at $word"; fi
  done
  cur="$1"
  _vdisk_rest="$cur"
  if [ -n "$prev" ]; then
    _vdisk_follow "$at" "$prev" "$format"
    return
  fi
  subs=''
  case "$at" in
    'vdisk completion') subs='bash zsh' ;;
${cases(parts.heads)}
  esac
  if [ -n "$subs" ]; then
    _vdisk_list="$subs"
    return
  fi
  case "$ended$cur" in
    --*=*)
      _vdisk_rest="\${cur#*=}"
      _vdisk_follow "$at" "\${cur%%=*}" "$format" ;;
    -*)
      case "$at" in
${cases(parts.words)}
      esac ;;
    *)
      case "$at" in
${cases(parts.operands)}
      esac ;;
  esac
}
`;
}

/** Bash splits words at `=` (as COMP_WORDBREAKS says): they are put together again. */
const BASH = `_vdisk_complete() {
  local -a line=()
  local _vdisk_list _vdisk_files _vdisk_rest
  local i word joined='' now="\${COMP_WORDS[COMP_CWORD]}" keep
  for ((i = 0; i <= COMP_CWORD; i++)); do
    word="\${COMP_WORDS[i]}"
    if [ "$word" = '=' ] && [ \${#line[@]} -gt 1 ]; then
      line[\${#line[@]}-1]="\${line[\${#line[@]}-1]}="
      joined=1
    elif [ -n "$joined" ]; then
      line[\${#line[@]}-1]="\${line[\${#line[@]}-1]}$word"
      joined=''
    else
      line+=("$word")
    fi
  done
  [ "$now" = '=' ] && now=''
  _vdisk_words "\${line[@]}"
  keep="\${now%"$_vdisk_rest"}"
  [ \${#_vdisk_rest} -gt \${#now} ] && keep=''
  local IFS=$'\\n'
  if [ -n "$_vdisk_files" ]; then
    compopt -o filenames 2>/dev/null
    COMPREPLY=($(compgen -P "$keep" -f -- "$_vdisk_rest"))
    return
  fi
  COMPREPLY=($(IFS=' '; compgen -P "$keep" -W "$_vdisk_list" -- "$_vdisk_rest"))
  case "\${COMPREPLY[0]}" in *=) compopt -o nospace 2>/dev/null ;; esac
}
`;

const ZSH = `_vdisk_zsh() {
  local _vdisk_list _vdisk_files _vdisk_rest
  local -a found keys
  _vdisk_words "\${(@)words[1,CURRENT]}"
  compset -p $(( \${#words[CURRENT]} - \${#_vdisk_rest} ))
  if [[ -n "$_vdisk_files" ]]; then
    _files
    return
  fi
  found=(\${=_vdisk_list})
  keys=(\${(M)found:#*=})
  found=(\${found:#*=})
  (( $#keys )) && compadd -S '' -- $keys
  (( $#found )) && compadd -- $found
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
`;
