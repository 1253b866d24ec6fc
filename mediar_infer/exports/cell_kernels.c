/* Cells of a label image: boxes and sums by bands of rows, outlines and shapes one by one.
 *
 * Plain C without Python's headers, called through ctypes by compiled.py, which owns all memory.
 *
 * Conventions: label images are row-major (y, x) uint32 and 0 in the background. Outlines run along
 * the cracks between pixels: the point (x, y) is the upper left corner of the pixel in row y and
 * column x. A cell lies to the right of its outline as seen on a screen (y downwards), so that in
 * the usual (x, y) plane outer rings are counter-clockwise and holes clockwise.
 */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* --- Boxes and sums ------------------------------------------------------------------------- */

enum { N_BOX = 5 }; /* first row, first column, row after the last, column after the last, area */

static inline uint64_t hash_id(uint32_t id)
{
    uint64_t h = id * 0x9E3779B97F4A7C15ull;
    return h ^ (h >> 29);
}

/* Slot of an id in an open-addressing table of 2^k slots; a free slot if the id is not there. */
static inline int64_t find_slot(const uint32_t *keys, int64_t n_slots, uint32_t id)
{
    int64_t slot = (int64_t)(hash_id(id) & (uint64_t)(n_slots - 1));
    while (keys[slot] != 0 && keys[slot] != id) slot = (slot + 1) & (n_slots - 1);
    return slot;
}

/* Enter all ids of a table into another, empty and larger one. */
void mediar_move_slots(const uint32_t *old_keys, const int32_t *old_places, int64_t n_old,
                       uint32_t *keys, int32_t *places, int64_t n_slots)
{
    for (int64_t i = 0; i < n_old; i++) {
        if (old_keys[i] == 0) continue;
        const int64_t slot = find_slot(keys, n_slots, old_keys[i]);
        keys[slot] = old_keys[i];
        places[slot] = old_places[i];
    }
}

/* Enter the ids of a band into a table and widen their boxes.
 *
 * labels   (rows, width); top is the image row of the first one
 * keys     (n_slots), 0 is free; places (n_slots) gives the place of an id in ids and boxes
 * ids      (capacity), boxes (capacity, N_BOX); *n_ids are in use
 * Returns the number of rows done: fewer than `rows` if the tables must grow before the next one.
 */
int64_t mediar_add_boxes(const uint32_t *labels, int64_t rows, int64_t width, int64_t top,
                         uint32_t *keys, int32_t *places, int64_t n_slots, uint32_t *ids,
                         int64_t *boxes, int64_t capacity, int64_t *n_ids)
{
    for (int64_t row = 0; row < rows; row++) {
        /* A row has at most `width` new ids. */
        if (*n_ids + width > capacity || 2 * (*n_ids + width) > n_slots) return row;
        const uint32_t *line = labels + row * width;
        for (int64_t x = 0; x < width;) {
            const uint32_t id = line[x];
            int64_t end = x + 1;
            while (end < width && line[end] == id) end++;
            if (id != 0) {
                const int64_t slot = find_slot(keys, n_slots, id);
                if (keys[slot] == 0) {
                    keys[slot] = id;
                    places[slot] = (int32_t)*n_ids;
                    ids[*n_ids] = id;
                    int64_t *box = boxes + *n_ids * N_BOX;
                    box[0] = top + row;
                    box[1] = x;
                    box[3] = end;
                    box[4] = 0;
                    ++*n_ids;
                }
                int64_t *box = boxes + (int64_t)places[slot] * N_BOX;
                box[2] = top + row + 1;
                if (x < box[1]) box[1] = x;
                if (end > box[3]) box[3] = end;
                box[4] += end - x;
            }
            x = end;
        }
    }
    return rows;
}

/* Add intensities of a band to the sums and maxima of its cells.
 *
 * labels   (rows, width)
 * values   (rows, width, channels) float64
 * sums     (cells, channels), maxima (cells, channels), by the places that the table gives
 */
void mediar_add_values(const uint32_t *labels, const double *values, int64_t n_pixels,
                       int64_t channels, const uint32_t *keys, const int32_t *places,
                       int64_t n_slots, double *sums, double *maxima)
{
    uint32_t last = 0;
    int64_t place = 0;
    for (int64_t i = 0; i < n_pixels; i++) {
        const uint32_t id = labels[i];
        if (id == 0) continue;
        if (id != last) {
            place = (int64_t)places[find_slot(keys, n_slots, id)] * channels;
            last = id;
        }
        const double *value = values + i * channels;
        for (int64_t c = 0; c < channels; c++) {
            sums[place + c] += value[c];
            /* NaN stays, whatever follows it: a mean of it is NaN too. */
            if (value[c] > maxima[place + c] || value[c] != value[c]) maxima[place + c] = value[c];
        }
    }
}

