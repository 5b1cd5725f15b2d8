/* The recurrence of an LSTM layer in float32, for one instruction set. `_kernels.c` includes this file once for each, and
 * defines before it:
 *
 * LEVEL(name)   the name of a function at this level
 * TARGET        the attribute that lets a function use the instruction set
 * LANES         numbers in a vector
 * STRIPS(rows)  how many strips of 16 columns a product of this many rows computes at once: as many sums as fit into
 *               registers
 *
 * Every sum has the same order, whatever the number of rows: the start value, then row after row of the matrix. So the bits
 * of a sequence do not depend on the other sequences.
 */

#define VECTORS (STRIP / LANES) /* in a strip */

typedef float LEVEL(vector) __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

/* sums [rows, width] += x [rows, n] times a matrix of `n_strips` strips. Callers pass constants for rows and strips, so
 * that the compiler keeps the sums in registers. */
TARGET static inline __attribute__((always_inline)) void LEVEL(multiply_few)(
    const int rows, const int n_strips, Py_ssize_t n, const float *const *x, const float *matrix, Py_ssize_t apart,
    const float *ahead, float *sums, Py_ssize_t width)
{
    LEVEL(vector) total[MAX_ROWS][STRIPS_OF_TILE * VECTORS];
UNROLL
    for (int row = 0; row < rows; row++)
UNROLL
        for (int part = 0; part < n_strips * VECTORS; part++)
            total[row][part] = *(const LEVEL(vector) *)(sums + row * width + part * LANES);
    for (Py_ssize_t i = 0; i < n; i++) {
        __builtin_prefetch(ahead + i * (n_strips * STRIP / STRIPS_OF_TILE), 0, 2);
        LEVEL(vector) weight[STRIPS_OF_TILE * VECTORS];
UNROLL
        for (int part = 0; part < n_strips * VECTORS; part++)
            weight[part] = *(const LEVEL(vector) *)(matrix + part / VECTORS * apart + i * STRIP + part % VECTORS * LANES);
UNROLL
        for (int row = 0; row < rows; row++)
UNROLL
            for (int part = 0; part < n_strips * VECTORS; part++)
                total[row][part] += weight[part] * x[row][i];
    }
UNROLL
    for (int row = 0; row < rows; row++)
UNROLL
        for (int part = 0; part < n_strips * VECTORS; part++)
            *(LEVEL(vector) *)(sums + row * width + part * LANES) = total[row][part];
}

#define MULTIPLY(rows)                                                                                                 \
    case rows:                                                                                                         \
        for (; strip + STRIPS(rows) <= n_strips; strip += STRIPS(rows))                                                \
            LEVEL(multiply_few)(rows, STRIPS(rows), n, x, matrix + strip * apart, apart,                               \
                                ahead + strip * n * STRIP / STRIPS_OF_TILE, sums + strip * STRIP, width);              \
        for (; strip < n_strips; strip++)                                                                              \
            LEVEL(multiply_few)(rows, 1, n, x, matrix + strip * apart, apart,                                          \
                                ahead + strip * n * STRIP / STRIPS_OF_TILE, sums + strip * STRIP, width);              \
        break;

/* The same for up to MAX_ROWS rows and one tile of up to four strips, [n, STRIP] each, at a distance of `apart` numbers.
 * ahead: a strip of the next tile, which is prefetched. */
TARGET static void LEVEL(multiply)(int rows, int n_strips, Py_ssize_t n, const float *const *x, const float *matrix,
                                   Py_ssize_t apart, const float *ahead, float *sums, Py_ssize_t width)
{
    int strip = 0;
    switch (rows) {
        MULTIPLY(1)
        MULTIPLY(2)
        MULTIPLY(3)
        MULTIPLY(4)
        MULTIPLY(5)
        MULTIPLY(6)
    }
}
#undef MULTIPLY

