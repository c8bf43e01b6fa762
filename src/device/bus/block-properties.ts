/** Properties that all disks share, and how a drive is taken with them. */
import type { Backend, BackendUser } from '../../block/backend.js';
import { OptionError } from '../../options/option-error.js';
import type { Infer } from '../../options/schema.js';
import { t } from '../../options/schema.js';
import type { DeviceContext } from './device.js';
import { Drive } from './drive.js';
import type { Geometry, GeometryGuess } from './geometry.js';
import { guessGeometry, MAX_CYLINDERS, usualTranslation } from './geometry.js';

/** Smallest and greatest size of a block of a disk. */
const MIN_BLOCK = 512;
const MAX_BLOCK = 2 * 1024 * 1024;

/** Drive, error policies, block sizes, order of booting. */
export const blockProperties = {
  drive: t.optional(t.str({ doc: 'Node name or ID of a block device to use as a backend' })),
  backend_defaults: t.enumOf('auto', 'on', 'off', { name: 'OnOffAuto', default: 'auto' }),
  logical_block_size: t.size({
    default: 0,
    doc: 'A power of two between 512 B and 2 MiB; 0: 512',
  }),
  physical_block_size: t.size({
    default: 0,
    doc: 'A power of two between 512 B and 2 MiB; 0: as the logical one',
  }),
  min_io_size: t.size({ default: 0 }),
  opt_io_size: t.size({ default: 0 }),
  discard_granularity: t.size({ default: -1 }),
  'write-cache': t.enumOf('auto', 'on', 'off', { name: 'OnOffAuto', default: 'auto' }),
  'share-rw': t.bool({ default: false, doc: 'others may write to the node meanwhile' }),
  'account-invalid': t.enumOf('auto', 'on', 'off', { name: 'OnOffAuto', default: 'auto' }),
  'account-failed': t.enumOf('auto', 'on', 'off', { name: 'OnOffAuto', default: 'auto' }),
  bootindex: t.int({ bits: 32 }, { default: -1, doc: 'order among what firmware boots from' }),
} as const;

/** Error policies. */
export const errorProperties = {
  rerror: t.enumOf('auto', 'report', 'ignore', 'stop', 'enospc', {
    name: 'BlockdevOnError',
    default: 'auto',
    doc: 'Error handling policy: report/ignore/enospc/stop/auto',
  }),
  werror: t.enumOf('auto', 'report', 'ignore', 'stop', 'enospc', {
    name: 'BlockdevOnError',
    default: 'auto',
    doc: 'Error handling policy: report/ignore/enospc/stop/auto',
  }),
} as const;

/** Geometry; zeroes are guessed. */
export const geometryProperties = {
  cyls: t.uint({ bits: 32 }, { default: 0 }),
  heads: t.uint({ bits: 32 }, { default: 0 }),
  secs: t.uint({ bits: 32 }, { default: 0 }),
  lcyls: t.uint({ bits: 32 }, { default: 0 }),
  lheads: t.uint({ bits: 32 }, { default: 0 }),
  lsecs: t.uint({ bits: 32 }, { default: 0 }),
} as const;

/** Declarations of each group by itself, for their types. */
export const blockStruct = t.struct('BlockProperties', blockProperties);
export const errorStruct = t.struct('ErrorProperties', errorProperties);
export const geometryStruct = t.struct('GeometryProperties', geometryProperties);

export type BlockProperties = Infer<typeof blockStruct>;
export type ErrorProperties = Infer<typeof errorStruct>;
export type GeometryProperties = Infer<typeof geometryStruct>;

/** Sizes in bytes, zeroes resolved. */
export interface BlockSizes {
  readonly logical: number;
  readonly physical: number;
  readonly minIo: number;
  readonly optIo: number;
  /** undefined: the device's own choice. */
  readonly discardGranularity: number | undefined;
}

function checkSize(name: string, value: number): void {
  const isPower = value > 0 && Number.isInteger(Math.log2(value));
  if (isPower && value >= MIN_BLOCK && value <= MAX_BLOCK) return;
  throw new OptionError(
    `Property .${name} doesn't take value ${value} (minimum: ${MIN_BLOCK}, maximum: ${MAX_BLOCK})`,
    name,
  );
}

