/* Takes what JavaScript queued, finishes inline what the page cache can, spreads the rest. */
#include "vdisk.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

/* Bytes copied on the event loop's thread per batch; more goes to the pool's threads. */
#define INLINE_BYTES (256 << 10)
/* A lone request up to here is cheaper copied here than handed over. */
#define INLINE_LONE_BYTES (1 << 20)
/* How long to wait for one more completion behind another, and for all. */
#define GATHER_NS 3000u
#define GATHER_MOST_NS 50000u
/* A write inline that took longer may show that writers are being throttled; the next such
 * within SUSPECT_NS, when the thread slept in it (and was not just preempted), proves it: */
#define WRITE_SLOW_NS 4000000u
#define SUSPECT_NS 100000000u
/* then writes go to the pool for this long. */
#define WRITE_PAUSE_NS 200000000u
/* A lone write to the device itself is done here if the last one took no longer than two
 * switches between threads that sleep may take; else such writes pause, twice as long each time. */
#define DIRECT_SLOW_NS 1000000u
#define DIRECT_PAUSE_MOST_NS 30000000000u

void complete(struct engines *e, int slot, int32_t res) {
  int32_t *pair = &e->sh->cq[2 * e->cq_count++];
  pair[0] = slot;
  pair[1] = res;
}

/* Turns the slot's memory into iovecs (pairs of doubles become iovecs in place). */
static void prepare(struct engines *e, int slot) {
  const struct slot *s = &e->sh->slots[slot];
  struct work *w = &e->work[slot];
  if (s->pieces <= 1) {
    w->one.iov_base = (void *)(uintptr_t)s->addr;
    w->one.iov_len = (size_t)s->bytes;
    w->iov = &w->one;
    return;
  }
  union {
    double number;
    uint64_t word;
  } *pair = (void *)(uintptr_t)s->addr;
  for (int i = 0; i < 2 * s->pieces; i++) pair[i].word = (uint64_t)pair[i].number;
  w->iov = (struct iovec *)pair;
}

/* A read that the page cache can answer at once. */
static bool read_inline(struct engines *e, int slot) {
  const struct slot *s = &e->sh->slots[slot];
  struct work *w = &e->work[slot];
  ssize_t n = preadv2(s->fd, w->iov, s->pieces, (off_t)s->offset, RWF_NOWAIT);
  if (n < 0 && (errno == EAGAIN || errno == EOPNOTSUPP || errno == EINTR || errno == ENOSYS))
    return false;
  complete(e, slot, n < 0 ? -errno : (int32_t)n);
  return true;
}

/* How often this thread gave up the CPU by itself. */
static long sleeps(void) {
  struct rusage usage;
  return getrusage(RUSAGE_THREAD, &usage) == 0 ? usage.ru_nvcsw : 0;
}

/* A write into the page cache, unless such writes were seen to wait lately. */
static bool write_inline(struct engines *e, int slot) {
  const struct slot *s = &e->sh->slots[slot];
  uint64_t before = now_ns();
  if (before < e->write_slow_until) return false;
  bool suspect = before < e->write_suspect_until;
  long slept = suspect ? sleeps() : 0;
  ssize_t n = pwritev(s->fd, e->work[slot].iov, s->pieces, (off_t)s->offset);
  int32_t res = n < 0 ? -errno : (int32_t)n;
  if (res == -EINTR) return false;
  uint64_t after = now_ns();
  if (after - before > WRITE_SLOW_NS) {
    if (suspect && sleeps() > slept) e->write_slow_until = after + WRITE_PAUSE_NS;
    e->write_suspect_until = after + SUSPECT_NS;
  }
  complete(e, slot, res);
  return true;
}

/* A write past the page cache that nothing else runs beside, unless the device is slow. */
static bool write_direct_inline(struct engines *e, int slot) {
  const struct slot *s = &e->sh->slots[slot];
  uint64_t before = now_ns();
  if (before < e->direct_slow_until) return false;
  ssize_t n = pwritev(s->fd, e->work[slot].iov, s->pieces, (off_t)s->offset);
  int32_t res = n < 0 ? -errno : (int32_t)n;
  if (res == -EINTR) return false;
  uint64_t after = now_ns(), pause = e->direct_pause_ns;
  if (after - before > DIRECT_SLOW_NS) {
    e->direct_slow_until = after + pause;
    pause = pause * 2 < DIRECT_PAUSE_MOST_NS ? pause * 2 : DIRECT_PAUSE_MOST_NS;
  } else {
    pause = pause / 2 > WRITE_PAUSE_NS ? pause / 2 : WRITE_PAUSE_NS;
  }
  e->direct_pause_ns = pause;
  complete(e, slot, res);
  return true;
}

static void route(struct engines *e, int slot, bool tried) {
  const struct slot *s = &e->sh->slots[slot];
  bool transfer = s->op == OP_READ || s->op == OP_WRITE;
  bool cached = (e->sh->flags[slot] & F_CACHED) != 0;
  if (s->op == OP_FIND_ZEROES || s->op == OP_WRITE_FROM)
    pool_push(e->pool, slot, LANE_BURNS);
  else if (!transfer)
    pool_push(e->pool, slot, s->op >= OP_XTS ? LANE_COMPUTES : LANE_SLEEPS);
  else if (cached && !tried)
    pool_push(e->pool, slot, LANE_BURNS);
  else if (s->engine == ENGINE_URING && e->uring && (s->op == OP_READ || !cached))
    uring_push(e->uring, slot);
  else if (s->engine == ENGINE_AIO && e->aio && !cached)
    aio_push(e->aio, slot);
  else
    pool_push(e->pool, slot, cached && s->op == OP_WRITE ? LANE_BURNS : LANE_SLEEPS);
}

