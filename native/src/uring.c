/* io_uring by raw system calls (Linux 5.6 for the operations used). */
#include "vdisk.h"

#include <errno.h>
#include <linux/io_uring.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef __NR_io_uring_setup
#define __NR_io_uring_setup 425
#define __NR_io_uring_enter 426
#define __NR_io_uring_register 427
#endif
/* Newer than some installed headers. */
#ifndef IORING_SETUP_COOP_TASKRUN
#define IORING_SETUP_COOP_TASKRUN (1U << 8)
#endif
#ifndef IORING_SETUP_TASKRUN_FLAG
#define IORING_SETUP_TASKRUN_FLAG (1U << 9)
#define IORING_SQ_TASKRUN (1U << 2)
#endif
#ifndef IORING_CQ_EVENTFD_DISABLED
#define IORING_CQ_EVENTFD_DISABLED (1U << 0)
#endif
#ifndef IORING_SETUP_SINGLE_ISSUER
#define IORING_SETUP_SINGLE_ISSUER (1U << 12)
#endif
#ifndef IORING_SETUP_DEFER_TASKRUN
#define IORING_SETUP_DEFER_TASKRUN (1U << 13)
#endif

#define PROBE_OPS 64

struct uring {
  struct engines *e;
  int fd;
  int event; /* told of completions that wait to be posted; -1: poll the ring itself */
  bool defer; /* completions are posted only when the thread asks (DEFER_TASKRUN) */
  unsigned inflight; /* submitted and not reaped */
  unsigned *sq_head, *sq_tail, *sq_flags, sq_mask;
  unsigned *cq_head, *cq_tail, *cq_flags, cq_mask;
  struct io_uring_sqe *sqes;
  struct io_uring_cqe *cqes;
  void *ring, *sqe_map;
  size_t ring_bytes, sqe_bytes;
};

static int enter(struct uring *u, unsigned submit, unsigned wait, unsigned flags) {
  return (int)syscall(__NR_io_uring_enter, u->fd, submit, wait, flags, NULL, 0);
}

/*
 * As enter() with IORING_ENTER_GETEVENTS, without telling the eventfd of completions that this
 * very call posts: the caller reaps them. Work that arrives meanwhile sets the flag that
 * has_deferred() reads; that is looked at after the eventfd is on again, so none is missed.
 * The kernel orders its flag before its look at ours on x86 only; elsewhere the eventfd stays
 * on, and wakes the loop once in vain.
 */
static int enter_quietly(struct uring *u, unsigned submit) {
#if defined(__x86_64__)
  if (u->event >= 0) __atomic_store_n(u->cq_flags, IORING_CQ_EVENTFD_DISABLED, __ATOMIC_RELAXED);
  int r = enter(u, submit, 0, IORING_ENTER_GETEVENTS);
  if (u->event >= 0) __atomic_store_n(u->cq_flags, 0, __ATOMIC_SEQ_CST);
  return r;
#else
  return enter(u, submit, 0, IORING_ENTER_GETEVENTS);
#endif
}

/* Best flags first; older kernels say EINVAL to what they do not know. */
static int setup(struct io_uring_params *p) {
  static const unsigned flags[] = {
      IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
      IORING_SETUP_COOP_TASKRUN, 0};
  int fd = -1;
  for (int i = 0; i < 3 && fd < 0; i++) {
    memset(p, 0, sizeof *p);
    p->flags = flags[i] | IORING_SETUP_CQSIZE;
    p->cq_entries = 2 * SLOTS;
    fd = (int)syscall(__NR_io_uring_setup, SLOTS, p);
    if (fd < 0 && errno != EINVAL) return -1;
  }
  return fd;
}

