/** Errors of node:fs as the port's {@link HostError}. */
import { HostError } from '../file.js';

/** Turns anything that node:fs throws or passes into a HostError; others become EIO. */
export function toHostError(error: unknown): HostError {
  if (error instanceof HostError) return error;
  if (error instanceof Error && 'code' in error && typeof error.code === 'string') {
    if (error.code.startsWith('ERR_')) return new HostError('EINVAL', error.message);
    return new HostError(error.code, undefined, { cause: error });
  }
  return new HostError('EIO', undefined, { cause: error });
}
