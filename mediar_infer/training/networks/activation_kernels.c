/* Loops of a training step that torch leaves slow on CPUs: normalisation and Mish in one pass.
 *
 * Plain C without Python's headers, called through ctypes by fused_norms.py, which owns all memory.
 *
 * Conventions: an array is seen as rows of `length` floats, in which channels repeat: length is the
 * number of channels times some number of pixels, so that short vectors of channels fill the
 * processor's. Factors and sums per channel are arrays of `length` too. Every function does the
 * rows `first` ... `last` - 1, so that threads can share them.
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

/* Sums of x - pivot and of its squares per place of a row; added to what is there. A pivot near the
 * mean keeps the digits that a difference of large sums would lose. */
FOR_EACH_CPU void mediar_moments(const float *restrict x, const float *restrict pivot,
                                 int64_t length, int64_t first, int64_t last, double *sum,
                                 double *sum_of_squares)
{
    float part[MAX_LENGTH] = {0}, part_of_squares[MAX_LENGTH] = {0};
    for (int64_t row = first; row < last; row++) {
        const float *restrict in = x + row * length;
        for (int64_t i = 0; i < length; i++) {
            float distance = in[i] - pivot[i];
            part[i] += distance;
            part_of_squares[i] += distance * distance;
        }
        if ((row - first) % ROWS_PER_SUM == ROWS_PER_SUM - 1 || row == last - 1) {
            add_up(part, sum, length);
            add_up(part_of_squares, sum_of_squares, length);
        }
    }
}

/* y = mish(z), z = x * scale + shift. */
FOR_EACH_CPU void mediar_mish(const float *restrict x, const float *restrict scale,
                              const float *restrict shift, int64_t length, int64_t first,
                              int64_t last, float *restrict y)
{
    for (int64_t row = first; row < last; row++) {
        const float *restrict in = x + row * length;
        float *restrict out = y + row * length;
        for (int64_t i = 0; i < length; i++) {
            out[i] = mish(in[i] * scale[i] + shift[i]);
        }
    }
}

/* Sums of the gradient of z, and of its product with x; added to what is there. */
FOR_EACH_CPU void mediar_mish_gradient_sums(const float *restrict x, const float *restrict gradient,
                                            const float *restrict scale,
                                            const float *restrict shift, int64_t length,
                                            int64_t first, int64_t last, double *sum,
                                            double *sum_of_products)
{
    float part[MAX_LENGTH] = {0}, part_of_products[MAX_LENGTH] = {0};
    for (int64_t row = first; row < last; row++) {
        const float *restrict in = x + row * length, *restrict up = gradient + row * length;
        for (int64_t i = 0; i < length; i++) {
            float dz = up[i] * mish_slope(in[i] * scale[i] + shift[i]);
            part[i] += dz;
            part_of_products[i] += dz * in[i];
        }
        if ((row - first) % ROWS_PER_SUM == ROWS_PER_SUM - 1 || row == last - 1) {
            add_up(part, sum, length);
            add_up(part_of_products, sum_of_products, length);
        }
    }
}

/* Gradient of x: scale * (gradient of z) + slope * x + offset. */
FOR_EACH_CPU void mediar_mish_gradient(const float *restrict x, const float *restrict gradient,
                                       const float *restrict scale, const float *restrict shift,
                                       const float *restrict slope, const float *restrict offset,
                                       int64_t length, int64_t first, int64_t last,
                                       float *restrict result)
{
    for (int64_t row = first; row < last; row++) {
        const float *restrict in = x + row * length, *restrict up = gradient + row * length;
        float *restrict out = result + row * length;
        for (int64_t i = 0; i < length; i++) {
            float dz = up[i] * mish_slope(in[i] * scale[i] + shift[i]);
            out[i] = scale[i] * dz + slope[i] * in[i] + offset[i];
        }
    }
}