/* exp(x) = power * (1 + rest), without branches. power is 2^n for the nearest integer n. rest is a polynomial on
 * [-1/2, 1/2] (minimax, 2e-9). They are separate, so that an addition to exp(x) is rounded once: tanh stays exact near
 * zero. scale: log2(e) times the factor of x. x is limited to ±limit, where a sigmoid is 0 or 1 to 1e-18, and the product
 * of two results is still a float. NaN stays NaN. */
TARGET static inline __attribute__((always_inline)) float LEVEL(exp_rest)(float x, float scale, float limit, float *power)
{
    /* Adding and subtracting 1.5 * 2^23 rounds to an integer. With 127 more, the lowest bits are the exponent of 2^n. */
    const float shift = 12582912.0f + 127.0f;
    x = x < -limit ? -limit : x;
    x = x > limit ? limit : x;
    union { float value; uint32_t bits; } shifted = {x * scale + shift}, exponent;
    /* The last term is the part of log2(e) that float32 lacks. */
    float part = (x * scale - (shifted.value - shift)) + x * (scale * 1.335e-8f), sum = 1.5345812e-4f;
    sum = sum * part + 1.3399931e-3f;
    sum = sum * part + 9.618489e-3f;
    sum = sum * part + 5.5503286e-2f;
    sum = sum * part + 0.24022646f;
    sum = sum * part + 0.6931472f;
    exponent.bits = shifted.bits << 23;
    *power = exponent.value;
    return sum * part;
}

#define LOG2_E 1.44269504f

/* 1 + exp(-x) */
TARGET static inline __attribute__((always_inline)) float LEVEL(one_plus_exp)(float x, float limit)
{
    float power, rest = LEVEL(exp_rest)(x, -LOG2_E, limit, &power);
    return rest * power + (power + 1.0f);
}

/* exp(-2x) - 1 */
TARGET static inline __attribute__((always_inline)) float LEVEL(exp_minus_one)(float x, float limit)
{
    float power, rest = LEVEL(exp_rest)(x, -2.0f * LOG2_E, 0.5f * limit, &power);
    return rest * power + (power - 1.0f);
}

/* Update one cell from the sums of its gates. sigmoid(x) is 1 / (1 + exp(-x)). With e = exp(-2x) - 1, tanh(x) is
 * -e / (2 + e). So a product of the two needs one division. */
#define UPDATE_CELL(input, forget, output, candidate, cell, hidden)                                                    \
    do {                                                                                                               \
        float e_candidate = LEVEL(exp_minus_one)(candidate, limit);                                                    \
        float state = (cell) / LEVEL(one_plus_exp)(forget, limit)                                                      \
                      - e_candidate / (LEVEL(one_plus_exp)(input, limit) * (2.0f + e_candidate));                      \
        state = state > cell_clip ? cell_clip : state;                                                                 \
        state = state < -cell_clip ? -cell_clip : state;                                                               \
        float e_state = LEVEL(exp_minus_one)(state, limit);                                                            \
        (cell) = state;                                                                                                \
        (hidden) = -e_state / (LEVEL(one_plus_exp)(output, limit) * (2.0f + e_state));                                 \
    } while (0)

/* gates, inputs: input, forget and output gate and candidate, [4, dim], before their nonlinearities: the part from the
 * hidden state, and the rest. */
TARGET static void LEVEL(update_row)(Py_ssize_t dim, const float *restrict gates, const float *restrict inputs,
                                     float cell_clip, float *restrict cell, float *restrict hidden)
{
    const float limit = largest_argument;
    for (Py_ssize_t i = 0; i < dim; i++)
        UPDATE_CELL(gates[i] + inputs[i], gates[dim + i] + inputs[dim + i], gates[2 * dim + i] + inputs[2 * dim + i],
                    gates[3 * dim + i] + inputs[3 * dim + i], cell[i], hidden[i]);
}

