/**
 * An address space behind a bridge: what is mapped there answers in the space above it while the
 * bridge lets accesses through to it.
 */
import type { IoRegion, Mapping, RegionMapper } from '../space.js';

interface Held {
  readonly mapping: Mapping;
  /** Its mapping above the bridge; undefined: not let through. */
  above: Mapping | undefined;
}

/** Whether the bridge lets a range through. */
export type IsOpen = (base: number, end: number) => boolean;

export class WindowedSpace implements RegionMapper {
  readonly #above: () => RegionMapper | undefined;
  readonly #isOpen: IsOpen;
  readonly #held = new Map<Mapping, Held>();

  /** `above`: the space that it opens into; undefined: the bridge is on no bus. */
  constructor(above: () => RegionMapper | undefined, isOpen: IsOpen) {
    this.#above = above;
    this.#isOpen = isOpen;
  }

  map(base: number, region: IoRegion): Mapping {
    const mapping = { base, end: base + region.bytes, region };
    const held = { mapping, above: undefined };
    this.#held.set(mapping, held);
    this.#settle(held);
    return mapping;
  }

  unmap(mapping: Mapping): void {
    const held = this.#held.get(mapping);
    this.#held.delete(mapping);
    if (held?.above !== undefined) this.#above()?.unmap(held.above);
  }

  /** The bridge's registers changed. */
  update(): void {
    for (const held of this.#held.values()) this.#settle(held);
  }

  #settle(held: Held): void {
    const { base, end, region } = held.mapping;
    const above = this.#above();
    const isOpen = above !== undefined && this.#isOpen(base, end);
    if (isOpen && held.above === undefined) held.above = above.map(base, region);
    else if (!isOpen && held.above !== undefined) {
      above?.unmap(held.above);
      held.above = undefined;
    }
  }
}
