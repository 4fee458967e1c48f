// The scheduler: fibers in place of threads. One runs at a time; which one is drawn at each point.
#define _GNU_SOURCE 1
#include "Fibers.h"
#include <link.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

enum { FIBERS_MAX = 512, STACK_BYTES = 512 << 10, THREAD_LOCAL_BYTES_MAX = 512 };
enum state { UNUSED, READY, WAITS_FOR_SIGNAL, WAITS_FOR_WORD, SLEEPS, WAITS_FOR_END, WAITS_FOR_POINTS, ENDED };

struct fiber {
    ucontext_t context;
    // Where it goes on; unlike a context's, this switch makes no system call.
    jmp_buf place;
    bool has_begun;
    void *stack;
    enum state state;
    uint32_t process;
    bool is_joined_or_detached;
    bool was_timed_out;
    const void *signal;
    const volatile uint32_t *word;
    uint64_t deadline;
    int joined;
    void *(*body)(void *);
    void *argument;
    // What is thread-local in the program and in Swift's runtime: thread ids, accesses in progress.
    unsigned char thread_locals[THREAD_LOCAL_BYTES_MAX];
};

static struct fiber fibers[FIBERS_MAX];
static int fiber_count, current;
static bool is_running;
static uint64_t random_state, choice_state, hash, now, steps, steps_max, switch_one_in, alarm_step;
static int64_t wall_offset;
static bool is_rung;

static struct { void *start; size_t bytes; } locals[4];
static int locals_count;

bool simulated_is_on(void) { return is_running; }
uint32_t simulated_process(void) { return fibers[current].process; }
uint32_t simulated_fiber(void) { return (uint32_t)current; }
uint64_t simulated_now(void) { return now; }
int64_t simulated_wall(void) { return (int64_t)now + wall_offset; }
void simulated_set_wall_clock(int64_t nanoseconds) { wall_offset = nanoseconds; }
uint64_t simulated_steps(void) { return steps; }
uint64_t simulated_hash(void) { return hash; }
void simulated_note(uint64_t value) { hash = (hash ^ value) * 0x9E3779B97F4A7C15ull; hash ^= hash >> 29; }

static uint64_t draw(uint64_t *state) {
    uint64_t mixed = *state += 0x9E3779B97F4A7C15ull;
    mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9ull;
    mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EBull;
    return mixed ^ (mixed >> 31);
}
uint64_t simulated_random(void) { return draw(&random_state); }

// Modules whose thread-local variables a fiber must have for itself.
static int find_locals(struct dl_phdr_info *module, size_t size, void *unused) {
    (void)size; (void)unused;
    bool is_wanted = module->dlpi_name[0] == 0 || strstr(module->dlpi_name, "libswiftCore") || strstr(module->dlpi_name, "libswiftSynchronization");
    if (!is_wanted || !module->dlpi_tls_data) return 0;
    for (int part = 0; part < module->dlpi_phnum; part++) {
        if (module->dlpi_phdr[part].p_type != PT_TLS) continue;
        locals[locals_count].start = module->dlpi_tls_data;
        locals[locals_count++].bytes = module->dlpi_phdr[part].p_memsz;
    }
    return locals_count >= 4;
}

static void keep_locals(unsigned char *into) {
    for (int at = 0; at < locals_count; into += locals[at++].bytes) memcpy(into, locals[at].start, locals[at].bytes);
}
static void use_locals(const unsigned char *from) {
    for (int at = 0; at < locals_count; from += locals[at++].bytes) memcpy(locals[at].start, from, locals[at].bytes);
}

void simulated_begin(uint64_t seed, uint64_t one_in, uint64_t limit) {
    if (locals_count == 0) {
        dl_iterate_phdr(find_locals, NULL);
        size_t bytes = 0;
        for (int at = 0; at < locals_count; at++) bytes += locals[at].bytes;
        if (bytes > THREAD_LOCAL_BYTES_MAX) simulated_stuck("the program has more thread-local memory than a fiber keeps");
    }
    for (int at = 0; at < fiber_count; at++) fibers[at].state = UNUSED;
    random_state = seed; choice_state = ~seed; hash = seed; now = 1000000000; steps = 0; wall_offset = 1700000000000000000ll;
    steps_max = limit; switch_one_in = one_in; alarm_step = UINT64_MAX; is_rung = false;
    fiber_count = 1; current = 0;
    fibers[0].state = READY; fibers[0].process = 0; fibers[0].has_begun = true;
    is_running = true;
}

void simulated_end(void) { is_running = false; }

static bool can_run(struct fiber *fiber) {
    switch (fiber->state) {
    case READY: return true;
    case WAITS_FOR_WORD: return *fiber->word == 0;
    case WAITS_FOR_SIGNAL: fiber->was_timed_out = fiber->deadline <= now; return fiber->was_timed_out;
    case SLEEPS: return fiber->deadline <= now;
    case WAITS_FOR_END: return fibers[fiber->joined].state == ENDED;
    case WAITS_FOR_POINTS: return is_rung || steps >= alarm_step;
    default: return false;
    }
}

