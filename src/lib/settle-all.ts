/** Waits for all, then throws the first error, so that nothing is left in flight. */
export async function settleAll(all: readonly Promise<unknown>[]): Promise<void> {
  for (const r of await Promise.allSettled(all)) if (r.status === 'rejected') throw r.reason;
}
