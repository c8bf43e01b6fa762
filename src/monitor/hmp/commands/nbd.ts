/** The NBD server. */
import { OptionError } from '../../../options/option-error.js';
import { optBool } from '../../../options/opt-values.js';
import { splitOpts } from '../../../options/qemu-opts.js';
import type { HmpCommand, HmpRun } from '../command.js';

/** `unix:PATH` or `[tcp:]HOST:PORT[,OPTIONS]` as a SocketAddress of nbd-server-start. */
export function parseAddress(text: string): Readonly<Record<string, unknown>> {
  if (text.startsWith('unix:')) {
    const path = text.slice('unix:'.length);
    if (path === '') throw new OptionError('invalid Unix socket address');
    return { type: 'unix', data: { path } };
  }
  if (text.startsWith('fd:')) return { type: 'fd', data: { str: text.slice('fd:'.length) } };
  const [where = '', ...options] = text.replace(/^tcp:/, '').split(',');
  const found = /^(?:\[([^\]]+)\]|([^:]*)):([^:]+)$/.exec(where);
  if (found === null) throw new OptionError(`error parsing address '${text}'`);
  const [, bracketed, host = '', port = ''] = found;
  const data: Record<string, unknown> = { host: bracketed ?? host, port };
  for (const { name, value } of splitOpts(options.join(','))) {
    if (name === 'ipv4' || name === 'ipv6') data[name] = optBool(name, value);
    else throw new OptionError(`error parsing address '${text}'`);
  }
  return { type: 'inet', data };
}

interface Device {
  readonly device: string;
  readonly inserted?: unknown;
}

async function start(run: HmpRun): Promise<void> {
  const writable = run.flag('writable');
  const all = run.flag('all');
  if (writable && !all) throw new OptionError('-w only valid together with -a');
  await run.qmp('nbd-server-start', { addr: parseAddress(run.text('uri')) });
  if (!all) return;
  const devices = (await run.qmp('query-block')) as readonly Device[];
  try {
    for (const { device, inserted } of devices) {
      if (inserted !== undefined) await run.qmp('nbd-server-add', { device, writable });
    }
  } catch (e) {
    await run.qmp('nbd-server-stop');
    throw e;
  }
}

export const nbdCommands: readonly HmpCommand[] = [
  {
    name: 'nbd_server_start',
    args: 'all:-a,writable:-w,uri:s',
    params: 'nbd_server_start [-a] [-w] host:port',
    help: 'serve block devices over NBD (-a: all that there are; -w: for writing)',
    run: start,
  },
  {
    name: 'nbd_server_add',
    args: 'writable:-w,device:B,name:s?',
    params: 'nbd_server_add [-w] device [name]',
    help: 'export a device or a node',
    run: async (run) => {
      const name = run.tryText('name');
      await run.qmp('nbd-server-add', {
        device: run.text('device'),
        ...(name === undefined ? {} : { name }),
        writable: run.flag('writable'),
      });
    },
  },
  {
    name: 'nbd_server_remove',
    args: 'force:-f,name:s',
    params: 'nbd_server_remove [-f] name',
    help: 'take an export away (-f: from its clients, too)',
    run: async (run) => {
      const mode = run.flag('force') ? { mode: 'hard' } : {};
      await run.qmp('nbd-server-remove', { name: run.text('name'), ...mode });
    },
  },
  {
    name: 'nbd_server_stop',
    args: '',
    params: 'nbd_server_stop',
    help: 'end the server and its exports',
    run: async (run) => {
      await run.qmp('nbd-server-stop');
    },
  },
];
