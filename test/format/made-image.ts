// Images of any format in simulated files: making, opening and changing them byte by byte.
import { createImage, prepareCreate } from '../../src/block/create.js';
import type { Backend, CheckResult, NodeOptions, OpenFlags } from '../../src/index.js';
import { FakeFiles, fakeHost, testGraph } from '../support/index.js';

export interface Made {
  readonly format: string;
  readonly size: number;
  /** Creation options as in `-o`. */
  readonly options?: string;
  readonly name?: string;
  readonly backing?: string;
  readonly backingFormat?: string;
}

export const imagePath = '/m/disk';

const password = new TextEncoder().encode('a passphrase');
const secret = async (): Promise<Uint8Array> => password;

export async function makeImage(files: FakeFiles, made: Made): Promise<void> {
  const graph = testGraph({ host: fakeHost({ files }), secret });
  const { options, backing, backingFormat, format, size } = made;
  const request = {
    filename: made.name ?? imagePath,
    format,
    size,
    optionTexts: options === undefined ? [] : [options],
    backingFile: backing,
    backingFormat,
  };
  await createImage(graph, await prepareCreate(graph, request));
  await graph.close();
}

/** Opens an image by its format; any id names the same secret. */
export function openImage(
  files: FakeFiles,
  format: string,
  flags: Partial<OpenFlags> = {},
  more: NodeOptions = {},
  filename = imagePath,
): Promise<Backend> {
  const graph = testGraph({ host: fakeHost({ files }), secret });
  return graph.openBackend({
    options: { driver: format, file: { driver: 'file', filename }, ...more },
    flags: { unmap: true, ...flags },
  });
}

/** A number that is changed: offset, width in bytes, value. */
export type Patch = readonly [number, 1 | 2 | 4 | 8, number | bigint];

export function patch(bytes: Uint8Array, patches: readonly Patch[], little: boolean): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (const [at, width, value] of patches) {
    if (width === 8) view.setBigUint64(at, BigInt(value), little);
    else if (width === 4) view.setUint32(at, Number(value), little);
    else if (width === 2) view.setUint16(at, Number(value), little);
    else view.setUint8(at, Number(value));
  }
}

/** Files with the image changed; other files as they are. */
export function changed(files: FakeFiles, patches: readonly Patch[], little: boolean): FakeFiles {
  const next = new FakeFiles();
  for (const name of files.disks.keys()) next.put(name, files.bytesOf(name).slice());
  const bytes = next.bytesOf(imagePath).slice();
  patch(bytes, patches, little);
  next.put(imagePath, bytes);
  return next;
}

/** Checks, and repairs where asked to; what was found, and the lines that were told. */
export async function checkImage(
  files: FakeFiles,
  format: string,
  fixes = false,
): Promise<{ result: CheckResult; lines: string[] }> {
  const disk = await openImage(files, format, { check: true, writable: fixes });
  const lines: string[] = [];
  try {
    const report = (line: string): void => void lines.push(line);
    const result = await disk.node.instance.check!({ fixErrors: fixes, fixLeaks: fixes, report });
    return { result, lines };
  } finally {
    await disk.detach();
  }
}
