/**
 * Address spaces: which registers answer at a port or at a memory address.
 *
 * Invariants
 *  S1  No access fails: what nobody claims reads as a fixed byte and drops what is written.
 *  S2  A region sees only accesses that lie wholly inside it, are naturally aligned there, and
 *      are no wider than it takes; all others are split, the low half first.
 *  S3  Where mappings overlap, the newest answers.
 */

/** Width of an access in bytes. */
export type AccessSize = 1 | 2 | 4;

/** Registers that can be mapped into a space. Values are unsigned. */
export interface IoRegion {
  readonly name: string;
  /** Length of the region. */
  readonly bytes: number;
  /** The widest access that it takes in one; default 4. */
  readonly widest?: AccessSize;
  /** Misaligned accesses need not be split (a data port). */
  readonly misaligned?: boolean;
  read(offset: number, size: AccessSize): number;
  write(offset: number, size: AccessSize, value: number): void;
}

/** One region at one place; the handle with which it is taken away. */
export interface Mapping {
  readonly base: number;
  readonly end: number;
  readonly region: IoRegion;
}

/** A space as those see it that put registers into it. */
export interface RegionMapper {
  map(base: number, region: IoRegion): Mapping;
  unmap(mapping: Mapping): void;
}

export class IoSpace implements RegionMapper {
  /** Hears that something was mapped or taken away. */
  onChange: (() => void) | undefined;
  /** Somebody has accessed a register. */
  isTouched = false;
  readonly #mappings: Mapping[] = [];
  readonly #unassigned: number;
  #last: Mapping | undefined;

  /** `unassigned`: the byte that reads where nothing is mapped. */
  constructor(unassigned: number) {
    this.#unassigned = unassigned;
  }

  map(base: number, region: IoRegion): Mapping {
    const mapping = { base, end: base + region.bytes, region };
    this.#mappings.unshift(mapping);
    this.#last = undefined;
    this.onChange?.();
    return mapping;
  }

  unmap(mapping: Mapping): void {
    const at = this.#mappings.indexOf(mapping);
    if (at >= 0) this.#mappings.splice(at, 1);
    this.#last = undefined;
    this.onChange?.();
  }

  /** What is mapped, the newest first. */
  get mappings(): readonly Mapping[] {
    return this.#mappings;
  }

  /** Whether a region answers at this address. */
  isMapped(address: number): boolean {
    return this.#find(address) !== undefined;
  }

  read(address: number, size: AccessSize): number {
    const mapping = this.#find(address);
    if (mapping !== undefined && fits(mapping, address, size)) {
      this.isTouched = true;
      return mapping.region.read(address - mapping.base, size) >>> 0;
    }
    if (size === 1) return this.#unassigned;
    const half = size === 4 ? 2 : 1;
    const low = this.read(address, half);
    return (low | (this.read(address + half, half) << (8 * half))) >>> 0;
  }

  write(address: number, size: AccessSize, value: number): void {
    const mapping = this.#find(address);
    if (mapping !== undefined && fits(mapping, address, size)) {
      this.isTouched = true;
      const mask = size === 4 ? 0xffff_ffff : size === 2 ? 0xffff : 0xff;
      mapping.region.write(address - mapping.base, size, (value & mask) >>> 0);
      return;
    }
    if (size === 1) return;
    const half = size === 4 ? 2 : 1;
    this.write(address, half, value);
    this.write(address + half, half, value >>> (8 * half));
  }

  /** Cuts a range into aligned accesses to what is mapped there. */
  eachAccess(
    address: number,
    bytes: number,
    each: (at: number, size: AccessSize, place: number) => void,
  ): void {
    for (const { base, end } of this.#mappings) {
      const to = Math.min(address + bytes, end);
      for (let at = Math.max(address, base); at < to;) {
        const left = to - at;
        const size = at % 4 === 0 && left >= 4 ? 4 : at % 2 === 0 && left >= 2 ? 2 : 1;
        each(at, size, at - address);
        at += size;
      }
    }
  }

  #find(address: number): Mapping | undefined {
    const last = this.#last;
    if (last !== undefined && address >= last.base && address < last.end) return last;
    const found = this.#mappings.find((m) => address >= m.base && address < m.end);
    // Only a mapping that overlaps no other may be found without looking at the others (S3).
    if (found !== undefined && !this.#mappings.some((m) => m !== found && overlap(m, found))) {
      this.#last = found;
    }
    return found;
  }
}

function overlap(a: Mapping, b: Mapping): boolean {
  return a.base < b.end && b.base < a.end;
}

function fits({ base, end, region }: Mapping, address: number, size: AccessSize): boolean {
  if (size === 1) return true;
  if (address + size > end || size > (region.widest ?? 4)) return false;
  return region.misaligned === true || (address - base) % size === 0;
}
