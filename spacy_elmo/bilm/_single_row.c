/* One sentence through one direction of an LSTM layer, all of its time steps in one call.
 *
 * With a single row, reading the weights is all there is to do. They lie in tiles of TILE columns, each row after row,
 * so that they are read from front to back: as fast as the cache gives them. What an interpreter does between two
 * products would cost as much again. Optional: without it, lstm.py runs the same steps through torch's operators.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__FAST_MATH__)
#error "the exponential function below needs additions in the order in which they stand"
#endif

#define TILE 64

/* One version for each width of vectors, chosen when the module is loaded. With the narrowest, which is what other
 * compilers make, torch's operators are as fast or faster. */
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__GLIBC__)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("avx512f", "avx2", "default")))
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

/* sums [n_tiles * TILE] += x [n_rows] times the tiles [n_tiles, n_rows, TILE] */
FOR_EACH_PROCESSOR
static void add_product(Py_ssize_t n_rows, Py_ssize_t n_tiles, const float *restrict x, const float *restrict tiles,
                        float *restrict sums)
{
    for (Py_ssize_t tile = 0; tile < n_tiles; tile++) {
        float part[TILE];
        memcpy(part, sums + tile * TILE, sizeof part);
        for (Py_ssize_t row = 0; row < n_rows; row++) {
            const float *weights = tiles + (tile * n_rows + row) * TILE;
            for (int column = 0; column < TILE; column++)
                part[column] += x[row] * weights[column];
        }
        memcpy(sums + tile * TILE, part, sizeof part);
    }
}

/* gates: input, forget, output and candidate, [4, dim], before their nonlinearities */
FOR_EACH_PROCESSOR
static void update(Py_ssize_t dim, const float *restrict gates, float cell_clip, float *restrict cell,
                   float *restrict output)
{
    const float *enter = gates, *forget = gates + dim, *leave = gates + 2 * dim, *candidate = gates + 3 * dim;
    for (Py_ssize_t i = 0; i < dim; i++) {
        float kept = cell[i] * sigmoid(forget[i]);
        cell[i] = clip(kept + sigmoid(enter[i]) * hyperbolic_tangent(candidate[i]), cell_clip);
        output[i] = hyperbolic_tangent(cell[i]) * sigmoid(leave[i]);
    }
}

static Py_ssize_t tiles_of(Py_ssize_t columns) { return (columns + TILE - 1) / TILE; }

static PyObject *run(PyObject *self, PyObject *arguments)
{
    Py_ssize_t n_steps, dim, width; /* width: of the hidden state */
    Py_ssize_t addresses[6];
    float cell_clip, proj_clip;
    if (!PyArg_ParseTuple(arguments, "nnnffnnnnnn", &n_steps, &dim, &width, &cell_clip, &proj_clip, &addresses[0],
                          &addresses[1], &addresses[2], &addresses[3], &addresses[4], &addresses[5]))
        return NULL;
    const float *inputs = (const float *)addresses[0];     /* [n_steps, 4 * dim], with the biases */
    const float *weight = (const float *)addresses[1];     /* tiles of [width, 4 * dim] */
    const float *projection = (const float *)addresses[2]; /* tiles of [dim, width], or none, where width is dim */
    float *hidden = (float *)addresses[3];                 /* [width], brought up to date */
    float *cell = (float *)addresses[4];                   /* [dim], brought up to date */
    float *outputs = (float *)addresses[5];                /* [n_steps, width], filled in */

    Py_ssize_t n_gates = tiles_of(4 * dim) * TILE, n_projected = tiles_of(width) * TILE;
    float *gates = calloc((size_t)(n_gates + n_projected + dim), sizeof(float));
    if (gates == NULL)
        return PyErr_NoMemory();
    float *projected = gates + n_gates, *squashed = projected + n_projected;
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t step = 0; step < n_steps; step++) {
        memcpy(gates, inputs + step * 4 * dim, 4 * (size_t)dim * sizeof(float));
        add_product(width, tiles_of(4 * dim), hidden, weight, gates);
        if (projection == NULL) {
            update(dim, gates, cell_clip, cell, hidden);
        } else {
            update(dim, gates, cell_clip, cell, squashed);
            memset(projected, 0, (size_t)n_projected * sizeof(float));
            add_product(dim, tiles_of(width), squashed, projection, projected);
            for (Py_ssize_t i = 0; i < width; i++)
                hidden[i] = clip(projected[i], proj_clip);
        }
        memcpy(outputs + step * width, hidden, (size_t)width * sizeof(float));
    }
    Py_END_ALLOW_THREADS
    free(gates);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"run", run, METH_VARARGS, "See _single_row.pyi."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_single_row", "Compiled part of single_row.py.", 0, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__single_row(void)
{
    PyObject *created = PyModule_Create(&module);
    if (created != NULL && PyModule_AddIntConstant(created, "TILE", TILE) < 0) {
        Py_DECREF(created);
        return NULL;
    }
    return created;
}
