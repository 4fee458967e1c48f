// Loaded into farshore with LD_PRELOAD by campaigns: stands between the program and libc's system calls. By environment:
//   SYSCALLS_SITES=FILE      each call site met for the first time is appended to FILE: id, call, path, return addresses
//   SYSCALLS_KILL=ID:N       before the N-th call from site ID the whole process group is killed with -9
//   SYSCALLS_NO_SYNC=NAME    fsync and fdatasync of files whose name begins with NAME do nothing and succeed: a bug to be found
// A site is the call and the chain of return addresses inside the program itself, so the same helper called from two
// places is two sites. Addresses count from the program's start, so they are the same in every run of one binary.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <execinfo.h>
#include <fcntl.h>
#include <link.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { FRAMES = 24, OWN_FRAMES = 4, SITES = 1 << 14 };

static uintptr_t text_start, text_end, load_base;
static _Atomic uint64_t seen[SITES];
static const char *sites_file, *no_sync;
static uint64_t kill_site;
static _Atomic long kill_count;
static __thread int is_inside;

static int find_program(struct dl_phdr_info *info, size_t size, void *unused) {
    load_base = info->dlpi_addr;
    for (int n = 0; n < info->dlpi_phnum; n++) {
        const ElfW(Phdr) *part = &info->dlpi_phdr[n];
        if (part->p_type == PT_LOAD && (part->p_flags & PF_X)) {
            text_start = load_base + part->p_vaddr;
            text_end = text_start + part->p_memsz;
        }
    }
    return 1;  // the first one is the program
}

__attribute__((constructor)) static void begin(void) {
    dl_iterate_phdr(find_program, NULL);
    sites_file = getenv("SYSCALLS_SITES");
    no_sync = getenv("SYSCALLS_NO_SYNC");
    const char *wanted = getenv("SYSCALLS_KILL");
    if (wanted) {
        char *end;
        kill_site = strtoull(wanted, &end, 16);
        kill_count = *end == ':' ? atol(end + 1) : 1;
    }
    void *warm[2];
    backtrace(warm, 2);  // loads the unwinder now, not inside of a call
}

static void write_site(uint64_t site, const char *call, int fd, const char *path, uintptr_t *own, int count) {
    char line[2048], link[64], target[512] = "";
    if (path) {
        snprintf(target, sizeof target, "%s", path);
    } else if (fd >= 0) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t length = syscall(SYS_readlink, link, target, sizeof target - 1);
        target[length > 0 ? length : 0] = 0;
    }
    int used = snprintf(line, sizeof line, "%016llx\t%s\t%s\t", (unsigned long long)site, call, target);
    for (int n = 0; n < count && used < (int)sizeof line - 32; n++) used += snprintf(line + used, sizeof line - used, " %lx", (unsigned long)own[n]);
    used += snprintf(line + used, sizeof line - used, "\n");
    int out = syscall(SYS_openat, AT_FDCWD, sites_file, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (out < 0) return;
    syscall(SYS_write, out, line, (size_t)used);
    syscall(SYS_close, out);
}

static int is_first(uint64_t site) {
    for (unsigned n = site % SITES, tries = 0; tries < SITES; tries++, n = (n + 1) % SITES) {
        uint64_t there = 0;
        if (atomic_compare_exchange_strong(&seen[n], &there, site)) return 1;
        if (there == site) return 0;
    }
    return 0;
}

static void meet(const char *call, int fd, const char *path) {
    if ((!sites_file && !kill_site) || is_inside) return;
    is_inside = 1;
    void *frames[FRAMES];
    uintptr_t own[OWN_FRAMES];
    int count = backtrace(frames, FRAMES), owned = 0;
    uint64_t site = 14695981039346656037u;
    for (const char *one = call; *one; one++) site = (site ^ (unsigned char)*one) * 1099511628211u;
    for (int n = 0; n < count && owned < OWN_FRAMES; n++) {
        uintptr_t at = (uintptr_t)frames[n];
        if (at < text_start || at >= text_end) continue;
        own[owned++] = at - load_base;
        site = (site ^ (at - load_base)) * 1099511628211u;
    }
    if (site == kill_site && atomic_fetch_sub(&kill_count, 1) == 1) {
        syscall(SYS_kill, 0, SIGKILL);
        for (;;) syscall(SYS_pause);
    }
    if (sites_file && is_first(site)) write_site(site, call, fd, path, own, owned);
    is_inside = 0;
}

