/* The time steps of an LSTM layer in float32: what is between the products of several rows (`update`), and all of the
 * steps of a single row in both directions in one call (`run`), which come to the same bits.
 *
 * With a single row, reading the weights is all there is to do. They lie in tiles of TILE columns, each row after row,
 * so that they are read from front to back: as fast as the cache gives them. What an interpreter does between two
 * products would cost as much again. Optional: without it, lstm.py runs the same steps through torch's operators.
 */

#define _GNU_SOURCE
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__FAST_MATH__)
#error "the exponential function below needs additions in the order in which they stand"
#endif

#define TILE 64
#define SHARED 8192 /* cells that threads share: 20 microseconds' work for one, many times what calling them takes */

/* One version for each width of vectors, chosen when the module is loaded. With the narrowest, which is what other
 * compilers make, torch's operators are faster: compiled.py asks IS_FASTER. */
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__GLIBC__)
#if __GNUC__ >= 12
#define AVX2 "arch=x86-64-v3" /* what a processor has; GCC's resolver takes a processor's name for what it is */
#else
#define AVX2 "arch=haswell" /* GCC 9 to 11 do not know the other name */
#endif
#define FOR_EACH_PROCESSOR __attribute__((target_clones("avx512f", AVX2, "default")))
#else
#error "made for GCC on x86-64 Linux"
#endif

/* exp to float32's last bit or two: 2^n times a polynomial on [-log(2) / 2, log(2) / 2], free of branches. */
static inline float exponential(float x)
{
    const float shift = 12582912.0f; /* 1.5 * 2^23: added and taken away, it rounds to an integer */
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    float n = (x * 1.44269504f + shift) - shift;
    float r = (x - n * 0.693359375f) + n * 2.12194440e-4f; /* log(2) in two parts */
    float sum = 1.0f / 5040.0f;
    sum = sum * r + 1.0f / 720.0f;
    sum = sum * r + 1.0f / 120.0f;
    sum = sum * r + 1.0f / 24.0f;
    sum = sum * r + 1.0f / 6.0f;
    sum = sum * r + 0.5f;
    sum = sum * r * r + r + 1.0f;
    union { int32_t bits; float value; } power;
    power.bits = (int32_t)((uint32_t)((int32_t)n + 127) << 23);
    return sum * power.value;
}

static inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

static inline float hyperbolic_tangent(float x) { return 2.0f * sigmoid(2.0f * x) - 1.0f; }

static inline float clip(float x, float limit)
{
    x = x > limit ? limit : x;
    return x < -limit ? -limit : x;
}

/* sums [n_tiles * TILE] = x [n_rows] times the tiles [n_tiles, n_rows, TILE], in the order of oneDNN: row after row in
 * each `block` of rows, and block after block. */
FOR_EACH_PROCESSOR
static void multiply(Py_ssize_t n_rows, Py_ssize_t n_tiles, Py_ssize_t block, const float *restrict x,
                     const float *restrict tiles, float *restrict sums)
{
    for (Py_ssize_t tile = 0; tile < n_tiles; tile++) {
        float total[TILE] = {0};
        for (Py_ssize_t start = 0; start < n_rows; start += block) {
            Py_ssize_t end = n_rows - start < block ? n_rows : start + block;
            float part[TILE] = {0};
            for (Py_ssize_t row = start; row < end; row++) {
                const float *weights = tiles + (tile * n_rows + row) * TILE;
                for (int column = 0; column < TILE; column++)
                    part[column] += x[row] * weights[column];
            }
            for (int column = 0; column < TILE; column++)
                total[column] += part[column];
        }
        memcpy(sums + tile * TILE, total, sizeof total);
    }
}

