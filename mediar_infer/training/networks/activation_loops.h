/* The loops of activation_kernels.c, which includes this file once for each type of image: VALUE is
 * the type, NAME makes its functions' names, LOAD and STORE convert to and from float.
 */

/* Sums of x - pivot and of its squares per place of a row; added to what is there. A pivot near the
 * mean keeps the digits that a difference of large sums would lose. */
FOR_EACH_CPU void NAME(mediar_moments)(const VALUE *restrict x, const float *restrict pivot,
                                       int64_t length, int64_t first, int64_t last, double *sum,
                                       double *sum_of_squares)
{
    float part[MAX_LENGTH] = {0}, part_of_squares[MAX_LENGTH] = {0};
    for (int64_t row = first; row < last; row++) {
        const VALUE *restrict in = x + row * length;
        for (int64_t i = 0; i < length; i++) {
            float distance = LOAD(in[i]) - pivot[i];
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
FOR_EACH_CPU void NAME(mediar_mish)(const VALUE *restrict x, const float *restrict scale,
                                    const float *restrict shift, int64_t length, int64_t first,
                                    int64_t last, VALUE *restrict y)
{
    for (int64_t row = first; row < last; row++) {
        const VALUE *restrict in = x + row * length;
        VALUE *restrict out = y + row * length;
        for (int64_t i = 0; i < length; i++) {
            out[i] = STORE(mish(LOAD(in[i]) * scale[i] + shift[i]));
        }
    }
}

/* Sums of the gradient of z, and of its product with x; added to what is there. */
FOR_EACH_CPU void NAME(mediar_mish_gradient_sums)(
    const VALUE *restrict x, const VALUE *restrict gradient, const float *restrict scale,
    const float *restrict shift, int64_t length, int64_t first, int64_t last, double *sum,
    double *sum_of_products)
{
    float part[MAX_LENGTH] = {0}, part_of_products[MAX_LENGTH] = {0};
    for (int64_t row = first; row < last; row++) {
        const VALUE *restrict in = x + row * length, *restrict up = gradient + row * length;
        for (int64_t i = 0; i < length; i++) {
            float value = LOAD(in[i]);
            float dz = LOAD(up[i]) * mish_slope(value * scale[i] + shift[i]);
            part[i] += dz;
            part_of_products[i] += dz * value;
        }
        if ((row - first) % ROWS_PER_SUM == ROWS_PER_SUM - 1 || row == last - 1) {
            add_up(part, sum, length);
            add_up(part_of_products, sum_of_products, length);
        }
    }
}

/* Gradient of x: scale * (gradient of z) + slope * x + offset. */
FOR_EACH_CPU void NAME(mediar_mish_gradient)(
    const VALUE *restrict x, const VALUE *restrict gradient, const float *restrict scale,
    const float *restrict shift, const float *restrict slope, const float *restrict offset,
    int64_t length, int64_t first, int64_t last, VALUE *restrict result)
{
    for (int64_t row = first; row < last; row++) {
        const VALUE *restrict in = x + row * length, *restrict up = gradient + row * length;
        VALUE *restrict out = result + row * length;
        for (int64_t i = 0; i < length; i++) {
            float value = LOAD(in[i]);
            float dz = LOAD(up[i]) * mish_slope(value * scale[i] + shift[i]);
            out[i] = STORE(scale[i] * dz + slope[i] * value + offset[i]);
        }
    }
}