#define REAL(name) ((__typeof__(&name))real_##name())
#define DEFINE_REAL(name) \
    static void *real_##name(void) { \
        static _Atomic(void *) found; \
        void *there = atomic_load(&found); \
        if (!there) atomic_store(&found, there = dlsym(RTLD_NEXT, #name)); \
        return there; \
    }
#define BY_FD(result, name, parameters, fd, arguments) \
    DEFINE_REAL(name) \
    result name parameters { \
        meet(#name, fd, NULL); \
        return REAL(name) arguments; \
    }
#define BY_PATH(result, name, parameters, path, arguments) \
    DEFINE_REAL(name) \
    result name parameters { \
        meet(#name, -1, path); \
        return REAL(name) arguments; \
    }

BY_FD(ssize_t, write, (int fd, const void *from, size_t count), fd, (fd, from, count))
BY_FD(ssize_t, writev, (int fd, const struct iovec *from, int count), fd, (fd, from, count))
BY_FD(ssize_t, pwrite, (int fd, const void *from, size_t count, off_t at), fd, (fd, from, count, at))
BY_FD(ssize_t, pwrite64, (int fd, const void *from, size_t count, off64_t at), fd, (fd, from, count, at))
BY_FD(ssize_t, pwritev, (int fd, const struct iovec *from, int count, off_t at), fd, (fd, from, count, at))
BY_FD(ssize_t, pread, (int fd, void *to, size_t count, off_t at), fd, (fd, to, count, at))
BY_FD(ssize_t, pread64, (int fd, void *to, size_t count, off64_t at), fd, (fd, to, count, at))
BY_FD(ssize_t, readv, (int fd, const struct iovec *to, int count), fd, (fd, to, count))
BY_FD(int, ftruncate, (int fd, off_t size), fd, (fd, size))
BY_FD(int, ftruncate64, (int fd, off64_t size), fd, (fd, size))
BY_FD(int, fallocate, (int fd, int mode, off_t at, off_t count), fd, (fd, mode, at, count))
BY_FD(int, close, (int fd), fd, (fd))
BY_FD(ssize_t, send, (int fd, const void *from, size_t count, int flags), fd, (fd, from, count, flags))
BY_FD(ssize_t, sendmsg, (int fd, const struct msghdr *message, int flags), fd, (fd, message, flags))
BY_FD(ssize_t, recv, (int fd, void *to, size_t count, int flags), fd, (fd, to, count, flags))
BY_PATH(int, rename, (const char *from, const char *to), to, (from, to))
BY_PATH(int, renameat, (int one, const char *from, int other, const char *to), to, (one, from, other, to))
BY_PATH(int, link, (const char *from, const char *to), to, (from, to))
BY_PATH(int, linkat, (int one, const char *from, int other, const char *to, int flags), to, (one, from, other, to, flags))
BY_PATH(int, unlink, (const char *path), path, (path))
BY_PATH(int, unlinkat, (int folder, const char *path, int flags), path, (folder, path, flags))
BY_PATH(int, mkdir, (const char *path, mode_t mode), path, (path, mode))
BY_PATH(int, mkdirat, (int folder, const char *path, mode_t mode), path, (folder, path, mode))
BY_PATH(int, rmdir, (const char *path), path, (path))

static int is_swallowed(int fd) {
    if (!no_sync) return 0;
    char link[64], target[512];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = syscall(SYS_readlink, link, target, sizeof target - 1);
    target[length > 0 ? length : 0] = 0;
    const char *name = strrchr(target, '/');
    return name && strncmp(name + 1, no_sync, strlen(no_sync)) == 0;
}

DEFINE_REAL(fsync)
int fsync(int fd) {
    meet("fsync", fd, NULL);
    return is_swallowed(fd) ? 0 : REAL(fsync)(fd);
}

DEFINE_REAL(fdatasync)
int fdatasync(int fd) {
    meet("fdatasync", fd, NULL);
    return is_swallowed(fd) ? 0 : REAL(fdatasync)(fd);
}

static int mode_of(int flags, va_list more) { return flags & (O_CREAT | __O_TMPFILE) ? va_arg(more, int) : 0; }

#define BY_OPEN(name) \
    DEFINE_REAL(name) \
    int name(const char *path, int flags, ...) { \
        va_list more; \
        va_start(more, flags); \
        int mode = mode_of(flags, more); \
        va_end(more); \
        meet(#name, -1, path); \
        return REAL(name)(path, flags, mode); \
    }
#define BY_OPENAT(name) \
    DEFINE_REAL(name) \
    int name(int folder, const char *path, int flags, ...) { \
        va_list more; \
        va_start(more, flags); \
        int mode = mode_of(flags, more); \
        va_end(more); \
        meet(#name, -1, path); \
        return REAL(name)(folder, path, flags, mode); \
    }
BY_OPEN(open)
BY_OPEN(open64)
BY_OPENAT(openat)
BY_OPENAT(openat64)
