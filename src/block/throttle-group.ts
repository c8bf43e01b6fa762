/**
 * Throttling: leaky buckets that several users may share.
 *
 * A bucket fills with what is done (operations or bytes) and leaks at its `average` a second.
 * While it is not over its brim, requests go through; one that finds it over the brim waits
 * until it has leaked down to it. Without a burst rate the brim is a tenth of a second's worth
 * of the average. With `max` it is `max` times `maxLength` seconds; and when `maxLength` is
 * above 1, a second level that leaks at `max`, with a brim of a tenth of a second, keeps the
 * burst itself from being faster than `max`.
 *
 * Six buckets: operations and bytes, each in total, of reads and of writes. One request counts
 * as several operations when `opSize` is set and it is longer than that.
 *
 * Invariants
 *  T1  Requests of one member and direction go in the order of their arrival.
 *  T2  Members with waiting requests take turns.
 *  T3  While requests of a direction wait, exactly one timer of that direction is set.
 */
import type { Clock } from '../host/host.js';
import type { Infer } from '../options/schema.js';
import { t } from '../options/schema.js';
import { BlockError } from './errors.js';

/** A rate with its burst; per second. 0: no limit. */
export interface BucketConfig {
  readonly average: number;
  readonly max: number;
  /** Seconds that a burst at `max` may last. */
  readonly maxLength: number;
}

const bucketNames = [
  'iops-total',
  'iops-read',
  'iops-write',
  'bps-total',
  'bps-read',
  'bps-write',
] as const;

type BucketName = (typeof bucketNames)[number];

/** All limits of a group. */
export interface ThrottleConfig {
  readonly buckets: Readonly<Record<BucketName, BucketConfig>>;
  /** Bytes that count as one operation; 0: each request is one. */
  readonly opSize: number;
}

/** Upper bound of each value. */
const MOST = 1_000_000_000_000_000;

const rate = t.optional(t.int({}, { doc: 'per second', reopen: true }));
const burst = t.optional(t.int({}, { doc: 'per second, for a while', reopen: true }));
const seconds = t.optional(t.uint({ bits: 32 }, { doc: 'length of a burst', reopen: true }));

/** QMP's ThrottleLimits. */
export const throttleLimits = t.struct('ThrottleLimits', {
  'iops-total': rate,
  'iops-total-max': burst,
  'iops-total-max-length': seconds,
  'iops-read': rate,
  'iops-read-max': burst,
  'iops-read-max-length': seconds,
  'iops-write': rate,
  'iops-write-max': burst,
  'iops-write-max-length': seconds,
  'bps-total': rate,
  'bps-total-max': burst,
  'bps-total-max-length': seconds,
  'bps-read': rate,
  'bps-read-max': burst,
  'bps-read-max-length': seconds,
  'bps-write': rate,
  'bps-write-max': burst,
  'bps-write-max-length': seconds,
  'iops-size': t.optional(t.int({}, { doc: 'bytes that count as one operation', reopen: true })),
});

export type ThrottleLimits = Infer<typeof throttleLimits>;

const none: BucketConfig = { average: 0, max: 0, maxLength: 1 };

/** No limits at all. */
export const unlimited: ThrottleConfig = {
  buckets: {
    'iops-total': none,
    'iops-read': none,
    'iops-write': none,
    'bps-total': none,
    'bps-read': none,
    'bps-write': none,
  },
  opSize: 0,
};

/** The configuration that limits ask for; checked. Throws BlockError with QEMU's texts. */
export function throttleConfig(limits: ThrottleLimits): ThrottleConfig {
  const buckets: Record<string, BucketConfig> = {};
  for (const name of bucketNames) {
    buckets[name] = {
      average: limits[name] ?? 0,
      max: limits[`${name}-max`] ?? 0,
      maxLength: limits[`${name}-max-length`] ?? 1,
    };
  }
  const config: ThrottleConfig = {
    buckets: { ...unlimited.buckets, ...buckets },
    opSize: limits['iops-size'] ?? 0,
  };
  checkConfig(config);
  return config;
}

function invalid(message: string): BlockError {
  return new BlockError('EINVAL', message);
}

