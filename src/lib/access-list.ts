/**
 * Who may use a server, by the name that TLS proved: QEMU's `authz-simple`, `authz-list` and
 * `authz-list-file` as data and one function.
 */

/** One rule: the first whose pattern fits decides. */
export interface AccessRule {
  readonly match: string;
  readonly policy: 'allow' | 'deny';
  /** `glob`: `*`, `?` and `[…]` as in fnmatch(3), without special characters for paths. */
  readonly format: 'exact' | 'glob';
}

export interface AccessList {
  readonly rules: readonly AccessRule[];
  /** What holds for names that no rule fits. */
  readonly policy: 'allow' | 'deny';
}

/** Whether the list lets `identity` in. */
export function isAllowed(list: AccessList, identity: string): boolean {
  const rule = list.rules.find((r) =>
    r.format === 'exact' ? r.match === identity : matchesGlob(r.match, identity),
  );
  return (rule?.policy ?? list.policy) === 'allow';
}

/** fnmatch(3) with no flags. Takes time of at most pattern times text. */
export function matchesGlob(pattern: string, text: string): boolean {
  const p = Array.from(pattern);
  const t = Array.from(text);
  let at = 0;
  let i = 0;
  /** Where to go on when a later part does not fit: behind the last `*`, one character further. */
  let star = -1;
  let retry = 0;
  while (i < t.length) {
    const next = at < p.length && p[at] !== '*' ? matchOne(p, at, t[i] ?? '') : undefined;
    if (next !== undefined) {
      at = next;
      i++;
    } else if (p[at] === '*') {
      star = ++at;
      retry = i;
    } else if (star >= 0) {
      at = star;
      i = ++retry;
    } else {
      return false;
    }
  }
  while (p[at] === '*') at++;
  return at === p.length;
}

/** The index behind the pattern's element at `at` if it fits the character. */
function matchOne(p: readonly string[], at: number, char: string): number | undefined {
  const c = p[at];
  if (c === '?') return at + 1;
  if (c === '\\' && at + 1 < p.length) return p[at + 1] === char ? at + 2 : undefined;
  if (c === '[') {
    const set = matchSet(p, at, char);
    if (set !== undefined) return set.fits ? set.end : undefined;
  }
  return c === char ? at + 1 : undefined;
}

/** A bracket expression; undefined when it has no end, and `[` is a plain character. */
function matchSet(
  p: readonly string[],
  at: number,
  char: string,
): { fits: boolean; end: number } | undefined {
  let i = at + 1;
  const negated = p[i] === '!' || p[i] === '^';
  if (negated) i++;
  let fits = false;
  for (let first = true; ; first = false) {
    const low = p[i];
    if (low === undefined) return undefined;
    if (low === ']' && !first) return { fits: fits !== negated, end: i + 1 };
    const high = p[i + 2];
    if (p[i + 1] === '-' && high !== undefined && high !== ']') {
      if (low <= char && char <= high) fits = true;
      i += 3;
    } else {
      if (low === char) fits = true;
      i++;
    }
  }
}
