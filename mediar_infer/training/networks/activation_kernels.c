/* Loops of a training step that torch leaves slow on CPUs: normalisation and Mish in one pass.
 *
 * Plain C without Python's headers, called through ctypes by fused_norms.py, which owns all memory.
 *
 * Conventions: an array is seen as rows of `length` values, in which channels repeat: length is the
 * number of channels times some number of pixels, so that short vectors of channels fill the
 * processor's. Factors and sums per channel are arrays of `length` too. Every function does the
 * rows `first` ... `last` - 1, so that threads can share them. Images are float32 or, in functions
 * whose names end in _bfloat16, bfloat16; factors are float32, and so is all computation.
 */

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__)
#define FOR_EACH_CPU __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EACH_CPU
#endif

/* Longest row, and rows that are added up in float32 before the sum goes on in float64. */
enum { MAX_LENGTH = 1024, ROWS_PER_SUM = 64 };

/* e^x, x taken for -87 below and for 20 above; relative error below 3e-7. Cephes' expf, without
 * branches. */
static inline float exponential(float x)
{
    x = x < 20.0f ? x : 20.0f;
    x = x > -87.0f ? x : -87.0f;
    float rounded = x * 1.44269504f + 12582912.0f; /* 1.5 * 2^23: the integer is in the low bits */
    int32_t bits;
    memcpy(&bits, &rounded, sizeof bits);
    rounded -= 12582912.0f;
    float r = x - rounded * 0.693359375f + rounded * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    int32_t power = (int32_t)(((uint32_t)bits + 127u) << 23);
    float factor;
    memcpy(&factor, &power, sizeof factor);
    return p * factor;
}

/* tanh(softplus(z)) with a single exponential: n / (n + 2), n = e^z (e^z + 2). */
static inline float mish(float z)
{
    float e = exponential(z), n = e * (e + 2.0f);
    return z * (n / (n + 2.0f));
}

static inline float mish_slope(float z)
{
    float e = exponential(z), n = e * (e + 2.0f), t = n / (n + 2.0f);
    return t + z * (1.0f - t * t) * (e / (1.0f + e));
}

static inline void add_up(float *part, double *sum, int64_t length)
{
    for (int64_t i = 0; i < length; i++) {
        sum[i] += part[i];
        part[i] = 0.0f;
    }
}

typedef uint16_t bfloat16;

static inline float load_float(float value)
{
    return value;
}

static inline float load_bfloat16(bfloat16 value)
{
    uint32_t bits = (uint32_t)value << 16;
    float loaded;
    memcpy(&loaded, &bits, sizeof loaded);
    return loaded;
}

static inline float store_float(float value)
{
    return value;
}

/* To the nearest, ties to even. What is not a number may come out infinite. */
static inline bfloat16 store_bfloat16(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (bfloat16)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

#define VALUE float
#define NAME(name) name
#define LOAD load_float
#define STORE store_float
#include "activation_loops.h"
#undef VALUE
#undef NAME
#undef LOAD
#undef STORE

#define VALUE bfloat16
#define NAME(name) name##_bfloat16
#define LOAD load_bfloat16
#define STORE store_bfloat16
#include "activation_loops.h"