/** Checks block sizes and fills in what is 0. Throws OptionError. */
export function blockSizes(given: BlockProperties): BlockSizes {
  // What the image demands beyond that is the block layer's affair.
  const logical = given.logical_block_size === 0 ? MIN_BLOCK : given.logical_block_size;
  const physical = given.physical_block_size === 0 ? logical : given.physical_block_size;
  checkSize('logical_block_size', logical);
  checkSize('physical_block_size', physical);
  if (logical > physical) {
    throw new OptionError('logical_block_size > physical_block_size not supported');
  }
  const { min_io_size: minIo, opt_io_size: optIo, discard_granularity: granularity } = given;
  for (const [name, value] of [
    ['min_io_size', minIo],
    ['opt_io_size', optIo],
  ] as const) {
    if (value % logical !== 0) {
      throw new OptionError(`${name} must be a multiple of logical_block_size`, name);
    }
  }
  if (granularity > 0 && granularity % logical !== 0) {
    throw new OptionError('discard_granularity must be a multiple of logical_block_size');
  }
  const discardGranularity = granularity < 0 ? undefined : granularity;
  return { logical, physical, minIo, optIo, discardGranularity };
}

/** Bounds of a geometry that a device can show. */
export interface GeometryBounds {
  readonly cylinders: number;
  readonly heads: number;
  readonly sectors: number;
}

/** The geometry that the user gave, or a guess. Throws OptionError when out of bounds. */
export async function diskGeometry(
  given: GeometryProperties,
  bounds: GeometryBounds,
  drive: Backend,
): Promise<GeometryGuess> {
  const { cyls, heads, secs } = given;
  if (cyls === 0 && heads === 0 && secs === 0) return guessGeometry(drive);
  const check = (name: string, value: number, max: number): void => {
    if (value < 1 || value > max) {
      throw new OptionError(`${name} must be between 1 and ${max}`, name);
    }
  };
  check('cyls', cyls, Math.min(bounds.cylinders, MAX_CYLINDERS));
  check('heads', heads, bounds.heads);
  check('secs', secs, bounds.sectors);
  const geometry: Geometry = { cylinders: cyls, heads, sectors: secs };
  return { ...geometry, translation: usualTranslation(geometry) };
}

/** What a device says beside its properties when it takes its drive. */
export interface ClaimHow {
  readonly user: BackendUser;
  readonly isReadOnly: boolean;
  /** The backend's length changed; absent: the guest may not see that. */
  readonly resized?: () => void;
}

/**
 * Takes a backend with a device's properties: permissions, error policies, write cache. Throws
 * BlockError; then the backend is free as before.
 */
export async function claimDrive(
  backend: Backend,
  context: DeviceContext,
  properties: BlockProperties & Partial<ErrorProperties>,
  how: ClaimHow,
): Promise<Drive> {
  const drive = await Drive.claim({
    backend,
    context,
    user: how.user,
    isReadOnly: how.isReadOnly,
    resizable: how.resized !== undefined,
    resized: how.resized ?? ((): void => undefined),
    shareWrites: properties['share-rw'],
    rerror: properties.rerror ?? 'auto',
    werror: properties.werror ?? 'auto',
    writeCache: properties['write-cache'],
    tellsStatus: properties.werror !== undefined,
  });
  const { 'account-invalid': invalid, 'account-failed': failed } = properties;
  if (invalid !== 'auto') backend.accounting.accountInvalid = invalid === 'on';
  if (failed !== 'auto') backend.accounting.accountFailed = failed === 'on';
  return drive;
}

/** Takes a drive for good, once a device has looked at it; see {@link claimDrive}. */
export type Claim = (how: ClaimHow) => Promise<Drive>;

/**
 * Finds the backend that `drive=` names and lets a device attach itself to it, which has to call
 * `claim`. When the device throws, nothing is held any more.
 */
export async function attachBackend(
  context: DeviceContext,
  properties: BlockProperties & Partial<ErrorProperties>,
  attach: (backend: Backend, claim: Claim) => Promise<void>,
): Promise<void> {
  const backend = await context.backend(properties.drive);
  let drive: Drive | undefined;
  try {
    await attach(backend, async (how) => {
      drive = await claimDrive(backend, context, properties, how);
      return drive;
    });
  } catch (e) {
    if (drive === undefined) await context.releaseBackend(backend);
    else await drive.release();
    throw e;
  }
}
