/* What training computes between its products, for one instruction set: the cells of a time step, forwards and backwards,
 * the softmax, and the maximum of the character CNN. `_kernels_level.h` includes this file. Arrays are float32 or bfloat16, sums are float32. */

/* Convert numbers of an array to float32. start: of the first one. */
TARGET static inline void LEVEL(widen)(const Numbers *array, Py_ssize_t start, Py_ssize_t n, float *restrict to)
{
    if (!array->is_bfloat16) {
        memcpy(to, (const float *)array->data + start, (size_t)n * sizeof(float));
        return;
    }
    const uint16_t *restrict from = (const uint16_t *)array->data + start;
    for (Py_ssize_t i = 0; i < n; i++) {
        union { uint32_t bits; float value; } wide = {(uint32_t)from[i] << 16};
        to[i] = wide.value;
    }
}

/* Convert float32 to numbers of an array: to the nearest, to the even one of two. */
TARGET static inline void LEVEL(narrow)(const Numbers *array, Py_ssize_t start, Py_ssize_t n, const float *restrict from)
{
    if (!array->is_bfloat16) {
        memcpy((float *)array->data + start, from, (size_t)n * sizeof(float));
        return;
    }
    uint16_t *restrict to = (uint16_t *)array->data + start;
    for (Py_ssize_t i = 0; i < n; i++) {
        union { float value; uint32_t bits; } wide = {from[i]};
        uint32_t rounded = (wide.bits + 0x7FFF + ((wide.bits >> 16) & 1)) >> 16;
        to[i] = (uint16_t)(wide.value != wide.value ? 0x7FC0 : rounded);
    }
}

/* Compute the cells of one row of a step, and what the backward pass needs. */
TARGET static void LEVEL(step_forward)(const CellStep *step, Py_ssize_t direction, Py_ssize_t row)
{
    const float limit = largest_argument, cell_clip = step->cell_clip;
    const Py_ssize_t dim = step->dim;
    const Py_ssize_t gates = place(&step->gates, direction, row), hidden = place(&step->hidden, direction, row);
    const float *before = (const float *)step->found.data + place(&step->found, direction, row);
    float *restrict cells = (float *)step->cells.data + place(&step->cells, direction, row);
    const int is_new = step->kept != NULL && !step->kept[row];
    for (Py_ssize_t start = 0, n; start < dim; start += n) {
        float gate[4][PIECE], found[PIECE], output[PIECE];
        n = least(PIECE, dim - start);
        for (int kind = 0; kind < 4; kind++)
            LEVEL(widen)(&step->gates, gates + kind * dim + start, n, gate[kind]);
        if (is_new)
            memset(found, 0, (size_t)n * sizeof(float));
        else
            memcpy(found, before + start, (size_t)n * sizeof(float));
        for (Py_ssize_t i = 0; i < n; i++) {
            float e_candidate = LEVEL(exp_minus_one)(gate[3][i], limit);
            float candidate = -e_candidate / (2.0f + e_candidate);
            float input = 1.0f / LEVEL(one_plus_exp)(gate[0][i], limit);
            float forget = 1.0f / LEVEL(one_plus_exp)(gate[1][i], limit);
            float out = 1.0f / LEVEL(one_plus_exp)(gate[2][i], limit);
            float cell = found[i] * forget + input * candidate;
            cell = cell > cell_clip ? cell_clip : cell;
            cell = cell < -cell_clip ? -cell_clip : cell;
            float e_cell = LEVEL(exp_minus_one)(cell, limit);
            gate[0][i] = input;
            gate[1][i] = forget;
            gate[2][i] = out;
            gate[3][i] = candidate;
            found[i] = cell;
            output[i] = -out * e_cell / (2.0f + e_cell);
        }
        for (int kind = 0; kind < 4; kind++)
            LEVEL(narrow)(&step->gates, gates + kind * dim + start, n, gate[kind]);
        memcpy(cells + start, found, (size_t)n * sizeof(float));
        LEVEL(narrow)(&step->hidden, hidden + start, n, output);
    }
}

