/* The recurrence of an LSTM layer in float32, both directions, all time steps in one call (`run_layer`). Also the work
 * between the products of a step (`update_gates`), and products of other layers (`multiply`). And what training computes
 * between its products (`step_forward`, `step_backward`, `softmax_rows`, `pool`, `unpool`).
 *
 * Sequences and directions are independent of each other. So a thread takes some rows of one direction through all of
 * their steps, and does not wait for other threads. A step is one pass over the weights. Their columns are in strips of
 * 16, and each strip is stored row by row, so that the weights are read from front to back. The four gates of 16 cells
 * are a tile: four strips, one after the other. The cells are computed as soon as the sums of a tile are ready.
 *
 * There is a version for each instruction set (_kernels_level.h). `choose` selects one that the processor supports.
 * This file is optional: without it, torch's operators compute the same numbers.
 */

#if defined(__linux__)
#define _GNU_SOURCE
#endif
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <dlfcn.h>
#include <float.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif

/* Link to the versions of these that every glibc has. A build with a new glibc (2.34) would otherwise need the new ones. */
#if defined(__GLIBC__) && defined(__x86_64__)
__asm__(".symver dlsym,dlsym@GLIBC_2.2.5\n.symver dlopen,dlopen@GLIBC_2.2.5");
#elif defined(__GLIBC__) && defined(__aarch64__)
__asm__(".symver dlsym,dlsym@GLIBC_2.17\n.symver dlopen,dlopen@GLIBC_2.17");
#endif

#if defined(__FAST_MATH__)
#error "the exponential function needs additions in the order in which they stand"
#endif

#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#define NO_ALIASES _Pragma("clang loop vectorize(assume_safety)")
#elif defined(__GNUC__)
#define UNROLL _Pragma("GCC unroll 16")
#define NO_ALIASES _Pragma("GCC ivdep")
#else
#error "made for GCC and Clang"
#endif

#define STRIP 16          /* cells, or columns, that are stored together */
#define STRIPS_OF_TILE 4  /* one for each gate */
#define TILE (STRIP * STRIPS_OF_TILE)
#define MAX_ROWS 6        /* of a product: with more, the sums would not fit into registers */
#define CHUNK 96          /* rows of a tile that fit into the smallest cache, together with what is multiplied by them */
#define TALL 48           /* With at least this many rows, a step projects its own inputs. With fewer, the inputs of several
                           * steps are projected together: reading the weights would take longer than the product. */
#define BLOCK_TOKENS 128  /* tokens of these steps */
#define SHARED 8192       /* use threads from this many cells on: 20 microseconds for one thread, much more than a call */
#define SHARED_PRODUCT (1 << 20) /* use threads from this many multiplications on: 10 to 20 microseconds for one thread */
#define ROWS_OF_CHUNK 240 /* rows of a product that are multiplied by the whole matrix before the next rows */
#define ROWS_OF_TASK 24   /* a thread gets at least this many rows, if there are more threads than directions */

/* Largest argument of exp. It is a variable: GCC compiles a comparison with a variable to one instruction, and a comparison
 * with a constant to five. */
static volatile const float largest_argument = 41.0f;

typedef struct {
    Py_ssize_t n_in, width, dim;                            /* width: of the hidden state */
    Py_ssize_t n_tiles, n_strips;                           /* tiles: of gates; strips: of the projection */
    Py_ssize_t padded_dim, padded_width; /* of rows of cells and of the width: an odd number of strips, because rows at a
                                          * distance of a power of two would share a few places of the cache */
    float cell_clip, proj_clip;
} Layer;

typedef struct {
    const float *input_weight;  /* [n_tiles, 4, n_in, STRIP]: input, forget, output gate and candidate of 16 cells each */
    const float *hidden_weight; /* [n_tiles, 4, width, STRIP] */
    const float *bias;          /* [n_tiles, TILE] */
    const float *projection;    /* [n_strips, dim, STRIP], or NULL if width is dim */
    const float *x;             /* [n_tokens, n_in], time step by time step */
    float *hidden;              /* [n_rows, width], updated */
    float *cell;                /* [n_rows, dim], updated */
    float *outputs;             /* [n_tokens, width], filled in */
} Direction;

/* The working memory of a task. */
typedef struct {
    float *memory, *hidden_data, *squashed_data;
    float *cell;      /* [rows, padded_dim] */
    float *projected; /* [rows, padded_width] */
    float *sums;      /* [n_tiles, tokens of a block, TILE] */
    float *gates;     /* [rows, TILE], of a tile */
    const float **hidden, **squashed, **x; /* address of each row, and of each token of a block */
} Work;

