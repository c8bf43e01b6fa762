/* Adaptive polling: looking a while before sleeping. */
#include "vdisk.h"

#include <time.h>

/* Looks between two readings of the clock. */
#define SPINS 16
/* The shortest that is worth it; the first try is the limit. */
#define LEAST_NS 10000u
/* A hole in the clock that shows that another thread had this CPU. */
#define GAP_NS 40000u
/* Waits without polling after failures; when the CPU was taken away, twice as many each time
 * up to REST << PENALTY_MAX, and half as many after FORGIVE hits. */
#define REST 256
#define PENALTY_MAX 6
#define FORGIVE 64

uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline void relax(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

void polling_init(struct polling *p, uint64_t limit_ns) {
  *p = (struct polling){.limit_ns = limit_ns, .ns = limit_ns};
}

/*
 * A device that answers in tens of microseconds answers sooner than a sleeping thread wakes
 * up. How long to look adapts: twice the time that the last hit took, half of it after a
 * miss, not at all for REST waits after several misses, or when the CPU is wanted by others.
 */
bool look_for(struct polling *p, bool (*ready)(const void *), const void *arg) {
  if (p->limit_ns == 0) return false;
  if (p->rest > 0) {
    if (--p->rest == 0) p->ns = p->limit_ns;
    return false;
  }
  uint64_t begin = now_ns(), last = begin;
  for (;;) {
    for (int i = 0; i < SPINS; i++) {
      if (ready(arg)) {
        uint64_t wish = 2 * (last - begin) + LEAST_NS;
        if (wish > p->ns) p->ns = wish < p->limit_ns ? wish : p->limit_ns;
        if (p->penalty > 0 && ++p->hits % FORGIVE == 0) p->penalty--;
        return true;
      }
      relax();
    }
    uint64_t now = now_ns();
    bool robbed = now - last > GAP_NS;
    last = now;
    if (!robbed && now - begin < p->ns) continue;
    p->ns /= 2;
    if (robbed) {
      p->rest = REST << p->penalty;
      if (p->penalty < PENALTY_MAX) p->penalty++;
    } else if (p->ns < LEAST_NS) {
      p->rest = REST;
    }
    return ready(arg);
  }
}

bool glance(uint64_t ns, bool (*ready)(const void *), const void *arg) {
  uint64_t end = now_ns() + ns;
  do {
    for (int i = 0; i < SPINS; i++) {
      if (ready(arg)) return true;
      relax();
    }
  } while (now_ns() < end);
  return false;
}
