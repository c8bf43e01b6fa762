/* Linux AIO by raw system calls; completions are told by an eventfd. */
#include "vdisk.h"

#include <errno.h>
#include <linux/aio_abi.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The ring that the kernel maps at the context's address (layout of fs/aio.c, checked by
 * its magic number); reading it saves a system call. */
#define RING_MAGIC 0xa10a10a1u
struct event_ring {
  uint32_t id, nr, head, tail, magic, compat, incompat, header_bytes;
  struct io_event events[];
};

struct aio {
  struct engines *e;
  aio_context_t ctx;
  int event;
  unsigned queued, inflight;
  struct iocb blocks[SLOTS];
  struct iocb *queue[SLOTS];
};

struct aio *aio_open(struct engines *e) {
  struct aio *a = calloc(1, sizeof *a);
  if (!a) return NULL;
  a->e = e;
  a->event = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (a->event >= 0 && syscall(__NR_io_setup, SLOTS, &a->ctx) == 0) return a;
  int saved = errno;
  if (a->event >= 0) close(a->event);
  free(a);
  errno = saved;
  return NULL;
}

int aio_fd(const struct aio *a) { return a->event; }

void aio_push(struct aio *a, int slot) {
  const struct slot *s = &a->e->sh->slots[slot];
  const struct work *w = &a->e->work[slot];
  bool read = s->op == OP_READ, vector = s->pieces > 1;
  struct iocb *b = &a->blocks[slot];
  *b = (struct iocb){.aio_fildes = (uint32_t)s->fd, .aio_offset = (int64_t)s->offset};
  b->aio_data = (uint64_t)slot;
  b->aio_lio_opcode = read ? (vector ? IOCB_CMD_PREADV : IOCB_CMD_PREAD)
                           : (vector ? IOCB_CMD_PWRITEV : IOCB_CMD_PWRITE);
  b->aio_buf = vector ? (uintptr_t)w->iov : (uintptr_t)w->iov->iov_base;
  b->aio_nbytes = vector ? (uint64_t)s->pieces : w->iov->iov_len;
  b->aio_flags = IOCB_FLAG_RESFD;
  b->aio_resfd = (uint32_t)a->event;
  a->queue[a->queued++] = b;
  a->e->stats[S_AIO]++;
}

void aio_submit(struct aio *a) {
  unsigned at = 0;
  while (at < a->queued) {
    long n = syscall(__NR_io_submit, a->ctx, a->queued - at, a->queue + at);
    if (n > 0) {
      at += (unsigned)n;
      a->inflight += (unsigned)n;
    } else if (n < 0 && errno == EINTR) {
      continue;
    } else if (n < 0 && errno == EAGAIN) {
      break; /* the kernel's queue is full: after the next completion */
    } else {
      /* The first one is refused, alone. */
      complete(a->e, (int)a->queue[at]->aio_data, n < 0 ? -errno : -EIO);
      at++;
    }
  }
  for (unsigned i = at; i < a->queued; i++) a->queue[i - at] = a->queue[i];
  a->queued -= at;
}

bool aio_pending(const struct aio *a) { return a->queued > 0; }

static void finish(struct aio *a, const struct io_event *event) {
  complete(a->e, (int)event->data, (int32_t)event->res);
  a->inflight--;
}

unsigned aio_inflight(const struct aio *a) { return a->inflight; }

int aio_reap(struct aio *a) {
  if (a->inflight == 0) return 0;
  unsigned before = a->inflight;
  struct event_ring *ring = (struct event_ring *)(uintptr_t)a->ctx;
  if (ring->magic == RING_MAGIC && ring->incompat == 0) {
    uint32_t head = ring->head, nr = ring->nr;
    uint32_t tail = __atomic_load_n(&ring->tail, __ATOMIC_ACQUIRE);
    while (head != tail) {
      finish(a, &ring->events[head]);
      head = head + 1 == nr ? 0 : head + 1;
    }
    __atomic_store_n(&ring->head, head, __ATOMIC_RELEASE);
    return (int)(before - a->inflight);
  }
  struct io_event events[64];
  struct timespec zero = {0, 0};
  long n;
  do {
    n = syscall(__NR_io_getevents, a->ctx, 0L, 64L, events, &zero);
    for (long i = 0; i < n; i++) finish(a, &events[i]);
  } while (n == 64 || (n < 0 && errno == EINTR));
  return (int)(before - a->inflight);
}

bool aio_ready(const struct aio *a) {
  const struct event_ring *ring = (const struct event_ring *)(uintptr_t)a->ctx;
  return a->inflight > 0 && ring->magic == RING_MAGIC && ring->incompat == 0 &&
         ring->head != __atomic_load_n(&ring->tail, __ATOMIC_ACQUIRE);
}

void aio_woken(struct aio *a) {
  uint64_t count;
  while (read(a->event, &count, sizeof count) < 0 && errno == EINTR) {
  }
}

void aio_close(struct aio *a) {
  while (a->queued > 0 || a->inflight > 0) {
    aio_submit(a);
    struct io_event event;
    if (a->inflight == 0) continue;
    long n = syscall(__NR_io_getevents, a->ctx, 1L, 1L, &event, NULL);
    if (n == 1) finish(a, &event);
    if (n < 0 && errno != EINTR) break;
  }
  syscall(__NR_io_destroy, a->ctx);
  close(a->event);
  free(a);
}
