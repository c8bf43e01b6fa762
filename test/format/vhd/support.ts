// VHD and VHDX images in simulated files: made by vdisk, or built field by field.
import { createImage, prepareCreate } from '../../../src/block/create.js';
import { encodeDynamicHeader, encodeFooter } from '../../../src/format/vpc/footer.js';
import type { Backend, BlockGraph, NodeOptions, OpenFlags } from '../../../src/index.js';
import type { Random } from '../../support/index.js';
import { FakeFiles, fakeHost, testGraph } from '../../support/index.js';

export const KiB = 1024;
export const MiB = 1024 * KiB;
export const path = '/image';

/** How an image is made. */
export interface Shape {
  readonly name: string;
  readonly format: 'vpc' | 'vhdx';
  readonly size: number;
  readonly create?: string;
  /** A VHD that is built with blocks of this size; vdisk makes none but 2 MiB. */
  readonly blockSize?: number;
  readonly alignment?: number;
  readonly reorder?: boolean;
}

export async function makeFiles(shape: Shape, random: Random): Promise<FakeFiles> {
  const files = new FakeFiles({
    seed: random.uint32(),
    reorder: shape.reorder ?? false,
    directAlignment: shape.alignment ?? 1,
  });
  if (shape.blockSize !== undefined) {
    files.put(path, buildVhd({ size: shape.size, blockSize: shape.blockSize }));
    return files;
  }
  const graph = testGraph({ host: fakeHost({ files, seed: random.uint32() }) });
  const request = {
    filename: path,
    format: shape.format,
    size: shape.size,
    optionTexts: shape.create === undefined ? [] : [shape.create],
  };
  await createImage(graph, await prepareCreate(graph, request));
  await graph.close();
  // Creation does not flush; the image was made long before the machine that now fails.
  files.put(path, files.bytesOf(path));
  return files;
}

export interface Open {
  readonly graph: BlockGraph;
  readonly disk: Backend;
}

export async function openImage(
  files: FakeFiles,
  format: string,
  flags: Partial<OpenFlags> = { writable: true },
  options: NodeOptions = {},
): Promise<Open> {
  const graph = testGraph({ host: fakeHost({ files }), onWarning: () => undefined });
  const direct = (files.init.directAlignment ?? 1) > 1;
  const disk = await graph.openBackend({
    options: { driver: format, file: { driver: 'file', filename: path }, ...options },
    flags: { unmap: true, cache: { writeback: true, direct, noFlush: false }, ...flags },
  });
  return { graph, disk };
}

export async function closeImage({ graph, disk }: Open): Promise<void> {
  await disk.detach().catch(() => undefined);
  await graph.close().catch(() => undefined);
}

export interface VhdInit {
  readonly size: number;
  readonly blockSize: number;
  /** 3 dynamic, 4 differencing. */
  readonly type?: number;
  readonly id?: Uint8Array;
  readonly parentId?: Uint8Array;
  readonly parentName?: string;
  /** Blocks by index: bitmap and data. */
  readonly blocks?: ReadonlyMap<number, { bitmap: Uint8Array; data: Uint8Array }>;
  /** Parent locators: code, and the bytes of the path. */
  readonly locators?: readonly { code: number; path: Uint8Array }[];
}

/** A VHD with a table right behind its header, then locators' paths, then blocks. */
export function buildVhd(init: VhdInit): Uint8Array {
  const { size, blockSize, locators = [] } = init;
  const blocks = init.blocks ?? new Map<number, { bitmap: Uint8Array; data: Uint8Array }>();
  const entries = Math.ceil(size / blockSize);
  const table = 1536;
  const paths = table + Math.ceil((entries * 4) / 512) * 512;
  const first = paths + locators.length * 512;
  const bitmapBytes = Math.ceil(blockSize / 512 / 8 / 512) * 512;
  const stride = bitmapBytes + blockSize;
  const out = new Uint8Array(first + blocks.size * stride + 512);
  const footer = encodeFooter({
    cookie: ascii('conectix'),
    features: 2,
    version: 0x10000,
    data_offset: 512n,
    timestamp: 1,
    creator_app: ascii('win '),
    creator_version: 0,
    creator_os: ascii('Wi2k'),
    original_size: size,
    current_size: size,
    cylinders: 0,
    heads: 0,
    sectors_per_track: 0,
    disk_type: init.type ?? 3,
    unique_id: init.id ?? new Uint8Array(16).fill(1),
    saved_state: 0,
  });
  const header = encodeDynamicHeader({
    cookie: ascii('cxsparse'),
    data_offset: 0xffff_ffff_ffff_ffffn,
    table_offset: table,
    header_version: 0x10000,
    max_table_entries: entries,
    block_size: blockSize,
    parent_unique_id: init.parentId ?? new Uint8Array(16),
    parent_timestamp: 0,
    parent_unicode_name: utf16(init.parentName ?? '', false),
  });
  const view = new DataView(header.buffer);
  locators.forEach(({ code, path: bytes }, i) => {
    const at = 576 + i * 24;
    view.setUint32(at, code);
    view.setUint32(at + 4, 1);
    view.setUint32(at + 8, bytes.length);
    view.setUint32(at + 20, paths + i * 512);
    out.set(bytes, paths + i * 512);
  });
  out.set(footer, 0);
  out.set(header, 512);
  out.fill(0xff, table, paths);
  let at = first;
  for (const [index, { bitmap, data }] of blocks) {
    new DataView(out.buffer).setUint32(table + index * 4, at / 512);
    out.set(bitmap, at);
    out.set(data, at + bitmapBytes);
    at += stride;
  }
  out.set(footer, at);
  return out;
}

export function ascii(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}

export function utf16(text: string, littleEndian = true): Uint8Array {
  const view = new DataView(new ArrayBuffer(text.length * 2));
  for (let i = 0; i < text.length; i++) view.setUint16(i * 2, text.charCodeAt(i), littleEndian);
  return new Uint8Array(view.buffer);
}
