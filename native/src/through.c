/*
 * File data that is only passed on: looked at and copied in short steps through memory that stays
 * in the processor's cache, so that each byte crosses the memory bus as seldom as can be.
 */
#include "vdisk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

/* Bytes of a step: most second-level caches are larger. */
#define STEP ((size_t)256 << 10)

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

/* As write_step, without the blocks of zeroes; blocks begin at multiples of `block`. */
static int write_sparse(int fd, const uint8_t *p, size_t n, off_t offset, uint64_t block) {
  size_t start = 0; /* of what is to be written */
  for (size_t at = 0; at < n;) {
    size_t rest = (size_t)(block - (uint64_t)(offset + (off_t)at) % block);
    size_t part = rest < n - at ? rest : n - at;
    if (is_zero(p + at, part)) {
      int error = write_step(fd, p + start, at - start, offset + (off_t)start);
      if (error < 0) return error;
      start = at + part;
    }
    at += part;
  }
  return write_step(fd, p + start, n - start, offset + (off_t)start);
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
  for (uint64_t at = 0; at < bytes;) {
    off_t to = (off_t)s->offset + (off_t)at;
    /* Steps end where blocks do. */
    size_t n = block > 0 && block <= STEP ? STEP - (size_t)((uint64_t)to % block) : STEP;
    if (n > bytes - at) n = (size_t)(bytes - at);
    int error = read_step((int)from->fd, p, n, (off_t)from->offset + (off_t)at);
    if (error == 0)
      error = block > 0 ? write_sparse(s->fd, p, n, to, block) : write_step(s->fd, p, n, to);
    if (error < 0) return error;
    at += n;
  }
  s->result = s->bytes;
  return 0;
}
