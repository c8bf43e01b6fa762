/**
 * The sectors that describe the disk: the partition table of a hard disk, the boot sector
 * ("Boot Sector and BPB Structure") and, with FAT32, "FAT32 FSInfo Sector Structure".
 */
import { encodeFields } from '../../lib/fields.js';
import type { Layout } from './layout.js';
import { SECTOR } from './layout.js';

const MEDIA_FLOPPY = 0xf0;
const MEDIA_FIXED = 0xf8;
/** Serial number of the volume and identity of the disk, as in QEMU. */
const VOLUME_ID = 0xfabe_1afd;
const DISK_ID = 0xbe1a_fdfa;
const SIGNATURE = 0xaa55;

/** Fields of the BPB that all types have. */
const bpbFields = [
  { field: 'BS_jmpBoot', offset: 0, width: 3, bytes: true, meaning: 'jump to boot code' },
  { field: 'BS_OEMName', offset: 3, width: 8, bytes: true, meaning: 'who formatted it' },
  { field: 'BPB_BytsPerSec', offset: 11, width: 2, meaning: 'bytes in a sector' },
  { field: 'BPB_SecPerClus', offset: 13, width: 1, meaning: 'sectors in a cluster' },
  { field: 'BPB_RsvdSecCnt', offset: 14, width: 2, meaning: 'sectors before the first FAT' },
  { field: 'BPB_NumFATs', offset: 16, width: 1, meaning: 'copies of the FAT' },
  { field: 'BPB_RootEntCnt', offset: 17, width: 2, meaning: 'entries of the root, 0: FAT32' },
  { field: 'BPB_TotSec16', offset: 19, width: 2, meaning: 'sectors, 0: see BPB_TotSec32' },
  { field: 'BPB_Media', offset: 21, width: 1, meaning: 'kind of medium' },
  { field: 'BPB_FATSz16', offset: 22, width: 2, meaning: 'sectors of a FAT, 0: FAT32' },
  { field: 'BPB_SecPerTrk', offset: 24, width: 2, meaning: 'sectors in a track' },
  { field: 'BPB_NumHeads', offset: 26, width: 2, meaning: 'heads' },
  { field: 'BPB_HiddSec', offset: 28, width: 4, meaning: 'sectors before the volume' },
  { field: 'BPB_TotSec32', offset: 32, width: 4, meaning: 'sectors, 0: see BPB_TotSec16' },
  { field: 'signature', offset: 510, width: 2, meaning: '0xAA55' },
] as const;

/** What FAT12 and FAT16 go on with at offset 36, FAT32 at offset 64. */
const volumeFields = [
  { field: 'BS_DrvNum', offset: 0, width: 1, meaning: 'number of the drive for INT 13h' },
  { field: 'BS_BootSig', offset: 2, width: 1, meaning: '0x29: the next three are there' },
  { field: 'BS_VolID', offset: 3, width: 4, meaning: 'serial number' },
  { field: 'BS_VolLab', offset: 7, width: 11, bytes: true, meaning: 'label' },
  { field: 'BS_FilSysType', offset: 18, width: 8, bytes: true, meaning: 'name of the type' },
] as const;

const fat32Fields = [
  { field: 'BPB_FATSz32', offset: 36, width: 4, meaning: 'sectors of a FAT' },
  { field: 'BPB_RootClus', offset: 44, width: 4, meaning: 'first cluster of the root' },
  { field: 'BPB_FSInfo', offset: 48, width: 2, meaning: 'sector of FSInfo' },
  { field: 'BPB_BkBootSec', offset: 50, width: 2, meaning: 'sector of the copy of this one' },
] as const;

const fsInfoFields = [
  { field: 'FSI_LeadSig', offset: 0, width: 4, meaning: '0x41615252' },
  { field: 'FSI_StrucSig', offset: 484, width: 4, meaning: '0x61417272' },
  { field: 'FSI_Free_Count', offset: 488, width: 4, meaning: 'free clusters' },
  { field: 'FSI_Nxt_Free', offset: 492, width: 4, meaning: 'where to look for them' },
  { field: 'FSI_TrailSig', offset: 508, width: 4, meaning: '0xAA550000' },
] as const;

const partitionFields = [
  { field: 'status', offset: 0, width: 1, meaning: '0x80: active' },
  { field: 'first_chs', offset: 1, width: 3, bytes: true, meaning: 'first sector' },
  { field: 'type', offset: 4, width: 1, meaning: 'kind of file system' },
  { field: 'last_chs', offset: 5, width: 3, bytes: true, meaning: 'last sector' },
  { field: 'first_lba', offset: 8, width: 4, meaning: 'first sector' },
  { field: 'sectors', offset: 12, width: 4, meaning: 'how many' },
] as const;

const BOOT_COPY = 6;

