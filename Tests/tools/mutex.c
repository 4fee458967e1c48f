// Preloaded by Tests/sanitize: tells the thread sanitizer what the slow paths of Swift's Mutex order. They are in the runtime's
// library, which is not built with the sanitizer, so it would take every contended lock for none.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>

#define LOCK_SLOW "$s15Synchronization12_MutexHandleV9_lockSlowyys6UInt32VF"
#define UNLOCK_SLOW "$s15Synchronization12_MutexHandleV11_unlockSlowyyF"

extern void __tsan_acquire(void *) __attribute__((weak));
extern void __tsan_release(void *) __attribute__((weak));

typedef __attribute__((swiftcall)) void (*Lock)(uint32_t, __attribute__((swift_context)) void *);
typedef __attribute__((swiftcall)) void (*Unlock)(__attribute__((swift_context)) void *);

static void *next(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (!found) abort();
    return found;
}

__attribute__((swiftcall)) void farshore_lock(uint32_t, __attribute__((swift_context)) void *) __asm__(LOCK_SLOW);
__attribute__((swiftcall)) void farshore_lock(uint32_t thread, __attribute__((swift_context)) void *handle) {
    static Lock lock;
    if (!lock) lock = (Lock)next(LOCK_SLOW);
    lock(thread, handle);
    if (__tsan_acquire) __tsan_acquire(handle);
}

__attribute__((swiftcall)) void farshore_unlock(__attribute__((swift_context)) void *) __asm__(UNLOCK_SLOW);
__attribute__((swiftcall)) void farshore_unlock(__attribute__((swift_context)) void *handle) {
    static Unlock unlock;
    if (!unlock) unlock = (Unlock)next(UNLOCK_SLOW);
    if (__tsan_release) __tsan_release(handle);
    unlock(handle);
}
