// Goal: libvirt's sequences of commands for a running disk's chain of images (start, hot-plug,
// snapshot, commit, pull, copy) work to the end, and a guest that goes on writing finds its data.
// Method: the programs driven as libvirt drives QEMU; QEMU's qemu-img reads the images.
import { expect, it } from 'vitest';
import { requires, seededRandom } from '../support/index.js';
import type { Image } from './libvirt-support.js';
import { Domain, kinds } from './libvirt-support.js';

const TIMEOUT = 60_000;
const manual = { 'auto-finalize': true, 'auto-dismiss': false };

function domain(kind: (typeof kinds)[number]): Promise<Domain> {
  return Domain.start(kind, seededRandom());
}

requires('qemu-img')('libvirt', () => {
  it(
    'plugs and unplugs a disk',
    async () => {
      const dom = await domain('vdisk-system');
      const image = await dom.addImage('second.qcow2');
      const device = { driver: 'virtio-blk-pci', bus: 'pci.0', addr: '0x5', id: 'virtio-disk1' };
      await dom.ok('device_add', { ...device, drive: image.format });
      const limits = { iops: 0, iops_rd: 100, iops_wr: 0, bps: 0, bps_rd: 0, bps_wr: 0 };
      const id = '/machine/peripheral/virtio-disk1/virtio-backend';
      await dom.ok('block_set_io_throttle', { id, ...limits, group: 'drive-virtio-disk1' });
      const inUse = await dom.execute('blockdev-del', { 'node-name': image.format });
      expect(inUse).toMatchObject({
        error: { desc: `Node ${image.format} is in use` },
      });
      await dom.ok('device_del', { id: 'virtio-disk1' });
      // A guest would let it go; here the reset does.
      await dom.ok('system_reset');
      await expect
        .poll(async () => dom.execute('blockdev-del', { 'node-name': image.format }))
        .toEqual({ return: {} });
      await dom.ok('blockdev-del', { 'node-name': image.storage });
      expect(await dom.nodes()).toEqual(['libvirt-1-format', 'libvirt-1-storage']);
      await dom.end();
    },
    TIMEOUT,
  );

  it.each(kinds)(
    '%s: snapshots, commit of one in the middle, commit of the active one with pivot',
    async (kind) => {
      const dom = await domain(kind);
      const [base] = dom.chain as [Image];
      const middle = await dom.snapshot('snap1.qcow2');
      await dom.write(10);
      const top = await dom.snapshot('snap2.qcow2');
      await dom.write(10);
      await commit(dom, 'commit-vda-libvirt-2-format', middle, base);
      await dom.finish('commit-vda-libvirt-2-format');
      await dom.remove(middle);
      await dom.write(10);
      const job = 'commit-vda-libvirt-3-format';
      await commit(dom, job, top, base, { 'auto-finalize': false });
      await dom.until(job, 'ready');
      await dom.write(10);
      await dom.ok('job-complete', { id: job });
      await dom.until(job, 'pending');
      await dom.ok('job-finalize', { id: job });
      await dom.finish(job);
      await dom.remove(top);
      await dom.write(10);
      expect(await dom.nodes()).toEqual(['libvirt-1-format', 'libvirt-1-storage']);
      await dom.end();
    },
    TIMEOUT,
  );

  it.each(kinds)(
    '%s: pull of a part of the chain, then of all',
    async (kind) => {
      const dom = await domain(kind);
      const [base] = dom.chain as [Image];
      const middle = await dom.snapshot('snap1.qcow2');
      await dom.write(10);
      const top = await dom.snapshot('snap2.qcow2');
      await dom.write(10);
      const job = 'pull-vda-libvirt-3-format';
      const how = { device: top.format, 'job-id': job, ...manual };
      const names = { 'base-node': base.format, 'backing-file': base.path };
      await dom.ok('block-stream', { ...how, ...names, speed: 0 });
      await dom.write(5);
      await dom.finish(job);
      await dom.remove(middle);
      await dom.ok('block-stream', how);
      await dom.write(5);
      await dom.finish(job);
      await dom.remove(base);
      expect(await dom.nodes()).toEqual([top.format, top.storage]);
      await dom.end();
    },
    TIMEOUT,
  );

  it.each(kinds)(
    '%s: copy of the chain: one given up, one that the guest goes on with',
    async (kind) => {
      const dom = await domain(kind);
      const [base] = dom.chain as [Image];
      const top = await dom.snapshot('snap1.qcow2');
      await dom.write(10);
      for (const name of ['given-up', 'new']) {
        const copy = await dom.addImage(`${name}.qcow2`);
        const job = `copy-vda-${copy.format}`;
        const how = { 'job-id': job, device: top.format, target: copy.format, ...manual };
        await dom.ok('blockdev-mirror', { ...how, sync: 'full', 'buf-size': 1 << 20, speed: 0 });
        await dom.until(job, 'ready');
        await dom.write(10);
        if (name === 'given-up') {
          await dom.ok('block-job-cancel', { device: job, force: true });
          await dom.finish(job, 'Operation canceled');
          await dom.remove(copy);
          continue;
        }
        await dom.ok('job-complete', { id: job });
        await dom.finish(job);
        await dom.remove(top);
        await dom.remove(base);
        dom.chain.push(copy);
      }
      await dom.write(10);
      expect(await dom.nodes()).toEqual([dom.active.format, dom.active.storage]);
      await dom.end();
    },
    TIMEOUT,
  );
});

/** The base becomes writable first, as libvirt lets it. */
async function commit(
  dom: Domain,
  job: string,
  top: Image,
  base: Image,
  more: Record<string, unknown> = {},
): Promise<void> {
  await dom.ok('block-commit', {
    device: dom.active.format,
    'job-id': job,
    'top-node': top.format,
    'base-node': base.format,
    ...(top === dom.active ? {} : { 'backing-file': base.path }),
    speed: 0,
    ...manual,
    ...more,
  });
}
