/** Options of the nbd driver, and the ways to write them as a file name. */
import { BlockError } from '../../block/errors.js';
import type { NodeOptions } from '../../block/driver.js';
import { socketAddress } from '../../block/socket-address.js';
import type { Infer } from '../../options/schema.js';
import { t } from '../../options/schema.js';

export const NBD_DEFAULT_PORT = '10809';

/** QMP: BlockdevOptionsNbd. */
export const nbdOptions = t.struct('BlockdevOptionsNbd', {
  server: socketAddress,
  export: t.str({ default: '', doc: 'name of the export' }),
  'tls-creds': t.optional(t.str({ doc: 'ID of the TLS credentials' })),
  'tls-hostname': t.optional(t.str({ doc: 'name that the certificate of the server must have' })),
  'x-dirty-bitmap': t.optional(
    t.str({ doc: 'metadata context whose bits are shown as block status (for tests)' }),
  ),
  'reconnect-delay': t.uint(
    { bits: 32 },
    { default: 0, doc: 'seconds for which requests wait when the connection is lost' },
  ),
  'open-timeout': t.uint(
    { bits: 32 },
    { default: 0, doc: 'seconds for which opening tries again to connect' },
  ),
});

export type NbdOptions = Infer<typeof nbdOptions>;

/** Top-level option names; `host`, `port` and `path` are the flat forms of `server`. */
export const nbdOptionNames = [
  'server',
  'export',
  'tls-creds',
  'tls-hostname',
  'x-dirty-bitmap',
  'reconnect-delay',
  'open-timeout',
  'host',
  'port',
  'path',
] as const;

function fail(message: string): never {
  throw new BlockError('EINVAL', message);
}

/** Options with `host`, `port`, `path` turned into `server`. */
export function foldLegacyAddress(options: NodeOptions): NodeOptions {
  const { host, port, path, ...rest } = options;
  if (path !== undefined && host !== undefined)
    fail('path and host may not be used at the same time');
  if (path !== undefined) {
    if (port !== undefined) fail('port may not be used without host');
    return { ...rest, server: { type: 'unix', path } };
  }
  if (host !== undefined) {
    return { ...rest, server: { type: 'inet', host, port: port ?? NBD_DEFAULT_PORT } };
  }
  if (port !== undefined) fail('port may not be used without host');
  if (rest['server'] === undefined) fail('NBD server address missing');
  return rest;
}

/** `nbd://…`, `nbds://…`, `nbd+unix://…` and the old `nbd:…` forms. */
export function parseNbdFilename(filename: string): NodeOptions {
  return filename.includes('://') ? parseUri(filename) : parseOld(filename);
}

function parseUri(filename: string): NodeOptions {
  const m =
    /^(nbd|nbd\+tcp|nbd\+unix|nbds|nbds\+tcp|nbds\+unix):\/\/([^/?]*)(\/[^?]*)?(?:\?(.*))?$/.exec(
      filename,
    );
  if (m === null) fail(`Invalid URI '${filename}'`);
  const [, scheme = '', authority = '', path = '', query] = m;
  const name = decode(path.replace(/^\//, ''));
  const out: NodeOptions = name === '' ? {} : { export: name };
  const params = new URLSearchParams(query ?? '');
  if (scheme.endsWith('+unix')) {
    const socket = params.get('socket');
    if (authority !== '' || socket === null || query?.includes('&') === true) {
      fail(`Invalid URI '${filename}': a Unix socket is given as ?socket=PATH alone`);
    }
    return { ...out, server: { type: 'unix', path: socket } };
  }
  if (query !== undefined && query !== '') fail(`Invalid URI '${filename}': it has a query`);
  const at = /^(?:\[([^\]]*)\]|([^:]*))(?::(\d+))?$/.exec(authority);
  if (at === null) fail(`Invalid URI '${filename}'`);
  const host = at[1] ?? decode(at[2] ?? '');
  return {
    ...out,
    server: {
      type: 'inet',
      host: host === '' ? 'localhost' : host,
      port: at[3] ?? NBD_DEFAULT_PORT,
    },
  };
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return fail(`Invalid URI: '${text}' has a broken escape`);
  }
}

/** `nbd:HOST:PORT[:exportname=NAME]` and `nbd:unix:PATH[:exportname=NAME]`. */
function parseOld(filename: string): NodeOptions {
  const marker = ':exportname=';
  const cut = filename.indexOf(marker);
  if (!filename.startsWith('nbd:')) fail("File name string for NBD must start with 'nbd:'");
  const out: NodeOptions = {};
  let spec = filename;
  if (cut >= 0) {
    const name = filename.slice(cut + marker.length);
    if (name !== '') out['export'] = name;
    spec = filename.slice(0, cut);
  }
  spec = spec.replace(/^nbd:/, '');
  if (spec === '') return out;
  if (spec.startsWith('unix:')) return { ...out, server: { type: 'unix', path: spec.slice(5) } };
  const m = /^(?:\[([^\]]*)\]|([^:]*)):([^:]*)$/.exec(spec);
  if (m === null) fail(`error parsing address '${spec}'`);
  return { ...out, server: { type: 'inet', host: m[1] ?? m[2] ?? '', port: m[3] ?? '' } };
}

/** The shortest name for the options; undefined when only options can say it. */
export function nbdFilename(options: NbdOptions): string | undefined {
  const { server } = options;
  const name = options.export === '' ? '' : `/${encodeURI(options.export)}`;
  if (server.type === 'unix') return `nbd+unix://${name}?socket=${server.path}`;
  if (server.type === 'fd') return undefined;
  const host = server.host.includes(':') ? `[${server.host}]` : server.host;
  return `nbd://${host}:${server.port}${name}`;
}
