#include "nn/backends/cpu/winograd_strided_internal.h"

#include "nn/backends/cpu/conv_sweep_internal.h"

/* Many filters. A slab of transformed tiles holds a list for each of the 36 filters: what is
 * multiplied by it, of all positions and of all sizes of tiles, one sample after the other. So even
 * where planes are small most products are of whole widths, and a filter is read once a slab. */

enum {
    N_LISTS = NN_STRIDED_FILTERS * NN_STRIDED_FILTERS,
    WIDTH = NN_TILE_PIXELS,
    TILES_PER_READ = 8 /* that a thread transforms at once */
};

typedef struct slab_lists {
    int64_t n[N_LISTS];     /* samples */
    int64_t begin[N_LISTS]; /* of each list, in samples */
    int64_t total;
    int64_t first[NN_STRIDED_KINDS][NN_STRIDED_PLACES]; /* sample of a kind's first tile */
} slab_lists;

static int line_filter(int place, int size)
{
    return place <= size ? place : NN_STRIDED_POINTS;
}

static int filter_of(const nn_strided_kind *kind, int place)
{
    const int line = 2 * kind->w + 1;

    return line_filter(place / line, kind->h) * NN_STRIDED_FILTERS +
           line_filter(place % line, kind->w);
}

static void make_lists(const nn_strided *plan, int64_t n_images, slab_lists *out)
{
    for (int i = 0; i < N_LISTS; i++) out->n[i] = 0;
    for (int i = 0; i < plan->n_kinds; i++) {
        const nn_strided_kind *kind = &plan->kinds[i];
        for (int place = 0; place < nn_strided_places(kind); place++) {
            int64_t *n = &out->n[filter_of(kind, place)];
            out->first[i][place] = *n;
            *n += n_images * nn_strided_tiles_of(kind);
        }
    }
    out->total = 0;
    for (int i = 0; i < N_LISTS; i++) {
        out->begin[i] = out->total;
        out->total += nn_cpu_div_up(out->n[i], WIDTH) * WIDTH;
    }
}

/* One line more after each list: else lists a power of two apart would share a cache set. */
static int64_t lists_floats(const slab_lists *lists, int64_t blocks)
{
    return (lists->total * blocks + N_LISTS) * NN_CPU_BLOCK;
}

/* Floats from the beginning to a sample of a list. */
static int64_t sample_at(const slab_lists *lists, int list, int64_t sample, int64_t blocks)
{
    return ((lists->begin[list] + sample / WIDTH * WIDTH) * blocks + sample % WIDTH + list) *
           NN_CPU_BLOCK;
}

/* To each position of a tile, counted over the slab. */
static void find_places(const nn_strided *plan, const slab_lists *lists, int kind_idx, int64_t tile,
                        int64_t blocks, int64_t places[NN_STRIDED_PLACES])
{
    const nn_strided_kind *kind = &plan->kinds[kind_idx];

    for (int i = 0; i < nn_strided_places(kind); i++) {
        places[i] = sample_at(lists, filter_of(kind, i), lists->first[kind_idx][i] + tile, blocks);
    }
}

typedef struct slab_pass {
    const nn_strided_pass *pass;
    nn_cpu_span images;
    slab_lists lists;
    float *tiles; /* transformed */
    float *scratch;
    int64_t scratch_floats; /* of a thread */
} slab_pass;

static void read_chunk(void *arg, int64_t chunk_idx, int thread_idx)
{
    const slab_pass *slab = arg;
    const nn_strided *plan = slab->pass->plan;
    const nn_strided_part part = nn_strided_find_part(plan, slab->images.n, TILES_PER_READ,
                                                      chunk_idx);
    const nn_strided_kind *kind = &plan->kinds[part.kind];
    const int64_t before = slab->images.first * nn_strided_tiles_of(kind);
    int64_t places[NN_STRIDED_PLACES];

    (void)thread_idx;
    for (int64_t i = 0; i < part.tiles.n; i++) {
        const int64_t tile = part.tiles.first + i;
        const nn_strided_tiles one = nn_strided_src_tiles(plan, kind, before + tile, 1);
        find_places(plan, &slab->lists, part.kind, tile, plan->wino.src_blocks, places);
        nn_strided_read(slab->pass, &one, places, slab->tiles);
    }
}

