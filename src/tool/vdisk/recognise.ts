/** What a file is by its first and last bytes, whether vdisk can open it or not. Pure. */

/** A kind of file. */
export interface Kind {
  /** A word as for `-f` where there is one. */
  readonly format: string;
  /** For people. */
  readonly title: string;
  /** vdisk opens it: -f FORMAT. */
  readonly opens: boolean;
  /** qemu-img reads it under this name of a format. */
  readonly qemu?: string;
  /** `convert --unpack` takes what is inside. */
  readonly unpacks?: boolean;
}

interface Mark extends Kind {
  /** Bytes at an offset from the start, or, when negative, from the end. */
  readonly at: number;
  readonly bytes: string;
}

/** In the order in which they are looked for; bytes as Latin-1. */
const MARKS: readonly Mark[] = [
  { format: 'qcow2', title: 'qcow2', opens: true, at: 0, bytes: 'QFI\xfb\0\0\0\x02' },
  { format: 'qcow2', title: 'qcow2', opens: true, at: 0, bytes: 'QFI\xfb\0\0\0\x03' },
  { format: 'qcow', title: 'qcow (version 1)', opens: true, at: 0, bytes: 'QFI\xfb\0\0\0\x01' },
  { format: 'qcow2', title: 'qcow2 of an unknown version', opens: true, at: 0, bytes: 'QFI\xfb' },
  { format: 'luks', title: 'LUKS', opens: true, at: 0, bytes: 'LUKS\xba\xbe' },
  { format: 'bochs', title: 'Bochs', opens: true, at: 0, bytes: 'Bochs Virtual HD Image' },
  { format: 'vmdk', title: 'VMDK (VMware)', opens: true, at: 0, bytes: 'KDMV' },
  { format: 'vmdk', title: 'VMDK (VMware ESX)', opens: true, at: 0, bytes: 'COWD' },
  {
    format: 'vmdk',
    title: 'extent of a VMDK disk (SESparse), which its descriptor opens',
    ...foreign('vmdk'),
    at: 0,
    bytes: '\xbe\xba\xfe\xca',
  },
  {
    format: 'vmdk',
    title: 'VMDK descriptor (VMware)',
    opens: true,
    at: 0,
    bytes: '# Disk DescriptorFile',
  },
  { format: 'vdi', title: 'VDI (VirtualBox)', opens: true, at: 64, bytes: '\x7f\x10\xda\xbe' },
  { format: 'vhdx', title: 'VHDX (Hyper-V)', opens: true, at: 0, bytes: 'vhdxfile' },
  { format: 'vpc', title: 'VHD (Virtual PC)', opens: true, at: 0, bytes: 'conectix' },
  { format: 'vpc', title: 'VHD (Virtual PC)', opens: true, at: -512, bytes: 'conectix' },
  { format: 'vpc', title: 'VHD (Virtual PC)', opens: true, at: -511, bytes: 'conectix' },
  { format: 'qed', title: 'QED', opens: true, at: 0, bytes: 'QED\0' },
  {
    format: 'parallels',
    title: 'Parallels',
    opens: true,
    at: 0,
    bytes: 'WithoutFreeSpace',
  },
  {
    format: 'parallels',
    title: 'Parallels',
    opens: true,
    at: 0,
    bytes: 'WithouFreSpacExt',
  },
  { format: 'cloop', title: 'cloop', opens: true, at: 0, bytes: '#!/bin/sh\n#V2.0 Format' },
  { format: 'dmg', title: 'DMG (Apple)', opens: true, at: -512, bytes: 'koly' },
  { format: 'vma', title: 'VMA (Proxmox backup)', opens: false, at: 0, bytes: 'VMA\0' },
  { format: 'gzip', title: 'gzip', opens: false, unpacks: true, at: 0, bytes: '\x1f\x8b' },
  { format: 'xz', title: 'xz', opens: false, unpacks: true, at: 0, bytes: '\xfd7zXZ\0' },
  { format: 'zstd', title: 'zstd', opens: false, unpacks: true, at: 0, bytes: '\x28\xb5\x2f\xfd' },
  { format: 'bzip2', title: 'bzip2', opens: false, unpacks: true, at: 0, bytes: 'BZh' },
  { format: 'tar', title: 'tar (an .ova?)', opens: false, unpacks: true, at: 257, bytes: 'ustar' },
  { format: 'zip', title: 'zip', opens: false, at: 0, bytes: 'PK\x03\x04' },
  { format: '7z', title: '7-Zip', opens: false, at: 0, bytes: '7z\xbc\xaf\x27\x1c' },
];

/** Not read by vdisk; `-f NAME` of qemu-img. */
function foreign(qemu: string): { readonly opens: false; readonly qemu: string } {
  return { opens: false, qemu };
}

/** What a raw disk may hold. */
const CONTENTS: readonly { readonly at: number; readonly bytes: string; readonly what: string }[] =
  [
    { at: 512, bytes: 'EFI PART', what: 'a GPT partition table' },
    { at: 32769, bytes: 'CD001', what: 'an ISO 9660 file system (a CD image)' },
    { at: 1080, bytes: '\x53\xef', what: 'an ext2/3/4 file system' },
    { at: 0, bytes: 'XFSB', what: 'an XFS file system' },
    { at: 65600, bytes: '_BHRfS_M', what: 'a Btrfs file system' },
    { at: 3, bytes: 'NTFS    ', what: 'an NTFS file system' },
    { at: 536, bytes: 'LVM2 001', what: 'an LVM physical volume' },
    { at: 0, bytes: 'hsqs', what: 'a SquashFS file system' },
    { at: 510, bytes: '\x55\xaa', what: 'a boot sector (a partition table, or FAT)' },
  ];

/** Bytes from the start and from the end that recognising looks at. */
export const HEAD_BYTES = 65_664;
export const TAIL_BYTES = 512;

function holds(bytes: Uint8Array, at: number, wanted: string): boolean {
  if (at < 0 || at + wanted.length > bytes.length) return false;
  for (let i = 0; i < wanted.length; i++) if (bytes[at + i] !== wanted.charCodeAt(i)) return false;
  return true;
}

/** The kind of a file with these first and last bytes; undefined: raw, or nothing known. */
export function recognise(head: Uint8Array, tail: Uint8Array): Kind | undefined {
  return MARKS.find(({ at, bytes }) =>
    at < 0 ? holds(tail, tail.length + at, bytes) : holds(head, at, bytes),
  );
}

/** What the disk itself seems to hold. */
export function contentOf(head: Uint8Array): string | undefined {
  return CONTENTS.find(({ at, bytes }) => holds(head, at, bytes))?.what;
}
