// A stand-in for libnvidia-ml.so.1 with three GPUs: one that is shared and busy, one of which only a part is given, closed to
// programs, and one that is exclusive and fails when asked for its memory.
#include <stdint.h>
#include <string.h>

typedef const int *Device;
static const int gpus[3] = {0, 1, 2};

int nvmlInit_v2(void) { return 0; }
const char *nvmlErrorString(int status) { return status == 3 ? "Not Supported" : "Unknown Error"; }
int nvmlDeviceGetCount_v2(unsigned *n) { *n = 3; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, Device *d) { *d = gpus + i; return 0; }
int nvmlDeviceGetHandleByPciBusId_v2(const char *place, Device *d) {
  if (strcmp(place, "0000:17:00.0") != 0) return 6;
  *d = gpus;
  return 0;
}
int nvmlDeviceGetName(Device d, char *name, unsigned length) { strncpy(name, *d ? "NVIDIA Part" : "NVIDIA Whole", length); return 0; }
int nvmlDeviceGetMemoryInfo(Device d, uint64_t *total_free_used) {
  if (*d == 2) return 999;
  total_free_used[0] = 100 << 20, total_free_used[1] = 70 << 20, total_free_used[2] = 30 << 20;
  return 0;
}
int nvmlDeviceGetUtilizationRates(Device d, unsigned *gpu_memory) {
  if (*d) return 3;
  gpu_memory[0] = 85, gpu_memory[1] = 40;
  return 0;
}
int nvmlDeviceGetComputeMode(Device d, int *mode) { *mode = (const int[]){0, 2, 3}[*d]; return 0; }
int nvmlDeviceGetComputeRunningProcesses_v3(Device d, unsigned *n, void *infos) {
  if (*d) return 3;
  if (*n < 2) {
    *n = 2;
    return 7;
  }
  *n = 2;
  return 0;
}
