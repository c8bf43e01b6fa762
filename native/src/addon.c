/*
 * The context of one JavaScript environment on its event loop.
 *
 *   JavaScript: fill slot, append to sq        (arm() when the context sleeps)
 *   uv_prepare, before the loop would sleep:   turn()
 *   uv_poll, when a device or thread is done:  turn()
 *   turn(): submit what is queued, take what is done, one call into JavaScript for all of
 *   it; what that queued is submitted at once, and so on while there is progress.
 *
 * Tear-down is asynchronous (handles close on the loop) and waits for I5.
 */
#include "vdisk.h"

#include "addon.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

/* A turn lets other handles of the loop have their say after this long. */
#define TURN_NS 1000000u

struct context {
  struct engines e;
  napi_env env;
  uv_loop_t *loop;
  napi_ref shared, deliver;
  napi_async_context async;
  napi_async_cleanup_hook_handle hook;
  uv_prepare_t prepare;
  uv_idle_t idle;
  uv_poll_t polls[3]; /* by enum engine */
  bool polling[3];
  bool running, closing;
  int open_handles;
};

/* Passes the pairs in cq to JavaScript; its microtasks run before this returns. */
static bool deliver(struct context *c) {
  napi_env env = c->env;
  napi_handle_scope scope;
  napi_value fn, global, count, ignored, thrown;
  if (napi_open_handle_scope(env, &scope) != napi_ok) return false;
  napi_get_reference_value(env, c->deliver, &fn);
  napi_get_global(env, &global);
  napi_create_int32(env, c->e.cq_count, &count);
  c->e.cq_count = 0;
  napi_status status = napi_make_callback(env, c->async, global, fn, 1, &count, &ignored);
  if (status == napi_pending_exception &&
      napi_get_and_clear_last_exception(env, &thrown) == napi_ok)
    napi_fatal_exception(env, thrown);
  napi_close_handle_scope(env, scope);
  return status == napi_ok;
}

static void noop(uv_idle_t *handle) { (void)handle; }

/* Whether something waits here that no event of the kernel will tell of. */
static bool has_work(const struct context *c) {
  return c->e.sh->header[H_QUEUED] > 0 || c->e.cq_count > 0 || submit_pending(&c->e);
}

/* Nothing else is known to wait for this thread. */
static bool may_poll(const struct context *c) {
  const int32_t *header = c->e.sh->header;
  return header[H_INFLIGHT] > 0 && header[H_QUEUED] == 0 && uv_backend_timeout(c->loop) != 0;
}

/*
 * Everything that is done is delivered before anything new is submitted: larger batches, and
 * the block layer merges neighbours.
 */
static void turn(struct context *c) {
  if (c->running || c->closing) return;
  c->running = true;
  int32_t *header = c->e.sh->header;
  uint64_t end = 0;
  for (;;) {
    reap_all(&c->e);
    if (c->e.cq_count == 0 && (header[H_QUEUED] > 0 || submit_pending(&c->e))) {
      submit_queued(&c->e);
      reap_all(&c->e);
    }
    if (c->e.cq_count == 0 && may_poll(c) && poll_done(&c->e)) reap_all(&c->e);
    if (c->e.cq_count == 0) break;
    c->e.stats[S_ROUNDS]++;
    if (!deliver(c) || c->closing) break;
    uint64_t now = now_ns();
    if (end == 0) end = now + TURN_NS;
    if (now >= end) break;
  }
  c->running = false;
  if (c->closing) return;
  /* With an idle handle the loop polls without sleeping and comes to on_prepare(). */
  if (has_work(c))
    uv_idle_start(&c->idle, noop);
  else
    uv_idle_stop(&c->idle);
  if (header[H_INFLIGHT] == 0 && header[H_ARMED]) {
    header[H_ARMED] = 0;
    uv_unref((uv_handle_t *)&c->prepare);
  }
}

static void on_prepare(uv_prepare_t *handle) {
  struct context *c = handle->data;
  if (has_work(c)) turn(c);
  if (c->closing) return;
  const int32_t *header = c->e.sh->header;
  bool alone = header[H_INFLIGHT] == 0 && header[H_BLOCKED] == 0;
  if (alone && uv_backend_timeout(c->loop) != 0) poll_sockets(&c->e);
}

static void on_poll(uv_poll_t *handle, int status, int events) {
  (void)status;
  (void)events;
  struct context *c = handle->data;
  c->e.stats[S_WAKES]++;
  if (handle == &c->polls[ENGINE_THREADS]) pool_woken(c->e.pool);
  if (handle == &c->polls[ENGINE_AIO]) aio_woken(c->e.aio);
  if (handle == &c->polls[ENGINE_URING]) uring_woken(c->e.uring);
  turn(c);
}

static void on_closed(uv_handle_t *handle) {
  struct context *c = handle->data;
  if (--c->open_handles > 0) return;
  napi_remove_async_cleanup_hook(c->hook);
  free(c);
}

static void close_context(napi_async_cleanup_hook_handle hook, void *arg) {
  struct context *c = arg;
  (void)hook;
  c->closing = true;
  for (int i = 0; i < 3; i++)
    if (c->polling[i]) uv_close((uv_handle_t *)&c->polls[i], on_closed);
  uv_close((uv_handle_t *)&c->prepare, on_closed);
  uv_close((uv_handle_t *)&c->idle, on_closed);
  engines_close(&c->e);
}

/* Watches an engine's descriptor; does not by itself keep the loop alive. */
static bool watch(struct context *c, int which, int fd) {
  uv_poll_t *poll = &c->polls[which];
  if (uv_poll_init(c->loop, poll, fd) != 0) return false;
  c->polling[which] = true;
  c->open_handles++;
  poll->data = c;
  uv_poll_start(poll, UV_READABLE, on_poll);
  uv_unref((uv_handle_t *)poll);
  return true;
}