static inline Py_ssize_t least(Py_ssize_t one, Py_ssize_t other) { return one < other ? one : other; }

enum { NONE, RELU, SIGMOID };

/* out = activation(x times weight, plus bias) */
typedef struct {
    Py_ssize_t n_rows, n_in, n_out, n_strips, n_parts; /* parts: of the columns */
    int activation;
    const float *x;      /* [n_rows, n_in] */
    const float *weight; /* [n_strips, n_in, STRIP] */
    const float *bias;   /* [n_strips, STRIP] */
    float *out;          /* [n_rows, n_out] */
} Product;

/* Rows to multiply at once: the rows are split into as few products as possible, of equal size or one row less. */
static inline Py_ssize_t rows_of_block(Py_ssize_t row, Py_ssize_t rows)
{
    Py_ssize_t left = rows - row, blocks = (left + MAX_ROWS - 1) / MAX_ROWS;
    return (left + blocks - 1) / blocks;
}

/* Rows of numbers of both directions. */
typedef struct {
    void *data;
    Py_ssize_t apart, width; /* apart: rows from the first row of one direction to that of the other */
    int is_bfloat16;         /* otherwise float32 */
} Numbers;

static inline Py_ssize_t place(const Numbers *array, Py_ssize_t direction, Py_ssize_t row)
{
    return (direction * array->apart + row) * array->width;
}

#define PIECE 256 /* cells of a row that are computed at once */

/* A time step of both directions in training, forwards or backwards. */
typedef struct {
    Py_ssize_t n_rows, dim, n_shares;
    float cell_clip;
    const uint8_t *kept;   /* for each row, whether it keeps its state before the step; NULL: all do */
    Numbers gates;         /* 4 * dim; forwards: before their nonlinearities, then after them */
    Numbers cells;         /* after the step, float32 */
    Numbers found;         /* cells before the step, float32 */
    Numbers hidden;        /* forwards: outputs of the cells; backwards: their gradients */
    Numbers d_gates;       /* backwards: filled in, before the nonlinearities */
    Numbers d_cells;       /* backwards: gradients of the cells after the step, then of those before it, float32 */
} CellStep;

/* Some targets of a softmax in training. */
typedef struct {
    Py_ssize_t n_rows, n_words, n_parts; /* parts: of the rows */
    Numbers logits;       /* without the biases; becomes their gradients */
    const float *biases;  /* [n_words] */
    const int64_t *hits;  /* [n_rows], a word to leave out, or -1. NULL: the target is one of the words */
    const float *truth;   /* [n_rows], the logit of the target */
    float *totals;        /* [n_rows], filled in: the sum of exp(logit - largest), */
    float *largest;       /* [n_rows], the largest logit, */
    float *shares;        /* [n_rows], and the probability of the target, if it is not one of the words */
    float *d_biases;      /* [n_parts, n_words], added to; NULL: no gradients */
    int is_out_of_memory;
} SoftmaxRows;

/* The filters of one size of the character CNN, over some words. */
typedef struct {
    Py_ssize_t n_words, n_windows, n_positions, dim, n_filters, size; /* size: characters of a window */
    Py_ssize_t stride;   /* of pooled and windows: filters of all sizes */
    Numbers products;    /* [n_words, n_windows, n_filters] */
    float *pooled;       /* [n_words, stride]: the largest product; backwards: its gradient */
    int32_t *windows;    /* [n_words, stride]: the window that has it */
    const float *x;      /* [n_words, n_positions, dim] */
    const float *filters;/* [n_filters, size * dim] */
    float *d_filters;    /* as the filters, added to */
    float *d_x;          /* as x, added to */
} Convolution;

#define FILTERS_OF_TASK 16
#define WORDS_OF_TASK 16

#define JOIN(name, level) name##_##level

#if defined(__x86_64__)
#define LEVEL(name) JOIN(name, avx512)
#define TARGET __attribute__((target("avx512f,avx2,fma")))
#define LANES 16
#define STRIPS(rows) 4
#include "_kernels_level.h"

#define LEVEL(name) JOIN(name, avx2)
#define TARGET __attribute__((target("avx2,fma")))
#define LANES 8
#define STRIPS(rows) ((rows) == 1 ? 4 : (rows) <= 3 ? 2 : 1)
#include "_kernels_level.h"
#endif

#if defined(__aarch64__)
#define GENERIC "neon" /* every such processor has it */
#define STRIPS(rows) ((rows) == 1 ? 4 : (rows) <= 3 ? 2 : 1)
#else
#define GENERIC "generic"
#define STRIPS(rows) 1
#endif
#define LEVEL(name) JOIN(name, generic)
#define TARGET
#define LANES 4
#include "_kernels_level.h"

