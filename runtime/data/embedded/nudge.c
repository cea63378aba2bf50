/* Preloaded by fragile.py: the C library's functions that Codec 2 and espeak-ng call, each result moved by up to WIDEST
   units in the last place. How far depends on the arguments and on the environment's NUDGE alone. */
#define _GNU_SOURCE
#include <complex.h>
#include <dlfcn.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define WIDEST 32

static int64_t steps(double x, double y) {
    static uint64_t seed;
    uint64_t a, b;
    if (!seed) seed = 2 * strtoull(getenv("NUDGE"), 0, 10) + 1;
    memcpy(&a, &x, 8);
    memcpy(&b, &y, 8);
    a = (a ^ (b >> 7) ^ seed << 32) * 0x9E3779B97F4A7C15ull;
    a = (a ^ a >> 29) * 0xBF58476D1CE4E5B9ull;
    return (int64_t)((a ^ a >> 32) % (2 * WIDEST + 1)) - WIDEST;
}

/* Zero and one stay: every library has these exactly. */
static float move_f(float r, double x, double y) {
    int32_t bits;
    if (r == 0 || r == 1 || !isfinite(r)) return r;
    memcpy(&bits, &r, 4);
    bits += steps(x, y);
    memcpy(&r, &bits, 4);
    return r;
}

static double move_d(double r, double x, double y) {
    int64_t bits;
    if (r == 0 || r == 1 || !isfinite(r)) return r;
    memcpy(&bits, &r, 8);
    bits += steps(x, y);
    memcpy(&r, &bits, 8);
    return r;
}

#define NEXT(name) if (!next) next = dlsym(RTLD_NEXT, #name)
#define ONE(type, name, move) \
    type name(type x) { static type (*next)(type); NEXT(name); return move(next(x), x, 0); }
#define TWO(type, name, move) \
    type name(type x, type y) { static type (*next)(type, type); NEXT(name); return move(next(x, y), x, y); }

ONE(float, sinf, move_f)
ONE(float, cosf, move_f)
ONE(float, acosf, move_f)
ONE(float, log10f, move_f)
ONE(float, exp10f, move_f)
TWO(float, powf, move_f)
TWO(float, atan2f, move_f)
ONE(double, sin, move_d)
ONE(double, cos, move_d)
ONE(double, exp, move_d)
ONE(double, log2, move_d)
ONE(double, log10, move_d)
TWO(double, pow, move_d)

float cabsf(float complex z) {
    static float (*next)(float complex);
    NEXT(cabsf);
    return move_f(next(z), crealf(z), cimagf(z));
}

void sincosf(float x, float *sine, float *cosine) {
    *sine = sinf(x);
    *cosine = cosf(x);
}
