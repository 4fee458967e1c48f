// What the replaced calls need of the scheduler.
#include "SimulatedSystem.h"

bool simulated_is_on(void);
int simulated_start(uint32_t process, void *(*body)(void *), void *argument);
void simulated_join(int fiber);
// Until the word is 0.
void simulated_wait_word(const volatile uint32_t *word);
// Until woken (true) or the monotonic clock shows `deadline`.
bool simulated_wait_signal(const void *signal, uint64_t deadline);
void simulated_wake(const void *signal, bool all);
