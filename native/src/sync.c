/* What is asked and answered at once: limits, sizes, flags and locks of an open file. */
#include "vdisk.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#ifndef F_OFD_GETLK
#define F_OFD_GETLK 36
#define F_OFD_SETLK 37
#endif

#define LARGEST_SECTOR 4096

/* The part of struct statx that is needed, at its ABI offsets (linux/stat.h may be older). */
#define STATX_DIOALIGN_BIT 0x2000u
#define STATX_BYTES 256
#define STATX_MEM_ALIGN 152
#define STATX_OFFSET_ALIGN 156

static uint32_t word_at(const uint8_t *p, size_t at) {
  uint32_t v;
  memcpy(&v, p + at, sizeof v);
  return v;
}

/* Direct-I/O alignment as the file system tells it (Linux 6.1); false when it does not. */
static bool told_alignment(int fd, struct limits *out) {
  uint8_t buf[STATX_BYTES] = {0};
  if (syscall(__NR_statx, fd, "", AT_EMPTY_PATH, STATX_DIOALIGN_BIT, buf) < 0) return false;
  if (!(word_at(buf, 0) & STATX_DIOALIGN_BIT) || word_at(buf, STATX_OFFSET_ALIGN) == 0)
    return false;
  out->memory_align = word_at(buf, STATX_MEM_ALIGN);
  out->offset_align = word_at(buf, STATX_OFFSET_ALIGN);
  return true;
}

/* By trial: reads of growing size and address until the kernel takes one. */
static void probe_alignment(int fd, struct limits *out) {
  out->offset_align = out->memory_align = LARGEST_SECTOR;
  void *memory;
  if (posix_memalign(&memory, LARGEST_SECTOR, 2 * LARGEST_SECTOR) != 0) return;
  struct stat st;
  /* Nothing is checked at the end of the file, so an empty one tells nothing. */
  bool empty = fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size == 0;
  for (uint32_t a = 512; !empty && a < LARGEST_SECTOR; a *= 2)
    if (pread(fd, memory, a, 0) >= 0 || errno != EINVAL) {
      out->offset_align = a;
      break;
    }
  for (uint32_t a = 512; !empty && a < LARGEST_SECTOR; a *= 2)
    if (pread(fd, (char *)memory + a, out->offset_align, 0) >= 0 || errno != EINVAL) {
      out->memory_align = a;
      break;
    }
  free(memory);
}

/* A number from the device's queue folder in sysfs; 0 when there is none. */
static uint32_t queue_value(dev_t dev, const char *name) {
  /* A partition's queue is its disk's. */
  static const char *const places[] = {"/sys/dev/block/%u:%u/queue/%s",
                                       "/sys/dev/block/%u:%u/../queue/%s"};
  for (int i = 0; i < 2; i++) {
    char path[128];
    snprintf(path, sizeof path, places[i], major(dev), minor(dev), name);
    FILE *f = fopen(path, "re");
    if (!f) continue;
    unsigned long value = 0;
    int got = fscanf(f, "%lu", &value);
    fclose(f);
    return got == 1 && value <= UINT32_MAX ? (uint32_t)value : 0;
  }
  return 0;
}

int file_limits(int fd, bool direct, struct limits *out) {
  struct stat st;
  if (fstat(fd, &st) < 0) return -errno;
  *out = (struct limits){.offset_align = 1, .memory_align = 1};
  out->max_transfer = TRANSFER_LIMIT;
  out->optimal = (uint32_t)st.st_blksize;
  if (direct && !told_alignment(fd, out)) probe_alignment(fd, out);
  if (S_ISBLK(st.st_mode)) {
    int sector = 0;
    unsigned best = 0;
    if (direct && ioctl(fd, BLKSSZGET, &sector) == 0 && (uint32_t)sector > out->offset_align)
      out->offset_align = (uint32_t)sector;
    if (ioctl(fd, BLKIOOPT, &best) == 0 && best > 0) out->optimal = best;
    out->discard = queue_value(st.st_rdev, "discard_granularity");
  }
  return 0;
}

int file_size(int fd, double *size, double *allocated) {
  struct stat st;
  if (fstat(fd, &st) < 0) return -errno;
  *size = (double)st.st_size;
  *allocated = (double)st.st_blocks * 512;
  if (S_ISBLK(st.st_mode)) {
    uint64_t bytes;
    if (ioctl(fd, BLKGETSIZE64, &bytes) < 0) return -errno;
    *size = (double)bytes;
  } else if (S_ISCHR(st.st_mode)) {
    off_t end = lseek(fd, 0, SEEK_END);
    *size = end > 0 ? (double)end : 0;
  }
  return 0;
}

int set_direct(int fd, bool direct) {
  int flags = fcntl(fd, F_GETFL);
  if (flags < 0) return -errno;
  flags = direct ? flags | O_DIRECT : flags & ~O_DIRECT;
  return fcntl(fd, F_SETFL, flags) < 0 ? -errno : 0;
}

/* type: 0 unlock, 1 shared, 2 exclusive. With `test`: 0 free, 1 held by another. */
int ofd_lock(int fd, int type, off_t offset, off_t bytes, bool test) {
  static const short types[] = {F_UNLCK, F_RDLCK, F_WRLCK};
  if (type < 0 || type > 2 || bytes <= 0) return -EINVAL;
  struct flock lock = {.l_type = types[type], .l_whence = SEEK_SET};
  lock.l_start = offset;
  lock.l_len = bytes;
  int r;
  do {
    r = fcntl(fd, test ? F_OFD_GETLK : F_OFD_SETLK, &lock);
  } while (r < 0 && errno == EINTR);
  if (r < 0) return -errno;
  return test && lock.l_type != F_UNLCK;
}
