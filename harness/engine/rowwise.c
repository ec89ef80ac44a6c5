// A layer's norms and the turning of its queries and keys, each in one pass over its rows, rounded where transformers'
// modules round. Compiled for bfloat16 with BFLOAT16, without contraction; see rowwise.py.
#include "element.h"

#define FEW 16384  // elements that one thread does sooner than several

// made [rows, size]: x [rows, size] by its root mean square, times weight [size], in a style of ops.NORMS; of x +
// residual, kept in total, where there is a residual.
void norm(const element *x, const element *residual, element *total, const element *weight, element *made, int64_t rows,
          int64_t size, float epsilon, int style, int threads) {
#pragma omp parallel for num_threads(threads) if (rows * size > FEW)
  for (int64_t row = 0; row < rows; row++) {
    const element *from = x + row * size;
    element *to = made + row * size;
    float squares = 0.0f;
    if (residual) {
      element *sum = total + row * size;
      for (int64_t i = 0; i < size; i++) sum[i] = narrow(wide(from[i]) + wide(residual[row * size + i]));
      from = sum;
    }
    for (int64_t i = 0; i < size; i++) squares += wide(from[i]) * wide(from[i]);
    const float scale = 1.0f / sqrtf(squares / size + epsilon);
    const float more = style == 2 ? 1.0f : 0.0f;
    if (style)
      for (int64_t i = 0; i < size; i++) to[i] = narrow(wide(from[i]) * scale * (wide(weight[i]) + more));
    else
      for (int64_t i = 0; i < size; i++) to[i] = narrow(wide(weight[i]) * wide(narrow(wide(from[i]) * scale)));
  }
}

// made: the first elements of x [rows, heads, tokens, size] turned by cos and sin [rows or 1, tokens, angles], halves
// apart, as many angles as elements or half as many; strides are of rows, heads and tokens, of x and of made.
void turn(const element *x, const element *cos, const element *sin, element *made, int64_t rows, int64_t heads,
          int64_t tokens, int64_t size, int64_t elements, int64_t angles, int64_t of_angles, const int64_t *strides,
          int threads) {
  const int64_t half = elements / 2;
#pragma omp parallel for collapse(2) num_threads(threads) if (rows * heads * tokens * size > FEW)
  for (int64_t row = 0; row < rows; row++)
    for (int64_t token = 0; token < tokens; token++) {
      const element *c = cos + row * of_angles + token * angles, *s = sin + row * of_angles + token * angles;
      const element *c2 = c + (angles == elements ? half : 0), *s2 = s + (angles == elements ? half : 0);
      for (int64_t head = 0; head < heads; head++) {
        const element *from = x + row * strides[0] + head * strides[1] + token * strides[2];
        element *to = made + row * strides[3] + head * strides[4] + token * strides[5];
#pragma omp simd
        for (int64_t i = 0; i < half; i++) {
          const float first = wide(from[i]), second = wide(from[half + i]);
          to[i] = narrow(wide(narrow(first * wide(c[i]))) - wide(narrow(second * wide(s[i]))));
          to[half + i] = narrow(wide(narrow(second * wide(c2[i]))) + wide(narrow(first * wide(s2[i]))));
        }
        for (int64_t i = elements; i < size; i++) to[i] = from[i];
      }
    }
}
