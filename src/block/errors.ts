/** Errors of the block layer. See docs/architecture.md, "Errors". */
import { errnoText } from '../lib/errno.js';

/** Where an I/O error happened; offsets and counts in bytes. */
export interface BlockErrorPlace {
  readonly op?: string;
  /** Name of the node. */
  readonly node?: string;
  readonly offset?: number;
  readonly bytes?: number;
  /** A second line with advice, printed after the message. */
  readonly hint?: string;
  /** A line of its own before the message, where the message alone would not tell enough. */
  readonly before?: string;
  readonly cause?: unknown;
}

/**
 * An operation on a node failed. `code` is the errno name that a caller acts
 * upon (`ENOSPC` stops a guest, `ENOTSUP` asks for the slow way); the message is
 * one line for people, in QEMU's wording where scripts know it.
 */
export class BlockError extends Error {
  override readonly name = 'BlockError';
  readonly code: string;
  readonly op: string | undefined;
  readonly node: string | undefined;
  readonly offset: number | undefined;
  readonly bytes: number | undefined;
  readonly hint: string | undefined;
  readonly before: string | undefined;

  constructor(code: string, message: string = errnoText(code), place: BlockErrorPlace = {}) {
    super(message, place.cause === undefined ? undefined : { cause: place.cause });
    this.code = code;
    this.op = place.op;
    this.node = place.node;
    this.offset = place.offset;
    this.bytes = place.bytes;
    this.hint = place.hint;
    this.before = place.before;
  }
}

/** The errno name of any error: that of Block- and HostError, `EIO` for the rest. */
export function errorCode(e: unknown): string {
  if (typeof e === 'object' && e !== null && 'code' in e && typeof e.code === 'string') {
    return e.code;
  }
  return 'EIO';
}

/** strerror(3) of {@link errorCode}. */
export function errorText(e: unknown): string {
  return errnoText(errorCode(e));
}

/** The message of any thrown value. */
export function messageOf(e: unknown): string {
  return e instanceof Error ? e.message : String(e);
}

/** Whether `e` says that an operation is not offered, so that a fallback should run. */
export function isNotSupported(e: unknown): boolean {
  const code = errorCode(e);
  return code === 'ENOTSUP' || code === 'EOPNOTSUPP';
}

/** The line to be told before the message. */
export function beforeOf(e: unknown): string | undefined {
  if (typeof e !== 'object' || e === null || !('before' in e)) return undefined;
  return typeof e.before === 'string' ? e.before : undefined;
}

/** As {@link withErrno}; what the cause says itself is told in a line before. */
export function toldWithErrno(prefix: string, cause: unknown): BlockError {
  const own = messageOf(cause);
  const isPlain = own === errorText(cause);
  return new BlockError(errorCode(cause), `${prefix}: ${errorText(cause)}`, {
    cause,
    ...(isPlain ? {} : { before: own }),
  });
}

/** `${prefix}: ${strerror}` with the cause's errno, as QEMU's error_setg_errno prints. */
export function withErrno(prefix: string, cause: unknown): BlockError {
  return new BlockError(errorCode(cause), `${prefix}: ${errorText(cause)}`, { cause });
}

/** The advice that an error carries for lines after its message. */
export function hintOf(e: unknown): string | undefined {
  if (typeof e !== 'object' || e === null || !('hint' in e)) return undefined;
  return typeof e.hint === 'string' ? e.hint : undefined;
}

/** `${prefix}${message of cause}`, keeping code and hint: QEMU's error_prepend. */
export function prepend(prefix: string, cause: unknown): BlockError {
  const hint = hintOf(cause);
  const before = beforeOf(cause);
  return new BlockError(errorCode(cause), prefix + messageOf(cause), {
    cause,
    ...(hint === undefined ? {} : { hint }),
    ...(before === undefined ? {} : { before }),
  });
}
