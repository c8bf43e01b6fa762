/** Waits for all, then throws the first error, so that nothing is left in flight. */
export async function settleAll(all: readonly Promise<unknown>[]): Promise<void> {
  if (all.length === 1) {
    await all[0];
    return;
  }
  for (const r of await Promise.allSettled(all)) if (r.status === 'rejected') throw r.reason;
}

/**
 * A part of work whose other parts are still to begin, which may take waiting: should it fail
 * meanwhile, that is told by {@link settleAll}, and is no rejection that nobody handles.
 */
export function begun<T>(part: Promise<T>): Promise<T> {
  part.catch(() => undefined);
  return part;
}
