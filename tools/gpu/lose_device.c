/* Takes the device away from a process: loaded into it (LD_PRELOAD), it waits for the file that LOSE_DEVICE_FILE names, then runs a
 * kernel that writes to address 0 in the process's own CUDA context. From then on every call of that process to its device fails, as
 * it does after a fault of the hardware; other processes are not touched. Needs no CUDA to build: the driver is opened at run time. */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static const char KERNEL[] =
    ".version 7.0\n.target sm_75\n.address_size 64\n"
    ".visible .entry lose() {\n .reg .u64 %p;\n .reg .u32 %v;\n mov.u64 %p, 0;\n mov.u32 %v, 1;\n st.global.u32 [%p], %v;\n ret;\n}\n";

typedef int (*call)();

static void *wait_for_it(void *file) {
  while (access((const char *)file, F_OK) != 0) usleep(20 * 1000);
  void *driver = dlopen("libcuda.so.1", RTLD_NOW);
  if (!driver) {
    fprintf(stderr, "lose_device: there is no driver: %s\n", dlerror());
    return NULL;
  }
  int device = 0, said = 0;
  void *context = NULL, *module = NULL, *function = NULL;
#define STEP(name, ...) \
  do { \
    call f = (call)dlsym(driver, name); \
    said = f ? f(__VA_ARGS__) : -1; \
    fprintf(stderr, "lose_device: %s: %d\n", name, said); \
  } while (0)
  STEP("cuInit", 0);
  STEP("cuDevicePrimaryCtxRetain", &context, device);
  STEP("cuCtxSetCurrent", context);
  STEP("cuModuleLoadData", &module, (const void *)KERNEL);
  STEP("cuModuleGetFunction", &function, module, "lose");
  STEP("cuLaunchKernel", function, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL);
  STEP("cuCtxSynchronize");
  return NULL;
}

__attribute__((constructor)) static void begin(void) {
  const char *file = getenv("LOSE_DEVICE_FILE");
  pthread_t thread;
  if (file && pthread_create(&thread, NULL, wait_for_it, (void *)file) == 0) pthread_detach(thread);
}
