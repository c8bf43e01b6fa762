/** Socket activation (sd_listen_fds(3)): open listening sockets from who started the process. */
import { forkedFds } from '../background.js';

/** First of the descriptors that are passed. */
export const FIRST_FD = 3;
/** More are not believed. */
const MOST_FDS = 64;

/** The descriptors that are meant for this process; the variables are taken away. */
export function takeListenFds(env: NodeJS.ProcessEnv = process.env): number[] {
  const { LISTEN_PID: pid, LISTEN_FDS: count } = env;
  delete env['LISTEN_PID'];
  delete env['LISTEN_FDS'];
  delete env['LISTEN_FDNAMES'];
  const forked = forkedFds();
  let n = forked ?? 0;
  if (forked === undefined && pid === String(process.pid) && /^\d+$/.test(count ?? '')) {
    n = Math.min(Number(count), MOST_FDS);
  }
  return Array.from({ length: n }, (_, i) => FIRST_FD + i);
}
