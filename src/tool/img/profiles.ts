/** Where an image goes decides what it must be: `convert --profile NAME`. */
import { drivers } from '../../catalog/drivers.js';
import { Failure } from '../program.js';

/** What one kind of host asks of images. */
export interface Profile {
  readonly name: string;
  readonly summary: string;
  /** Driver of the new image, and what people call the format. */
  readonly format: string;
  readonly title: string;
  /** As for `-o`: sub-format, adapter; options of the command line come behind and win. */
  readonly options: string;
  /** The size of the disk becomes a multiple of it, in bytes; what is added reads as zeroes. */
  readonly sizeUnit: number;
}

const MIB = 1024 * 1024;

export const profiles: readonly Profile[] = [
  {
    name: 'azure',
    summary: 'a fixed VHD of whole MiB, as Azure takes it',
    format: 'vpc',
    title: 'VHD',
    options: 'subformat=fixed,force_size=on',
    sizeUnit: MIB,
  },
  {
    name: 'hyperv',
    summary: 'a dynamic VHDX, for Hyper-V',
    format: 'vhdx',
    title: 'VHDX',
    options: 'subformat=dynamic',
    sizeUnit: MIB,
  },
  {
    name: 'esxi',
    summary: 'a stream-optimized VMDK for an LSI Logic adapter, for ESXi and OVF templates',
    format: 'vmdk',
    title: 'VMDK',
    // The form in which OVF packages carry disks, which ESXi's import and vCenter unpack; its
    // guests have no IDE disks by default, and hardware before version 6 is too old to be taken.
    options: 'subformat=streamOptimized,adapter_type=lsilogic,compat6=on',
    sizeUnit: MIB,
  },
  {
    name: 'virtualbox',
    summary: 'a VDI that grows, for VirtualBox',
    format: 'vdi',
    title: 'VDI',
    options: 'static=off',
    sizeUnit: MIB,
  },
  {
    name: 'aws',
    summary: 'a raw disk of whole GiB, for VM Import and EBS',
    format: 'raw',
    title: 'raw',
    options: '',
    sizeUnit: 1024 * MIB,
  },
];

function hasDriver({ format }: Profile): boolean {
  return drivers.some((driver) => driver.name === format && driver.create !== undefined);
}

/** The profile of this name. Throws Failure for an unknown one, and when its format is missing. */
export function findProfile(name: string): Profile {
  const found = profiles.find((each) => each.name === name);
  if (found === undefined) {
    const names = profiles.map((each) => each.name).join(', ');
    throw new Failure(`Unknown profile '${name}'; there are: ${names}`);
  }
  if (!hasDriver(found)) {
    const { format, title } = found;
    throw new Failure(
      `Profile '${name}' needs the format '${format}' (${title}), which vdisk does not have yet`,
    );
  }
  return found;
}

/** The lines of `--profile help`. */
export function profileHelp(): string {
  const lines = profiles.map((profile) => {
    const missing = hasDriver(profile) ? '' : ` (not yet: format '${profile.format}' is missing)`;
    return `  ${profile.name.padEnd(10)}  ${profile.summary}${missing}\n`;
  });
  return `Profiles:\n${lines.join('')}`;
}