/* Whether the kernel knows each operation used here. */
static bool operations_known(int fd) {
  static const uint8_t wanted[] = {IORING_OP_READ, IORING_OP_WRITE, IORING_OP_READV,
                                   IORING_OP_WRITEV};
  size_t bytes = sizeof(struct io_uring_probe) + PROBE_OPS * sizeof(struct io_uring_probe_op);
  struct io_uring_probe *probe = calloc(1, bytes);
  if (!probe) return false;
  bool known = syscall(__NR_io_uring_register, fd, IORING_REGISTER_PROBE, probe, PROBE_OPS) == 0;
  for (size_t i = 0; known && i < sizeof wanted; i++)
    known = wanted[i] <= probe->last_op && (probe->ops[wanted[i]].flags & IO_URING_OP_SUPPORTED);
  free(probe);
  if (!known) errno = ENOSYS;
  return known;
}

static bool map_rings(struct uring *u, const struct io_uring_params *p) {
  const int prot = PROT_READ | PROT_WRITE, flags = MAP_SHARED | MAP_POPULATE;
  size_t sq = p->sq_off.array + p->sq_entries * sizeof(unsigned);
  size_t cq = p->cq_off.cqes + p->cq_entries * sizeof(struct io_uring_cqe);
  u->ring_bytes = sq > cq ? sq : cq;
  u->sqe_bytes = p->sq_entries * sizeof(struct io_uring_sqe);
  u->ring = mmap(NULL, u->ring_bytes, prot, flags, u->fd, IORING_OFF_SQ_RING);
  if (u->ring == MAP_FAILED) return false;
  u->sqe_map = mmap(NULL, u->sqe_bytes, prot, flags, u->fd, IORING_OFF_SQES);
  if (u->sqe_map == MAP_FAILED) return false;
  char *r = u->ring;
  u->sq_head = (unsigned *)(r + p->sq_off.head);
  u->sq_tail = (unsigned *)(r + p->sq_off.tail);
  u->sq_flags = (unsigned *)(r + p->sq_off.flags);
  u->sq_mask = *(unsigned *)(r + p->sq_off.ring_mask);
  u->cq_head = (unsigned *)(r + p->cq_off.head);
  u->cq_tail = (unsigned *)(r + p->cq_off.tail);
  u->cq_flags = (unsigned *)(r + p->cq_off.flags);
  u->cq_mask = *(unsigned *)(r + p->cq_off.ring_mask);
  u->sqes = u->sqe_map;
  u->cqes = (struct io_uring_cqe *)(r + p->cq_off.cqes);
  unsigned *array = (unsigned *)(r + p->sq_off.array);
  for (unsigned i = 0; i < p->sq_entries; i++) array[i] = i;
  return true;
}

static void unmap(struct uring *u) {
  if (u->ring && u->ring != MAP_FAILED) munmap(u->ring, u->ring_bytes);
  if (u->sqe_map && u->sqe_map != MAP_FAILED) munmap(u->sqe_map, u->sqe_bytes);
  if (u->fd >= 0) close(u->fd);
  if (u->event >= 0) close(u->event);
  free(u);
}

/* Work deferred to this thread does not make the ring's descriptor readable, so an eventfd
 * must tell of it. */
static bool register_event(struct uring *u) {
  u->event = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  return u->event >= 0 && syscall(__NR_io_uring_register, u->fd, IORING_REGISTER_EVENTFD,
                                  &u->event, 1) == 0;
}

struct uring *uring_open(struct engines *e) {
  struct uring *u = calloc(1, sizeof *u);
  if (!u) return NULL;
  struct io_uring_params p;
  u->e = e;
  u->event = -1;
  u->fd = setup(&p);
  bool good = u->fd >= 0 && operations_known(u->fd);
  u->defer = good && (p.flags & IORING_SETUP_DEFER_TASKRUN) != 0;
  if (u->defer) good = register_event(u);
  if (good && !(p.features & IORING_FEAT_SINGLE_MMAP)) {
    errno = ENOSYS;
    good = false;
  }
  if (good && map_rings(u, &p)) return u;
  int saved = errno;
  unmap(u);
  errno = saved;
  return NULL;
}