/* gates: input, forget, output and candidate, [4, dim], before their nonlinearities: the sums of both halves */
FOR_EACH_PROCESSOR
static void update(Py_ssize_t dim, const float *restrict gates, const float *restrict inputs, float cell_clip,
                   float *restrict cell, float *restrict output)
{
    for (Py_ssize_t i = 0; i < dim; i++) {
        float enter = sigmoid(gates[i] + inputs[i]), forget = sigmoid(gates[dim + i] + inputs[dim + i]);
        float leave = sigmoid(gates[2 * dim + i] + inputs[2 * dim + i]);
        float candidate = hyperbolic_tangent(gates[3 * dim + i] + inputs[3 * dim + i]);
        cell[i] = clip(cell[i] * forget + enter * candidate, cell_clip);
        output[i] = hyperbolic_tangent(cell[i]) * leave;
    }
}

static Py_ssize_t tiles_of(Py_ssize_t columns) { return (columns + TILE - 1) / TILE; }

/* The threads in which torch computes: those of the OpenMP that it has loaded, where that is GNU's. They have just
 * worked on the products before and are awake, so others would only stand in their way. All of them are called, also
 * where there is work for two: GNU's ends those that a smaller team leaves out, and makes new ones for the next. */
typedef void (*Parallel)(void (*)(void *), void *, unsigned, unsigned);
typedef int (*ThreadNumber)(void);
static Parallel parallel;
static ThreadNumber thread_number, n_threads;

static void find_threads(void)
{
    parallel = (Parallel)dlsym(RTLD_DEFAULT, "GOMP_parallel");
    thread_number = (ThreadNumber)dlsym(RTLD_DEFAULT, "omp_get_thread_num");
    n_threads = (ThreadNumber)dlsym(RTLD_DEFAULT, "omp_get_num_threads");
}

static int has_threads(void)
{
    return parallel && thread_number && n_threads;
}

typedef struct {
    Py_ssize_t n_rows, dim;
    float cell_clip;
    const float *gates;  /* [n_rows, 4 * dim] */
    const float *inputs; /* [n_rows, 4 * dim], with the biases */
    float *cell;         /* [n_rows, dim], brought up to date */
    float *outputs;      /* [n_rows, dim], filled in */
} Rows;

static void update_range(const Rows *all, Py_ssize_t row, Py_ssize_t end)
{
    for (Py_ssize_t dim = all->dim; row < end; row++)
        update(dim, all->gates + row * 4 * dim, all->inputs + row * 4 * dim, all->cell_clip, all->cell + row * dim,
               all->outputs + row * dim);
}

static void update_share(void *rows)
{
    const Rows *all = rows;
    Py_ssize_t number = thread_number(), count = n_threads();
    update_range(all, all->n_rows * number / count, all->n_rows * (number + 1) / count);
}

