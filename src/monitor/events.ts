/** Events of the monitor: their declarations, time stamps, and how often they may come. */
import type { Clock } from '../host/host.js';
import type { Decl, Infer } from '../options/schema.js';

/** One kind of event. */
export interface EventKind {
  readonly name: string;
  readonly doc: string;
  /** Undefined: it has no data. */
  readonly data: Decl | undefined;
  /** At most one in this time, the last of those held back being told at its end; 0: no limit. */
  readonly intervalMs?: number;
  /** Members of the data that tell one source from another; each source has its own time. */
  readonly keys?: readonly string[];
}

declare const DATA: unique symbol;

/** A kind of event whose name and data the type system knows, from its declaration. */
export interface TypedEvent<N extends string, D> extends EventKind {
  readonly name: N;
  /** Only in the type system. */
  readonly [DATA]?: D;
}

/** What comes with an event of this type. */
export type DataOf<E> = E extends { readonly [DATA]?: infer D } ? Exclude<D, undefined> : never;

/** Declares a kind of event. */
export function defineEvent<const N extends string, D extends Decl | undefined>(
  kind: EventKind & { readonly name: N; readonly data: D },
): TypedEvent<N, D extends Decl ? Infer<D> : Readonly<Record<never, never>>> {
  return kind;
}

/** An event as it goes to clients. */
export interface EventMessage extends Readonly<Record<string, unknown>> {
  readonly event: string;
  readonly data?: EventData;
}

type EventData = Readonly<Record<string, unknown>>;

/** What is known of one source of a limited event. */
interface Source {
  pending: EventMessage | undefined;
  cancel: () => void;
}

/** Sources remembered at a time; more are let through without a limit. */
const MAX_SOURCES = 1024;

/** Stamps events and holds back those that come too often. */
export class EventGate {
  readonly #kinds: ReadonlyMap<string, EventKind>;
  readonly #clock: Clock;
  readonly #send: (message: EventMessage) => void;
  readonly #sources = new Map<string, Source>();

  constructor(kinds: readonly EventKind[], clock: Clock, send: (message: EventMessage) => void) {
    this.#kinds = new Map(kinds.map((kind) => [kind.name, kind]));
    this.#clock = clock;
    this.#send = send;
  }

  /** Tells of an event, now or when its time has come. */
  emit(name: string, data: EventData): void {
    const message = stamped(name, data);
    const kind = this.#kinds.get(name);
    const interval = kind?.intervalMs ?? 0;
    if (kind === undefined || interval === 0) {
      this.#send(message);
      return;
    }
    const key = JSON.stringify([name, ...(kind.keys ?? []).map((each) => data[each])]);
    const source = this.#sources.get(key);
    if (source !== undefined) {
      source.pending = message;
      return;
    }
    this.#send(message);
    if (this.#sources.size < MAX_SOURCES) this.#limit(key, interval);
  }

  /** What is held back will not be told any more. */
  close(): void {
    for (const source of this.#sources.values()) source.cancel();
    this.#sources.clear();
  }

  #limit(key: string, interval: number): void {
    const cancel = this.#clock.after(interval, () => {
      const { pending } = source;
      this.#sources.delete(key);
      if (pending === undefined) return;
      this.#send(pending);
      this.#limit(key, interval);
    });
    const source: Source = { pending: undefined, cancel };
    this.#sources.set(key, source);
  }
}

function stamped(name: string, data: EventData): EventMessage {
  const now = Date.now();
  const timestamp = { seconds: Math.floor(now / 1000), microseconds: (now % 1000) * 1000 };
  return Object.keys(data).length === 0
    ? { event: name, timestamp }
    : { event: name, data, timestamp };
}
