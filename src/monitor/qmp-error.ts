/** Errors that a monitor answers, in QMP's terms. */
import { BugError } from '../lib/assert.js';

/** QMP's QapiErrorClass. */
export type QmpErrorClass =
  'GenericError' | 'CommandNotFound' | 'DeviceNotActive' | 'DeviceNotFound' | 'KVMMissingCap';

/** A command failed; the message is what the client gets as `desc`. */
export class QmpError extends Error {
  override readonly name = 'QmpError';
  readonly class: QmpErrorClass;

  constructor(message: string, errorClass: QmpErrorClass = 'GenericError') {
    super(message);
    this.class = errorClass;
  }
}

/** What a client is told of any error. A broken invariant is thrown on: nobody may catch it. */
export function errorReply(e: unknown): { class: QmpErrorClass; desc: string } {
  if (e instanceof BugError) throw e;
  if (e instanceof QmpError) return { class: e.class, desc: e.message };
  return { class: 'GenericError', desc: e instanceof Error ? e.message : String(e) };
}
