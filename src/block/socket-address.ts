/** QMP's SocketAddress: where servers listen and clients connect. */
import type { SocketAddress } from '../host/socket.js';
import type { Infer } from '../options/schema.js';
import { t } from '../options/schema.js';
import { BlockError } from './errors.js';

const inet = t.struct('InetSocketAddress', {
  host: t.str({ doc: 'host name or address' }),
  port: t.str({ doc: 'port number, or name of a service' }),
  numeric: t.optional(t.bool({ doc: 'the host is an address: no name is looked up' })),
  to: t.optional(t.uint({ bits: 16 }, { doc: 'listen on the first free port up to this one' })),
  ipv4: t.optional(t.bool({ doc: 'use IPv4' })),
  ipv6: t.optional(t.bool({ doc: 'use IPv6' })),
  'keep-alive': t.optional(t.bool({ doc: 'detect a dead peer' })),
});

const unix = t.struct('UnixSocketAddress', {
  path: t.str({ doc: 'path of the socket' }),
  abstract: t.optional(t.bool({ doc: 'the path is a name in the abstract namespace' })),
  tight: t.optional(t.bool({ doc: 'an abstract name without padding; default on' })),
});

const fd = t.struct('FdSocketAddress', { str: t.str({ doc: 'number of an open descriptor' }) });

/** The kinds of addresses; vsock is not supported. */
export const socketAddressTypes = { inet, unix, fd };

/** A flat union. */
export const socketAddress = t.union('SocketAddress', 'type', socketAddressTypes);

/** The same with the members of each kind under `data`, as older commands have it. */
export const socketAddressLegacy = t.union('SocketAddressLegacy', 'type', {
  inet: t.struct('InetSocketAddressWrapper', { data: inet }),
  unix: t.struct('UnixSocketAddressWrapper', { data: unix }),
  fd: t.struct('FdSocketAddressWrapper', { data: fd }),
});

type Flat = Infer<typeof socketAddress>;

/** The flat form of a legacy address. */
export function fromLegacy(address: Infer<typeof socketAddressLegacy>): Flat {
  switch (address.type) {
    case 'inet':
      return { type: 'inet', ...address.data };
    case 'unix':
      return { type: 'unix', ...address.data };
    case 'fd':
      return { type: 'fd', ...address.data };
  }
}

/** The port's address of a checked option. Throws BlockError for a descriptor that is no number. */
export function toAddress(address: Flat): SocketAddress {
  switch (address.type) {
    case 'inet': {
      const { ipv4, ipv6, to, numeric } = address;
      return {
        type: 'inet',
        host: address.host,
        port: address.port,
        keepAlive: address['keep-alive'] ?? false,
        ...(ipv4 === undefined ? {} : { ipv4 }),
        ...(ipv6 === undefined ? {} : { ipv6 }),
        ...(to === undefined ? {} : { to }),
        ...(numeric === undefined ? {} : { numeric }),
      };
    }
    case 'unix':
      if (address.abstract === true && address.tight === false) {
        throw new BlockError('ENOTSUP', 'Abstract names with padding (tight=off) cannot be used');
      }
      return { type: 'unix', path: address.path, abstract: address.abstract ?? false };
    case 'fd': {
      const number = Number(address.str);
      if (address.str === '' || !Number.isInteger(number) || number < 0) {
        throw new BlockError('EINVAL', `File descriptor name '${address.str}' is no number`);
      }
      return { type: 'fd', fd: number };
    }
  }
}
