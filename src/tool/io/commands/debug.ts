/** Breakpoints of a blkdebug node: `break`, `remove_break`, `resume`, `wait_break`. */
import type { Backend } from '../../../block/backend.js';
import type { BreakpointCapability } from '../../../block/driver.js';
import { BlockError, errorText } from '../../../block/errors.js';
import type { BlockNode } from '../../../block/node.js';
import type { ImageCommand, IoSession } from '../session.js';

/** The breakpoints of the first node on the way down that has some. Throws ENOTSUP. */
function breakpointsOf(backend: Backend): BreakpointCapability {
  for (let at: BlockNode | undefined = backend.node; at !== undefined; at = at.file?.node) {
    const found = at.instance.breakpoints;
    if (found !== undefined) return found;
  }
  throw new BlockError('ENOTSUP');
}

/** Runs `action`; prints `COMPLAINT: REASON` when it throws. */
function attempt(session: IoSession, complaint: string, action: () => void): boolean {
  try {
    action();
    return true;
  } catch (e) {
    session.out(`${complaint}: ${errorText(e)}\n`);
    return false;
  }
}

export const setBreak: ImageCommand = {
  kind: 'image',
  name: 'break',
  min: 2,
  max: 2,
  args: 'event tag',
  summary: 'stop the next request that reaches event, and call it tag',
  run(session, words, backend) {
    const [, event = '', tag = ''] = words;
    return attempt(session, 'Could not set breakpoint', () => {
      breakpointsOf(backend).set(event, tag);
    });
  },
};

export const removeBreak: ImageCommand = {
  kind: 'image',
  name: 'remove_break',
  min: 1,
  max: 1,
  args: 'tag',
  summary: 'take the breakpoint away and let its request go on',
  run(session, words, backend) {
    const [, tag = ''] = words;
    return attempt(session, `Could not remove breakpoint ${tag}`, () => {
      breakpointsOf(backend).remove(tag);
    });
  },
};

export const resume: ImageCommand = {
  kind: 'image',
  name: 'resume',
  min: 1,
  max: 1,
  args: 'tag',
  summary: 'let the request that was stopped as tag go on',
  run(session, words, backend) {
    const [, tag = ''] = words;
    return attempt(session, 'Could not resume request', () => {
      breakpointsOf(backend).resume(tag);
    });
  },
};

/** How often wait_break looks. */
const POLL_MS = 1;

export const waitBreak: ImageCommand = {
  kind: 'image',
  name: 'wait_break',
  min: 1,
  max: 1,
  args: 'tag',
  summary: 'wait until a request is stopped as tag',
  async run(session, words, backend) {
    const [, tag = ''] = words;
    let breakpoints: BreakpointCapability | undefined;
    const found = attempt(session, 'Could not wait for breakpoint', () => {
      breakpoints = breakpointsOf(backend);
    });
    if (!found || breakpoints === undefined) return false;
    while (!breakpoints.isSuspended(tag)) {
      await new Promise((done) => setTimeout(done, POLL_MS));
    }
    return true;
  },
};
