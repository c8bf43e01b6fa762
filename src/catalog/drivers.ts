/**
 * The list of block drivers. A new driver is a file and a line here; descriptors are light,
 * what is heavy behind them is imported when a node is opened.
 *
 * Order matters for two things only: the first of several formats that recognise an image
 * with the same score is taken, and `-o help` style lists print it as it stands.
 */
import type { Driver } from '../block/driver.js';
import { blkdebugDriver } from '../filter/blkdebug/driver.js';
import { blklogwritesDriver } from '../filter/blklogwrites.js';
import { blkverifyDriver } from '../filter/blkverify.js';
import { compressDriver } from '../filter/compress.js';
import { copyBeforeWriteDriver } from '../filter/copy-before-write/driver.js';
import { copyOnReadDriver } from '../filter/copy-on-read.js';
import { preallocateDriver } from '../filter/preallocate.js';
import { quorumDriver } from '../filter/quorum.js';
import { replicationDriver } from '../filter/replication.js';
import { snapshotAccessDriver } from '../filter/snapshot-access.js';
import { throttleDriver } from '../filter/throttle.js';
import { bochsDriver } from '../format/bochs/driver.js';
import { cloopDriver } from '../format/cloop/driver.js';
import { dmgDriver } from '../format/dmg/driver.js';
import { luksDriver } from '../format/luks/driver.js';
import { parallelsDriver } from '../format/parallels/driver.js';
import { qcowDriver } from '../format/qcow/driver.js';
import { qcow2Driver } from '../format/qcow2/driver.js';
import { qedDriver } from '../format/qed/driver.js';
import { rawDriver } from '../format/raw/driver.js';
import { vdiDriver } from '../format/vdi/driver.js';
import { vhdxDriver } from '../format/vhdx/driver.js';
import { vmdkDriver } from '../format/vmdk/driver.js';
import { vpcDriver } from '../format/vpc/driver.js';
import { fileDriver, hostCdromDriver, hostDeviceDriver } from '../protocol/file/driver.js';
import { memoryDriver } from '../protocol/memory/driver.js';
import { nbdDriver } from '../protocol/nbd/driver.js';
import { nullAioDriver, nullCoDriver } from '../protocol/null/driver.js';
import { vvfatDriver } from '../protocol/vvfat/driver.js';

export const drivers: readonly Driver[] = [
  fileDriver,
  hostDeviceDriver,
  hostCdromDriver,
  memoryDriver,
  nullCoDriver,
  nullAioDriver,
  rawDriver,
  qcow2Driver,
  luksDriver,
  bochsDriver,
  cloopDriver,
  dmgDriver,
  vpcDriver,
  vdiDriver,
  vhdxDriver,
  vmdkDriver,
  qedDriver,
  parallelsDriver,
  qcowDriver,
  nbdDriver,
  vvfatDriver,
  blkdebugDriver,
  throttleDriver,
  blklogwritesDriver,
  blkverifyDriver,
  compressDriver,
  copyBeforeWriteDriver,
  copyOnReadDriver,
  preallocateDriver,
  quorumDriver,
  replicationDriver,
  snapshotAccessDriver,
];
