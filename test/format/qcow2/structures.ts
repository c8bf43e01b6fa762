// What lies in which cluster of an image, found by following it as the specification says; so that
// tests can name the structure that a write meant.
const OFFSET = 0x00ff_ffff_ffff_fe00n;

/** Kinds of structures, as tests name them. */
export type Structure =
  | 'header'
  | 'header extensions'
  | 'L1 table'
  | 'L2 table'
  | 'refcount table'
  | 'refcount block'
  | 'snapshot table'
  | 'snapshot L1 table'
  | 'bitmap directory'
  | 'bitmap table'
  | 'bitmap data'
  | 'LUKS header'
  | 'LUKS key material'
  | 'data';

const LUKS_HEADER_BYTES = 592;

/** Walks an image; what lies outside of the file or is not named has no entry. */
export class Structures {
  /** By cluster number. */
  readonly kinds = new Map<number, Structure>();
  readonly clusterSize: number;
  readonly #view: DataView;
  readonly #luksAt: number;

  constructor(image: Uint8Array) {
    this.#view = new DataView(image.buffer, image.byteOffset, image.byteLength);
    this.clusterSize = image.byteLength < 104 ? 512 : 2 ** this.#view.getUint32(20);
    this.#luksAt = -1;
    if (image.byteLength < 104) return;
    this.#luksAt = this.#extensions();
    this.#refcounts();
    this.#snapshots();
    this.#l1(this.#u64(40), this.#u32(36), 'L1 table');
  }

  /** The structure at a byte of the file; undefined: nothing that the image names. */
  at(offset: number): Structure | undefined {
    const kind = this.kinds.get(Math.floor(offset / this.clusterSize));
    if (kind === 'header') return offset < 112 ? 'header' : 'header extensions';
    if (kind !== 'LUKS header') return kind;
    return offset - this.#luksAt < LUKS_HEADER_BYTES ? 'LUKS header' : 'LUKS key material';
  }

  #mark(offset: number, bytes: number, kind: Structure): void {
    if (offset < this.clusterSize && kind !== 'header') return;
    const c = this.clusterSize;
    const end = Math.min(offset + bytes, this.#view.byteLength);
    for (let at = Math.floor(offset / c); at * c < end; at++) this.kinds.set(at, kind);
  }

  #u32(at: number): number {
    return at + 4 <= this.#view.byteLength ? this.#view.getUint32(at) : 0;
  }

  #big(at: number): bigint {
    return at + 8 <= this.#view.byteLength ? this.#view.getBigUint64(at) : 0n;
  }

  #u64(at: number): number {
    return Number(this.#big(at) & OFFSET);
  }

  #extensions(): number {
    this.#mark(0, 1, 'header');
    let luks = -1;
    let at = this.#u32(4) === 2 ? 72 : this.#u32(100);
    while (at < this.clusterSize && this.#u32(at) !== 0) {
      const type = this.#u32(at);
      if (type === 0x0537_be77) {
        luks = Number(this.#big(at + 8));
        this.#mark(luks, Number(this.#big(at + 16)), 'LUKS header');
      }
      if (type === 0x2385_2875) this.#bitmaps(at + 8);
      at += 8 + Math.ceil(this.#u32(at + 4) / 8) * 8;
    }
    return luks;
  }

  #bitmaps(extension: number): void {
    const bytes = Number(this.#big(extension + 8));
    const start = Number(this.#big(extension + 16));
    this.#mark(start, bytes, 'bitmap directory');
    for (let at = start; at < start + bytes;) {
      const table = this.#u64(at);
      const entries = this.#u32(at + 8);
      this.#mark(table, entries * 8, 'bitmap table');
      for (let i = 0; i < entries; i++) {
        const cluster = this.#u64(table + 8 * i);
        if (cluster !== 0) this.#mark(cluster, this.clusterSize, 'bitmap data');
      }
      const name = this.#view.getUint16(at + 18);
      at += Math.ceil((24 + name + this.#u32(at + 20)) / 8) * 8;
    }
  }

  #refcounts(): void {
    const table = this.#u64(48);
    const bytes = this.#u32(56) * this.clusterSize;
    this.#mark(table, bytes, 'refcount table');
    for (let at = table; at < table + bytes; at += 8) {
      const block = this.#u64(at);
      if (block !== 0) this.#mark(block, this.clusterSize, 'refcount block');
    }
  }

  #snapshots(): void {
    let at = this.#u64(64);
    const start = at;
    for (let i = this.#u32(60); i > 0; i--) {
      this.#l1(this.#u64(at), this.#u32(at + 8), 'snapshot L1 table');
      const texts = this.#view.getUint16(at + 12) + this.#view.getUint16(at + 14);
      at += Math.ceil((40 + this.#u32(at + 36) + texts) / 8) * 8;
    }
    if (at > start) this.#mark(start, at - start, 'snapshot table');
  }

  #l1(table: number, entries: number, kind: Structure): void {
    this.#mark(table, entries * 8, kind);
    for (let i = 0; i < entries; i++) {
      const l2 = this.#u64(table + 8 * i);
      if (l2 !== 0) this.#l2(l2);
    }
  }

  #l2(table: number): void {
    this.#mark(table, this.clusterSize, 'L2 table');
    const isExtended = this.#u32(4) >= 3 && (this.#u32(76) & 16) !== 0;
    const hasDataFile = this.#u32(4) >= 3 && (this.#u32(76) & 4) !== 0;
    if (hasDataFile) return;
    for (let at = table; at < table + this.clusterSize; at += isExtended ? 16 : 8) {
      const entry = this.#big(at);
      if ((entry & (1n << 62n)) !== 0n) continue;
      const host = Number(entry & OFFSET);
      if (host !== 0) this.#mark(host, this.clusterSize, 'data');
    }
  }
}
