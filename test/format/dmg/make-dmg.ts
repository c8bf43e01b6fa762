// Apple disk images put together here, field by field, as no tool of Debian makes any.
import { deflateSync } from 'node:zlib';

export const SECTOR = 512;

export interface ChunkInit {
  readonly type: number;
  /** Sectors; default: of the content. */
  readonly sectors?: number;
  /** What is stored. */
  readonly stored?: Uint8Array;
}

export interface DmgInit {
  readonly tables: readonly (readonly ChunkInit[])[];
  /** Where the tables stand: in a property list, or in a resource fork. */
  readonly fork?: boolean;
  /** Bytes before the data fork. */
  readonly dataFork?: number;
}

export const Type = {
  zero: 0,
  raw: 1,
  ignored: 2,
  adc: 0x80000004,
  zlib: 0x80000005,
  bzip2: 0x80000006,
  lzfse: 0x80000007,
  lzma: 0x80000008,
  comment: 0x7ffffffe,
  end: 0xffffffff,
} as const;

export const zlibChunk = (content: Uint8Array): ChunkInit => ({
  type: Type.zlib,
  sectors: content.length / SECTOR,
  stored: deflateSync(content),
});

/** As ADC stores it at its simplest: runs of plain bytes, and copies of runs of one byte. */
export function adcEncode(content: Uint8Array): Uint8Array {
  const out: number[] = [];
  let plain: number[] = [];
  const flush = (): void => {
    if (plain.length > 0) out.push(0x80 | (plain.length - 1), ...plain);
    plain = [];
  };
  for (let at = 0; at < content.length;) {
    let run = 0;
    while (run < 67 && at > 0 && content[at + run] === content[at - 1]) run++;
    if (run >= 4) {
      flush();
      // Short copies have 3 to 18 bytes, long ones 4 to 67.
      if (run <= 18) out.push((run - 3) << 2, 0);
      else out.push(0x40 | (run - 4), 0, 0);
      at += run;
    } else {
      plain.push(content[at++]!);
      if (plain.length === 128) flush();
    }
  }
  flush();
  return Uint8Array.from(out);
}

function tableBytes(chunks: readonly ChunkInit[], first: number, offset: number): Buffer {
  const table = Buffer.alloc(204 + 40 * (chunks.length + 1));
  table.write('mish');
  table.writeUInt32BE(1, 4);
  table.writeBigUInt64BE(BigInt(first), 8);
  table.writeUInt32BE(chunks.length + 1, 200);
  let sector = 0;
  let at = offset;
  [...chunks, { type: Type.end, sectors: 0 } satisfies ChunkInit].forEach((chunk, i) => {
    const { type, stored = new Uint8Array(0) } = chunk;
    const sectors = chunk.sectors ?? stored.length / SECTOR;
    const place = 204 + 40 * i;
    table.writeUInt32BE(type, place);
    table.writeBigUInt64BE(BigInt(sector), place + 8);
    table.writeBigUInt64BE(BigInt(sectors), place + 16);
    table.writeBigUInt64BE(BigInt(at), place + 24);
    table.writeBigUInt64BE(BigInt(stored.length), place + 32);
    sector += sectors;
    at += stored.length;
  });
  table.writeBigUInt64BE(BigInt(sector), 16);
  return table;
}

function listOf(tables: readonly Buffer[]): Buffer {
  const data = (bytes: Buffer): string =>
    (bytes.toString('base64').match(/.{1,52}/gu) ?? []).map((line) => `\t\t\t${line}\n`).join('');
  const entries = tables.map(
    (table, i) =>
      '\t\t<dict>\n\t\t\t<key>Attributes</key>\n\t\t\t<string>0x0050</string>\n' +
      `\t\t\t<key>CFName</key>\n\t\t\t<string>part ${i}</string>\n` +
      `\t\t\t<key>Data</key>\n\t\t\t<data>\n${data(table)}\t\t\t</data>\n` +
      `\t\t\t<key>ID</key>\n\t\t\t<string>${i}</string>\n` +
      `\t\t\t<key>Name</key>\n\t\t\t<string>part ${i}</string>\n\t\t</dict>\n`,
  );
  return Buffer.from(
    '<?xml version="1.0" encoding="UTF-8"?>\n' +
      '<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" ' +
      '"http://www.apple.com/DTDs/PropertyList-1.0.dtd">\n<plist version="1.0">\n<dict>\n' +
      '\t<key>resource-fork</key>\n\t<dict>\n\t\t<key>blkx</key>\n\t\t<array>\n' +
      `${entries.join('')}\t\t</array>\n\t</dict>\n</dict>\n</plist>\n`,
  );
}

function forkOf(tables: readonly Buffer[]): Buffer {
  const head = Buffer.alloc(256);
  const resources = tables.flatMap((table) => {
    const length = Buffer.alloc(4);
    length.writeUInt32BE(table.length);
    return [length, table];
  });
  const data = Buffer.concat(resources);
  head.writeUInt32BE(256, 0);
  head.writeUInt32BE(256 + data.length, 4);
  head.writeUInt32BE(data.length, 8);
  return Buffer.concat([head, data, Buffer.alloc(64)]);
}

/** Where the parts of an image are. */
export interface Made {
  readonly bytes: Uint8Array;
  /** Of the property list or resource fork, and of the trailer. */
  readonly listAt: number;
  readonly trailerAt: number;
}

export function makeDmg({ tables, fork = false, dataFork = 0 }: DmgInit): Made {
  const parts: Buffer[] = [Buffer.alloc(dataFork, 'x')];
  const encoded: Buffer[] = [];
  let at = 0;
  let sector = 0;
  for (const chunks of tables) {
    encoded.push(tableBytes(chunks, sector, at));
    for (const { stored, sectors } of chunks) {
      if (stored !== undefined) parts.push(Buffer.from(stored));
      at += stored?.length ?? 0;
      sector += sectors ?? (stored?.length ?? 0) / SECTOR;
    }
  }
  const list = fork ? forkOf(encoded) : listOf(encoded);
  const listAt = dataFork + at;
  const trailer = Buffer.alloc(512);
  trailer.write('koly');
  trailer.writeUInt32BE(4, 4);
  trailer.writeUInt32BE(512, 8);
  trailer.writeUInt32BE(1, 12);
  trailer.writeBigUInt64BE(BigInt(dataFork), 24);
  trailer.writeBigUInt64BE(BigInt(at), 32);
  trailer.writeUInt32BE(1, 56);
  trailer.writeUInt32BE(1, 60);
  trailer.writeBigUInt64BE(BigInt(listAt), fork ? 40 : 216);
  trailer.writeBigUInt64BE(BigInt(list.length), fork ? 48 : 224);
  trailer.writeUInt32BE(1, 488);
  trailer.writeBigUInt64BE(BigInt(sector), 492);
  const bytes = new Uint8Array(Buffer.concat([...parts, list, trailer]));
  return { bytes, listAt, trailerAt: bytes.length - 512 };
}
