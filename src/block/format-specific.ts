/** A format's own facts as indented text, the way `info` shows them. */

/** Lines for the members of `data`, each `indent` spaces in; dashes of names become spaces. */
export function formatSpecificLines(data: object, indent: number): string[] {
  const lines: string[] = [];
  for (const [key, value] of Object.entries(data)) {
    if (value === undefined) continue;
    addMember(lines, indent, `${key.replaceAll('-', ' ')}:`, value);
  }
  return lines;
}

function addMember(lines: string[], indent: number, label: string, value: unknown): void {
  const head = `${' '.repeat(indent)}${label}`;
  if (Array.isArray(value)) {
    lines.push(head);
    value.forEach((each: unknown, i) => {
      addMember(lines, indent + 4, `[${String(i)}]:`, each);
    });
  } else if (typeof value === 'object' && value !== null) {
    lines.push(head, ...formatSpecificLines(value, indent + 4));
  } else {
    lines.push(`${head} ${String(value)}`);
  }
}