/* Compute the gradients of the gates of one row of a step, and of the cells that it found. */
TARGET static void LEVEL(step_backward)(const CellStep *step, Py_ssize_t direction, Py_ssize_t row)
{
    const float limit = largest_argument, cell_clip = step->cell_clip;
    const Py_ssize_t dim = step->dim;
    const Py_ssize_t gates = place(&step->gates, direction, row), hidden = place(&step->hidden, direction, row);
    const Py_ssize_t d_gates = place(&step->d_gates, direction, row);
    const float *restrict before = (const float *)step->found.data + place(&step->found, direction, row);
    const float *restrict cells = (const float *)step->cells.data + place(&step->cells, direction, row);
    float *restrict d_cells = (float *)step->d_cells.data + place(&step->d_cells, direction, row);
    const float kept = step->kept != NULL && !step->kept[row] ? 0.0f : 1.0f;
    for (Py_ssize_t start = 0, n; start < dim; start += n) {
        float gate[4][PIECE], d_hidden[PIECE];
        n = least(PIECE, dim - start);
        for (int kind = 0; kind < 4; kind++)
            LEVEL(widen)(&step->gates, gates + kind * dim + start, n, gate[kind]);
        LEVEL(widen)(&step->hidden, hidden + start, n, d_hidden);
        for (Py_ssize_t i = 0; i < n; i++) {
            float input = gate[0][i], forget = gate[1][i], out = gate[2][i], candidate = gate[3][i];
            float cell = cells[start + i], found = kept * before[start + i];
            float e_cell = LEVEL(exp_minus_one)(cell, limit), squash = -e_cell / (2.0f + e_cell);
            float d_cell = d_cells[start + i] + d_hidden[i] * out * (1.0f - squash * squash);
            d_cell = cell >= cell_clip || cell <= -cell_clip ? 0.0f : d_cell;
            gate[0][i] = d_cell * candidate * input * (1.0f - input);
            gate[1][i] = d_cell * found * forget * (1.0f - forget);
            gate[2][i] = d_hidden[i] * squash * out * (1.0f - out);
            gate[3][i] = d_cell * input * (1.0f - candidate * candidate);
            d_cells[start + i] = kept * d_cell * forget;
        }
        for (int kind = 0; kind < 4; kind++)
            LEVEL(narrow)(&step->d_gates, d_gates + kind * dim + start, n, gate[kind]);
    }
}

/* Compute the parts of the loss of one target, and turn its logits into their gradients if `d_biases` is not NULL.
 * values: working memory, `padded` numbers. */
TARGET static void LEVEL(softmax_row)(const SoftmaxRows *all, Py_ssize_t row, float *restrict values, Py_ssize_t padded,
                                      float *restrict d_biases)
{
    const float limit = largest_argument;
    const Py_ssize_t n = all->n_words, start = row * n;
    const float *restrict biases = all->biases;
    float largest[STRIP], total[STRIP], most, sum = 0.0f;
    LEVEL(widen)(&all->logits, start, n, values);
    for (Py_ssize_t i = 0; i < n; i++)
        values[i] += biases[i];
    for (Py_ssize_t i = n; i < padded; i++)
        values[i] = -FLT_MAX;
    const Py_ssize_t hit = all->hits == NULL ? -1 : (Py_ssize_t)all->hits[row];
    if (hit >= 0)
        values[hit] = -FLT_MAX;
    for (int lane = 0; lane < STRIP; lane++)
        largest[lane] = -FLT_MAX;
    for (Py_ssize_t i = 0; i < padded; i += STRIP)
NO_ALIASES
        for (int lane = 0; lane < STRIP; lane++)
            largest[lane] = values[i + lane] > largest[lane] ? values[i + lane] : largest[lane];
    most = largest[0];
    for (int lane = 1; lane < STRIP; lane++)
        most = largest[lane] > most ? largest[lane] : most;
    /* With hits, the target is one more word beside these. */
    const float truth = all->truth[row];
    most = all->hits != NULL && truth > most ? truth : most;
    for (int lane = 0; lane < STRIP; lane++)
        total[lane] = 0.0f;
    for (Py_ssize_t i = 0; i < padded; i += STRIP)
NO_ALIASES
        for (int lane = 0; lane < STRIP; lane++) {
            float power, rest = LEVEL(exp_rest)(values[i + lane] - most, LOG2_E, limit, &power);
            values[i + lane] = rest * power + power;
            total[lane] += values[i + lane];
        }
    if (hit >= 0)
        values[hit] = 0.0f;
    for (int lane = 0; lane < STRIP; lane++)
        sum += total[lane];
    if (all->hits != NULL) {
        float power, rest = LEVEL(exp_rest)(truth - most, LOG2_E, limit, &power);
        sum += rest * power + power;
        all->shares[row] = (rest * power + power) / sum;
    }
    all->totals[row] = sum;
    all->largest[row] = most;
    if (d_biases == NULL)
        return;
    const float scale = 1.0f / sum;
    for (Py_ssize_t i = 0; i < n; i++) {
        values[i] *= scale;
        d_biases[i] += values[i];
    }
    LEVEL(narrow)(&all->logits, start, n, values);
}

