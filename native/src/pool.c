/*
 * Threads that run what would block the event loop.
 *
 * Three lanes: LANE_SLEEPS gets a thread per request (they wait for a device), LANE_BURNS
 * (copies from or to the page cache) and LANE_COMPUTES at most one per CPU each. A read in
 * LANE_BURNS that would have to wait moves to LANE_SLEEPS. Writes in LANE_BURNS to one file run
 * one after the other, on one thread: the file system takes no two at once, and the second
 * thread would spin for the first.
 * Threads live until the context closes; it joins them.
 */
#include "vdisk.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* As many as QEMU's pool may have: more only adds switches. */
#define THREADS_MAX 64
#define STACK_BYTES (256 << 10)

/* Files whose writes are put in a row; with more, those of the others may meet. */
#define CHAINS 16

/* Writes to one file: one is queued or runs, those behind it are linked by work.behind. */
struct chain {
  int fd;
  int last; /* -1: the entry is free */
};

struct lane_queue {
  int head, tail; /* links are work.next; -1: empty */
  int count;
  int active;
  int limit;
};

struct pool {
  struct engines *e;
  pthread_mutex_t lock;
  pthread_cond_t wake;
  struct lane_queue lane[LANES];
  struct chain chain[CHAINS];
  int threads, idle, waking;
  bool looking;          /* one idle thread looks for work before it sleeps */
  struct polling look;   /* of that thread */
  _Atomic int queued;    /* all lanes together, for that thread */
  _Atomic int inflight;  /* pushed and not reaped; written by the loop's thread */
  bool closing;
  int batched; /* pushed and not yet in a lane; of the loop's thread alone */
  struct batched {
    int slot;
    enum lane lane;
  } batch[SLOTS];
  pthread_t ids[THREADS_MAX];
  int event;
  _Atomic int done; /* finished slots, newest first; -1: none */
};

static void append(struct pool *p, int slot, enum lane lane) {
  struct lane_queue *q = &p->lane[lane];
  p->e->work[slot].next = -1;
  if (q->head < 0)
    q->head = slot;
  else
    p->e->work[q->tail].next = slot;
  q->tail = slot;
  q->count++;
  atomic_fetch_add_explicit(&p->queued, 1, memory_order_relaxed);
}

static bool chains(const struct pool *p, int slot, enum lane lane) {
  return lane == LANE_BURNS && p->e->sh->slots[slot].op == OP_WRITE;
}

/* Under the lock: puts a write behind another one to its file; false when it is the first. */
static bool put_behind(struct pool *p, int slot) {
  int fd = p->e->sh->slots[slot].fd;
  struct chain *room = NULL;
  p->e->work[slot].behind = -1;
  for (int i = 0; i < CHAINS; i++) {
    struct chain *c = &p->chain[i];
    if (c->last < 0) {
      room = c;
    } else if (c->fd == fd) {
      p->e->work[c->last].behind = slot;
      c->last = slot;
      return true;
    }
  }
  if (room) *room = (struct chain){.fd = fd, .last = slot};
  return false;
}

/* Under the lock: the write behind one that is done; -1: none. */
static int take_behind(struct pool *p, int slot) {
  int next = p->closing ? -1 : p->e->work[slot].behind;
  if (next >= 0) return next;
  for (int i = 0; i < CHAINS; i++)
    if (p->chain[i].last == slot) p->chain[i].last = -1;
  return -1;
}

static int take(struct pool *p, enum lane lane) {
  struct lane_queue *q = &p->lane[lane];
  if (q->count == 0 || q->active >= q->limit) return -1;
  int slot = q->head;
  q->head = p->e->work[slot].next;
  q->count--;
  atomic_fetch_sub_explicit(&p->queued, 1, memory_order_relaxed);
  q->active++;
  return slot;
}

/* Under the lock: how many more threads could work now. */
static int wanted(const struct pool *p) {
  int n = 0;
  for (int i = 0; i < LANES; i++) {
    const struct lane_queue *q = &p->lane[i];
    int room = q->limit - q->active;
    n += q->count < room ? q->count : room;
  }
  return n;
}

