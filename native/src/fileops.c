/* Operations that a pool thread runs: each blocks until done. */
#include "vdisk.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* One step of copy_file_range, so that a copy can end between steps. */
#define COPY_STEP (16 << 20)
/* Window of the file mapped at once to ask for resident pages. */
#define MAP_STEP ((off_t)256 << 20)

static int32_t result_of(int64_t r) { return r < 0 ? -errno : (int32_t)r; }

/* Shares extents where the file system can; 0 or -errno. */
static int clone_range(int from, off_t source, int to, off_t target, uint64_t bytes) {
  struct file_clone_range range = {
      .src_fd = from,
      .src_offset = (uint64_t)source,
      .src_length = bytes,
      .dest_offset = (uint64_t)target,
  };
  return ioctl(to, FICLONERANGE, &range) == 0 ? 0 : -errno;
}

static int32_t copy_range(struct slot *s) {
  int from = (int)s->arg1;
  loff_t source = (loff_t)s->arg2, target = (loff_t)s->offset;
  uint64_t left = (uint64_t)s->bytes;
  if (((source | target) & 4095) == 0 && clone_range(from, source, s->fd, target, left) == 0) {
    s->result = s->bytes;
    return 0;
  }
  double copied = 0;
  while (left > 0) {
    size_t step = left < COPY_STEP ? (size_t)left : COPY_STEP;
    ssize_t n = syscall(__NR_copy_file_range, from, &source, s->fd, &target, step, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && copied == 0) return -errno;
    if (n <= 0) break;
    copied += (double)n;
    left -= (uint64_t)n;
  }
  s->result = copied;
  return 0;
}

int64_t extent_at(int fd, off_t offset) {
  off_t data = lseek(fd, offset, SEEK_DATA);
  if (data < 0 && errno == ENXIO) {
    off_t end = lseek(fd, 0, SEEK_END);
    return end > offset ? offset - end : 0;
  }
  if (data < 0) return 0;
  if (data > offset) return offset - data;
  off_t hole = lseek(fd, offset, SEEK_HOLE);
  return hole > offset ? hole - offset : 0;
}

/* Bytes of the file that the page cache holds. */
static int32_t resident(struct slot *s) {
  off_t end = lseek(s->fd, 0, SEEK_END);
  if (end < 0) return -errno;
  long page = sysconf(_SC_PAGESIZE);
  unsigned char *seen = malloc((size_t)(MAP_STEP / page));
  if (!seen) return -ENOMEM;
  int32_t res = 0;
  for (off_t at = 0; at < end && res == 0; at += MAP_STEP) {
    size_t bytes = (size_t)(end - at < MAP_STEP ? end - at : MAP_STEP);
    void *map = mmap(NULL, bytes, PROT_READ, MAP_SHARED, s->fd, at);
    if (map == MAP_FAILED) {
      res = -errno;
      break;
    }
    if (mincore(map, bytes, seen) < 0) res = -errno;
    size_t pages = (bytes + (size_t)page - 1) / (size_t)page;
    for (size_t i = 0; res == 0 && i < pages; i++)
      if (seen[i] & 1) s->result += (double)page;
    munmap(map, bytes);
  }
  free(seen);
  return res;
}

static int32_t drop_cache(struct slot *s) {
  if (fdatasync(s->fd) < 0) return -errno;
  return -posix_fadvise(s->fd, 0, 0, POSIX_FADV_DONTNEED);
}

static int32_t device_range(struct slot *s, unsigned long request) {
  uint64_t range[2] = {(uint64_t)s->offset, (uint64_t)s->bytes};
  return result_of(ioctl(s->fd, request, range));
}

static int32_t run_once(struct slot *s, struct iovec *iov) {
  off_t offset = (off_t)s->offset;
  switch ((enum op)s->op) {
  case OP_READ:
    return result_of(preadv(s->fd, iov, s->pieces, offset));
  case OP_WRITE:
    return result_of(pwritev(s->fd, iov, s->pieces, offset));
  case OP_FDATASYNC:
    return result_of(fdatasync(s->fd));
  case OP_TRUNCATE:
    return result_of(ftruncate(s->fd, offset));
  case OP_FALLOCATE:
    return result_of(fallocate(s->fd, (int)s->arg1, offset, (off_t)s->bytes));
  case OP_COPY:
    return copy_range(s);
  case OP_DISCARD:
    return device_range(s, BLKDISCARD);
  case OP_ZERO_OUT:
    return device_range(s, BLKZEROOUT);
  case OP_DROP_CACHE:
    return drop_cache(s);
  case OP_RESIDENT:
    return resident(s);
  case OP_EXTENT:
    s->result = (double)extent_at(s->fd, offset);
    return 0;
  case OP_FIND_ZEROES:
    return find_zeroes(s);
  case OP_WRITE_FROM:
    return write_from(s);
  case OP_XTS:
    sector_crypt((const struct sector_key *)(uintptr_t)s->arg1, (uint8_t *)(uintptr_t)s->addr,
                 (size_t)s->bytes, (size_t)s->offset, (uint64_t)s->arg2, s->fd != 0);
    return 0;
  case OP_DEFLATE:
  case OP_INFLATE:
  case OP_ZSTD_COMPRESS:
  case OP_ZSTD_DECOMPRESS:
    return run_codec(s);
  case OP_COUNT:
    break;
  }
  return -ENOSYS;
}

int32_t run_slot(struct slot *s, struct iovec *iov) {
  /* Transfers report EINTR (JavaScript goes on from there); the rest starts over. */
  for (;;) {
    int32_t res = run_once(s, iov);
    if (res != -EINTR || s->op == OP_READ || s->op == OP_WRITE) return res;
  }
}