/* --- One cell: its pixels inside its box ---------------------------------------------------- */

typedef struct {
    const uint32_t *first; /* pixel of the box's first row and column */
    int64_t stride;        /* pixels from row to row */
    int64_t height, width; /* of the box */
    uint32_t id;
} cell_t;

static inline int is_in(const cell_t *cell, int64_t y, int64_t x)
{
    return y >= 0 && x >= 0 && y < cell->height && x < cell->width
           && cell->first[y * cell->stride + x] == cell->id;
}

/* --- Outlines ------------------------------------------------------------------------------- */

enum { EAST, SOUTH, WEST, NORTH };
static const int64_t DX[4] = {1, 0, -1, 0}, DY[4] = {0, 1, 0, -1};

/* Whether a step from the point (y, x) in a direction has the cell on its right and not on its
 * left. */
static int is_crack(const cell_t *cell, int64_t y, int64_t x, int direction)
{
    switch (direction) {
    case EAST: return is_in(cell, y, x) && !is_in(cell, y - 1, x);
    case SOUTH: return is_in(cell, y, x - 1) && !is_in(cell, y, x);
    case WEST: return is_in(cell, y - 1, x - 1) && !is_in(cell, y, x - 1);
    default: return is_in(cell, y - 1, x) && !is_in(cell, y - 1, x - 1);
    }
}

/* Whether two pixels of the cell meet at the point (y, x) by their corners alone. */
static int is_corner_contact(const cell_t *cell, int64_t y, int64_t x)
{
    const int a = is_in(cell, y - 1, x - 1), b = is_in(cell, y - 1, x);
    const int c = is_in(cell, y, x - 1), d = is_in(cell, y, x);
    return (a && d && !b && !c) || (b && c && !a && !d);
}

typedef struct {
    int32_t *points; /* (capacity, 2) of x, y */
    int64_t capacity, n_points;
    int64_t *ends;  /* (ring_capacity): point after the last one of each ring */
    int64_t *areas; /* (ring_capacity): twice its signed area, above 0 for outer rings */
    int64_t ring_capacity, n_rings;
} rings_t;

static int add_ring(rings_t *rings, const int32_t *points, int64_t n, int64_t left, int64_t top)
{
    /* Points where nothing turns are left by a split of a ring. */
    const int64_t start = rings->n_points;
    for (int64_t i = 0; i < n; i++) {
        const int32_t *before = points + 2 * ((i + n - 1) % n), *at = points + 2 * i,
                      *after = points + 2 * ((i + 1) % n);
        if ((before[0] == at[0] && at[0] == after[0]) || (before[1] == at[1] && at[1] == after[1]))
            continue;
        if (rings->n_points == rings->capacity) return 0;
        rings->points[2 * rings->n_points] = (int32_t)(at[0] + left);
        rings->points[2 * rings->n_points + 1] = (int32_t)(at[1] + top);
        rings->n_points++;
    }
    if (rings->n_points == start) return 1;
    if (rings->n_rings == rings->ring_capacity) return 0;
    int64_t area = 0;
    for (int64_t i = start, j = rings->n_points - 1; i < rings->n_points; j = i++)
        area += (int64_t)rings->points[2 * j] * rings->points[2 * i + 1]
                - (int64_t)rings->points[2 * i] * rings->points[2 * j + 1];
    rings->areas[rings->n_rings] = area;
    rings->ends[rings->n_rings++] = rings->n_points;
    return 1;
}

/* Follow one ring from a crack that runs east; marks the cracks to the east that it passes.
 *
 * Parts of a cell that meet by corners alone are apart: at such a point the way turns right. A ring
 * that passes a point twice is cut there into two, so that no ring touches itself.
 */
static int follow(const cell_t *cell, int64_t y, int64_t x, uint8_t *seen, int32_t *path,
                  rings_t *rings, int64_t left, int64_t top)
{
    const int64_t y0 = y, x0 = x;
    int direction = EAST;
    int64_t n = 0;
    do {
        if (direction == EAST) seen[y * cell->width + x] = 1;
        x += DX[direction];
        y += DY[direction];
        int next = (direction + 1) % 4; /* right, straight on, left */
        while (!is_crack(cell, y, x, next)) next = (next + 3) % 4;
        const int contact = is_corner_contact(cell, y, x);
        if (contact) {
            for (int64_t i = n - 1; i >= 0; i--) {
                if (path[2 * i] != (int32_t)x || path[2 * i + 1] != (int32_t)y) continue;
                if (!add_ring(rings, path + 2 * i, n - i, left, top)) return 0;
                n = i;
                break;
            }
        }
        if (contact || next != direction) {
            path[2 * n] = (int32_t)x;
            path[2 * n + 1] = (int32_t)y;
            n++;
        }
        direction = next;
    } while (y != y0 || x != x0 || direction != EAST);
    return n == 0 || add_ring(rings, path, n, left, top);
}

