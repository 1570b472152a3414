// The few functions of CUDA's driver by which a process becomes a client of MPS, as documented: it
// connects where a daemon answers, which starts a server, and goes on without where none does.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int cuInit(unsigned flags) {
  char path[4096];
  const char* pipes = getenv("CUDA_MPS_PIPE_DIRECTORY");
  if (getenv("STAND_IN_CLIENT_FAILS")) return 805;
  snprintf(path, sizeof path, "%s/control.pid", pipes ? pipes : "");
  FILE* daemon = fopen(path, "r");
  if (!daemon || getenv("STAND_IN_UNSERVED")) return 0;
  fclose(daemon);
  snprintf(path, sizeof path, "%s/servers", pipes);
  FILE* servers = fopen(path, "w");
  fputs("4711\n", servers);
  return fclose(servers);
}

int cuDeviceGetCount(int* count) {
  const char* visible = getenv("CUDA_VISIBLE_DEVICES");
  for (*count = 1; visible && (visible = strchr(visible, ',')); visible++) ++*count;
  return 0;
}

int cuDeviceGet(int* device, int number) {
  *device = number;
  return 0;
}

int cuDevicePrimaryCtxRetain(void** context, int device) { return 0; }

int cuGetErrorName(int code, const char** name) {
  *name = "CUDA_ERROR_MPS_CONNECTION_FAILED";
  return 0;
}
