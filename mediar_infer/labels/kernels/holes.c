/* Holes of cells: background regions beside one cell and nothing else.
 *
 * Background is 4-connected, as is what lies beside it; cells are then closed by diagonal steps too.
 * One pass over the rows joins runs of background into regions (union-find), then every hole is
 * flooded from its first pixel.
 */

#include <stdint.h>
#include <stdlib.h>

/* What a region has met so far, besides the id of a cell. */
enum { NOTHING = 0, OPEN = -1 };

typedef struct {
    int64_t parent; /* region that it has joined, or itself */
    int64_t first;  /* its first pixel in row-major order */
    int32_t beside; /* the one cell beside it, NOTHING, or OPEN: a border or a second cell */
} region_t;

typedef struct {
    int64_t start, stop, region;
} run_t;

typedef struct {
    region_t *items;
    int64_t n, room;
} regions_t;

static int64_t find(regions_t *regions, int64_t k)
{
    region_t *items = regions->items;
    while (items[k].parent != k)
        k = items[k].parent = items[items[k].parent].parent;
    return k;
}

static void meet(region_t *region, int32_t id)
{
    if (region->beside != id)
        region->beside = region->beside == NOTHING ? id : OPEN;
}

/* Join two regions to the older one, whose first pixel comes first. */
static int64_t join(regions_t *regions, int64_t a, int64_t b)
{
    a = find(regions, a);
    b = find(regions, b);
    const int64_t older = a < b ? a : b, younger = a < b ? b : a;
    regions->items[younger].parent = older;
    if (older != younger && regions->items[younger].beside != NOTHING)
        meet(regions->items + older, regions->items[younger].beside);
    return older;
}

static int64_t begin(regions_t *regions, int64_t first)
{
    if (regions->n == regions->room) {
        const int64_t room = 2 * regions->room + 1024;
        region_t *items = realloc(regions->items, room * sizeof *items);
        if (!items)
            return -1;
        regions->items = items;
        regions->room = room;
    }
    regions->items[regions->n] = (region_t){regions->n, first, NOTHING};
    return regions->n++;
}

/* Note the cells beside a run of background that ends at no side of the array. */
static void look_around(region_t *region, const int32_t *row, const run_t *run, int64_t width,
                        int has_row_below)
{
    meet(region, row[run->start - 1]);
    meet(region, row[run->stop]);
    for (int64_t x = run->start; x < run->stop && region->beside != OPEN; x++) {
        if (row[x - width])
            meet(region, row[x - width]);
        if (has_row_below && row[x + width])
            meet(region, row[x + width]);
    }
}

/* Give all pixels of the region at `first`, which touches no side of the array, to a cell. */
static int flood(int32_t *labels, int64_t width, int64_t first, int32_t id, int64_t **stack,
                 int64_t *room)
{
    const int64_t around[4] = {-width, -1, 1, width};
    int64_t n = 0;
    for (int64_t at = first;; at = (*stack)[--n]) {
        if (n + 4 > *room) {
            int64_t *larger = realloc(*stack, (2 * *room + 1024) * sizeof **stack);
            if (!larger)
                return -1;
            *stack = larger;
            *room = 2 * *room + 1024;
        }
        labels[at] = id;
        for (int k = 0; k < 4; k++)
            if (labels[at + around[k]] == 0) {
                labels[at + around[k]] = id;
                (*stack)[n++] = at + around[k];
            }
        if (n == 0)
            return 0;
    }
}

/* Fill the holes of cells in rows of an image, given from the first row that is not decided and the
 * row above it.
 *
 * labels     (height, width), ids from 1 on; holes are filled. What background touches the first
 *            row is no hole: that row is the image's first one, or was decided before.
 * is_bottom  whether the last row is the image's
 * returns the number of rows, from the top, that no later row changes; -1 without memory
 */
int64_t mediar_fill_holes(int32_t *labels, int64_t height, int64_t width, int is_bottom)
{
    regions_t regions = {NULL, 0, 0};
    run_t *above = malloc((width / 2 + 1) * sizeof *above);
    run_t *runs = malloc((width / 2 + 1) * sizeof *runs);
    int64_t n_above = 0, n_decided = height, *stack = NULL, room = 0;
    int failed = !above || !runs;
    for (int64_t y = 0; y < height && !failed; y++) {
        const int32_t *row = labels + y * width;
        const int is_edge = y == 0 || (is_bottom && y == height - 1);
        int64_t n = 0, next = 0;
        for (int64_t x = 0; x < width && !failed;) {
            if (row[x]) {
                x++;
                continue;
            }
            run_t run = {x, x, -1};
            while (run.stop < width && row[run.stop] == 0)
                run.stop++;
            x = run.stop;
            while (next < n_above && above[next].stop <= run.start)
                next++;
            for (int64_t k = next; k < n_above && above[k].start < run.stop; k++)
                run.region = run.region < 0 ? find(&regions, above[k].region)
                                            : join(&regions, run.region, above[k].region);
            if (run.region < 0)
                run.region = begin(&regions, y * width + run.start);
            failed = run.region < 0;
            if (failed)
                break;
            region_t *region = regions.items + run.region;
            if (is_edge || run.start == 0 || run.stop == width)
                region->beside = OPEN;
            else if (region->beside != OPEN)
                look_around(region, row, &run, width, y + 1 < height);
            runs[n++] = run;
        }
        run_t *done = above;
        above = runs;
        runs = done;
        n_above = n;
    }
    /* Regions in the last row may go on below; what they begin with waits. */
    for (int64_t k = 0; k < n_above && !failed; k++) {
        region_t *region = regions.items + find(&regions, above[k].region);
        if (region->beside == OPEN)
            continue;
        region->beside = OPEN;
        if (region->first / width < n_decided)
            n_decided = region->first / width;
    }
    for (int64_t k = 0; k < regions.n && !failed; k++) {
        const region_t *region = regions.items + k;
        if (region->parent == k && region->beside != OPEN)
            failed = flood(labels, width, region->first, region->beside, &stack, &room) != 0;
    }
    free(regions.items);
    free(above);
    free(runs);
    free(stack);
    return failed ? -1 : n_decided;
}