/* Trace all rings of a cell.
 *
 * labels   rows of the image, `width` apart, the first of which is the image row `top`
 * box      first row, first column, row after the last, column after the last, area
 * points   (capacity, 2) gets x, y of the corners
 * ends     (ring_capacity) where each ring ends; areas (ring_capacity) twice its signed area
 * Returns the number of rings, or -1 if there is too little room.
 */
int64_t mediar_trace(const uint32_t *labels, int64_t width, int64_t top, uint32_t id,
                     const int64_t *box, int32_t *points, int64_t capacity, int64_t *ends,
                     int64_t *areas, int64_t ring_capacity)
{
    const cell_t cell = {labels + (box[0] - top) * width + box[1], width, box[2] - box[0],
                         box[3] - box[1], id};
    rings_t rings = {points, capacity, 0, ends, areas, ring_capacity, 0};
    uint8_t *seen = calloc((size_t)(cell.height * cell.width), 1);
    /* Each pixel has four cracks. */
    int32_t *path = malloc(sizeof(int32_t) * 2 * (size_t)(4 * box[4] + 4));
    int fits = seen != NULL && path != NULL;
    for (int64_t y = 0; fits && y < cell.height; y++)
        for (int64_t x = 0; fits && x < cell.width; x++)
            if (!seen[y * cell.width + x] && is_crack(&cell, y, x, EAST))
                fits = follow(&cell, y, x, seen, path, &rings, box[1], box[0]);
    free(seen);
    free(path);
    return fits ? rings.n_rings : -1;
}

/* --- Shapes --------------------------------------------------------------------------------- */

/* Twice the area of the triangle a, b, c: above 0 where it turns left. */
static inline int64_t turn(const int64_t *a, const int64_t *b, const int64_t *c)
{
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]);
}

static inline int64_t floor_div(int64_t a, int64_t b)
{
    const int64_t q = a / b;
    return (a % b != 0 && (a < 0) != (b < 0)) ? q - 1 : q;
}

/* Pixels whose centres lie in the convex hull of the middles of all pixel edges, on its border too.
 *
 * Coordinates are doubled, so that all of them are whole: the hull is exact.
 */
static int64_t count_hull(const cell_t *cell, int64_t *lower, int64_t *upper)
{
    /* Extreme points column by column, from left to right: first the doubled x, then the doubled y
     * of the smallest and of the largest point. */
    const int64_t n_columns = 2 * cell->width + 1; /* doubled x from -1 to 2 width - 1 */
    int64_t n_lower = 0, n_upper = 0;
    for (int64_t column = 0; column < n_columns; column++) {
        int64_t low = INT64_MAX, high = INT64_MIN;
        const int64_t x2 = column - 1;
        for (int64_t x = floor_div(x2 - 1, 2); 2 * x <= x2 + 1; x++) {
            if (x < 0 || x >= cell->width) continue;
            const int64_t reach = 2 * x == x2 ? 1 : (2 * x == x2 - 1 || 2 * x == x2 + 1) ? 0 : -1;
            if (reach < 0) continue;
            int64_t first = 0, last = cell->height - 1;
            while (first < cell->height && !is_in(cell, first, x)) first++;
            if (first == cell->height) continue;
            while (!is_in(cell, last, x)) last--;
            if (2 * first - reach < low) low = 2 * first - reach;
            if (2 * last + reach > high) high = 2 * last + reach;
        }
        if (low > high) continue;
        const int64_t a[2] = {x2, low}, b[2] = {x2, high};
        while (n_lower >= 2 && turn(lower + 2 * (n_lower - 2), lower + 2 * (n_lower - 1), a) <= 0)
            n_lower--;
        memcpy(lower + 2 * n_lower++, a, sizeof a);
        while (n_upper >= 2 && turn(upper + 2 * (n_upper - 2), upper + 2 * (n_upper - 1), b) >= 0)
            n_upper--;
        memcpy(upper + 2 * n_upper++, b, sizeof b);
    }
    int64_t count = 0, i = 0, j = 0;
    for (int64_t x = 0; x < cell->width; x++) {
        const int64_t x2 = 2 * x;
        if (x2 < lower[0] || x2 > lower[2 * (n_lower - 1)]) continue;
        while (i + 2 < n_lower && lower[2 * (i + 1)] < x2) i++;
        while (j + 2 < n_upper && upper[2 * (j + 1)] < x2) j++;
        /* y2 >= low / d, y2 <= high / e: of the line through two points of each chain */
        const int64_t *p = lower + 2 * i, *q = upper + 2 * j;
        const int64_t d = p[2] - p[0], e = q[2] - q[0];
        const int64_t low = p[1] * d + (p[3] - p[1]) * (x2 - p[0]);
        const int64_t high = q[1] * e + (q[3] - q[1]) * (x2 - q[0]);
        const int64_t first = -floor_div(-low, 2 * d), last = floor_div(high, 2 * e);
        if (last >= first) count += last - first + 1;
    }
    return count;
}

