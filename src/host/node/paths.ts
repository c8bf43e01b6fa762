/** Path arithmetic on names as image headers hold them (always `/`, maybe a protocol). */

/** Whether `name` starts with a protocol (`nbd:…`, `json:…`): a colon before any slash. */
function hasProtocol(name: string): boolean {
  const at = name.search(/[:/]/);
  return at >= 0 && name[at] === ':';
}

export function isAbsolute(path: string): boolean {
  return path.startsWith('/');
}

/** Folder of `path`: `''` when it has none, `/` for the root. */
export function dirname(path: string): string {
  const slash = path.lastIndexOf('/');
  if (slash < 0) return '';
  return slash === 0 ? '/' : path.slice(0, slash);
}

/** `name` as seen from folder `base`; absolute names and protocol names stay. */
export function join(base: string, name: string): string {
  if (base === '' || isAbsolute(name) || hasProtocol(name)) return name;
  return base.endsWith('/') ? base + name : `${base}/${name}`;
}