/* The same for the 16 cells whose gates are the four strips of a tile. */
TARGET static inline void LEVEL(update_strip)(const float *restrict gates, float cell_clip, float *restrict cell,
                                              float *restrict hidden)
{
    const float limit = largest_argument;
NO_ALIASES
    for (int i = 0; i < STRIP; i++)
        UPDATE_CELL(gates[i], gates[STRIP + i], gates[2 * STRIP + i], gates[3 * STRIP + i], cell[i], hidden[i]);
}

/* The same for any number of rows. A chunk of the tile, which fits into the smallest cache, is multiplied by all rows
 * before the next chunk.
 * has_next: whether another tile follows in memory, which is prefetched. */
TARGET static void LEVEL(multiply_rows)(Py_ssize_t rows, int n_strips, Py_ssize_t n, const float *const *x,
                                        const float *matrix, Py_ssize_t apart, int has_next, float *sums, Py_ssize_t width)
{
    Py_ssize_t longest = rows > MAX_ROWS ? CHUNK : n;
    for (Py_ssize_t start = 0; start < n; start += longest) {
        Py_ssize_t length = least(longest, n - start);
        const float *chunk = matrix + start * STRIP;
        const float *next = start + length < n ? chunk + length * STRIP : has_next ? matrix + STRIPS_OF_TILE * apart : NULL;
        for (Py_ssize_t row = 0, count; row < rows; row += count) {
            const float *parts[MAX_ROWS];
            Py_ssize_t strip_ahead = (row + MAX_ROWS - 1) / MAX_ROWS; /* the first rows prefetch the first strip */
            count = rows_of_block(row, rows);
            for (Py_ssize_t i = 0; i < count; i++)
                parts[i] = x[row + i] + start;
            LEVEL(multiply)((int)count, n_strips, length, parts, chunk, apart,
                            next != NULL && strip_ahead < n_strips ? next + strip_ahead * apart : chunk,
                            sums + row * width, width);
        }
    }
}

/* Compute the input part of the gates for a block of tokens: sums [n_tiles, n_tokens, TILE]. */
TARGET static void LEVEL(read_inputs)(const Layer *layer, const Direction *one, Py_ssize_t n_tokens,
                                      const float *const *x, float *sums)
{
    for (Py_ssize_t tile = 0; tile < layer->n_tiles; tile++, sums += n_tokens * TILE) {
        for (Py_ssize_t token = 0; token < n_tokens; token++)
            memcpy(sums + token * TILE, one->bias + tile * TILE, TILE * sizeof(float));
        LEVEL(multiply_rows)(n_tokens, STRIPS_OF_TILE, layer->n_in, x, one->input_weight + tile * layer->n_in * TILE,
                             layer->n_in * STRIP, tile + 1 < layer->n_tiles, sums, TILE);
    }
}

/* Run one time step of some rows: update their cells, and compute the outputs of these.
 * x: their inputs, or NULL if sums [n_tiles, stride, TILE] has the input part of the gates. */
TARGET static void LEVEL(update_cells)(const Layer *layer, const Direction *one, Work *work, Py_ssize_t rows,
                                       const float *const *x, const float *sums, Py_ssize_t stride)
{
    for (Py_ssize_t tile = 0; tile < layer->n_tiles; tile++) {
        float *gates = work->gates;
        int has_next = tile + 1 < layer->n_tiles;
        if (x == NULL) {
            memcpy(gates, sums + tile * stride * TILE, (size_t)(rows * TILE) * sizeof(float));
        } else {
            for (Py_ssize_t row = 0; row < rows; row++)
                memcpy(gates + row * TILE, one->bias + tile * TILE, TILE * sizeof(float));
            LEVEL(multiply_rows)(rows, STRIPS_OF_TILE, layer->n_in, x, one->input_weight + tile * layer->n_in * TILE,
                                 layer->n_in * STRIP, has_next, gates, TILE);
        }
        LEVEL(multiply_rows)(rows, STRIPS_OF_TILE, layer->width, work->hidden,
                             one->hidden_weight + tile * layer->width * TILE, layer->width * STRIP, has_next, gates, TILE);
        for (Py_ssize_t row = 0; row < rows; row++) {
            Py_ssize_t place = row * layer->padded_dim + tile * STRIP;
            __builtin_prefetch(work->cell + place + STRIP, 1); /* for the next tile */
            __builtin_prefetch(work->squashed_data + place + STRIP, 1);
            LEVEL(update_strip)(gates + row * TILE, layer->cell_clip, work->cell + place, work->squashed_data + place);
        }
    }
}