static void start_handles(struct context *c) {
  uv_prepare_init(c->loop, &c->prepare);
  uv_idle_init(c->loop, &c->idle);
  c->prepare.data = c->idle.data = c;
  c->open_handles = 2;
  uv_prepare_start(&c->prepare, on_prepare);
  uv_unref((uv_handle_t *)&c->prepare);
  watch(c, ENGINE_THREADS, pool_fd(c->e.pool));
}

/* create(shared, deliver, pollNs): the context of this environment, as an external. */
static napi_value create(napi_env env, napi_callback_info info) {
  struct args a;
  void *memory;
  size_t bytes;
  if (!take_args(env, info, 3, &a)) return NULL;
  if (napi_get_arraybuffer_info(env, a.v[0], &memory, &bytes) != napi_ok ||
      bytes != sizeof(struct shared)) {
    napi_throw_range_error(env, NULL, "shared memory has another layout");
    return NULL;
  }
  struct context *c = calloc(1, sizeof *c);
  if (!c || napi_get_uv_event_loop(env, &c->loop) != napi_ok) goto fail;
  c->env = env;
  engines_open(&c->e, memory, (uint64_t)number_arg(&a, 2));
  if (!c->e.pool) goto fail;
  napi_value name, out;
  napi_create_string_utf8(env, "vdisk", NAPI_AUTO_LENGTH, &name);
  napi_async_init(env, NULL, name, &c->async);
  napi_create_reference(env, a.v[0], 1, &c->shared);
  napi_create_reference(env, a.v[1], 1, &c->deliver);
  start_handles(c);
  napi_add_async_cleanup_hook(env, close_context, c, &c->hook);
  napi_create_external(env, c, NULL, NULL, &out);
  return out;
fail:
  free(c);
  napi_throw_error(env, "ENOMEM", "cannot set up native I/O");
  return NULL;
}

static struct context *context_arg(const struct args *a) {
  void *c = NULL;
  if (napi_get_value_external(a->env, a->v[0], &c) != napi_ok || !c)
    napi_throw_type_error(a->env, NULL, "expected a context");
  return c;
}

/* arm(context): keeps the event loop alive until nothing is in flight. */
static napi_value arm(napi_env env, napi_callback_info info) {
  struct args a;
  if (!take_args(env, info, 1, &a)) return NULL;
  struct context *c = context_arg(&a);
  if (!c || c->closing) return NULL;
  c->e.sh->header[H_ARMED] = 1;
  uv_ref((uv_handle_t *)&c->prepare);
  return NULL;
}

/* submit(context): what is queued goes out now, not at the end of the turn. */
static napi_value submit(napi_env env, napi_callback_info info) {
  struct args a;
  if (!take_args(env, info, 1, &a)) return NULL;
  struct context *c = context_arg(&a);
  if (!c || c->closing) return NULL;
  submit_queued(&c->e);
  return NULL;
}

/* openEngine(context, which): 0, or -errno when the kernel refuses. */
static napi_value open_engine(napi_env env, napi_callback_info info) {
  struct args a;
  if (!take_args(env, info, 2, &a)) return NULL;
  struct context *c = context_arg(&a);
  if (!c || c->closing) return NULL;
  int which = (int)number_arg(&a, 1);
  bool opened = true;
  if (which == ENGINE_URING && !c->e.uring) {
    c->e.uring = uring_open(&c->e);
    opened = c->e.uring && watch(c, which, uring_fd(c->e.uring));
  } else if (which == ENGINE_AIO && !c->e.aio) {
    c->e.aio = aio_open(&c->e);
    opened = c->e.aio && watch(c, which, aio_fd(c->e.aio));
  }
  return number(env, opened ? 0 : -errno);
}

/* watchSocket(context, fd, on): the loop looks for data there a while before it sleeps. */
static napi_value watch_for_data(napi_env env, napi_callback_info info) {
  struct args a;
  if (!take_args(env, info, 3, &a)) return NULL;
  struct context *c = context_arg(&a);
  if (c) watch_socket(&c->e, (int)number_arg(&a, 1), bool_arg(&a, 2));
  return NULL;
}

/* stats(context): counters in the order of enum counter. */
static napi_value stats(napi_env env, napi_callback_info info) {
  struct args a;
  napi_value out;
  if (!take_args(env, info, 1, &a)) return NULL;
  struct context *c = context_arg(&a);
  if (!c) return NULL;
  napi_create_array_with_length(env, S_COUNT, &out);
  for (uint32_t i = 0; i < S_COUNT; i++)
    napi_set_element(env, out, i, number(env, (double)c->e.stats[i]));
  return out;
}

static const struct export own_exports[] = {
    {"create", create}, {"arm", arm}, {"submit", submit},
    {"openEngine", open_engine}, {"stats", stats}, {"watchSocket", watch_for_data},
};

static void add_exports(napi_env env, napi_value to, const struct export *list, size_t n) {
  for (size_t i = 0; i < n; i++) {
    napi_value fn;
    napi_create_function(env, list[i].name, NAPI_AUTO_LENGTH, list[i].call, NULL, &fn);
    napi_set_named_property(env, to, list[i].name, fn);
  }
}

NAPI_MODULE_INIT() {
  add_exports(env, exports, own_exports, sizeof own_exports / sizeof own_exports[0]);
  add_exports(env, exports, helper_exports, helper_export_count);
  add_exports(env, exports, socket_exports, socket_export_count);
  napi_set_named_property(env, exports, "sharedBytes", number(env, sizeof(struct shared)));
  napi_set_named_property(env, exports, "operations", number(env, OP_COUNT));
  return exports;
}