static void finish(struct pool *p, int slot, int32_t res) {
  struct work *w = &p->e->work[slot];
  w->res = res;
  int head = atomic_load_explicit(&p->done, memory_order_relaxed);
  do {
    w->next = head;
  } while (!atomic_compare_exchange_weak_explicit(&p->done, &head, slot, memory_order_release,
                                                  memory_order_relaxed));
  if (head >= 0) return; /* whoever put the first one woke the loop */
  uint64_t one = 1;
  while (write(p->event, &one, sizeof one) < 0 && errno == EINTR) {
  }
}

/* Runs one slot; false when it must move to the lane that may sleep. */
static bool run(struct pool *p, int slot, enum lane lane, int32_t *res) {
  struct slot *s = &p->e->sh->slots[slot];
  struct work *w = &p->e->work[slot];
  if (lane == LANE_BURNS && s->op == OP_READ) {
    ssize_t n = preadv2(s->fd, w->iov, s->pieces, (off_t)s->offset, RWF_NOWAIT);
    if (n < 0 && errno == EAGAIN) return false;
    if (n >= 0) {
      *res = (int32_t)n;
      return true;
    }
  }
  *res = run_slot(s, w->iov);
  return true;
}

static bool has_queued(const void *arg) {
  const struct pool *p = arg;
  return atomic_load_explicit(&p->queued, memory_order_relaxed) > 0;
}

bool pool_busy(const struct pool *p) {
  return atomic_load_explicit(&p->inflight, memory_order_relaxed) > 1;
}

/*
 * Under the lock: waits for work. One thread looks for it before it sleeps, if requests come
 * one at a time: else there is a CPU for each that works, and none for looking.
 */
static void await_work(struct pool *p) {
  if (!p->looking && !pool_busy(p)) {
    p->looking = true;
    pthread_mutex_unlock(&p->lock);
    bool hit = look_for(&p->look, has_queued, p);
    pthread_mutex_lock(&p->lock);
    p->looking = false;
    /* pool_submit() may have counted on this thread until now. */
    if (hit || wanted(p) > 0 || p->closing) return;
  }
  p->idle++;
  pthread_cond_wait(&p->wake, &p->lock);
  p->idle--;
  if (p->waking > 0) p->waking--;
}

/* Called and left under the lock: runs a request, and the writes behind it. */
static void run_and_on(struct pool *p, int slot, enum lane lane) {
  while (slot >= 0) {
    /* Once finished, the slot may be another request. */
    bool chained = chains(p, slot, lane);
    int32_t res = 0;
    int next = -1;
    pthread_mutex_unlock(&p->lock);
    bool done = run(p, slot, lane, &res);
    if (chained) {
      pthread_mutex_lock(&p->lock);
      next = take_behind(p, slot);
      pthread_mutex_unlock(&p->lock);
    }
    if (done) finish(p, slot, res);
    pthread_mutex_lock(&p->lock);
    if (!done) append(p, slot, LANE_SLEEPS);
    slot = next;
  }
}

static void *work(void *arg) {
  struct pool *p = arg;
  pthread_mutex_lock(&p->lock);
  for (;;) {
    int slot = -1;
    enum lane lane = 0;
    while ((slot = take(p, lane)) < 0 && ++lane < LANES) {
    }
    if (slot < 0) {
      if (p->closing) break;
      await_work(p);
      continue;
    }
    run_and_on(p, slot, lane);
    p->lane[lane].active--;
  }
  pthread_mutex_unlock(&p->lock);
  codec_free();
  through_free();
  return NULL;
}

struct pool *pool_open(struct engines *e, uint64_t poll_ns) {
  struct pool *p = calloc(1, sizeof *p);
  if (!p) return NULL;
  p->e = e;
  p->event = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (p->event < 0) {
    free(p);
    return NULL;
  }
  pthread_mutex_init(&p->lock, NULL);
  pthread_cond_init(&p->wake, NULL);
  atomic_init(&p->done, -1);
  atomic_init(&p->queued, 0);
  atomic_init(&p->inflight, 0);
  polling_init(&p->look, poll_ns);
  long cpus = sysconf(_SC_NPROCESSORS_ONLN);
  for (int i = 0; i < LANES; i++) p->lane[i] = (struct lane_queue){.head = -1, .tail = -1};
  for (int i = 0; i < CHAINS; i++) p->chain[i].last = -1;
  int few = cpus < 1 ? 1 : cpus > THREADS_MAX ? THREADS_MAX : (int)cpus;
  p->lane[LANE_SLEEPS].limit = THREADS_MAX;
  p->lane[LANE_BURNS].limit = p->lane[LANE_COMPUTES].limit = few;
  return p;
}

