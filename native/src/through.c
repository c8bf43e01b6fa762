/*
 * File data that is only passed on: looked at and copied in short steps through memory that stays
 * in the processor's cache, so that each byte crosses the memory bus as seldom as can be.
 */
#include "vdisk.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

/* Bytes of a step: caches of the second level are about as large, and writes no faster beyond. */
#define STEP ((size_t)1 << 20)

/* One step's memory of the calling thread. */
static _Thread_local uint8_t *step_memory;

static uint8_t *memory(void) {
  if (!step_memory) step_memory = aligned_alloc(4096, STEP);
  return step_memory;
}

void through_free(void) {
  free(step_memory);
  step_memory = NULL;
}

/* Clears the marks of the blocks of which [at, at + n) holds more than zeroes. */
static void mark(uint8_t *zero, uint64_t block, uint64_t at, const uint8_t *p, size_t n) {
  for (size_t done = 0; done < n;) {
    uint64_t b = (at + done) / block;
    size_t rest = (size_t)((b + 1) * block - (at + done));
    size_t part = rest < n - done ? rest : n - done;
    if (zero[b] && !is_zero(p + done, part)) zero[b] = 0;
    done += part;
  }
}

/* From this length on it pays to look at the beginning of a block before all of it is read. */
#define PROBED ((uint64_t)32 << 10)
#define PROBE ((size_t)512)

/* Reads what the page cache has, into `p`; bytes, 0 at the end of the file, or -errno. */
static ssize_t read_cached(int fd, uint8_t *p, size_t n, off_t offset) {
  struct iovec iov = {.iov_base = p, .iov_len = n};
  for (;;) {
    ssize_t got = preadv2(fd, &iov, 1, offset, RWF_NOWAIT);
    if (got >= 0) return got;
    if (errno != EINTR) return errno == EOPNOTSUPP ? -EAGAIN : -errno;
  }
}

int32_t find_zeroes(struct slot *s) {
  uint64_t bytes = (uint64_t)s->bytes, block = (uint64_t)s->arg1, skew = (uint64_t)s->arg2;
  uint8_t *zero = (uint8_t *)(uintptr_t)s->addr, *p = memory();
  if (!p) return -ENOMEM;
  /* Where all is cached is known, a few bytes are enough to tell most blocks of data. */
  bool probes = block >= PROBED && is_cached(s->fd, (uint64_t)s->offset, bytes);
  memset(zero, 1, (size_t)((skew + bytes + block - 1) / block));
  for (uint64_t at = 0; at < bytes;) {
    uint64_t b = (skew + at) / block, rest = (b + 1) * block - skew - at;
    size_t want = bytes - at < STEP ? (size_t)(bytes - at) : STEP;
    if (probes && !zero[b]) {
      at += rest;
      continue;
    }
    if (probes && (skew + at) % block == 0 && want > PROBE) want = PROBE;
    else if (probes && want > rest) want = (size_t)rest;
    ssize_t n = read_cached(s->fd, p, want, (off_t)s->offset + (off_t)at);
    if (n < 0) return (int32_t)n;
    if (n == 0) break; /* what lies behind the end reads as zeroes */
    mark(zero, block, skew + at, p, (size_t)n);
    at += (uint64_t)n;
  }
  s->result = s->bytes;
  return 0;
}

/* All of [p, p + n) to `offset`; 0 or -errno. */
static int write_step(int fd, const uint8_t *p, size_t n, off_t offset) {
  for (size_t done = 0; done < n;) {
    ssize_t w = pwrite(fd, p + done, n - done, offset + (off_t)done);
    if (w < 0 && errno != EINTR) return -errno;
    if (w == 0) return -ENOSPC;
    if (w > 0) done += (size_t)w;
  }
  return 0;
}

/* Below this, having blocks allocated costs as much as it saves. */
#define ALLOCATED ((size_t)64 << 10)

/*
 * Where copied data goes. ext4 reserves blocks page by page for what is written into a hole, which
 * takes a third of the time of such a write; not where blocks are allocated already. So they are
 * allocated before: for a whole request where that hardly has gaps, as the last one had none, so
 * that the file lies together; else for each run of data. Other file systems gain nothing by it.
 */
struct sink {
  int fd;
  bool allocates;
  off_t allocated; /* blocks up to here are allocated */
  bool gaps;       /* there was something to leave out */
};