/** `text` in UTF-8, padded with spaces or cut. */
export function padded(text: string, bytes: number): Uint8Array {
  const out = new Uint8Array(bytes).fill(0x20);
  out.set(new TextEncoder().encode(text).subarray(0, bytes));
  return out;
}

export function mediaByte(layout: Layout): number {
  return layout.isFloppy ? MEDIA_FLOPPY : MEDIA_FIXED;
}

/** Sectors from the start of the volume to the first FAT. */
export function reservedArea(layout: Layout, label: string, usedClusters: number): Uint8Array {
  const out = new Uint8Array((layout.fatStart - layout.volumeStart) * SECTOR);
  const boot = bootSector(layout, label);
  out.set(boot);
  if (layout.bits !== 32) return out;
  const info = {
    FSI_LeadSig: 0x4161_5252,
    FSI_StrucSig: 0x6141_7272,
    FSI_Free_Count: layout.clusters - usedClusters,
    FSI_Nxt_Free: usedClusters + 2,
    FSI_TrailSig: 0xaa55_0000,
  };
  for (const at of [1, BOOT_COPY + 1]) encodeFields(fsInfoFields, info, out, at * SECTOR, 'little');
  out.set(boot, BOOT_COPY * SECTOR);
  return out;
}

function bootSector(layout: Layout, label: string): Uint8Array {
  const { bits, volumeSectors, geometry, isFloppy } = layout;
  const out = new Uint8Array(SECTOR);
  const isShort = volumeSectors < 0x1_0000 && bits !== 32;
  const isLarge = bits === 32;
  encodeFields(
    bpbFields,
    {
      BS_jmpBoot: Uint8Array.of(0xeb, isLarge ? 0x58 : 0x3e, 0x90),
      BS_OEMName: padded('MSWIN4.1', 8),
      BPB_BytsPerSec: SECTOR,
      BPB_SecPerClus: layout.sectorsPerCluster,
      BPB_RsvdSecCnt: layout.fatStart - layout.volumeStart,
      BPB_NumFATs: 2,
      BPB_RootEntCnt: layout.rootEntries,
      BPB_TotSec16: isShort ? volumeSectors : 0,
      BPB_Media: mediaByte(layout),
      BPB_FATSz16: isLarge ? 0 : layout.fatSectors,
      BPB_SecPerTrk: geometry.sectorsPerTrack,
      BPB_NumHeads: geometry.heads,
      BPB_HiddSec: layout.volumeStart,
      BPB_TotSec32: isShort ? 0 : volumeSectors,
      signature: SIGNATURE,
    },
    out,
    0,
    'little',
  );
  if (isLarge) {
    const more = {
      BPB_FATSz32: layout.fatSectors,
      BPB_RootClus: 2,
      BPB_FSInfo: 1,
      BPB_BkBootSec: BOOT_COPY,
    };
    encodeFields(fat32Fields, more, out, 0, 'little');
  }
  const volume = {
    BS_DrvNum: isFloppy ? 0 : 0x80,
    BS_BootSig: 0x29,
    BS_VolID: VOLUME_ID,
    BS_VolLab: padded(label, 11),
    BS_FilSysType: padded(`FAT${bits}`, 8),
  };
  encodeFields(volumeFields, volume, out, isLarge ? 64 : 36, 'little');
  return out;
}

/** The first sector of a hard disk: one active partition. */
export function partitionTable(layout: Layout): Uint8Array {
  const out = new Uint8Array(SECTOR);
  const view = new DataView(out.buffer);
  view.setUint32(0x1b8, DISK_ID, true);
  view.setUint16(0x1fe, SIGNATURE, true);
  const entry = {
    status: 0x80,
    first_chs: chs(layout, layout.volumeStart),
    type: partitionType(layout),
    last_chs: chs(layout, layout.totalSectors - 1),
    first_lba: layout.volumeStart,
    sectors: layout.volumeSectors,
  };
  encodeFields(partitionFields, entry, out, 0x1be, 'little');
  return out;
}

function partitionType({ bits, geometry }: Layout): number {
  if (bits === 12) return 0x01;
  if (bits === 16) return 0x06;
  return geometry.cylinders > 1024 ? 0x0c : 0x0b;
}

/** Head, sector and cylinder in three bytes; what lies behind cylinder 1023 is all ones. */
function chs({ geometry }: Layout, lba: number): Uint8Array {
  const { heads, sectorsPerTrack } = geometry;
  const track = Math.floor(lba / sectorsPerTrack);
  const cylinder = Math.floor(track / heads);
  if (cylinder > 1023) return Uint8Array.of(0xfe, 0xff, 0xff);
  const sector = (lba % sectorsPerTrack) + 1;
  return Uint8Array.of(track % heads, sector | ((cylinder >> 8) << 6), cylinder & 0xff);
}