static void write_group(const slab_pass *slab, int64_t group, const float *m)
{
    const nn_strided *plan = slab->pass->plan;
    const nn_cpu_span blocks = {group * NN_TILE_BLOCKS,
                                nn_conv_group_blocks(plan->wino.dst_blocks, group)};
    int64_t places[NN_STRIDED_PLACES];

    for (int i = 0; i < plan->n_kinds; i++) {
        const nn_strided_kind *kind = &plan->kinds[i];
        const int64_t before = slab->images.first * nn_strided_tiles_of(kind);
        for (int64_t tile = 0; tile < slab->images.n * nn_strided_tiles_of(kind); tile++) {
            const nn_strided_tiles one = nn_strided_dst_tiles(plan, kind, before + tile, 1);
            find_places(plan, &slab->lists, i, tile, NN_TILE_BLOCKS, places);
            nn_strided_write(slab->pass, &one, blocks, places, m);
        }
    }
}

static void group_chunk(void *arg, int64_t group, int thread_idx)
{
    const slab_pass *slab = arg;
    const nn_winograd *wino = &slab->pass->plan->wino;
    const int n_blocks = nn_conv_group_blocks(wino->dst_blocks, group);
    const nn_wino_set src = {wino->src_blocks, WIDTH, 0}, dst = {NN_TILE_BLOCKS, WIDTH, 0};
    float *const filter = slab->scratch + thread_idx * slab->scratch_floats;
    float *const m = filter + nn_strided_group_floats(slab->pass->plan);

    nn_wino_transform_filters(wino, slab->pass->filters, group, filter);
    for (int i = 0; i < N_LISTS; i++) {
        const nn_wino_product product = {
            .src = &src,
            .dst = &dst,
            .x = slab->tiles + sample_at(&slab->lists, i, 0, src.blocks),
            .filter = filter + i * nn_wino_filter_pitch(wino->src_blocks, n_blocks),
            .y = m + sample_at(&slab->lists, i, 0, dst.blocks),
            .n_tiles = slab->lists.n[i]};
        nn_wino_multiply(&product, n_blocks);
    }
    write_group(slab, group, m);
}

int64_t nn_strided_slab_workspace_floats(const nn_strided *plan, int n_threads)
{
    slab_lists lists;

    make_lists(plan, plan->images_per_slab, &lists);
    return lists_floats(&lists, plan->wino.src_blocks) +
           n_threads * (nn_strided_group_floats(plan) + lists_floats(&lists, NN_TILE_BLOCKS));
}

void nn_strided_run_slabs(nn_backend *backend, const nn_strided_pass *pass, float *workspace)
{
    const nn_strided *plan = pass->plan;
    const nn_winograd *wino = &plan->wino;
    slab_pass slab = {.pass = pass, .tiles = workspace};

    make_lists(plan, plan->images_per_slab, &slab.lists);
    slab.scratch = workspace + lists_floats(&slab.lists, wino->src_blocks);
    slab.scratch_floats = nn_strided_group_floats(plan) + lists_floats(&slab.lists, NN_TILE_BLOCKS);
    for (int64_t first = 0; first < wino->n; first += plan->images_per_slab) {
        slab.images = nn_cpu_part(wino->n, plan->images_per_slab, first / plan->images_per_slab);
        make_lists(plan, slab.images.n, &slab.lists);
        nn_cpu_run(backend, nn_strided_count_parts(plan, slab.images.n, TILES_PER_READ), read_chunk,
                   &slab);
        nn_cpu_run(backend, nn_conv_n_groups(wino->dst_blocks), group_chunk, &slab);
    }
}
