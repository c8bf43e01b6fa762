/**
 * The machine behind blkdebug: a state number, rules that act at events, errors in force, and
 * requests that wait at breakpoints.
 *
 * - At an event, every rule for it whose state fits acts; the newest rule comes first. All see
 *   the state from before the event.
 * - The first error rule that acts at an event puts out those that were in force until then.
 *   An error in force hits every request that it fits, until another takes its place, or, with
 *   `once`, the first one only.
 * - A breakpoint holds the one request that reaches it next; afterwards it is gone.
 */
import { BlockError } from '../../block/errors.js';
import { errnoName } from '../../lib/errno.js';
import type { DebugEvent, IoType } from './events.js';
import type { Rule } from './options.js';

type ErrorRule = Extract<Rule, { action: 'inject-error' }>;

interface Held {
  readonly tag: string;
  readonly release: () => void;
}

/** An error that a request is to fail with. */
export interface Injected {
  readonly error: BlockError;
  readonly immediately: boolean;
}

export class RuleMachine {
  /** Newest first. */
  #rules: Rule[] = [];
  /** Errors in force, oldest rule first. */
  #active: ErrorRule[] = [];
  #held: Held[] = [];
  #state = 1;
  readonly #notice: (message: string) => void;

  constructor(rules: readonly Rule[], notice: (message: string) => void) {
    this.#rules = [...rules].reverse();
    this.#notice = notice;
    void this.reached('none');
  }

  /** Runs the rules of an event; the promise, if there is one, ends when all breakpoints do. */
  reached(event: DebugEvent): Promise<void> | undefined {
    let nextState = this.#state;
    let injected = false;
    const tags: string[] = [];
    for (const rule of [...this.#rules]) {
      if (rule.event !== event || (rule.state !== 0 && rule.state !== this.#state)) continue;
      if (rule.action === 'set-state') {
        nextState = rule.newState;
      } else if (rule.action === 'suspend') {
        tags.push(rule.tag);
        this.#forget(rule);
      } else {
        if (!injected) this.#active = [];
        injected = true;
        this.#active.unshift(rule);
      }
    }
    const waits = tags.map((tag) => this.#hold(tag));
    this.#state = nextState;
    if (waits.length === 0) return undefined;
    return Promise.all(waits).then(() => undefined);
  }

  #hold(tag: string): Promise<void> {
    this.#notice(`blkdebug: Suspended request '${tag}'`);
    return new Promise((resolve) => {
      const release = (): void => {
        this.#notice(`blkdebug: Resuming request '${tag}'`);
        resolve();
      };
      this.#held.push({ tag, release });
    });
  }

  #forget(rule: Rule): void {
    this.#rules = this.#rules.filter((r) => r !== rule);
  }

  /** The error that a request has to fail with, if one in force fits it. */
  check(offset: number, bytes: number, type: IoType): Injected | undefined {
    const rule = this.#active.find((r) => fits(r, offset, bytes, type));
    if (rule === undefined || rule.errno === 0) return undefined;
    if (rule.once) {
      this.#active = this.#active.filter((r) => r !== rule);
      this.#forget(rule);
    }
    const place = { op: type, offset, bytes };
    const error = new BlockError(errnoName(rule.errno), undefined, place);
    return { error, immediately: rule.immediately };
  }

  add(rule: Rule): void {
    this.#rules.unshift(rule);
  }

  /** Takes a breakpoint away and lets go what it holds. ENOENT when it was not set any more. */
  remove(tag: string): void {
    const rule = this.#rules.find((r) => r.action === 'suspend' && r.tag === tag);
    if (rule !== undefined) this.#forget(rule);
    const held = this.#held.filter((h) => h.tag === tag);
    this.#held = this.#held.filter((h) => h.tag !== tag);
    for (const each of held) each.release();
    if (rule === undefined) throw new BlockError('ENOENT');
  }

  /** Lets the request go that waits longest under `tag`. ENOENT when none does. */
  resume(tag: string): void {
    const at = this.#held.findIndex((h) => h.tag === tag);
    const [held] = at < 0 ? [] : this.#held.splice(at, 1);
    if (held === undefined) throw new BlockError('ENOENT');
    held.release();
  }

  isSuspended(tag: string): boolean {
    return this.#held.some((h) => h.tag === tag);
  }
}

function fits(rule: ErrorRule, offset: number, bytes: number, type: IoType): boolean {
  // Without a type, all kinds of requests but questions for the block status.
  if (rule.iotype === undefined ? type === 'block-status' : rule.iotype !== type) return false;
  if (rule.offset === undefined) return true;
  return bytes > 0 && rule.offset >= offset && rule.offset < offset + bytes;
}
