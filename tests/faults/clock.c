/* The wall clock of one process, shifted by the seconds that the file $FAULT_CLOCK holds once it is there. Preloaded.
   Each process tells in $FAULT_CLOCK.seen which shift it has come to see. The monotonic clock stays as it is. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long shift(void) {
    static __thread int inside;
    static long seen;
    const char *path = getenv("FAULT_CLOCK");
    if (path == NULL || inside) return seen;
    inside = 1;
    FILE *file = fopen(path, "r");
    long now = seen;
    if (file != NULL) {
        if (fscanf(file, "%ld", &now) != 1) now = seen;
        fclose(file);
    }
    if (now != seen) {
        char name[4096];
        seen = now;
        snprintf(name, sizeof name, "%s.seen", path);
        file = fopen(name, "a");
        if (file != NULL) {
            fprintf(file, "%d %ld\n", (int)getpid(), now);
            fclose(file);
        }
    }
    inside = 0;
    return now;
}

int clock_gettime(clockid_t clock, struct timespec *at) {
    static int (*real)(clockid_t, struct timespec *);
    if (real == NULL) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, at);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) at->tv_sec += shift();
    return result;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone) {
    struct timespec now;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &now) != 0) return -1;
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at != NULL) *at = now.tv_sec;
    return now.tv_sec;
}