/* The perimeter of Benkrid and Crookes (2000), as scikit-image's `perimeter` with 4 neighbours: each
 * border pixel counts by the border pixels beside it and at its corners. */
static double measure_perimeter(const cell_t *cell, uint8_t *border)
{
    const int64_t stride = cell->width + 2;
    memset(border, 0, (size_t)(stride * (cell->height + 2)));
    for (int64_t y = 0; y < cell->height; y++)
        for (int64_t x = 0; x < cell->width; x++)
            border[(y + 1) * stride + x + 1] =
                is_in(cell, y, x)
                && !(is_in(cell, y - 1, x) && is_in(cell, y + 1, x) && is_in(cell, y, x - 1)
                     && is_in(cell, y, x + 1));
    int64_t n_straight = 0, n_diagonal = 0, n_mixed = 0;
    for (int64_t y = 1; y <= cell->height; y++)
        for (int64_t x = 1; x <= cell->width; x++) {
            const uint8_t *at = border + y * stride + x;
            if (!*at) continue;
            const int beside = at[-1] + at[1] + at[-stride] + at[stride];
            const int corners = at[-stride - 1] + at[-stride + 1] + at[stride - 1] + at[stride + 1];
            switch (1 + 2 * beside + 10 * corners) {
            case 5: case 7: case 15: case 17: case 25: case 27: n_straight++; break;
            case 21: case 33: n_diagonal++; break;
            case 13: case 23: n_mixed++; break;
            default: break;
            }
        }
    return (double)n_straight + (double)n_diagonal * sqrt(2.0)
           + (double)n_mixed * (1.0 + sqrt(2.0)) / 2.0;
}

/* sums of y and x from the box's corner, centred sums of yy, xx and xy, perimeter, hull */
enum { N_SHAPE = 7 };

/* Measure one cell.
 *
 * shape    (N_SHAPE) gets the sums, the perimeter in pixels and the area of the convex hull
 * Returns 0, or -1 if there is no memory.
 */
int mediar_measure(const uint32_t *labels, int64_t width, int64_t top, uint32_t id,
                   const int64_t *box, double *shape)
{
    const cell_t cell = {labels + (box[0] - top) * width + box[1], width, box[2] - box[0],
                         box[3] - box[1], id};
    int64_t n = 0, sy = 0, sx = 0;
    for (int64_t y = 0; y < cell.height; y++)
        for (int64_t x = 0; x < cell.width; x++)
            if (is_in(&cell, y, x)) {
                n++;
                sy += y;
                sx += x;
            }
    const double cy = (double)sy / (double)n, cx = (double)sx / (double)n;
    double yy = 0, xx = 0, xy = 0;
    for (int64_t y = 0; y < cell.height; y++)
        for (int64_t x = 0; x < cell.width; x++)
            if (is_in(&cell, y, x)) {
                const double dy = (double)y - cy, dx = (double)x - cx;
                yy += dy * dy;
                xx += dx * dx;
                xy += dy * dx;
            }
    uint8_t *border = malloc((size_t)((cell.width + 2) * (cell.height + 2)));
    int64_t *chains = malloc(sizeof(int64_t) * 4 * (size_t)(2 * cell.width + 1));
    const int fits = border != NULL && chains != NULL;
    if (fits) {
        shape[0] = (double)sy;
        shape[1] = (double)sx;
        shape[2] = yy;
        shape[3] = xx;
        shape[4] = xy;
        shape[5] = measure_perimeter(&cell, border);
        shape[6] = (double)count_hull(&cell, chains, chains + 2 * (2 * cell.width + 1));
    }
    free(border);
    free(chains);
    return fits ? 0 : -1;
}
