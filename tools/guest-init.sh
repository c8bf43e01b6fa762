#!/bin/sh
# The first program of the guest that tests boot. Words of the kernel's command line:
#   modules=a,b   drivers to load, what they need included
#   libata.dma=0  programmed I/O
#   disk=/dev/sda what is written to; absent: a shell
#   seed=TEXT     what the written pattern is made of
#   size=BYTES    its length
#   rounds=N      how often it is written
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev

word() {
  for each in $(cat /proc/cmdline); do
    case $each in
    "$1"=*) echo "${each#*=}" ;;
    esac
  done
}

# Modules stand in the order in which they can be loaded; those of other disks stay out.
skip=" ata_piix ahci virtio_blk virtio_pci floppy sr_mod isofs "
for name in $(word modules | sed 's/,/ /g'); do
  skip=$(echo "$skip" | sed "s/ $name / /")
done
for file in $(cat /lib/order); do
  case $skip in
  *" ${file%.ko} "*) ;;
  *)
    options=
    [ "$file" = libata.ko ] && [ -n "$(word libata.dma)" ] && options="dma=$(word libata.dma)"
    insmod "/lib/$file" $options 2>/dev/null
    ;;
  esac
done

disk=$(word disk)
if [ -z "$disk" ]; then
  echo "guest: ready"
  exec sh
fi
for try in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
  [ -b "$disk" ] && break
  sleep 0.5
done

fail() {
  echo "guest: failed: $1"
  dmesg | grep -i -E 'error|ata|virtio|ext4' | tail -n 20
  poweroff -f
}

seed=$(word seed)
size=$(word size)
rounds=$(word rounds)
mount -t ext4 "$disk" /mnt || fail "cannot mount $disk"
echo "guest: read $(cat /mnt/greeting)"
round=0
while [ "$round" -lt "${rounds:-1}" ]; do
  yes "$seed $round" | head -c "$size" >/mnt/pattern || fail "cannot write"
  sync
  echo "guest: wrote round $round"
  round=$((round + 1))
done
umount /mnt || fail "cannot unmount"
echo 3 >/proc/sys/vm/drop_caches
mount -t ext4 "$disk" /mnt || fail "cannot mount $disk again"
[ "$(yes "$seed $((round - 1))" | head -c "$size" | md5sum)" = "$(md5sum </mnt/pattern)" ] ||
  fail "read something else"
umount /mnt
echo "guest: verified $(dmesg | grep -c -i -E 'I/O error|exception Emask|EXT4-fs error') errors"
poweroff -f