static PyObject *update_rows(PyObject *self, PyObject *arguments)
{
    int wanted;
    Py_ssize_t addresses[4];
    Rows all;
    if (!PyArg_ParseTuple(arguments, "innfnnnn", &wanted, &all.n_rows, &all.dim, &all.cell_clip, &addresses[0],
                          &addresses[1], &addresses[2], &addresses[3]))
        return NULL;
    all.gates = (const float *)addresses[0];
    all.inputs = (const float *)addresses[1];
    all.cell = (float *)addresses[2];
    all.outputs = (float *)addresses[3];

    Py_BEGIN_ALLOW_THREADS
    if (wanted > 1 && has_threads() && all.n_rows * all.dim >= SHARED)
        parallel(update_share, &all, 0, 0);
    else
        update_range(&all, 0, all.n_rows);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

/* All steps of one row in one direction. */
typedef struct {
    Py_ssize_t n_steps, dim, width, block; /* width: of the hidden state; block: see multiply */
    float cell_clip, proj_clip;
    const float *inputs;     /* [n_steps, 4 * dim], with the biases */
    const float *weight;     /* tiles of [width, 4 * dim] */
    const float *projection; /* tiles of [dim, width], or none, where width is dim */
    float *hidden;           /* [width], brought up to date */
    float *cell;             /* [dim], brought up to date */
    float *outputs;          /* [n_steps, width], filled in */
    float *scratch;
} Direction;

static void run_direction(const Direction *one)
{
    Py_ssize_t dim = one->dim, width = one->width, n_gates = tiles_of(4 * dim) * TILE;
    float *gates = one->scratch, *projected = gates + n_gates, *squashed = projected + tiles_of(width) * TILE;
    for (Py_ssize_t step = 0; step < one->n_steps; step++) {
        const float *added = one->inputs + step * 4 * dim;
        multiply(width, tiles_of(4 * dim), one->block, one->hidden, one->weight, gates);
        if (one->projection == NULL) {
            update(dim, gates, added, one->cell_clip, one->cell, one->hidden);
        } else {
            update(dim, gates, added, one->cell_clip, one->cell, squashed);
            multiply(dim, tiles_of(width), one->block, squashed, one->projection, projected);
            for (Py_ssize_t i = 0; i < width; i++)
                one->hidden[i] = clip(projected[i], one->proj_clip);
        }
        memcpy(one->outputs + step * width, one->hidden, (size_t)width * sizeof(float));
    }
}

static void run_share(void *directions)
{
    for (int number = thread_number(); number < 2; number += n_threads())
        run_direction((Direction *)directions + number);
}

static int parse_direction(PyObject *arguments, Direction *one)
{
    Py_ssize_t addresses[6];
    if (!PyArg_ParseTuple(arguments, "nnnnffnnnnnn", &one->n_steps, &one->dim, &one->width, &one->block,
                          &one->cell_clip, &one->proj_clip, &addresses[0], &addresses[1], &addresses[2],
                          &addresses[3], &addresses[4], &addresses[5]))
        return 0;
    one->inputs = (const float *)addresses[0];
    one->weight = (const float *)addresses[1];
    one->projection = (const float *)addresses[2];
    one->hidden = (float *)addresses[3];
    one->cell = (float *)addresses[4];
    one->outputs = (float *)addresses[5];
    Py_ssize_t numbers = tiles_of(4 * one->dim) * TILE + tiles_of(one->width) * TILE + one->dim;
    one->scratch = calloc((size_t)numbers, sizeof(float));
    if (one->scratch == NULL)
        PyErr_NoMemory();
    return one->scratch != NULL;
}

static PyObject *run(PyObject *self, PyObject *arguments)
{
    int wanted;
    PyObject *parts[2];
    Direction directions[2] = {{0}};
    if (!PyArg_ParseTuple(arguments, "iO!O!", &wanted, &PyTuple_Type, &parts[0], &PyTuple_Type, &parts[1]))
        return NULL;
    int parsed = parse_direction(parts[0], &directions[0]) && parse_direction(parts[1], &directions[1]);
    if (parsed) {
        Py_BEGIN_ALLOW_THREADS
        if (wanted > 1 && has_threads()) {
            parallel(run_share, directions, 0, 0);
        } else {
            run_direction(&directions[0]);
            run_direction(&directions[1]);
        }
        Py_END_ALLOW_THREADS
    }
    free(directions[0].scratch);
    free(directions[1].scratch);
    if (!parsed)
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"update_rows", update_rows, METH_VARARGS, "See _compiled.pyi."},
    {"run", run, METH_VARARGS, "See _compiled.pyi."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_compiled", "Compiled part of compiled.py.", 0, methods, NULL, NULL, NULL, NULL,
};

/* What the AVX2 version needs; without it the narrow one runs. */
static int has_wide_vectors(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi")
           && __builtin_cpu_supports("bmi2");
}

PyMODINIT_FUNC PyInit__compiled(void)
{
    find_threads();
    PyObject *created = PyModule_Create(&module);
    if (created != NULL && (PyModule_AddIntConstant(created, "TILE", TILE) < 0
                            || PyModule_AddIntConstant(created, "HAS_THREADS", has_threads()) < 0
                            || PyModule_AddIntConstant(created, "IS_FASTER", has_wide_vectors()) < 0)) {
        Py_DECREF(created);
        return NULL;
    }
    return created;
}
