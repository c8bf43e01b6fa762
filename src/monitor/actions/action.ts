/**
 * Actions of the monitor that can be part of a transaction: each is prepared (which may fail and
 * then has changed nothing), and when all are, all are committed; else those prepared are aborted,
 * the last one first.
 *
 * A command with the effect of one action runs it by {@link runActions} too. While actions are
 * prepared and committed no request is in flight anywhere in the graph, so that all of them see
 * the disks at the same moment.
 */
import type { MonitorContext } from '../context.js';

/** A prepared action. */
export interface ActionStep {
  /** Must not fail. */
  commit?(): void | Promise<void>;
  /** Takes back what was prepared; must not fail. */
  abort?(): void | Promise<void>;
  /** Lets go what was held for the above; after either. */
  clean?(): void | Promise<void>;
}

/** One action. */
export type Action = (context: MonitorContext) => ActionStep | Promise<ActionStep>;

/** Carries out all actions, or none when one throws, which is thrown on. */
export async function runActions(
  context: MonitorContext,
  actions: readonly Action[],
): Promise<void> {
  const resume = await context.graph.drainAll();
  const steps: ActionStep[] = [];
  try {
    try {
      for (const action of actions) steps.push(await action(context));
    } catch (e) {
      for (const step of [...steps].reverse()) await step.abort?.();
      throw e;
    }
    for (const step of steps) await step.commit?.();
  } finally {
    for (const step of steps) await step.clean?.();
    resume();
  }
}
