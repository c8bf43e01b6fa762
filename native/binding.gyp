{
  "targets": [
    {
      "target_name": "vdisk_native",
      "sources": [
        "src/addon.c",
        "src/helpers.c",
        "src/context.c",
        "src/uring.c",
        "src/aio.c",
        "src/pool.c",
        "src/poll.c",
        "src/socket.c",
        "src/fileops.c",
        "src/codec.c",
        "src/sync.c",
        "src/zero.c",
        "src/crc32c.c",
        "src/scan.c",
        "src/through.c",
        "src/aes.c",
        "src/xts.c",
        "src/cbc.c"
      ],
      "defines": ["NAPI_VERSION=8", "_GNU_SOURCE", "_FILE_OFFSET_BITS=64"],
      "cflags": ["-std=gnu11", "-Wall", "-Wextra", "-Wshadow", "-O2", "-fvisibility=hidden"],
      "cflags!": ["-O3", "-fno-omit-frame-pointer"],
      "variables": { "vdisk_sanitize%": "" },
      "conditions": [
        ["OS!='linux'", { "type": "none" }],
        ["vdisk_sanitize!=''", {
          "cflags": ["-fsanitize=<(vdisk_sanitize)", "-fno-omit-frame-pointer", "-g"],
          "ldflags": ["-fsanitize=<(vdisk_sanitize)"]
        }]
      ]
    }
  ]
}