/* Compute the hidden states of some rows from the outputs of their cells: projected [rows, padded_width], before the clip. */
TARGET static void LEVEL(project)(const Layer *layer, const Direction *one, Work *work, Py_ssize_t rows)
{
    memset(work->projected, 0, (size_t)(rows * layer->padded_width) * sizeof(float));
    for (Py_ssize_t strip = 0; strip < layer->n_strips; strip += STRIPS_OF_TILE) {
        int n_strips = (int)(layer->n_strips - strip < STRIPS_OF_TILE ? layer->n_strips - strip : STRIPS_OF_TILE);
        LEVEL(multiply_rows)(rows, n_strips, layer->dim, work->squashed, one->projection + strip * layer->dim * STRIP,
                             layer->dim * STRIP, strip + 2 * STRIPS_OF_TILE <= layer->n_strips,
                             work->projected + strip * STRIP, layer->padded_width);
    }
}

/* Compute the columns of some tiles of a product: up to ROWS_OF_CHUNK rows of x times the matrix, with the bias and the
 * activation. */
TARGET static void LEVEL(multiply_columns)(const Product *all, Py_ssize_t row, Py_ssize_t end, Py_ssize_t first_tile,
                                           Py_ssize_t end_tile)
{
    const float limit = largest_argument;
    float sums[ROWS_OF_CHUNK * TILE] __attribute__((aligned(64)));
    const float *x[ROWS_OF_CHUNK];
    Py_ssize_t rows = end - row;
    for (Py_ssize_t i = 0; i < rows; i++)
        x[i] = all->x + (row + i) * all->n_in;
    for (Py_ssize_t tile = first_tile; tile < end_tile; tile++) {
        Py_ssize_t strip = tile * STRIPS_OF_TILE, columns = all->n_out - tile * TILE;
        int n_strips = (int)(all->n_strips - strip < STRIPS_OF_TILE ? all->n_strips - strip : STRIPS_OF_TILE);
        int has_next = strip + 2 * STRIPS_OF_TILE <= all->n_strips && tile + 1 < end_tile;
        const float *matrix = all->weight + strip * all->n_in * STRIP, *bias = all->bias + tile * TILE;
        columns = columns < TILE ? columns : TILE;
        for (Py_ssize_t i = 0; i < rows; i++)
            memcpy(sums + i * TILE, bias, (size_t)n_strips * STRIP * sizeof(float));
        LEVEL(multiply_rows)(rows, n_strips, all->n_in, x, matrix, all->n_in * STRIP, has_next, sums, TILE);
        for (Py_ssize_t i = 0; i < rows; i++) {
            float *one = sums + i * TILE;
            if (all->activation == RELU)
                for (int column = 0; column < n_strips * STRIP; column++)
                    one[column] = one[column] < 0.0f ? 0.0f : one[column];
            else if (all->activation == SIGMOID)
                for (int column = 0; column < n_strips * STRIP; column++)
                    one[column] = 1.0f / LEVEL(one_plus_exp)(one[column], limit);
            memcpy(all->out + (row + i) * all->n_out + tile * TILE, one, (size_t)columns * sizeof(float));
        }
    }
}

#include "_kernels_training.h"

#undef UPDATE_CELL
#undef LOG2_E
#undef VECTORS
#undef LEVEL
#undef TARGET
#undef LANES
#undef STRIPS
