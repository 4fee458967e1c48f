#include "CLinux.h"
#include <linux/openat2.h>
#include <malloc.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/timex.h>

#ifndef STATX_MNT_ID_UNIQUE
#define STATX_MNT_ID_UNIQUE 0x4000U
#endif

uint64_t farshore_mount_id(int fd) {
    struct statx status = {0};
    const unsigned wanted[] = {STATX_MNT_ID_UNIQUE, STATX_MNT_ID};
    for (int kind = 0; kind < 2; kind++) {
        if (statx(fd, "", AT_EMPTY_PATH, wanted[kind], &status) == 0 && status.stx_mask & wanted[kind]) return status.stx_mnt_id;
    }
    return 0;
}

ssize_t farshore_pread_nowait(int fd, void *buffer, size_t count, int64_t offset) {
    struct iovec part = {.iov_base = buffer, .iov_len = count};
    return preadv2(fd, &part, 1, offset, RWF_NOWAIT);
}

bool farshore_clock_is_synchronised(void) {
    struct timex state = {0};
    int result = adjtimex(&state);
    return result >= 0 && result != TIME_ERROR;
}

uint64_t farshore_raise_open_files_max(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return 0;
    struct rlimit raised = {.rlim_cur = limit.rlim_max, .rlim_max = limit.rlim_max};
    return (uint64_t)(setrlimit(RLIMIT_NOFILE, &raised) == 0 ? raised.rlim_cur : limit.rlim_cur);
}

void farshore_set_arenas_max(int count) { (void)mallopt(M_ARENA_MAX, count); }

void farshore_write_no_core(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_CORE, &limit) != 0 || limit.rlim_max == 0) return;
    limit.rlim_cur = 1;
    (void)setrlimit(RLIMIT_CORE, &limit);
}

uint64_t farshore_locked_memory_bytes_max(void) {
    struct rlimit limit;
    return getrlimit(RLIMIT_MEMLOCK, &limit) == 0 ? (uint64_t)limit.rlim_cur : 0;
}

// EAGAIN: a mount or a rename somewhere on the host met a ".." of the path, which says nothing of this path.
static int open_again(int directory, const char *path, struct open_how *how) {
    int fd = -1;
    for (int tries = 0; tries < 1000; tries++) {
        fd = (int)syscall(SYS_openat2, directory, path, how, sizeof(*how));
        if (fd >= 0 || errno != EAGAIN) break;
    }
    return fd;
}

int farshore_open_beneath(int directory, const char *path, int flags) {
    struct open_how how = {.flags = (unsigned)flags, .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS};
    return open_again(directory, path, &how);
}

int farshore_open_in_root(int directory, const char *path, int flags) {
    struct open_how how = {.flags = (unsigned)flags, .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV};
    return open_again(directory, path, &how);
}

int farshore_private_mounts(const char *place) {
    // As a slave: what the host unmounts meanwhile is not kept in use here.
    if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) != 0) return -1;
    return mount("none", place, "tmpfs", MS_NODEV | MS_NOSUID, "mode=700,size=64m");
}

static char held_disks[4096];

static void give_up_disks(int signal) {
    (void)signal;
    umount2(held_disks, MNT_FORCE);
}

// Between fork and _exit: system calls only.
static void hold_mounts(int pipe_end, int other_end) {
    sigset_t signals;
    sigfillset(&signals);
    sigdelset(&signals, SIGUSR1);
    struct sigaction action = {.sa_handler = give_up_disks};
    sigaction(SIGUSR1, &action, NULL);
    prctl(PR_SET_PDEATHSIG, SIGUSR1);
    sigprocmask(SIG_SETMASK, &signals, NULL);
    setsid();
    // Whoever has the parent's rights may enter these mounts; of the parent's secrets none is here yet.
    prctl(PR_SET_DUMPABLE, 1);
    prctl(PR_SET_NAME, "farshore-mounts");
    // Every descriptor but one goes: the FUSE device must have no other holder than the parent.
    if (dup2(pipe_end, 0) != 0) _exit(1);
    close(other_end);
    if (close_range(1, ~0U, 0) != 0) {
        for (int fd = 1; fd < 65536; fd++) close(fd);
    }
    char byte;
    ssize_t got;
    do got = read(0, &byte, 1);
    while (got < 0 && errno == EINTR);
    _exit(0);
}

pid_t farshore_hold_mounts(const char *disks, int *end) {
    int ends[2];
    if (strlen(disks) >= sizeof(held_disks)) {
        errno = ENAMETOOLONG;
        return -1;
    }
    strcpy(held_disks, disks);
    if (pipe2(ends, O_CLOEXEC) != 0) return -1;
    pid_t child = fork();
    if (child == 0) hold_mounts(ends[0], ends[1]);
    int failure = errno;
    close(ends[0]);
    if (child > 0) *end = ends[1];
    else close(ends[1]);
    errno = failure;
    return child;
}

int farshore_leave_mounts(int outside) { return setns(outside, CLONE_NEWNS); }