static void start_all(struct engines *e) {
  if (e->uring && uring_pending(e->uring)) uring_submit(e->uring);
  if (e->aio && aio_pending(e->aio)) aio_submit(e->aio);
  pool_submit(e->pool);
}

/* What others carry starts first, and runs while this thread copies what it does itself. */
void submit_queued(struct engines *e) {
  int32_t *header = e->sh->header;
  int n = header[H_QUEUED], mine = 0;
  header[H_QUEUED] = 0;
  header[H_BATCH] = (int32_t)((uint32_t)header[H_BATCH] + 1);
  bool lone = n == 1 && header[H_INFLIGHT] == 1;
  double budget = lone ? INLINE_LONE_BYTES : INLINE_BYTES;
  for (int i = 0; i < n; i++) {
    int slot = e->sh->sq[i];
    const struct slot *s = &e->sh->slots[slot];
    prepare(e, slot);
    int32_t flags = e->sh->flags[slot];
    if ((flags & F_CACHED) && s->op <= OP_WRITE && s->bytes <= budget) {
      budget -= s->bytes;
      e->sh->sq[mine++] = slot;
    } else if (lone && flags == F_AT_ONCE && s->op == OP_WRITE && s->bytes <= budget &&
               write_direct_inline(e, slot)) {
      e->stats[S_INLINE]++;
    } else {
      route(e, slot, false);
    }
  }
  if (n > 0) e->stats[S_BATCHES]++;
  start_all(e);
  for (int i = 0; i < mine; i++) {
    int slot = e->sh->sq[i];
    if (e->sh->slots[slot].op == OP_READ ? read_inline(e, slot) : write_inline(e, slot))
      e->stats[S_INLINE]++;
    else
      route(e, slot, true);
  }
  if (mine > 0) start_all(e);
}

bool submit_pending(const struct engines *e) {
  return (e->uring && uring_pending(e->uring)) || (e->aio && aio_pending(e->aio));
}

static bool any_ready(const void *arg) {
  const struct engines *e = arg;
  return (e->uring && uring_ready(e->uring)) || (e->aio && aio_ready(e->aio)) ||
         pool_ready(e->pool);
}

static int reap_kernel(struct engines *e) {
  return (e->uring ? uring_reap(e->uring) : 0) + (e->aio ? aio_reap(e->aio) : 0);
}

static unsigned kernel_inflight(const struct engines *e) {
  return (e->uring ? uring_inflight(e->uring) : 0) + (e->aio ? aio_inflight(e->aio) : 0);
}

/*
 * Neighbours that the block layer merged complete one after the other within microseconds. To
 * go on with the first alone would send out single requests ever after, each of which costs
 * the device as much as all of them merged.
 */
void reap_all(struct engines *e) {
  pool_reap(e->pool);
  if (reap_kernel(e) == 0 || kernel_inflight(e) == 0) return;
  uint64_t end = now_ns() + GATHER_MOST_NS;
  while (kernel_inflight(e) > 0 && glance(GATHER_NS, any_ready, e)) {
    pool_reap(e->pool);
    if (reap_kernel(e) == 0 || now_ns() >= end) break;
  }
}

bool poll_done(struct engines *e) {
  if (pool_busy(e->pool)) return false; /* its threads want the CPU */
  bool hit = look_for(&e->polling, any_ready, e);
  if (hit) e->stats[S_POLLS]++;
  return hit;
}

/*
 * A peer that waits for one answer before it asks again asks sooner than a sleeping thread
 * wakes up. Data on a socket that nobody reads now ends the look; the loop then sleeps.
 */
static bool any_readable(const void *arg) {
  const struct engines *e = arg;
  struct pollfd fds[SOCKETS];
  for (int i = 0; i < e->socket_count; i++) fds[i] = e->sockets[i];
  return poll(fds, (nfds_t)e->socket_count, 0) != 0 || any_ready(e);
}

bool poll_sockets(struct engines *e) {
  if (e->socket_count == 0) return false;
  bool hit = look_for(&e->listening, any_readable, e);
  if (hit) e->stats[S_POLLS]++;
  return hit;
}

void watch_socket(struct engines *e, int fd, bool on) {
  int i = 0;
  while (i < e->socket_count && e->sockets[i].fd != fd) i++;
  if (!on && i < e->socket_count)
    e->sockets[i] = e->sockets[--e->socket_count];
  else if (on && i == e->socket_count && i < SOCKETS)
    e->sockets[e->socket_count++] = (struct pollfd){.fd = fd, .events = POLLIN};
}

void engines_open(struct engines *e, struct shared *sh, uint64_t poll_ns) {
  e->sh = sh;
  e->direct_pause_ns = WRITE_PAUSE_NS;
  polling_init(&e->polling, poll_ns);
  polling_init(&e->listening, poll_ns);
  e->pool = pool_open(e, poll_ns);
}

void engines_close(struct engines *e) {
  e->sh->header[H_QUEUED] = 0;
  e->cq_count = 0; /* nobody listens any more */
  if (e->uring) uring_close(e->uring);
  e->cq_count = 0;
  if (e->aio) aio_close(e->aio);
  if (e->pool) pool_close(e->pool);
  codec_free();
  through_free();
}