/* Find the largest of each filter's products over the windows of a word, and the window that has it. */
TARGET static void LEVEL(pool_word)(const Convolution *all, Py_ssize_t word)
{
    const Py_ssize_t n_windows = all->n_windows, n_filters = all->n_filters;
    for (Py_ssize_t start = 0, n; start < n_filters; start += n) {
        float products[PIECE], best[PIECE];
        int32_t window[PIECE];
        n = least(PIECE, n_filters - start);
        LEVEL(widen)(&all->products, word * n_windows * n_filters + start, n, best);
        memset(window, 0, sizeof window);
        for (int32_t now = 1; now < n_windows; now++) {
            LEVEL(widen)(&all->products, (word * n_windows + now) * n_filters + start, n, products);
            for (Py_ssize_t i = 0; i < n; i++) {
                int is_better = products[i] > best[i] || products[i] != products[i]; /* NaN stays */
                window[i] = is_better ? now : window[i];
                best[i] = is_better ? products[i] : best[i];
            }
        }
        memcpy(all->pooled + word * all->stride + start, best, (size_t)n * sizeof(float));
        memcpy(all->windows + word * all->stride + start, window, (size_t)n * sizeof(int32_t));
    }
}

/* y += factor * x */
TARGET static inline void LEVEL(add_multiple)(Py_ssize_t n, float factor, const float *x, float *y)
{
    Py_ssize_t i = 0;
    for (; i + LANES <= n; i += LANES)
        *(LEVEL(vector) *)(y + i) += *(const LEVEL(vector) *)(x + i) * factor;
    for (; i < n; i++)
        y[i] += factor * x[i];
}

/* Add the gradients of some filters, from the window of each word that was the largest. */
TARGET static void LEVEL(add_filter_gradients)(const Convolution *all, Py_ssize_t first, Py_ssize_t end)
{
    const Py_ssize_t width = all->size * all->dim;
    for (Py_ssize_t word = 0; word < all->n_words; word++) {
        const float *factors = all->pooled + word * all->stride, *x = all->x + word * all->n_positions * all->dim;
        const int32_t *windows = all->windows + word * all->stride;
        for (Py_ssize_t filter = first; filter < end; filter++)
            if (factors[filter] != 0.0f) /* the activation lets half of them through */
                LEVEL(add_multiple)(width, factors[filter], x + windows[filter] * all->dim, all->d_filters + filter * width);
    }
}

/* Add the gradients of the characters of a word. */
TARGET static void LEVEL(add_character_gradients)(const Convolution *all, Py_ssize_t word)
{
    const Py_ssize_t width = all->size * all->dim;
    const float *factors = all->pooled + word * all->stride;
    const int32_t *windows = all->windows + word * all->stride;
    float *d_x = all->d_x + word * all->n_positions * all->dim;
    for (Py_ssize_t filter = 0; filter < all->n_filters; filter++)
        if (factors[filter] != 0.0f)
            LEVEL(add_multiple)(width, factors[filter], all->filters + filter * width, d_x + windows[filter] * all->dim);
}
