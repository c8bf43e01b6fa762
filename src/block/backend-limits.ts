/** Limits on what a backend reads and writes, in groups that backends share. */
import type { Backend } from './backend.js';
import type { ThrottleConfig, ThrottleLimits } from './throttle-group.js';
import { ThrottleGroup, throttleConfig } from './throttle-group.js';

function limitsAnything({ buckets }: ThrottleConfig): boolean {
  return Object.values(buckets).some(({ average }) => average > 0);
}

/**
 * Gives a backend limits; all 0: none any more. `group` is the group that it joins (undefined: it
 * stays in its own, or makes one called `name`). Throws BlockError when the limits make no sense;
 * then nothing has changed.
 */
export function setLimits(
  backend: Backend,
  limits: ThrottleLimits,
  group: string | undefined,
  name: string,
): void {
  const config = throttleConfig(limits);
  const old = backend.throttleGroup;
  if (!limitsAnything(config)) {
    backend.throttleGroup = undefined;
  } else {
    const wanted = group === undefined ? old : undefined;
    const found = wanted ?? groupOf(backend, group ?? name);
    backend.throttleGroup = found;
    found.config = config;
  }
  if (old !== undefined) forgetIfUnused(backend, old);
}

/** The backend ends: its group goes with its last member. */
export function dropLimits(backend: Backend): void {
  const old = backend.throttleGroup;
  if (old === undefined) return;
  backend.throttleGroup = undefined;
  forgetIfUnused(backend, old);
}

/** Groups that were made here, and not as objects. */
const implicit = new WeakSet<ThrottleGroup>();

function groupOf({ graph }: Backend, name: string): ThrottleGroup {
  const found = graph.throttleGroups.get(name);
  if (found !== undefined) return found;
  const group = new ThrottleGroup(name, graph.host.clock);
  implicit.add(group);
  graph.throttleGroups.set(name, group);
  return group;
}

function forgetIfUnused({ graph }: Backend, group: ThrottleGroup): void {
  if (implicit.has(group) && group.memberCount === 0) graph.throttleGroups.delete(group.name);
}
