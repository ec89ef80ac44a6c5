// Elements of 16 bits (BFLOAT16) or float32, computed with in float32.
#include <math.h>
#include <stdint.h>
#include <string.h>

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
