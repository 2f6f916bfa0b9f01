// A wall clock that can be set. Preloaded into a process it makes CLOCK_REALTIME differ by as many seconds as stand in the file
// that DRILL_CLOCK names, at once when that changes, for libc and for Go, which asks the kernel's vDSO: the auxiliary vector
// is made to point to a vDSO of ours before Go looks at it. All other clocks are as they were.
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t *shared; // seconds by which the clock is off; how often it was read while it was

static long kernel(long number, long a, long b) {
  long result;
  __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b) : "rcx", "r11", "memory");
  return result;
}

static int64_t off(void) {
  if (!shared || !shared[0]) return 0;
  __sync_fetch_and_add(&shared[1], 1);
  return shared[0];
}

static int vdso_clock_gettime(clockid_t clock, struct timespec *t) {
  long result = kernel(SYS_clock_gettime, clock, (long)t);
  if (!result && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) t->tv_sec += off();
  return result;
}

static int vdso_gettimeofday(struct timeval *t, void *zone) {
  long result = kernel(SYS_gettimeofday, (long)t, (long)zone);
  if (!result && t) t->tv_sec += off();
  return result;
}

int clock_gettime(clockid_t clock, struct timespec *t) {
  int result = vdso_clock_gettime(clock, t);
  if (!result) return 0;
  errno = -result;
  return -1;
}

int gettimeofday(struct timeval *t, void *zone) { return vdso_gettimeofday(t, zone); }

time_t time(time_t *out) {
  struct timespec t;
  vdso_clock_gettime(CLOCK_REALTIME, &t);
  if (out) *out = t.tv_sec;
  return t.tv_sec;
}

static struct {
  Elf64_Ehdr header;
  Elf64_Phdr segments[2];
  Elf64_Dyn dynamic[6];
  Elf64_Sym symbols[3];
  uint32_t hash[2 + 1 + 3]; // one bucket: 1 -> 2 -> end
  Elf64_Verdef version;     // LINUX_2.6, the one that Go looks for
  Elf64_Verdaux version_name;
  Elf64_Half versions[3];   // of the symbols
  char names[64];
} image;

static size_t name(const char *word) {
  static size_t used = 1;
  size_t at = used;
  strcpy(image.names + at, word);
  used += strlen(word) + 1;
  return at;
}

static void symbol(int i, const char *word, void *function) {
  image.symbols[i] = (Elf64_Sym){.st_name = name(word), .st_info = ELF64_ST_INFO(STB_GLOBAL, STT_FUNC), .st_shndx = 1, .st_value = (uintptr_t)function - (uintptr_t)&image};
  image.versions[i] = 2;
}

__attribute__((constructor)) static void begin(int argc, char **argv, char **environment) {
  const char *path = getenv("DRILL_CLOCK");
  int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
  if (file < 0) return;
  void *map = mmap(0, 16, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  if (map == MAP_FAILED) return;
  shared = map;
#define AT(member) ((uintptr_t)&image.member - (uintptr_t)&image)
  image.header.e_phoff = AT(segments), image.header.e_phnum = 2;
  image.segments[0].p_type = PT_LOAD;
  image.segments[1].p_type = PT_DYNAMIC, image.segments[1].p_offset = AT(dynamic);
  image.dynamic[0].d_tag = DT_STRTAB, image.dynamic[0].d_un.d_val = AT(names);
  image.dynamic[1].d_tag = DT_SYMTAB, image.dynamic[1].d_un.d_val = AT(symbols);
  image.dynamic[2].d_tag = DT_HASH, image.dynamic[2].d_un.d_val = AT(hash);
  image.dynamic[3].d_tag = DT_VERSYM, image.dynamic[3].d_un.d_val = AT(versions);
  image.dynamic[4].d_tag = DT_VERDEF, image.dynamic[4].d_un.d_val = AT(version);
  image.version = (Elf64_Verdef){.vd_version = 1, .vd_ndx = 2, .vd_cnt = 1, .vd_hash = 0x3ae75f6, .vd_aux = sizeof image.version};
  image.version_name.vda_name = name("LINUX_2.6");
  image.hash[0] = 1, image.hash[1] = 3, image.hash[2] = 1, image.hash[4] = 2;
  symbol(1, "__vdso_clock_gettime", vdso_clock_gettime);
  symbol(2, "__vdso_gettimeofday", vdso_gettimeofday);
  while (*environment) environment++;
  for (Elf64_auxv_t *a = (Elf64_auxv_t *)(environment + 1); a->a_type != AT_NULL; a++)
    if (a->a_type == AT_SYSINFO_EHDR) a->a_un.a_val = (uintptr_t)&image;
}
