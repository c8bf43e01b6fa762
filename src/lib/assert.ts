/** A broken invariant of vdisk itself. Never caught: the process stops. */
export class BugError extends Error {
  override readonly name = 'BugError';
}

/** Throws {@link BugError} unless `condition` holds. */
export function assert(condition: unknown, message: string): asserts condition {
  if (!condition) throw new BugError(`vdisk bug: ${message}`);
}

/** Marks a place that the types say cannot be reached. */
export function unreachable(value: never): never {
  throw new BugError(`vdisk bug: unreachable value ${String(value)}`);
}