static void switch_to(int next) {
    fibers[next].state = READY;
    if (next == current) return;
    int previous = current;
    keep_locals(fibers[previous].thread_locals);
    current = next;
    use_locals(fibers[next].thread_locals);
    if (_setjmp(fibers[previous].place)) return;
    if (fibers[next].has_begun) _longjmp(fibers[next].place, 1);
    fibers[next].has_begun = true;
    setcontext(&fibers[next].context);
}

// The running fiber gives way; its state says until when.
static void schedule(void) {
    int runnable[FIBERS_MAX];
    while (true) {
        int count = 0;
        uint64_t earliest = UINT64_MAX;
        for (int at = 0; at < fiber_count; at++) {
            if (can_run(&fibers[at])) runnable[count++] = at;
            else if ((fibers[at].state == WAITS_FOR_SIGNAL || fibers[at].state == SLEEPS) && fibers[at].deadline < earliest) earliest = fibers[at].deadline;
        }
        // Whoever waits for a point gets exactly that one.
        if (count > 0 && fibers[0].state == WAITS_FOR_POINTS && runnable[0] == 0) count = 1;
        if (count > 0) {
            int next = runnable[draw(&choice_state) % (uint64_t)count];
            simulated_note((uint64_t)next << 32 | steps);
            return switch_to(next);
        }
        if (earliest == UINT64_MAX) {
            if (fibers[0].state == WAITS_FOR_POINTS) { is_rung = true; continue; }
            simulated_stuck("every thread waits for another");
        }
        now = earliest;
    }
}

void simulated_point(void) {
    if (!is_running) return;
    now += 1000 + draw(&choice_state) % 20000;
    if (++steps > steps_max) simulated_stuck("the run does not end");
    if (steps >= alarm_step || draw(&choice_state) % switch_one_in == 0) schedule();
}

static void begin_fiber(void) {
    struct fiber *fiber = &fibers[current];
    fiber->body(fiber->argument);
    fiber->state = ENDED;
    schedule();
}

int simulated_start(uint32_t process, void *(*body)(void *), void *argument) {
    int at = 1;
    while (at < fiber_count && fibers[at].state != UNUSED && !(fibers[at].state == ENDED && fibers[at].is_joined_or_detached)) at++;
    if (at == FIBERS_MAX) simulated_stuck("more threads than the simulation holds");
    if (at == fiber_count) fiber_count++;
    struct fiber *fiber = &fibers[at];
    void *stack = fiber->stack;
    if (!stack) stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    *fiber = (struct fiber){.stack = stack, .state = READY, .process = process, .body = body, .argument = argument};
    getcontext(&fiber->context);
    fiber->context.uc_stack.ss_sp = stack;
    fiber->context.uc_stack.ss_size = STACK_BYTES;
    makecontext(&fiber->context, begin_fiber, 0);
    return at;
}

static void *run_spawned(void *boxed) {
    struct { void (*body)(void *); void *argument; } call;
    memcpy(&call, boxed, sizeof call);
    free(boxed);
    call.body(call.argument);
    return NULL;
}

void simulated_spawn(uint32_t process, void (*body)(void *), void *argument) {
    struct { void (*body)(void *); void *argument; } call = {body, argument};
    void *boxed = malloc(sizeof call);
    memcpy(boxed, &call, sizeof call);
    fibers[simulated_start(process, run_spawned, boxed)].is_joined_or_detached = true;
}

int simulated_living(uint32_t process) {
    int count = 0;
    for (int at = 0; at < fiber_count; at++)
        if (fibers[at].process == process && fibers[at].state != UNUSED && fibers[at].state != ENDED) count++;
    return count;
}

void simulated_join(int fiber) {
    fibers[current].joined = fiber;
    fibers[current].state = WAITS_FOR_END;
    schedule();
    fibers[fiber].is_joined_or_detached = true;
}

void simulated_sleep(uint64_t nanoseconds) {
    if (++steps > steps_max) simulated_stuck("the run does not end");
    fibers[current].deadline = now + nanoseconds;
    fibers[current].state = SLEEPS;
    schedule();
}

void simulated_wait_points(uint64_t points) {
    alarm_step = points > UINT64_MAX - steps ? UINT64_MAX : steps + points;
    is_rung = false;
    fibers[0].state = WAITS_FOR_POINTS;
    schedule();
    alarm_step = UINT64_MAX;
}

void simulated_ring(void) { is_rung = true; }

void simulated_wait_word(const volatile uint32_t *word) {
    while (*word != 0) {
        fibers[current].word = word;
        fibers[current].state = WAITS_FOR_WORD;
        schedule();
    }
}

bool simulated_wait_signal(const void *signal, uint64_t deadline) {
    fibers[current].signal = signal;
    fibers[current].deadline = deadline;
    fibers[current].was_timed_out = false;
    fibers[current].state = WAITS_FOR_SIGNAL;
    schedule();
    return !fibers[current].was_timed_out;
}

void simulated_wake(const void *signal, bool all) {
    for (int at = 0; at < fiber_count; at++) {
        if (fibers[at].state != WAITS_FOR_SIGNAL || fibers[at].signal != signal) continue;
        fibers[at].state = READY;
        if (!all) return;
    }
}
