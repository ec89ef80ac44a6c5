// Attention of one token a row: each query of a row against that row's keys and values, in float32, each read once for
// all heads that share them. Compiled with SIZE (elements of a head), GROUP (heads that share keys) and, for bfloat16,
// BFLOAT16; see one_token.py. Softmax a block of keys at a time, after Milakov and Gimelshein, arXiv 1805.02867.
#include <math.h>
#include <stdint.h>
#include <string.h>

#define BLOCK 64   // keys whose scores are held at a time
#define AHEAD 16   // keys that are asked of memory before they are needed

#ifdef BFLOAT16
typedef uint16_t element;
static inline float wide(element x) {
  uint32_t bits = (uint32_t)x << 16;
  float made;
  memcpy(&made, &bits, 4);
  return made;
}
static inline element narrow(float x) {  // to the nearest, ties to even
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return (element)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
#else
typedef float element;
static inline float wide(element x) { return x; }
static inline element narrow(float x) { return x; }
#endif

// 2 to the power of x, which is 0 or less, within 2e-7 of it: Taylor's series around the nearest whole number.
static inline float power_of_2(float x) {
  x = x < -126.0f ? -126.0f : x;
  float whole = floorf(x + 0.5f), part = (x - whole) * 0.693147181f, two;
  float series = 1.0f + part * (1.0f + part * (0.5f + part * (1.0f / 6 + part * (1.0f / 24 + part * (1.0f / 120 + part / 720)))));
  int32_t bits = ((int32_t)whole + 127) << 23;
  memcpy(&two, &bits, 4);
  return series * two;
}

static inline void read(float *into, const element *from) {
  for (int i = 0; i < SIZE; i += 64 / sizeof(element)) __builtin_prefetch(from + AHEAD * SIZE + i);
  for (int i = 0; i < SIZE; i++) into[i] = wide(from[i]);
}

// queries and made [rows, heads, GROUP, SIZE]; lse [rows, heads, GROUP], the log of the sum of exponentials of scores;
// keys and values of a row begin slots[row] * slot elements on, of a head another head * of_head, and are side by side
// from there, of which it sees those from begins[row] on, before ends[row]. Returns 0, or n where the n-th row asks for
// what is not there: of so many slots of so many tokens.
int attend(const element *queries, element *made, float *lse, const element *keys, const element *values,
            const int64_t *slots, const int64_t *begins, const int64_t *ends, int64_t rows, int64_t heads, int64_t number,
            int64_t tokens, int64_t slot, int64_t of_head, float scale, int threads) {
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
      for (int i = 0; i < SIZE; i++) made[(n * GROUP + g) * SIZE + i] = narrow(sum[g][i] / total[g]);
      lse[n * GROUP + g] = (most[g] + log2f(total[g])) * 0.693147181f;
    }
  }
  return 0;
}