/** Throws BlockError with QEMU's text when the limits make no sense together. */
export function checkConfig({ buckets, opSize }: ThrottleConfig): void {
  for (const key of ['average', 'max'] as const) {
    for (const kind of ['iops', 'bps'] as const) {
      const total = buckets[`${kind}-total`][key];
      if (total && (buckets[`${kind}-read`][key] || buckets[`${kind}-write`][key])) {
        throw invalid(
          'bps/iops/max total values and read/write values cannot be used at the same time',
        );
      }
    }
  }
  const hasOperations = ['total', 'read', 'write'] as const;
  if (opSize && !hasOperations.some((d) => buckets[`iops-${d}`].average)) {
    throw invalid('iops size requires an iops value to be set');
  }
  for (const name of bucketNames) checkBucket(buckets[name]);
}

function checkBucket({ average, max, maxLength }: BucketConfig): void {
  if (average < 0 || max < 0 || average > MOST || max > MOST) {
    throw invalid(`bps/iops/max values must be within [0, ${MOST}]`);
  }
  if (maxLength === 0) throw invalid('the burst length cannot be 0');
  if (maxLength > 1 && max === 0) throw invalid('burst length set without burst rate');
  if (max > 0 && maxLength > MOST / max) {
    throw invalid('burst length too high for this burst rate');
  }
  if (max > 0 && average === 0) {
    throw invalid('bps_max/iops_max require corresponding bps/iops values');
  }
  if (max > 0 && max < average) throw invalid('bps_max/iops_max cannot be lower than bps/iops');
}

export type Direction = 'read' | 'write';

class Bucket {
  #level = 0;
  #burst = 0;

  constructor(readonly config: BucketConfig) {}

  leak(ms: number): void {
    const { average, max, maxLength } = this.config;
    this.#level = Math.max(0, this.#level - (average * ms) / 1000);
    if (maxLength > 1) this.#burst = Math.max(0, this.#burst - (max * ms) / 1000);
  }

  add(units: number): void {
    this.#level += units;
    if (this.config.maxLength > 1) this.#burst += units;
  }

  /** Milliseconds until the bucket is at its brim. */
  waitMs(): number {
    const { average, max, maxLength } = this.config;
    if (average === 0) return 0;
    const over = this.#level - (max === 0 ? average / 10 : max * maxLength);
    if (over > 0) return (over * 1000) / average;
    if (maxLength <= 1) return 0;
    const burstOver = this.#burst - max / 10;
    return burstOver > 0 ? (burstOver * 1000) / max : 0;
  }
}

interface Waiting {
  readonly bytes: number;
  readonly go: () => void;
}

/** Limits that one or more members share. */
export class ThrottleGroup {
  readonly name: string;
  readonly #clock: Clock;
  #config: ThrottleConfig;
  #buckets = new Map<BucketName, Bucket>();
  #leakedAt: number;
  readonly #members: ThrottleMember[] = [];
  /** The member whose turn it was last, per direction. */
  readonly #last = new Map<Direction, ThrottleMember>();
  readonly #timers = new Map<Direction, () => void>();

  constructor(name: string, clock: Clock, config: ThrottleConfig = unlimited) {
    this.name = name;
    this.#clock = clock;
    this.#config = config;
    this.#leakedAt = clock.now();
    this.#fillBuckets();
  }

  get config(): ThrottleConfig {
    return this.#config;
  }

  /** New limits, checked by {@link throttleConfig}; the buckets begin empty. */
  set config(config: ThrottleConfig) {
    this.#config = config;
    this.#fillBuckets();
    for (const direction of ['read', 'write'] as const) {
      this.#timers.get(direction)?.();
      this.#timers.delete(direction);
      this.schedule(direction);
    }
  }