int pool_fd(const struct pool *p) { return p->event; }

void pool_push(struct pool *p, int slot, enum lane lane) {
  p->batch[p->batched++] = (struct batched){.slot = slot, .lane = lane};
  atomic_fetch_add_explicit(&p->inflight, 1, memory_order_relaxed);
  p->e->stats[S_POOL]++;
}

/* Starts one thread; false when the system has no more. Signals stay with Node's threads. */
static bool start_thread(struct pool *p) {
  pthread_attr_t attr;
  sigset_t all, old;
  pthread_attr_init(&attr);
  pthread_attr_setstacksize(&attr, STACK_BYTES);
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  bool started = pthread_create(&p->ids[p->threads], &attr, work, p) == 0;
  pthread_sigmask(SIG_SETMASK, &old, NULL);
  pthread_attr_destroy(&attr);
  if (started) p->threads++;
  return started;
}

/* Wakes or starts as many threads as there is work for. */
void pool_submit(struct pool *p) {
  if (p->batched == 0) return;
  pthread_mutex_lock(&p->lock);
  for (int i = 0; i < p->batched; i++) {
    const struct batched *b = &p->batch[i];
    if (!chains(p, b->slot, b->lane) || !put_behind(p, b->slot)) append(p, b->slot, b->lane);
  }
  p->batched = 0;
  int need = wanted(p) - p->waking - p->looking;
  int wake = need < p->idle - p->waking ? need : p->idle - p->waking;
  for (int i = 0; i < wake; i++) {
    p->waking++;
    need--;
    pthread_cond_signal(&p->wake);
  }
  while (need > 0 && p->threads < THREADS_MAX && start_thread(p)) need--;
  bool stuck = p->threads == 0 && wanted(p) > 0;
  pthread_mutex_unlock(&p->lock);
  if (!stuck) return;
  /* Not even one thread: the loop does the work itself, late but complete (I2). */
  for (int i = 0; i < LANES; i++) {
    for (int slot; (slot = take(p, i)) >= 0; p->lane[i].active--) {
      for (int next; slot >= 0; slot = next) {
        next = chains(p, slot, i) ? take_behind(p, slot) : -1;
        finish(p, slot, run_slot(&p->e->sh->slots[slot], p->e->work[slot].iov));
      }
    }
  }
}

bool pool_ready(const struct pool *p) {
  return atomic_load_explicit(&p->done, memory_order_relaxed) >= 0;
}

void pool_reap(struct pool *p) {
  if (!pool_ready(p)) return;
  int slot = atomic_exchange_explicit(&p->done, -1, memory_order_acquire);
  while (slot >= 0) {
    int next = p->e->work[slot].next;
    complete(p->e, slot, p->e->work[slot].res);
    atomic_fetch_sub_explicit(&p->inflight, 1, memory_order_relaxed);
    slot = next;
  }
}

void pool_woken(struct pool *p) {
  uint64_t count;
  while (read(p->event, &count, sizeof count) < 0 && errno == EINTR) {
  }
}

void pool_close(struct pool *p) {
  pthread_mutex_lock(&p->lock);
  p->closing = true;
  /* What no thread has begun is not begun any more. */
  for (int i = 0; i < LANES; i++) p->lane[i].count = 0;
  pthread_cond_broadcast(&p->wake);
  pthread_mutex_unlock(&p->lock);
  for (int i = 0; i < p->threads; i++) pthread_join(p->ids[i], NULL);
  pthread_cond_destroy(&p->wake);
  pthread_mutex_destroy(&p->lock);
  close(p->event);
  free(p);
}
