/* The label stage's inner loops: tracking, seeds, basins, pseudo-diffusion, flow errors.
 *
 * Method: Cellpose (Stringer et al., Nature Methods 18, 2021; BSD-3-Clause, notice in LICENSE) as
 * the released MEDIAR runs it. Plain C without Python's headers, called through ctypes by
 * compiled.py, which owns all memory and runs the ranges in threads.
 *
 * Conventions: images are row-major, (y, x); labels are 0 in the background. Every function that
 * takes `first` and `last` does a part of its work, for threads to share; parts never write to the
 * same place. Floating-point contraction must be off (-ffp-contract=off): then every
 * processor gives the same labels.
 */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__)
#define FOR_EACH_CPU __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EACH_CPU
#endif

typedef float v4 __attribute__((vector_size(16)));

static inline v4 load4(const float *p)
{
    v4 v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* --- Tracking ------------------------------------------------------------------------------ */

/* Pixels that walk together; they fit into the first-level cache. */
enum { GROUP = 256, CHECK_EVERY = 8 };

/* Where an array lies in its image, in units of the padded field; one pair (y, x) each. */
typedef struct {
    float scale[2]; /* array pixel -> field: at * scale + shift */
    float shift[2];
    float low[2]; /* positions are clamped to [low, high] after every step */
    float high[2];
} frame_t;

/* Interleave a flow field and pad it by one zero pixel on every side.
 *
 * flow        (2, height, width), in network scale
 * foreground  (height, width), 0 or 1
 * field       (height + 2, width + 2, 2); rows first ... last - 1 of it are written
 */
FOR_EACH_CPU void mediar_make_field(const float *flow, const uint8_t *foreground, int64_t height,
                                    int64_t width, float flow_scale, const frame_t *frame,
                                    float *field, int64_t first, int64_t last)
{
    const int64_t stride = 2 * (width + 2);
    for (int64_t row = first; row < last; row++) {
        float *out = field + row * stride;
        memset(out, 0, stride * sizeof *out);
        if (row == 0 || row == height + 1)
            continue;
        const float *dy = flow + (row - 1) * width, *dx = dy + height * width;
        const uint8_t *inside = foreground + (row - 1) * width;
        for (int64_t x = 0; x < width; x++) {
            out[2 * x + 2] = inside[x] ? dy[x] / flow_scale * frame->scale[0] : 0.0f;
            out[2 * x + 3] = inside[x] ? dx[x] / flow_scale * frame->scale[1] : 0.0f;
        }
    }
}

typedef struct {
    float y[GROUP], x[GROUP];             /* now */
    float y_before[GROUP], x_before[GROUP]; /* two steps ago */
    int32_t place[GROUP];                 /* where the end is written */
    int n;
} walkers_t;

static inline float clampf(float value, float low, float high)
{
    /* In this form NaN becomes `low`, which is a place to read from. */
    value = value > low ? value : low;
    return value < high ? value : high;
}

static inline void step(walkers_t *w, const float *field, int64_t stride, const frame_t *frame)
{
    for (int k = 0; k < w->n; k++) {
        const float y = w->y[k], x = w->x[k];
        const int32_t row = (int32_t)y, column = (int32_t)x; /* not negative: truncation is floor */
        const float ty = y - (float)row, tx = x - (float)column;
        const float *at = field + row * stride + 2 * column;
        const v4 above = load4(at), below = load4(at + stride);
        const v4 between = above + ty * (below - above);
        w->y[k] = clampf(y + (between[0] + tx * (between[2] - between[0])), frame->low[0],
                         frame->high[0]);
        w->x[k] = clampf(x + (between[1] + tx * (between[3] - between[1])), frame->low[1],
                         frame->high[1]);
    }
}

static int32_t truncated(float at, int axis, const frame_t *frame, const float *least,
                         const int32_t *most)
{
    /* Scaled back, a walker on the border may miss it by a rounding error, and truncation would
     * take the pixel before it. */
    if (at >= frame->high[axis])
        return most[axis];
    const float pixel = (at - frame->shift[axis]) / frame->scale[axis];
    return (int32_t)(pixel < least[axis] ? least[axis] : pixel);
}

/* Walk a group; walkers at rest, or oscillating between two places, stop early. */
static inline void walk(walkers_t *w, const float *field, int64_t width, const frame_t *frame,
                        const float *least, const int32_t *most, int n_steps, int32_t *ends)
{
    const int64_t stride = 2 * (width + 2);
    for (int done = 0; w->n > 0;) {
        /* The number of steps left after a check is even: a walker that is where it was two steps
         * ago ends here too. */
        int n = (n_steps - done) % CHECK_EVERY;
        n = n ? n : CHECK_EVERY;
        if (done == n_steps)
            n = 0;
        for (int i = 0; i < n; i++) {
            if (n - i == 2) {
                memcpy(w->y_before, w->y, w->n * sizeof *w->y);
                memcpy(w->x_before, w->x, w->n * sizeof *w->x);
            }
            step(w, field, stride, frame);
        }
        done += n;
        int kept = 0;
        for (int k = 0; k < w->n; k++) {
            const int rests =
                n >= 2 && w->y[k] == w->y_before[k] && w->x[k] == w->x_before[k];
            if (rests || done == n_steps) {
                ends[w->place[k]] =
                    truncated(w->y[k], 0, frame, least, most) * (int32_t)width +
                    truncated(w->x[k], 1, frame, least, most);
            } else {
                w->y[kept] = w->y[k];
                w->x[kept] = w->x[k];
                w->place[kept++] = w->place[k];
            }
        }
        w->n = kept;
    }
}

/* Follow the flow from the pixels of a region.
 *
 * field        from mediar_make_field
 * flow_y       (height, width), in network scale
 * foreground   (height, width)
 * region       rows and columns whose pixels walk: top, left, bottom, right
 * least, most  first and last pixel (y, x), in array coordinates, that a walker may end in
 * ends         (bottom - top, right - left): flat array position of each pixel's end; a pixel that
 *              does not walk ends where it is
 * first, last  rows of the region to do
 * returns the number of pixels that walked
 */
FOR_EACH_CPU int64_t mediar_track(const float *field, const float *flow_y,
                                  const uint8_t *foreground, int64_t width, const int32_t *region,
                                  const frame_t *frame, const float *least, const int32_t *most,
                                  float least_flow_y, int n_steps, int32_t *ends,
                                  int64_t first, int64_t last)
{
    walkers_t w;
    w.n = 0;
    int64_t n_walked = 0;
    const int64_t n_columns = region[3] - region[1];
    for (int64_t row = first; row < last; row++) {
        const int64_t y = region[0] + row;
        for (int64_t column = 0; column < n_columns; column++) {
            const int64_t x = region[1] + column, place = row * n_columns + column;
            if (!foreground[y * width + x] || !(fabsf(flow_y[y * width + x]) > least_flow_y)) {
                ends[place] = (int32_t)(y * width + x);
                continue;
            }
            w.y[w.n] = (float)y * frame->scale[0] + frame->shift[0];
            w.x[w.n] = (float)x * frame->scale[1] + frame->shift[1];
            w.place[w.n++] = (int32_t)place;
            n_walked++;
            if (w.n == GROUP)
                walk(&w, field, width, frame, least, most, n_steps, ends);
        }
    }
    walk(&w, field, width, frame, least, most, n_steps, ends);
    return n_walked;
}

/* --- Seeds and basins ---------------------------------------------------------------------- */

/* Count how many pixels end where; `hits` is added to. */
void mediar_count_hits(const int32_t *ends, int64_t n, int32_t *hits)
{
    for (int64_t i = 0; i < n; i++)
        hits[ends[i]]++;
}

/* List local maxima (5 x 5) with more than `least` hits in rows first ... last - 1, row-major.
 *
 * seeds   room for `capacity` pairs (y, x)
 * returns how many there are, also beyond the capacity
 */
int64_t mediar_find_seeds(const int32_t *hits, int64_t height, int64_t width, int32_t least,
                          int64_t first, int64_t last, int32_t *seeds, int64_t capacity)
{
    int64_t n = 0;
    for (int64_t y = first; y < last; y++) {
        const int64_t top = y < 2 ? 0 : y - 2, bottom = y + 3 > height ? height : y + 3;
        for (int64_t x = 0; x < width; x++) {
            const int32_t here = hits[y * width + x];
            if (here <= least)
                continue;
            const int64_t left = x < 2 ? 0 : x - 2, right = x + 3 > width ? width : x + 3;
            int highest = 1;
            for (int64_t i = top; i < bottom && highest; i++)
                for (int64_t j = left; j < right; j++)
                    highest &= hits[i * width + j] <= here;
            if (!highest)
                continue;
            if (n < capacity) {
                seeds[2 * n] = (int32_t)y;
                seeds[2 * n + 1] = (int32_t)x;
            }
            n++;
        }
    }
    return n;
}

/* Grow each seed five times by its 3 x 3 neighbourhood over bins with more than `least` hits.
 *
 * basins  (height, width): gets first_id + index of the last seed that reaches a bin
 */
void mediar_grow_basins(const int32_t *hits, int64_t height, int64_t width, int32_t least,
                        const int32_t *seeds, int64_t n_seeds, int32_t first_id, int32_t *basins)
{
    enum { STEPS = 5, SIDE = 2 * STEPS + 1 };
    for (int64_t k = 0; k < n_seeds; k++) {
        const int64_t top = seeds[2 * k] - STEPS, left = seeds[2 * k + 1] - STEPS;
        uint16_t passable[SIDE], grown[SIDE] = {0}, wide[SIDE]; /* one bit per bin of a row */
        for (int i = 0; i < SIDE; i++) {
            passable[i] = 0;
            if (top + i < 0 || top + i >= height)
                continue;
            for (int j = 0; j < SIDE; j++)
                if (left + j >= 0 && left + j < width &&
                    hits[(top + i) * width + left + j] > least)
                    passable[i] |= (uint16_t)(1 << j);
        }
        grown[STEPS] = 1 << STEPS;
        for (int step_ = 0; step_ < STEPS; step_++) {
            for (int i = 0; i < SIDE; i++)
                wide[i] = (uint16_t)(grown[i] | grown[i] << 1 | grown[i] >> 1);
            for (int i = 0; i < SIDE; i++)
                grown[i] = (uint16_t)((wide[i] | (i > 0 ? wide[i - 1] : 0) |
                                       (i < SIDE - 1 ? wide[i + 1] : 0)) &
                                      passable[i]);
        }
        for (int i = 0; i < SIDE; i++)
            for (int j = 0; j < SIDE; j++)
                if (grown[i] >> j & 1)
                    basins[(top + i) * width + left + j] = first_id + (int32_t)k;
    }
}

/* --- Cells --------------------------------------------------------------------------------- */

/* Bounding box and size of a cell; an absent cell has size 0. */
typedef struct {
    int32_t top, left, bottom, right;
    int64_t size;
} cell_t;

/* Measure cells 1 ... n_cells of (height, width) labels; `cells[id - 1]` is written. */
void mediar_measure_cells(const int32_t *labels, int64_t height, int64_t width, cell_t *cells,
                          int64_t n_cells)
{
    for (int64_t k = 0; k < n_cells; k++)
        cells[k] = (cell_t){INT32_MAX, INT32_MAX, 0, 0, 0};
    for (int64_t y = 0; y < height; y++) {
        const int32_t *row = labels + y * width;
        for (int64_t x = 0; x < width;) {
            const int32_t id = row[x];
            const int64_t start = x;
            while (x < width && row[x] == id)
                x++;
            if (id == 0)
                continue;
            cell_t *cell = cells + id - 1;
            if (cell->size == 0)
                cell->top = (int32_t)y;
            cell->bottom = (int32_t)y + 1;
            cell->left = start < cell->left ? (int32_t)start : cell->left;
            cell->right = x > cell->right ? (int32_t)x : cell->right;
            cell->size += x - start;
        }
    }
}

/* A cell on a strip of its own: rows `stride` apart, of which the last element is empty, with an
 * empty row before and behind. Neighbours are at fixed distances and every pass is one loop. */
typedef struct {
    double *warmth, *next, *divisor, *before; /* `length` each; `before`: a round ago */
    int64_t stride, length, start, stop, source;
} strip_t;

/* Middle of sorted values that are given by how often each occurs. */
static double median(const int32_t *counts, int64_t n_values)
{
    int64_t seen = 0;
    for (int64_t value = 0; value < n_values; value++)
        seen += counts[value];
    const int64_t low_rank = (seen - 1) / 2, high_rank = seen / 2;
    double low = -1;
    int64_t below = 0;
    for (int64_t value = 0; value < n_values; value++) {
        below += counts[value];
        if (low < 0 && below > low_rank)
            low = (double)value;
        if (below > high_rank)
            return (low + (double)value) / 2.0;
    }
    return low;
}

static void lay_out(strip_t *s, const int32_t *labels, int64_t width, int32_t id,
                    const cell_t *cell, int32_t *counts)
{
    const int64_t h = cell->bottom - cell->top, w = cell->right - cell->left;
    memset(counts, 0, (h + w) * sizeof *counts);
    memset(s->warmth, 0, s->length * sizeof *s->warmth);
    memset(s->next, 0, s->length * sizeof *s->next);
    memset(s->before, 0, s->length * sizeof *s->before);
    for (int64_t i = 0; i < s->length; i++)
        s->divisor[i] = INFINITY;
    for (int64_t i = 0; i < h; i++) {
        const int32_t *row = labels + (cell->top + i) * width + cell->left;
        for (int64_t j = 0; j < w; j++)
            if (row[j] == id) {
                s->divisor[s->start + i * s->stride + j] = 9.0;
                counts[i]++;
                counts[h + j]++;
            }
    }
    const double y = median(counts, h), x = median(counts + h, w);
    double nearest = INFINITY;
    for (int64_t i = 0; i < h; i++)
        for (int64_t j = 0; j < w; j++) {
            const double distance = ((double)i - y) * ((double)i - y) +
                                    ((double)j - x) * ((double)j - x);
            if (s->divisor[s->start + i * s->stride + j] == 9.0 && distance < nearest) {
                nearest = distance;
                s->source = s->start + i * s->stride + j;
            }
        }
}

/* The sum runs in the reference's order and is then divided: at the centre of a symmetric cell the
 * gradient is rounding noise, and only the same noise gives the same unit vector there. */
static inline void spread(const double *restrict t, double *restrict next,
                          const double *restrict divisor, int64_t stride, int64_t start,
                          int64_t stop)
{
    for (int64_t i = start; i < stop; i++)
        next[i] = (t[i] + t[i - stride] + t[i + stride] + t[i - 1] + t[i + 1] +
                   t[i - stride - 1] + t[i - stride + 1] + t[i + stride - 1] +
                   t[i + stride + 1]) /
                  divisor[i];
}

static inline void spread_once(strip_t *s)
{
    s->warmth[s->source] += 1.0;
    spread(s->warmth, s->next, s->divisor, s->stride, s->start, s->stop);
    double *done = s->warmth;
    s->warmth = s->next;
    s->next = done;
}

/* A giant cell makes its whole image diffuse for thousands of iterations; a small cell is in balance
 * long before. Its gain shrinks by a constant factor per round, so the balance can be extrapolated;
 * further rounds correct what was not yet constant. Extrapolation never exceeds what the remaining
 * iterations would reach: e^-30 of the gain is below rounding. */
static inline void diffuse(strip_t *s, int64_t n_iterations)
{
    enum { ROUND = 64 };
    const double in_balance = 1e-13, certain = 30.0;
    double gained_before = 0.0;
    for (int64_t i = 1; i <= n_iterations; i++) {
        spread_once(s);
        if (i % ROUND != 0 || i == n_iterations)
            continue;
        double gained = 0.0, total = 0.0;
        for (int64_t k = s->start; k < s->stop; k++) {
            gained += fabs(s->warmth[k] - s->before[k]);
            total += s->warmth[k];
        }
        if (gained <= in_balance * total)
            return;
        const double factor = i > ROUND ? gained / gained_before : 1.0;
        if (factor < 1.0 && (double)(n_iterations - i) / ROUND * -log(factor) > certain) {
            const double more = factor / (1.0 - factor);
            for (int64_t k = s->start; k < s->stop; k++)
                s->warmth[k] += more * (s->warmth[k] - s->before[k]);
        }
        gained_before = gained;
        memcpy(s->before + s->start, s->warmth + s->start,
               (s->stop - s->start) * sizeof *s->before);
    }
}

/* Compute log(1 + temperature) of cells by pseudo-diffusion.
 *
 * labels        (height, width), of which only rows and columns inside the boxes are read
 * n_iterations  of every cell; 0 takes 2 * (box height + box width + 2) of each
 * warmth        (height + 2, width + 2), zero where nothing is written
 * first, last   cells[first] ... cells[last - 1] are done; cells of size 0 are skipped
 * returns 0, or -1 without memory
 */
FOR_EACH_CPU int mediar_diffuse(const int32_t *labels, int64_t width, const cell_t *cells,
                                int64_t n_iterations, double *warmth, int64_t first, int64_t last)
{
    double *memory = NULL;
    int32_t *counts = NULL;
    int64_t room = 0, n_counts = 0;
    int failed = 0;
    for (int64_t k = first; k < last && !failed; k++) {
        const cell_t *cell = cells + k;
        if (cell->size == 0)
            continue;
        const int64_t h = cell->bottom - cell->top, w = cell->right - cell->left;
        strip_t s;
        s.stride = w + 1;
        s.start = s.stride + 1;
        s.stop = s.start + h * s.stride;
        s.length = s.stop + s.stride + 1;
        if (4 * s.length > room || h + w > n_counts) {
            room = 4 * s.length + room / 2;
            n_counts = h + w + n_counts / 2;
            free(memory);
            free(counts);
            memory = malloc(room * sizeof *memory);
            counts = malloc(n_counts * sizeof *counts);
            failed = !memory || !counts;
            if (failed)
                break;
        }
        s.warmth = memory;
        s.next = memory + s.length;
        s.divisor = memory + 2 * s.length;
        s.before = memory + 3 * s.length;
        lay_out(&s, labels, width, (int32_t)(k + 1), cell, counts);
        diffuse(&s, n_iterations ? n_iterations : 2 * (h + w + 2));
        for (int64_t i = 0; i < h; i++) {
            double *out = warmth + (cell->top + i + 1) * (width + 2) + cell->left + 1;
            const int64_t at = s.start + i * s.stride;
            for (int64_t j = 0; j < w; j++)
                if (s.divisor[at + j] == 9.0)
                    out[j] = log(1.0 + s.warmth[at + j]);
        }
    }
    free(memory);
    free(counts);
    return failed ? -1 : 0;
}

static inline void unit_gradient(const double *at, int64_t stride, double *dy, double *dx)
{
    /* Neighbours count whatever their label is: touching cells influence each other. */
    *dy = at[stride] - at[-stride];
    *dx = at[1] - at[-1];
    const double length = 1e-20 + sqrt(*dy * *dy + *dx * *dx);
    *dy /= length;
    *dx /= length;
}

/* Write the unit flow (2, height, width) of labelled pixels, rows first ... last - 1. */
FOR_EACH_CPU void mediar_unit_flow(const int32_t *labels, int64_t height, int64_t width,
                                   const double *warmth, float *unit_flow, int64_t first,
                                   int64_t last)
{
    for (int64_t y = first; y < last; y++)
        for (int64_t x = 0; x < width; x++) {
            double dy = 0, dx = 0;
            if (labels[y * width + x])
                unit_gradient(warmth + (y + 1) * (width + 2) + x + 1, width + 2, &dy, &dx);
            unit_flow[y * width + x] = (float)dy;
            unit_flow[(height + y) * width + x] = (float)dx;
        }
}

/* Add up the squared difference of the predicted and the ideal flow per label.
 *
 * flow    rows of (height, width) dy, then, `plane` elements on, of dx; in network scale
 * errors  errors[id] gains the sum over the pixels of the label
 */
void mediar_add_flow_errors(const int32_t *labels, int64_t height, int64_t width,
                            const double *warmth, const float *flow, int64_t plane,
                            float flow_scale, double *errors)
{
    for (int64_t y = 0; y < height; y++)
        for (int64_t x = 0; x < width; x++) {
            const int32_t id = labels[y * width + x];
            if (id == 0)
                continue;
            double dy, dx;
            unit_gradient(warmth + (y + 1) * (width + 2) + x + 1, width + 2, &dy, &dx);
            dy = (double)(flow[y * width + x] / flow_scale) - dy;
            dx = (double)(flow[plane + y * width + x] / flow_scale) - dx;
            errors[id] += dy * dy + dx * dx;
        }
}
