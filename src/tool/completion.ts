/**
 * Shell completion made from the declarations: `vdisk completion bash` and `vdisk completion zsh`
 * print a script for the shell to read at its start:
 *
 *     source <(vdisk completion bash)
 */
import type { CommandSpec, OptionSpec } from '../options/getopt.js';

/** A program, and under which words its subcommands stand. */
export interface CompletionTool {
  /** Words in front: `['vdisk-img']`, `['vdisk', 'img']`. */
  readonly words: readonly (readonly string[])[];
  /** Of a tool with subcommands; else one entry with an empty name. */
  readonly commands: readonly CommandSpec[];
}

/** Options of a command as words: long ones and letters. */
function optionWords(spec: CommandSpec): string[] {
  return Object.values(spec.options).flatMap((option) =>
    option.hidden === true ? [] : namesOf(option),
  );
}

function namesOf(option: OptionSpec): string[] {
  const long = [option.long, ...(option.aliases ?? [])].filter((name) => name !== undefined);
  const short = option.short === undefined ? [] : [`-${option.short}`];
  return [...short, ...long.map((name) => `--${name}`)];
}

/** What may follow an option: words, or the mark of a kind. */
function argumentWords(option: OptionSpec, formats: readonly string[]): string | undefined {
  if (option.arg === undefined) return undefined;
  const { complete } = option;
  if (complete === 'format' || complete === 'protocol') return formats.join(' ');
  if (complete === 'file' || complete === undefined) return '@file';
  return complete.join(' ');
}

/** Lines of a shell `case` for one command: what follows an option, and its options. */
function caseOf(words: readonly string[], spec: CommandSpec, formats: readonly string[]): string {
  const path = [...words, ...(spec.name === '' ? [] : [spec.name])].join(' ');
  const lines: string[] = [`    '${path}')`, '      case "$prev" in'];
  for (const option of Object.values(spec.options)) {
    const follow = argumentWords(option, formats);
    if (follow === undefined || option.hidden === true) continue;
    lines.push(`        ${namesOf(option).join('|')}) follow='${follow}' ;;`);
  }
  lines.push('      esac', `      options='${optionWords(spec).join(' ')}'`, '      ;;');
  return lines.join('\n');
}

/** The script for bash; zsh reads it through bashcompinit. */
export function completionScript(
  shell: 'bash' | 'zsh',
  tools: readonly CompletionTool[],
  formats: readonly string[],
): string {
  const cases: string[] = [];
  const heads: string[] = [];
  const leaves: string[] = [];
  const programs = new Set<string>();
  for (const { words, commands } of tools) {
    const names = commands.map((spec) => spec.name).filter((name) => name !== '');
    for (const head of words) {
      const path = head.join(' ');
      programs.add(head[0] ?? '');
      if (names.length > 0) heads.push(`    '${path}') follow='${names.join(' ')}' ;;`);
      else leaves.push(`'${path}'`);
      for (const spec of commands) cases.push(caseOf(head, spec, formats));
    }
  }
  const zsh = shell === 'zsh' ? 'autoload -U +X bashcompinit && bashcompinit\n' : '';
  return (
    zsh +
    functionText(heads, leaves, cases) +
    `complete -o filenames -F _vdisk_complete ${[...programs].join(' ')}\n`
  );
}

/** Finds program and subcommands in the line, then what may follow there. */
function functionText(
  heads: readonly string[],
  leaves: readonly string[],
  cases: readonly string[],
): string {
  return `_vdisk_complete() {
  local cur="\${COMP_WORDS[COMP_CWORD]}" prev="\${COMP_WORDS[COMP_CWORD-1]}"
  local path="\${COMP_WORDS[0]##*/}" options='' follow='' word more=1
  [ "$path" = vdisk ] && more=2
  for word in "\${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    case "$path" in ${leaves.join('|')}) more=0 ;; esac
    case "$word" in -*) continue ;; esac
    [ "$more" -gt 0 ] || break
    path="$path $word"
    more=$((more - 1))
  done
  case "$path" in
    'vdisk') follow='img io nbd completion' ;;
    'vdisk completion') follow='bash zsh' ;;
${heads.join('\n')}
${cases.join('\n')}
  esac
  COMPREPLY=()
  if [ "$follow" = '@file' ]; then
    COMPREPLY=($(compgen -f -- "$cur"))
  elif [ -n "$follow" ]; then
    COMPREPLY=($(compgen -W "$follow" -- "$cur"))
  else
    case "$cur" in
      -*) COMPREPLY=($(compgen -W "$options" -- "$cur")) ;;
      *) COMPREPLY=($(compgen -f -- "$cur")) ;;
    esac
  fi
}
`;
}
