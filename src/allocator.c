/* How glibc's allocator gives memory back; linked into the program alone (build.rs), and run before its main.
 *
 * Of itself glibc raises the size from which an allocation is mapped of its own each time that a larger one is freed, up
 * to 32 MiB, and twice that stays unreturned at a heap's end. So one frame of 8 MiB from a server that is out of its mind
 * would have every buffer of the weeks after it cut out of the heaps, between small things that stay, and a heap only
 * ever grows then. Said once, neither moves. One heap for all threads, since those beside the first two do little, and
 * each would keep what it needed at its busiest. BENCHMARKS.md says what that comes to. */
#include <features.h>

#ifdef __GLIBC__
#include <malloc.h>

/* Thresholds in bytes, those that glibc begins with. */
enum { MAPPED_FROM = 128 * 1024, KEPT_AT_END = 128 * 1024, HEAPS = 1 };

__attribute__((constructor)) static void keep_small(void) {
    /* What is refused changes nothing but memory. */
    mallopt(M_MMAP_THRESHOLD, MAPPED_FROM);
    mallopt(M_TRIM_THRESHOLD, KEPT_AT_END);
    mallopt(M_ARENA_MAX, HEAPS);
}
#endif
