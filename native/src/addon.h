/* The parts of the addon that see N-API. */
#ifndef VDISK_ADDON_H
#define VDISK_ADDON_H

#include <node_api.h>

/* One exported function. */
struct export {
  const char *name;
  napi_callback call;
};

#define ARGS_MAX 6
struct args {
  napi_env env;
  size_t count;
  napi_value v[ARGS_MAX];
  void *data;
};

/* Fetches the arguments; false with an exception pending when there are fewer than `least`. */
bool take_args(napi_env env, napi_callback_info info, size_t least, struct args *out);
double number_arg(const struct args *a, size_t i);
bool bool_arg(const struct args *a, size_t i);
/* Memory behind a Uint8Array; false with an exception pending for anything else. */
bool bytes_arg(const struct args *a, size_t i, uint8_t **p, size_t *n);
napi_value number(napi_env env, double v);

/* helpers.c: functions that need no context */
extern const struct export helper_exports[];
extern const size_t helper_export_count;

/* socket.c */
extern const struct export socket_exports[];
extern const size_t socket_export_count;

#endif