  #fillBuckets(): void {
    this.#leakedAt = this.#clock.now();
    this.#buckets = new Map(bucketNames.map((n) => [n, new Bucket(this.#config.buckets[n])]));
  }

  get memberCount(): number {
    return this.#members.length;
  }

  /** A new user of the limits. */
  join(): ThrottleMember {
    const member = new ThrottleMember(this);
    this.#members.push(member);
    return member;
  }

  /** @internal */
  leave(member: ThrottleMember): void {
    const at = this.#members.indexOf(member);
    if (at >= 0) this.#members.splice(at, 1);
  }

  /** @internal Whether a request must wait now. */
  mustWait(direction: Direction): boolean {
    return this.#timers.has(direction) || this.#waitMs(direction) > 0;
  }

  #waitMs(direction: Direction): number {
    const now = this.#clock.now();
    const ms = now - this.#leakedAt;
    this.#leakedAt = now;
    if (ms > 0) for (const bucket of this.#buckets.values()) bucket.leak(ms);
    let most = 0;
    for (const name of bucketsOf(direction)) {
      most = Math.max(most, this.#buckets.get(name)?.waitMs() ?? 0);
    }
    return most;
  }

  /** @internal Counts a request that goes through. */
  account(direction: Direction, bytes: number): void {
    const { opSize } = this.#config;
    const operations = opSize > 0 && bytes > opSize ? bytes / opSize : 1;
    for (const name of bucketsOf(direction)) {
      this.#buckets.get(name)?.add(name.startsWith('bps') ? bytes : operations);
    }
  }

  /** @internal Lets requests go until one has to wait; then a timer is set for it (T3). */
  schedule(direction: Direction): void {
    while (!this.#timers.has(direction)) {
      const member = this.#next(direction);
      if (member === undefined) return;
      const ms = this.#waitMs(direction);
      if (ms > 0) {
        const cancel = this.#clock.after(ms, () => {
          this.#timers.delete(direction);
          this.#letGo(direction);
        });
        this.#timers.set(direction, cancel);
        return;
      }
      this.#last.set(direction, member);
      member.release(direction);
    }
  }

  /** The request that the timer was set for goes, however the level was rounded. */
  #letGo(direction: Direction): void {
    const member = this.#next(direction);
    if (member !== undefined) {
      this.#last.set(direction, member);
      member.release(direction);
    }
    this.schedule(direction);
  }

  /** The member with waiting requests that comes after the last one (T2). */
  #next(direction: Direction): ThrottleMember | undefined {
    const last = this.#last.get(direction);
    const start = last === undefined ? -1 : this.#members.indexOf(last);
    const n = this.#members.length;
    for (let i = 1; i <= n; i++) {
      const member = this.#members[(start + i + n) % n];
      if (member?.hasWaiting(direction) === true) return member;
    }
    return undefined;
  }
}

function bucketsOf(direction: Direction): readonly BucketName[] {
  return direction === 'read' ? readBuckets : writeBuckets;
}

const readBuckets: readonly BucketName[] = ['bps-total', 'iops-total', 'bps-read', 'iops-read'];
const writeBuckets: readonly BucketName[] = ['bps-total', 'iops-total', 'bps-write', 'iops-write'];

/** One user of a group: a throttle node, or a backend. */
export class ThrottleMember {
  readonly group: ThrottleGroup;
  readonly #waiting: Record<Direction, Waiting[]> = { read: [], write: [] };
  #exempt = 0;

  constructor(group: ThrottleGroup) {
    this.group = group;
  }

  /** Whether requests wait. */
  hasWaiting(direction: Direction): boolean {
    return this.#waiting[direction].length > 0;
  }

  /** Undefined when the request may go at once, else a promise that it may go. */
  admit(direction: Direction, bytes: number): Promise<void> | undefined {
    const queue = this.#waiting[direction];
    if (this.#exempt > 0 || (queue.length === 0 && !this.group.mustWait(direction))) {
      this.group.account(direction, bytes);
      return undefined;
    }
    return new Promise((resolve) => {
      queue.push({ bytes, go: resolve });
      this.group.schedule(direction);
    });
  }

  /** @internal Lets the first waiting request of a direction go (T1). */
  release(direction: Direction): void {
    const first = this.#waiting[direction].shift();
    if (first === undefined) return;
    this.group.account(direction, first.bytes);
    first.go();
  }

  /** Nothing waits until {@link restrict}: the node is being drained. Nests. */
  exempt(): void {
    this.#exempt++;
    for (const direction of ['read', 'write'] as const) {
      while (this.hasWaiting(direction)) this.release(direction);
    }
  }

  restrict(): void {
    this.#exempt--;
  }

  /** Lets all waiting requests go and gives the membership up. */
  leave(): void {
    this.exempt();
    this.group.leave(this);
  }
}