/* The last request of the calling thread had gaps. */
static _Thread_local bool had_gaps;

/* Blocks for [offset, offset + n). Where there are none, the write will tell. */
static void sink_allocate(struct sink *k, off_t offset, size_t n) {
  if (!k->allocates || n < ALLOCATED || offset < k->allocated) return;
  if (fallocate(k->fd, FALLOC_FL_KEEP_SIZE, offset, (off_t)n) == 0)
    k->allocated = offset + (off_t)n;
  else
    k->allocates = false;
}

/* `sparse`: there may be something to leave out. */
static void sink_open(struct sink *k, int fd, off_t offset, size_t bytes, bool sparse) {
  struct statfs fs;
  struct stat st;
  *k = (struct sink){.fd = fd};
  k->allocates = fstatfs(fd, &fs) == 0 && fs.f_type == EXT4_SUPER_MAGIC;
  /* Behind the end of the file, nothing is taken back. */
  if (sparse && (had_gaps || fstat(fd, &st) != 0 || offset + (off_t)bytes > st.st_size)) return;
  sink_allocate(k, offset, bytes);
}

/* All of [p, p + n) to `offset`; 0 or -errno. */
static int sink_write(struct sink *k, const uint8_t *p, size_t n, off_t offset) {
  sink_allocate(k, offset, n);
  return write_step(k->fd, p, n, offset);
}

/* Nothing is written to [offset, offset + n); 0 or -errno. */
static int sink_skip(struct sink *k, off_t offset, size_t n) {
  k->gaps = true;
  if (offset >= k->allocated) return 0;
  int r = fallocate(k->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, (off_t)n);
  return r == 0 ? 0 : -errno;
}

/* Writes [p, p + n) without its blocks of zeroes; blocks begin at multiples of `block`. */
static int sink_write_sparse(struct sink *k, const uint8_t *p, size_t n, off_t offset,
                             uint64_t block) {
  size_t start = 0; /* of a run of data, or of zeroes */
  bool zero = false;
  int error = 0;
  for (size_t at = 0; at <= n && error == 0;) {
    size_t rest = (size_t)(block - (uint64_t)(offset + (off_t)at) % block);
    size_t part = rest < n - at ? rest : n - at;
    bool next = at < n && is_zero(p + at, part);
    if (at == n || next != zero) {
      off_t to = offset + (off_t)start;
      if (at > start)
        error = zero ? sink_skip(k, to, at - start) : sink_write(k, p + start, at - start, to);
      start = at;
      zero = next;
    }
    if (at == n) break;
    at += part;
  }
  return error;
}

/* Fills [p, p + n) from `offset` on, with zeroes behind the end of the file; 0 or -errno. */
static int read_step(int fd, uint8_t *p, size_t n, off_t offset) {
  for (size_t got = 0; got < n;) {
    ssize_t r = pread(fd, p + got, n - got, offset + (off_t)got);
    if (r < 0 && errno == EINTR) continue;
    if (r < 0) return -errno;
    if (r == 0) {
      memset(p + got, 0, n - got);
      return 0;
    }
    got += (size_t)r;
  }
  return 0;
}

int32_t write_from(struct slot *s) {
  const struct origin *from = (const struct origin *)(uintptr_t)s->addr;
  uint64_t bytes = (uint64_t)s->bytes, block = (uint64_t)from->block;
  uint8_t *p = memory();
  if (!p) return -ENOMEM;
  struct sink sink;
  sink_open(&sink, s->fd, (off_t)s->offset, (size_t)bytes, block > 0);
  for (uint64_t at = 0; at < bytes;) {
    off_t to = (off_t)s->offset + (off_t)at;
    /* Steps end where blocks do. */
    size_t n = block > 0 && block <= STEP ? STEP - (size_t)((uint64_t)to % block) : STEP;
    if (n > bytes - at) n = (size_t)(bytes - at);
    int error = read_step((int)from->fd, p, n, (off_t)from->offset + (off_t)at);
    if (error == 0)
      error = block > 0 ? sink_write_sparse(&sink, p, n, to, block) : sink_write(&sink, p, n, to);
    if (error < 0) return error;
    at += n;
  }
  if (block > 0) had_gaps = sink.gaps;
  s->result = s->bytes;
  return 0;
}