typedef struct {
    const char *name;
    void (*read_inputs)(const Layer *, const Direction *, Py_ssize_t, const float *const *, float *);
    void (*update_cells)(const Layer *, const Direction *, Work *, Py_ssize_t, const float *const *, const float *,
                         Py_ssize_t);
    void (*project)(const Layer *, const Direction *, Work *, Py_ssize_t);
    void (*update_row)(Py_ssize_t, const float *, const float *, float, float *, float *);
    void (*multiply_columns)(const Product *, Py_ssize_t, Py_ssize_t, Py_ssize_t, Py_ssize_t);
    void (*step_forward)(const CellStep *, Py_ssize_t, Py_ssize_t);
    void (*step_backward)(const CellStep *, Py_ssize_t, Py_ssize_t);
    void (*softmax_row)(const SoftmaxRows *, Py_ssize_t, float *, Py_ssize_t, float *);
    void (*pool_word)(const Convolution *, Py_ssize_t);
    void (*add_filter_gradients)(const Convolution *, Py_ssize_t, Py_ssize_t);
    void (*add_character_gradients)(const Convolution *, Py_ssize_t);
} Level;

#define VERSION(name, level)                                                                                           \
    {name,                     read_inputs_##level,  update_cells_##level,  project_##level,    update_row_##level,         \
     multiply_columns_##level, step_forward_##level, step_backward_##level, softmax_row_##level,        \
     pool_word_##level, add_filter_gradients_##level, add_character_gradients_##level}

static const Level levels[] = { /* best first */
#if defined(__x86_64__)
    VERSION("avx512", avx512),
    VERSION("avx2", avx2),
#endif
    VERSION(GENERIC, generic),
};
#define N_LEVELS ((int)(sizeof levels / sizeof levels[0]))

static const Level *level;

static int is_there(int number)
{
#if defined(__x86_64__)
    int has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    return number == 0 ? has_avx2 && __builtin_cpu_supports("avx512f") : number == 1 ? has_avx2 : 1;
#else
    return 1;
#endif
}

/* The threads in which torch computes: those of the OpenMP library that it has loaded, if that has GNU's entry point. They
 * have just computed the previous products and are still spinning, so other threads would compete with them. All of them
 * are called, even if there is work for fewer: GNU's OpenMP ends the threads that a smaller team leaves out, and starts new
 * ones for the next. */
typedef void (*Parallel)(void (*)(void *), void *, unsigned, unsigned);
typedef int (*ThreadNumber)(void);
static Parallel parallel;
static ThreadNumber thread_number;

static void find_threads(void)
{
    void *library = RTLD_DEFAULT;
    if (dlsym(library, "GOMP_parallel") == NULL) { /* torch for ARM loads it so that other libraries do not see it */
        void *loaded = dlopen("libgomp.so.1", RTLD_LAZY | RTLD_NOLOAD);
        library = loaded != NULL ? loaded : RTLD_DEFAULT;
    }
    parallel = (Parallel)dlsym(library, "GOMP_parallel");
    thread_number = (ThreadNumber)dlsym(library, "omp_get_thread_num");
}

static int has_threads(void) { return parallel && thread_number; }

/* Tasks that threads take one by one. */
typedef struct {
    void (*carry_out)(void *, Py_ssize_t);
    void *data;
    Py_ssize_t n_tasks, next;
    int n_threads;
} Tasks;

static void take_tasks(void *given)
{
    Tasks *tasks = given;
    if (tasks->n_threads > 1 && thread_number() >= tasks->n_threads)
        return;
    Py_ssize_t number;
    while ((number = __atomic_fetch_add(&tasks->next, 1, __ATOMIC_RELAXED)) < tasks->n_tasks)
        tasks->carry_out(tasks->data, number);
}

static void carry_out_all(Tasks *tasks)
{
    if (!has_threads() || tasks->n_tasks == 1)
        tasks->n_threads = 1;
    if (tasks->n_threads > 1)
        parallel(take_tasks, tasks, 0, 0);
    else
        take_tasks(tasks);
}

/* update_gates */

typedef struct {
    Py_ssize_t n_rows, dim, n_shares;
    float cell_clip;
    const float *gates;  /* [n_rows, 4 * dim] */
    const float *inputs; /* [n_rows, 4 * dim], with the biases */
    float *cell;         /* [n_rows, dim], updated */
    float *outputs;      /* [n_rows, dim], filled in */
} Rows;

static void update_share(void *rows, Py_ssize_t share)
{
    const Rows *all = rows;
    Py_ssize_t dim = all->dim, end = all->n_rows * (share + 1) / all->n_shares;
    for (Py_ssize_t row = all->n_rows * share / all->n_shares; row < end; row++)
        level->update_row(dim, all->gates + row * 4 * dim, all->inputs + row * 4 * dim, all->cell_clip,
                          all->cell + row * dim, all->outputs + row * dim);
}

static PyObject *update_gates(PyObject *self, PyObject *arguments)
{
    int n_threads;
    Py_ssize_t addresses[4];
    Rows all;
    if (!PyArg_ParseTuple(arguments, "innfnnnn", &n_threads, &all.n_rows, &all.dim, &all.cell_clip, &addresses[0],
                          &addresses[1], &addresses[2], &addresses[3]))
        return NULL;
    all.gates = (const float *)addresses[0];
    all.inputs = (const float *)addresses[1];
    all.cell = (float *)addresses[2];
    all.outputs = (float *)addresses[3];
    all.n_shares = all.n_rows * all.dim >= SHARED ? n_threads : 1;

    Py_BEGIN_ALLOW_THREADS
    Tasks tasks = {update_share, &all, all.n_shares, 0, n_threads};
    carry_out_all(&tasks);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

/* multiply */

static void multiply_part(void *product, Py_ssize_t part)
{
    const Product *all = product;
    Py_ssize_t n_tiles = (all->n_strips + STRIPS_OF_TILE - 1) / STRIPS_OF_TILE, end;
    for (Py_ssize_t row = 0; row < all->n_rows; row = end) {
        end = least(row + ROWS_OF_CHUNK, all->n_rows);
        level->multiply_columns(all, row, end, n_tiles * part / all->n_parts, n_tiles * (part + 1) / all->n_parts);
    }
}

static PyObject *multiply(PyObject *self, PyObject *arguments)
{
    int n_threads;
    Py_ssize_t addresses[4];
    Product all;
    if (!PyArg_ParseTuple(arguments, "innninnnn", &n_threads, &all.n_rows, &all.n_in, &all.n_out, &all.activation,
                          &addresses[0], &addresses[1], &addresses[2], &addresses[3]))
        return NULL;
    all.n_strips = (all.n_out + STRIP - 1) / STRIP;
    all.x = (const float *)addresses[0];
    all.weight = (const float *)addresses[1];
    all.bias = (const float *)addresses[2];
    all.out = (float *)addresses[3];
    all.n_parts = all.n_rows * all.n_in * all.n_out >= SHARED_PRODUCT ? n_threads : 1;

    Py_BEGIN_ALLOW_THREADS
    Tasks tasks = {multiply_part, &all, all.n_parts, 0, n_threads};
    carry_out_all(&tasks);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

/* step_forward, step_backward, softmax_rows */

static int parse_numbers(PyObject *arguments, Numbers *array)
{
    Py_ssize_t address;
    if (!PyArg_ParseTuple(arguments, "nnnp", &address, &array->apart, &array->width, &array->is_bfloat16))
        return 0;
    array->data = (void *)address;
    return 1;
}

typedef struct {
    const CellStep *step;
    void (*carry_out)(const CellStep *, Py_ssize_t, Py_ssize_t);
} CellTask;

static void carry_out_share(void *task, Py_ssize_t share)
{
    const CellTask *all = task;
    Py_ssize_t rows = all->step->n_rows, n_shares = all->step->n_shares;
    for (Py_ssize_t row = 2 * rows * share / n_shares; row < 2 * rows * (share + 1) / n_shares; row++)
        all->carry_out(all->step, row / rows, row % rows);
}

static PyObject *carry_out_step(PyObject *arguments, int is_backward)
{
    int n_threads;
    Py_ssize_t kept;
    PyObject *parts[6] = {NULL};
    CellStep step = {0};
    Numbers *arrays[6] = {&step.gates, &step.cells, &step.found, &step.hidden, &step.d_gates, &step.d_cells};
    if (!PyArg_ParseTuple(arguments, is_backward ? "innfnO!O!O!O!O!O!" : "innfnO!O!O!O!", &n_threads, &step.n_rows,
                          &step.dim, &step.cell_clip, &kept, &PyTuple_Type, &parts[0], &PyTuple_Type, &parts[1],
                          &PyTuple_Type, &parts[2], &PyTuple_Type, &parts[3], &PyTuple_Type, &parts[4], &PyTuple_Type,
                          &parts[5]))
        return NULL;
    for (int number = 0; number < 6 && parts[number] != NULL; number++)
        if (!parse_numbers(parts[number], arrays[number]))
            return NULL;
    step.kept = (const uint8_t *)kept;
    step.n_shares = 2 * step.n_rows * step.dim >= SHARED ? n_threads : 1;
    CellTask task = {&step, is_backward ? level->step_backward : level->step_forward};

    Py_BEGIN_ALLOW_THREADS
    Tasks tasks = {carry_out_share, &task, step.n_shares, 0, n_threads};
    carry_out_all(&tasks);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *step_forward(PyObject *self, PyObject *arguments) { return carry_out_step(arguments, 0); }

static PyObject *step_backward(PyObject *self, PyObject *arguments) { return carry_out_step(arguments, 1); }

static void softmax_part(void *given, Py_ssize_t part)
{
    SoftmaxRows *all = given;
    Py_ssize_t padded = (all->n_words + STRIP - 1) / STRIP * STRIP, end = all->n_rows * (part + 1) / all->n_parts;
    void *values = NULL;
    if (posix_memalign(&values, 64, (size_t)padded * sizeof(float)) != 0) {
        all->is_out_of_memory = 1;
        return;
    }
    float *d_biases = all->d_biases == NULL ? NULL : all->d_biases + part * all->n_words;
    for (Py_ssize_t row = all->n_rows * part / all->n_parts; row < end; row++)
        level->softmax_row(all, row, values, padded, d_biases);
    free(values);
}

static PyObject *softmax_rows(PyObject *self, PyObject *arguments)
{
    int n_threads, is_bfloat16;
    Py_ssize_t addresses[8];
    SoftmaxRows all = {0};
    if (!PyArg_ParseTuple(arguments, "innnpnnnnnnnn", &n_threads, &all.n_parts, &all.n_rows, &all.n_words, &is_bfloat16,
                          &addresses[0], &addresses[1], &addresses[2], &addresses[3], &addresses[4], &addresses[5],
                          &addresses[6], &addresses[7]))
        return NULL;
    all.logits = (Numbers){(void *)addresses[0], 0, all.n_words, is_bfloat16};
    all.biases = (const float *)addresses[1];
    all.hits = (const int64_t *)addresses[2];
    all.truth = (const float *)addresses[3];
    all.totals = (float *)addresses[4];
    all.largest = (float *)addresses[5];
    all.shares = (float *)addresses[6];
    all.d_biases = (float *)addresses[7];

    Py_BEGIN_ALLOW_THREADS
    Tasks tasks = {softmax_part, &all, all.n_parts, 0, n_threads};
    carry_out_all(&tasks);
    Py_END_ALLOW_THREADS
    if (all.is_out_of_memory)
        return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static void pool_share(void *given, Py_ssize_t share)
{
    const Convolution *all = given;
    Py_ssize_t n_shares = (all->n_words + WORDS_OF_TASK - 1) / WORDS_OF_TASK;
    for (Py_ssize_t word = all->n_words * share / n_shares; word < all->n_words * (share + 1) / n_shares; word++)
        level->pool_word(all, word);
}

static PyObject *pool(PyObject *self, PyObject *arguments)
{
    int n_threads, is_bfloat16;
    Py_ssize_t addresses[3];
    Convolution all = {0};
    if (!PyArg_ParseTuple(arguments, "innnnpnnn", &n_threads, &all.n_words, &all.n_windows, &all.n_filters, &all.stride,
                          &is_bfloat16, &addresses[0], &addresses[1], &addresses[2]))
        return NULL;
    all.products = (Numbers){(void *)addresses[0], 0, 0, is_bfloat16};
    all.pooled = (float *)addresses[1];
    all.windows = (int32_t *)addresses[2];

    Py_BEGIN_ALLOW_THREADS
    Tasks tasks = {pool_share, &all, (all.n_words + WORDS_OF_TASK - 1) / WORDS_OF_TASK, 0, n_threads};
    carry_out_all(&tasks);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

/* First the filters, then the characters: each task has its own gradients, in the same order for any number of threads. */
static void unpool_share(void *given, Py_ssize_t share)
{
    const Convolution *all = given;
    Py_ssize_t filter_tasks = (all->n_filters + FILTERS_OF_TASK - 1) / FILTERS_OF_TASK;
    if (share < filter_tasks) {
        Py_ssize_t first = share * FILTERS_OF_TASK;
        level->add_filter_gradients(all, first, least(first + FILTERS_OF_TASK, all->n_filters));
        return;
    }
    share -= filter_tasks;
    Py_ssize_t n_shares = (all->n_words + WORDS_OF_TASK - 1) / WORDS_OF_TASK;
    for (Py_ssize_t word = all->n_words * share / n_shares; word < all->n_words * (share + 1) / n_shares; word++)
        level->add_character_gradients(all, word);
}

static PyObject *unpool(PyObject *self, PyObject *arguments)
{
    int n_threads;
    Py_ssize_t addresses[6];
    Convolution all = {0};
    if (!PyArg_ParseTuple(arguments, "innnnnnnnnnnn", &n_threads, &all.n_words, &all.n_positions, &all.dim, &all.n_filters,
                          &all.size, &all.stride, &addresses[0], &addresses[1], &addresses[2], &addresses[3],
                          &addresses[4], &addresses[5]))
        return NULL;
    all.pooled = (float *)addresses[0];
    all.windows = (int32_t *)addresses[1];
    all.x = (const float *)addresses[2];
    all.filters = (const float *)addresses[3];
    all.d_filters = (float *)addresses[4];
    all.d_x = (float *)addresses[5];
    Py_ssize_t n_tasks = (all.n_filters + FILTERS_OF_TASK - 1) / FILTERS_OF_TASK;
    n_tasks += (all.n_words + WORDS_OF_TASK - 1) / WORDS_OF_TASK;

    Py_BEGIN_ALLOW_THREADS
    Tasks tasks = {unpool_share, &all, n_tasks, 0, n_threads};
    carry_out_all(&tasks);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

/* run_layer */

typedef struct {
    Layer layer;
    Direction directions[2];
    Py_ssize_t n_steps, n_rows, n_parts; /* parts: of the rows, for each direction */
    const int64_t *batch_sizes;          /* rows of each step, in descending order */
    const uint8_t *starts;               /* for each token, whether its row resets its state before it; or NULL */
    int is_out_of_memory;
} Run;

static int make_work(Work *work, const Layer *layer, Py_ssize_t rows)
{
    Py_ssize_t tokens = rows > BLOCK_TOKENS ? rows : BLOCK_TOKENS;
    Py_ssize_t cells = rows * layer->padded_dim, hidden = rows * layer->padded_width;
    Py_ssize_t sums = layer->n_tiles * BLOCK_TOKENS * TILE;
    void *memory = NULL;
    Py_ssize_t floats = 2 * cells + 2 * hidden + sums + rows * TILE;
    size_t pointers = (size_t)(2 * rows + tokens) * sizeof(float *);
    if (posix_memalign(&memory, 64, (size_t)floats * sizeof(float) + pointers) != 0)
        return 0;
    work->memory = memory;
    work->cell = work->memory;
    work->squashed_data = work->cell + cells;
    work->hidden_data = work->squashed_data + cells;
    work->projected = work->hidden_data + hidden;
    work->sums = work->projected + hidden;
    work->gates = work->sums + sums;
    work->hidden = (const float **)(work->gates + rows * TILE);
    work->squashed = work->hidden + rows;
    work->x = work->squashed + rows;
    memset(work->memory, 0, (size_t)(2 * cells + hidden) * sizeof(float));
    for (Py_ssize_t row = 0; row < rows; row++) {
        work->hidden[row] = work->hidden_data + row * layer->padded_width;
        work->squashed[row] = work->squashed_data + row * layer->padded_dim;
    }
    return 1;
}

static inline float clip(float x, float limit)
{
    x = x > limit ? limit : x;
    return x < -limit ? -limit : x;
}

/* Reset the states of the rows that start again at a step. */
static void forget(const Run *run, Work *work, Py_ssize_t token, Py_ssize_t rows)
{
    const Layer *layer = &run->layer;
    for (Py_ssize_t row = 0; run->starts != NULL && row < rows; row++)
        if (run->starts[token + row]) {
            memset(work->hidden_data + row * layer->padded_width, 0, (size_t)layer->width * sizeof(float));
            memset(work->cell + row * layer->padded_dim, 0, (size_t)layer->dim * sizeof(float));
        }
}

/* Compute the hidden states of a step from the outputs of its cells, and store them as the outputs of its tokens. */
static void finish_step(const Layer *layer, const Direction *one, Work *work, Py_ssize_t rows, float *outputs)
{
    const float *found = work->squashed_data;
    Py_ssize_t stride = layer->padded_dim;
    if (one->projection != NULL) {
        level->project(layer, one, work, rows);
        found = work->projected;
        stride = layer->padded_width;
    }
    for (Py_ssize_t row = 0; row < rows; row++) {
        float *hidden = work->hidden_data + row * layer->padded_width;
        if (one->projection != NULL)
            for (Py_ssize_t i = 0; i < layer->width; i++)
                hidden[i] = clip(found[row * stride + i], layer->proj_clip);
        else
            memcpy(hidden, found + row * stride, (size_t)layer->width * sizeof(float));
        memcpy(outputs + row * layer->width, hidden, (size_t)layer->width * sizeof(float));
    }
}

/* Run rows `first` to `end` (exclusive) of a direction through all of their time steps. */
static void run_rows(const Run *run, const Direction *one, Work *work, Py_ssize_t first, Py_ssize_t end)
{
    const Layer *layer = &run->layer;
    Py_ssize_t token = first; /* of the first of these rows in a step */
    for (Py_ssize_t step = 0, next; step < run->n_steps && run->batch_sizes[step] > first; step = next) {
        Py_ssize_t n_tokens = 0, start = token;
        for (next = step; next < run->n_steps && run->batch_sizes[next] > first; next++) {
            Py_ssize_t rows = least(run->batch_sizes[next], end) - first;
            if (next > step && (rows >= TALL || n_tokens + rows > BLOCK_TOKENS))
                break;
            for (Py_ssize_t row = 0; row < rows; row++)
                work->x[n_tokens + row] = one->x + (start + row) * layer->n_in;
            n_tokens += rows;
            start += run->batch_sizes[next];
            if (rows >= TALL) {
                next++;
                break;
            }
        }
        int is_tall = least(run->batch_sizes[step], end) - first >= TALL;
        if (!is_tall)
            level->read_inputs(layer, one, n_tokens, work->x, work->sums);
        for (Py_ssize_t place = 0; step < next; token += run->batch_sizes[step++]) {
            Py_ssize_t rows = least(run->batch_sizes[step], end) - first;
            forget(run, work, token, rows);
            level->update_cells(layer, one, work, rows, is_tall ? work->x : NULL, work->sums + place * TILE, n_tokens);
            finish_step(layer, one, work, rows, one->outputs + token * layer->width);
            place += rows;
        }
    }
}

static void run_task(void *given, Py_ssize_t task)
{
    Run *run = given;
    const Layer *layer = &run->layer;
    const Direction *one = &run->directions[task % 2];
    Py_ssize_t first = run->n_rows * (task / 2) / run->n_parts, end = run->n_rows * (task / 2 + 1) / run->n_parts;
    Work work;
    if (!make_work(&work, layer, end - first)) {
        __atomic_store_n(&run->is_out_of_memory, 1, __ATOMIC_RELAXED);
        return;
    }
    for (Py_ssize_t row = first; row < end; row++) {
        memcpy(work.hidden_data + (row - first) * layer->padded_width, one->hidden + row * layer->width,
               (size_t)layer->width * sizeof(float));
        memcpy(work.cell + (row - first) * layer->padded_dim, one->cell + row * layer->dim,
               (size_t)layer->dim * sizeof(float));
    }
    run_rows(run, one, &work, first, end);
    for (Py_ssize_t row = first; row < end; row++) {
        memcpy(one->hidden + row * layer->width, work.hidden_data + (row - first) * layer->padded_width,
               (size_t)layer->width * sizeof(float));
        memcpy(one->cell + row * layer->dim, work.cell + (row - first) * layer->padded_dim,
               (size_t)layer->dim * sizeof(float));
    }
    free(work.memory);
}

/* Number of parts to cut the rows into: enough to occupy all threads, if there are enough rows. */
static Py_ssize_t parts_of(Py_ssize_t rows, int n_threads)
{
    Py_ssize_t parts = n_threads % 2 == 0 ? n_threads / 2 : n_threads;
    return parts <= 1 || rows < 2 * ROWS_OF_TASK ? 1 : least(parts, rows / ROWS_OF_TASK);
}

static int parse_direction(PyObject *arguments, Direction *one)
{
    Py_ssize_t addresses[8];
    if (!PyArg_ParseTuple(arguments, "nnnnnnnn", &addresses[0], &addresses[1], &addresses[2], &addresses[3],
                          &addresses[4], &addresses[5], &addresses[6], &addresses[7]))
        return 0;
    one->input_weight = (const float *)addresses[0];
    one->hidden_weight = (const float *)addresses[1];
    one->bias = (const float *)addresses[2];
    one->projection = (const float *)addresses[3];
    one->x = (const float *)addresses[4];
    one->hidden = (float *)addresses[5];
    one->cell = (float *)addresses[6];
    one->outputs = (float *)addresses[7];
    return 1;
}

static PyObject *run_layer(PyObject *self, PyObject *arguments)
{
    int n_threads;
    Py_ssize_t batch_sizes, starts;
    PyObject *parts[2];
    Run run = {0};
    Layer *layer = &run.layer;
    if (!PyArg_ParseTuple(arguments, "innnffnnnO!O!", &n_threads, &layer->n_in, &layer->dim, &layer->width,
                          &layer->cell_clip, &layer->proj_clip, &run.n_steps, &batch_sizes, &starts, &PyTuple_Type,
                          &parts[0], &PyTuple_Type, &parts[1]))
        return NULL;
    if (!parse_direction(parts[0], &run.directions[0]) || !parse_direction(parts[1], &run.directions[1]))
        return NULL;
    run.batch_sizes = (const int64_t *)batch_sizes;
    run.starts = (const uint8_t *)starts;
    run.n_rows = run.n_steps ? run.batch_sizes[0] : 0;
    layer->n_tiles = (layer->dim + STRIP - 1) / STRIP;
    layer->n_strips = (layer->width + STRIP - 1) / STRIP;
    layer->padded_dim = (layer->n_tiles | 1) * STRIP;
    layer->padded_width = (layer->n_strips | 1) * STRIP;
    run.n_parts = parts_of(run.n_rows, n_threads);

    Py_BEGIN_ALLOW_THREADS
    Tasks tasks = {run_task, &run, 2 * run.n_parts, 0, n_threads};
    carry_out_all(&tasks);
    Py_END_ALLOW_THREADS
    if (run.is_out_of_memory)
        return PyErr_Format(PyExc_MemoryError, "no memory for the LSTM states of %zd sequences: lower max_batch_tokens",
                            run.n_rows);
    Py_RETURN_NONE;
}

/* The other functions of the module. */

/* Names of the versions that this processor can run, best first. */
static PyObject *names_of_levels(PyObject *self, PyObject *nothing)
{
    PyObject *names = PyList_New(0);
    for (int number = 0; names != NULL && number < N_LEVELS; number++) {
        PyObject *name = is_there(number) ? PyUnicode_FromString(levels[number].name) : NULL;
        if (name == NULL && !PyErr_Occurred())
            continue;
        if (name == NULL || PyList_Append(names, name) < 0)
            Py_CLEAR(names);
        Py_XDECREF(name);
    }
    return names;
}

static PyObject *choose(PyObject *self, PyObject *arguments)
{
    const char *name;
    if (!PyArg_ParseTuple(arguments, "s", &name))
        return NULL;
    for (int number = 0; number < N_LEVELS; number++)
        if (is_there(number) && strcmp(levels[number].name, name) == 0) {
            level = &levels[number];
            Py_RETURN_NONE;
        }
    return PyErr_Format(PyExc_ValueError, "no such version here: %s", name);
}

/* Ask for large pages for an array that is not filled yet. Weights that do not fit into a cache are read faster from them. */
static PyObject *use_large_pages(PyObject *self, PyObject *arguments)
{
    Py_ssize_t address, size;
    if (!PyArg_ParseTuple(arguments, "nn", &address, &size))
        return NULL;
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    uintptr_t page = 2 * 1024 * 1024, start = ((uintptr_t)address + page - 1) / page * page;
    uintptr_t end = ((uintptr_t)address + (uintptr_t)size) / page * page;
    if (start < end)
        madvise((void *)start, end - start, MADV_HUGEPAGE); /* only a hint: it does not change results */
#endif
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"levels", names_of_levels, METH_NOARGS, "See _kernels.pyi."},
    {"choose", choose, METH_VARARGS, "See _kernels.pyi."},
    {"update_gates", update_gates, METH_VARARGS, "See _kernels.pyi."},
    {"multiply", multiply, METH_VARARGS, "See _kernels.pyi."},
    {"run_layer", run_layer, METH_VARARGS, "See _kernels.pyi."},
    {"step_forward", step_forward, METH_VARARGS, "See _kernels.pyi."},
    {"step_backward", step_backward, METH_VARARGS, "See _kernels.pyi."},
    {"softmax_rows", softmax_rows, METH_VARARGS, "See _kernels.pyi."},
    {"pool", pool, METH_VARARGS, "See _kernels.pyi."},
    {"unpool", unpool, METH_VARARGS, "See _kernels.pyi."},
    {"use_large_pages", use_large_pages, METH_VARARGS, "See _kernels.pyi."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_kernels", "Compiled part of kernels.py.", 0, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__kernels(void)
{
    find_threads();
    level = &levels[N_LEVELS - 1];
    PyObject *created = PyModule_Create(&module);
    if (created != NULL && (PyModule_AddIntConstant(created, "STRIP", STRIP) < 0
                            || PyModule_AddIntConstant(created, "SOURCE", SOURCE) < 0
                            || PyModule_AddIntConstant(created, "HAS_THREADS", has_threads()) < 0)) {
        Py_DECREF(created);
        return NULL;
    }
    return created;
}