int uring_fd(const struct uring *u) { return u->event >= 0 ? u->event : u->fd; }

void uring_woken(struct uring *u) {
  uint64_t count;
  while (u->event >= 0 && read(u->event, &count, sizeof count) < 0 && errno == EINTR) {
  }
}

static unsigned queued(const struct uring *u) {
  return *u->sq_tail - __atomic_load_n(u->sq_head, __ATOMIC_ACQUIRE);
}

/* The queue has a place for each slot, so it is never full. */
void uring_push(struct uring *u, int slot) {
  const struct slot *s = &u->e->sh->slots[slot];
  const struct work *w = &u->e->work[slot];
  unsigned tail = *u->sq_tail;
  struct io_uring_sqe *sqe = &u->sqes[tail & u->sq_mask];
  memset(sqe, 0, sizeof *sqe);
  bool read = s->op == OP_READ;
  sqe->fd = s->fd;
  sqe->off = (uint64_t)s->offset;
  sqe->user_data = (uint64_t)slot;
  if (s->pieces == 1) {
    sqe->opcode = read ? IORING_OP_READ : IORING_OP_WRITE;
    sqe->addr = (uintptr_t)w->iov->iov_base;
    sqe->len = (uint32_t)w->iov->iov_len;
  } else {
    sqe->opcode = read ? IORING_OP_READV : IORING_OP_WRITEV;
    sqe->addr = (uintptr_t)w->iov;
    sqe->len = (uint32_t)s->pieces;
  }
  __atomic_store_n(u->sq_tail, tail + 1, __ATOMIC_RELEASE);
  u->e->stats[S_RING]++;
}

void uring_submit(struct uring *u) {
  for (unsigned n = queued(u); n > 0; n = queued(u)) {
    int done = u->defer ? enter_quietly(u, n) : enter(u, n, 0, 0);
    if (done > 0) {
      u->inflight += (unsigned)done;
      continue;
    }
    if (done < 0 && errno == EINTR) continue;
    return; /* EAGAIN, EBUSY: tried again in the next round (uring_pending) */
  }
}

bool uring_pending(const struct uring *u) { return queued(u) > 0; }

/* Whether completions wait to be posted by this thread. */
static bool has_deferred(const struct uring *u) {
  return u->defer && (__atomic_load_n(u->sq_flags, __ATOMIC_ACQUIRE) & IORING_SQ_TASKRUN);
}

unsigned uring_inflight(const struct uring *u) { return u->inflight; }

bool uring_ready(const struct uring *u) {
  if (u->inflight == 0) return false;
  return *u->cq_head != __atomic_load_n(u->cq_tail, __ATOMIC_ACQUIRE) || has_deferred(u);
}

int uring_reap(struct uring *u) {
  if (u->inflight == 0) return 0;
  /* The kernel posts 20 a call. */
  for (int i = 0; i < SLOTS / 20 && has_deferred(u); i++)
    enter_quietly(u, 0);
  unsigned head = *u->cq_head;
  unsigned tail = __atomic_load_n(u->cq_tail, __ATOMIC_ACQUIRE);
  int count = (int)(tail - head);
  for (; head != tail; head++) {
    const struct io_uring_cqe *cqe = &u->cqes[head & u->cq_mask];
    complete(u->e, (int)cqe->user_data, cqe->res);
    u->inflight--;
  }
  __atomic_store_n(u->cq_head, head, __ATOMIC_RELEASE);
  return count;
}

void uring_close(struct uring *u) {
  while (queued(u) > 0 || u->inflight > 0) {
    unsigned n = queued(u);
    int done = enter(u, n, u->inflight + n > 0, IORING_ENTER_GETEVENTS);
    if (done > 0) u->inflight += (unsigned)done;
    if (done < 0 && errno != EINTR && errno != EAGAIN && errno != EBUSY) break;
    uring_reap(u);
  }
  unmap(u);
}
