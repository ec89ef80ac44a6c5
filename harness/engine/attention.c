// Attention of one token a row: each query of a row against that row's keys and values, in float32, each read once for
// all heads that share them. Compiled with SIZE (elements of a head), GROUP (heads that share keys) and, for bfloat16,
// BFLOAT16; see one_token.py. Softmax a block of keys at a time, after Milakov and Gimelshein, arXiv 1805.02867.
#include "element.h"

#define BLOCK 64   // keys whose scores are held at a time
#define AHEAD 16   // keys that are asked of memory before they are needed

static inline void read(float *into, const element *from) {
  for (int i = 0; i < SIZE; i += 64 / sizeof(element)) __builtin_prefetch(from + AHEAD * SIZE + i);
  for (int i = 0; i < SIZE; i++) into[i] = wide(from[i]);
}

// queries and made [rows, heads, GROUP, SIZE]; keys and values of a row begin slots[row] * slot elements on, of a head
// another head * of_head, and are side by side from there, of which it sees those from begins[row] on, before ends[row].
// What else it sees may be handed over as what each query made of it, beside [rows, GROUP, heads, SIZE], and the logs of
// the sums of exponentials of its scores, lse [rows, GROUP, heads]. Returns 0, or n where the n-th row asks for what is
// not there: of so many slots of so many tokens.
int attend(const element *queries, element *made, const element *beside, const float *lse, const element *keys,
            const element *values, const int64_t *slots, const int64_t *begins, const int64_t *ends, int64_t rows,
            int64_t heads, int64_t number, int64_t tokens, int64_t slot, int64_t of_head, float scale, int threads) {
  for (int64_t row = 0; row < rows; row++)
    if (slots[row] < 0 || slots[row] >= number || begins[row] < 0 || begins[row] >= ends[row] || ends[row] > tokens)
      return row + 1;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (int64_t n = 0; n < rows * heads; n++) {
    const int64_t row = n / heads, begin = slots[row] * slot + n % heads * of_head, end = ends[row];
    float query[GROUP][SIZE], sum[GROUP][SIZE], most[GROUP], total[GROUP];
    for (int g = 0; g < GROUP; g++) {
      most[g] = -INFINITY;
      total[g] = 0.0f;
      for (int i = 0; i < SIZE; i++) {
        query[g][i] = wide(queries[(n * GROUP + g) * SIZE + i]) * scale * 1.44269504f;  // scores are logs to base 2
        sum[g][i] = 0.0f;
      }
    }
    for (int64_t start = begins[row]; start < end; start += BLOCK) {
      const int here = end - start < BLOCK ? end - start : BLOCK;
      float scores[GROUP][BLOCK], one[SIZE];
      for (int t = 0; t < here; t++) {
        read(one, keys + begin + (start + t) * SIZE);
        for (int g = 0; g < GROUP; g++) {
          float score = 0.0f;
          for (int i = 0; i < SIZE; i++) score += query[g][i] * one[i];
          scores[g][t] = score;
        }
      }
      for (int g = 0; g < GROUP; g++) {
        float top = most[g], added = 0.0f;
        for (int t = 0; t < here; t++) top = scores[g][t] > top ? scores[g][t] : top;
        const float shrunk = power_of_2(most[g] - top);
        for (int t = 0; t < here; t++) {
          scores[g][t] = power_of_2(scores[g][t] - top);
          added += scores[g][t];
        }
        most[g] = top;
        total[g] = total[g] * shrunk + added;
        for (int i = 0; i < SIZE; i++) sum[g][i] *= shrunk;
      }
      for (int t = 0; t < here; t++) {
        read(one, values + begin + (start + t) * SIZE);
        for (int g = 0; g < GROUP; g++)
          for (int i = 0; i < SIZE; i++) sum[g][i] += scores[g][t] * one[i];
      }
    }
    for (int g = 0; g < GROUP; g++) {
      const int64_t there = (row * GROUP + g) * heads + n % heads;
      const float own = (most[g] + log2f(total[g])) * 0.693147181f;
      const float other = beside ? 1.0f / (1.0f + expf(own - lse[there])) : 0.0f;
      for (int i = 0; i < SIZE; i++) {
        const float alone = sum[g][i] / total[g];
        made[(n * GROUP + g) * SIZE + i] = narrow(beside ? alone + (wide(beside[there * SIZE + i]) - alone) * other : alone);
      }
    }
  }
  return 0;
}
