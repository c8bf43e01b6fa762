/** Opening a LUKS volume, and the requests on it. */
import type { LuksHost, LuksStorage } from '../../block/crypto/luks.js';
import { LuksVolume, openLuks, readLuksHeader } from '../../block/crypto/luks.js';
import type { LuksHeader } from '../../block/crypto/luks-header.js';
import { amendLuks } from '../../block/crypto/luks-options.js';
import type { Child } from '../../block/child.js';
import type {
  AmendContext,
  DriverInstance,
  ImageInfo,
  NodeOptions,
  OpenContext,
  TruncateOptions,
} from '../../block/driver.js';
import { BlockError } from '../../block/errors.js';
import type { BlockGraph } from '../../block/graph.js';
import type { BlockLimits } from '../../block/types.js';
import { Perm, Req, Role } from '../../block/types.js';
import { Iov } from '../../lib/iov.js';
import type { CreateValues } from '../../options/create-options.js';
import { parseValue, t } from '../../options/schema.js';

const SECTOR = 512;
/** Longest run that is copied and encrypted at once. */
const PIECE = 1024 * 1024;

/** Options of a luks node besides its children (QMP: BlockdevOptionsLUKS). */
export const luksOptions = t.struct('BlockdevOptionsLUKS', {
  'key-secret': t.optional(t.str({ doc: 'ID of the secret that unlocks the volume' })),
});

/** What the volume code needs of the machine. */
export async function luksHost(graph: BlockGraph): Promise<LuksHost> {
  const { random, clock } = graph.host;
  return { crypto: await graph.crypto(), random, clock };
}

/** Header and key material as they lie in `child`. */
export function childStorage(child: Child): LuksStorage {
  return {
    read: (offset, out) => child.read(offset, Iov.of(out)),
    write: (offset, data) => child.write(offset, Iov.of(data)),
    flush: () => child.flush(),
  };
}

export async function openLuksNode(context: OpenContext): Promise<DriverInstance> {
  const file = await context.openChild('file', { role: Role.image });
  const header = await context.tryOpenChild('header', { role: Role.metadata });
  const own = { 'key-secret': context.options['key-secret'] };
  const options = parseValue(luksOptions, own, { from: 'opts' });
  const storage = childStorage(header ?? file);
  const id = options['key-secret'];
  if (id === undefined || context.flags.noIo) {
    if (!context.flags.noIo) {
      throw new BlockError('EINVAL', "Parameter 'key-secret' is required for cipher");
    }
    const found = await readLuksHeader(storage, header !== undefined);
    return new LuksInstance(context.graph, file, found, undefined, id);
  }
  const password = await context.graph.secret(id);
  const host = await luksHost(context.graph);
  const volume = await openLuks(host, storage, password, header !== undefined);
  return new LuksInstance(context.graph, file, volume.header, volume, id);
}

class LuksInstance implements DriverInstance {
  readonly writeFlags = Req.fua | Req.writeUnchanged;
  readonly #graph: BlockGraph;
  readonly #file: Child;
  readonly #header: LuksHeader;
  /** Undefined when opened without a password, to look at the header only. */
  readonly #volume: LuksVolume | undefined;
  readonly #secretId: string | undefined;
  readonly #payload: number;

  constructor(
    graph: BlockGraph,
    file: Child,
    header: LuksHeader,
    volume: LuksVolume | undefined,
    secretId: string | undefined,
  ) {
    this.#graph = graph;
    this.#file = file;
    this.#header = header;
    this.#volume = volume;
    this.#secretId = secretId;
    this.#payload = header.payloadOffsetSectors * SECTOR;
    if (this.#payload > file.size) {
      throw new BlockError('EINVAL', 'LUKS payload is overlapping with the end of the file');
    }
  }

  length(): number {
    return Math.max(0, this.#file.size - this.#payload);
  }

  limits(): Partial<BlockLimits> {
    return { requestAlignment: SECTOR };
  }

  async read(offset: number, iov: Iov, flags: number): Promise<void> {
    const { cipher } = this.#unlocked();
    const whole = iov.tryContiguous();
    if (whole !== undefined) {
      await this.#file.read(this.#payload + offset, iov, flags);
      await cipher.decrypt(whole, offset / SECTOR);
      return;
    }
    for (let at = 0; at < iov.bytes; at += PIECE) {
      const piece = new Uint8Array(Math.min(PIECE, iov.bytes - at));
      await this.#file.read(this.#payload + offset + at, Iov.of(piece), flags);
      await cipher.decrypt(piece, (offset + at) / SECTOR);
      iov.copyFrom(piece, at);
    }
  }

  async write(offset: number, iov: Iov, flags: number): Promise<void> {
    const { cipher } = this.#unlocked();
    for (let at = 0; at < iov.bytes; at += PIECE) {
      const n = Math.min(PIECE, iov.bytes - at);
      const piece = new Uint8Array(n);
      iov.slice(at, n).copyTo(piece);
      await cipher.encrypt(piece, (offset + at) / SECTOR);
      await this.#file.write(this.#payload + offset + at, Iov.of(piece), flags);
    }
  }

  async truncate(bytes: number, options: TruncateOptions): Promise<void> {
    await this.#file.truncate(this.#payload + bytes, options);
  }

  info(): ImageInfo {
    const data = this.#volume?.info() ?? LuksVolume.describe(this.#header);
    return { isEncrypted: true, formatSpecific: { type: 'luks', data } };
  }

  async amend(values: CreateValues, context: AmendContext): Promise<void> {
    const secret = (id: string): Promise<Uint8Array> => this.#graph.secret(id);
    await amendLuks(this.#unlocked(), (name) => values[name], secret, context.force);
  }

  strongOptions(): NodeOptions {
    return this.#secretId === undefined ? {} : { 'key-secret': this.#secretId };
  }

  /** Guest data reads as noise in a new area, so nothing is known to be zero. */
  hasZeroInit(): boolean {
    return false;
  }

  /** The key material is private to this user: no one else may write while it is open. */
  childPerm(
    child: Child,
    parents: { perm: number; shared: number },
  ): { perm: number; shared: number } {
    const grows = (parents.perm & Perm.write) !== 0 ? Perm.write | Perm.resize : 0;
    if (child.name === 'header') {
      return { perm: Perm.consistentRead, shared: Perm.all & ~(Perm.write | Perm.resize) };
    }
    const perm = parents.perm | grows | Perm.consistentRead;
    return { perm, shared: parents.shared & ~(Perm.write | Perm.resize) };
  }

  close(): Promise<void> {
    return Promise.resolve();
  }

  #unlocked(): LuksVolume {
    if (this.#volume !== undefined) return this.#volume;
    throw new BlockError('EINVAL', "Parameter 'key-secret' is required for cipher");
  }
}
