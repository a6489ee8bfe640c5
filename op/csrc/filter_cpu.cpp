// Filtering on the CPU: rows are summed vertically into a buffer, then filtered horizontally along contiguous memory.
#include <ATen/Parallel.h>

#include <algorithm>
#include <vector>

#include "launch.h"
#include "lines_cpu.h"
#include "threads.h"

namespace face {
namespace {

// Floats of a buffer; two of them stay within a second-level cache, and the columns that tiles share are few.
constexpr int64_t TILE = 8192;

int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b < 0 ? 1 : 0); }

template <typename T, typename W, int ROWS>
void sum_rows(const T* const* rows, const W* taps, W* __restrict out, int64_t count) {
  const T* __restrict a = rows[0];
  const T* __restrict b = rows[ROWS > 1 ? 1 : 0];
  const T* __restrict c = rows[ROWS > 2 ? 2 : 0];
  const T* __restrict d = rows[ROWS > 3 ? 3 : 0];
  const W ta = taps[0], tb = ROWS > 1 ? taps[1] : W(0), tc = ROWS > 2 ? taps[2] : W(0), td = ROWS > 3 ? taps[3] : W(0);
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    W sum = ta * widen(a[i]);
    if (ROWS > 1) sum += tb * widen(b[i]);
    if (ROWS > 2) sum += tc * widen(c[i]);
    if (ROWS > 3) sum += td * widen(d[i]);
    out[i] = sum;
  }
}

// out = sum over rows of tap * row, at most MAX_TAPS rows.
template <typename T, typename W>
void vertical(const T* const* rows, const W* taps, int n, W* __restrict out, int64_t count) {
  switch (n) {
    case 0: std::fill(out, out + count, W(0)); return;
    case 1: sum_rows<T, W, 1>(rows, taps, out, count); return;
    case 2: sum_rows<T, W, 2>(rows, taps, out, count); return;
    case 3: sum_rows<T, W, 3>(rows, taps, out, count); return;
    default: sum_rows<T, W, 4>(rows, taps, out, count);
  }
  for (int k = 4; k < n; ++k) {
    const T* __restrict row = rows[k];
    const W tap = taps[k];
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) out[i] += tap * widen(row[i]);
  }
}

// out[i] = in[i] * taps[0] + in[i + step] * taps[1] + ..., or added to out.
template <typename W, bool ADD>
void slide(const W* __restrict in, const W* taps, int n, int64_t step, W* __restrict out, int64_t count) {
  if (n == 4) {
    const W a = taps[0], b = taps[1], c = taps[2], d = taps[3];
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) {
      const W sum = a * in[i] + b * in[i + step] + c * in[i + 2 * step] + d * in[i + 3 * step];
      out[i] = ADD ? out[i] + sum : sum;
    }
    return;
  }
  if (n == 2) {
    const W a = taps[0], b = taps[1];
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) {
      const W sum = a * in[i] + b * in[i + step];
      out[i] = ADD ? out[i] + sum : sum;
    }
    return;
  }
  if (!ADD) std::fill(out, out + count, W(0));
  for (int k = 0; k < n; ++k) {
    const W tap = taps[k];
    const W* __restrict shifted = in + k * step;
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) out[i] += tap * shifted[i];
  }
}

// The most frequent case, four taps and neither factor, straight to the output.
template <typename T, typename W>
void slide_out(const W* __restrict in, const W* taps, int64_t step, T* __restrict out, int64_t count) {
  const W a = taps[0], b = taps[1], c = taps[2], d = taps[3];
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    out[i] = narrow<T>(W(a * in[i] + b * in[i + step] + c * in[i + 2 * step] + d * in[i + 3 * step]));
  }
}

// One tile of columns of an output row.
template <typename W>
struct Tile {
  int64_t begin, end;       // output columns
  int64_t first, columns;   // source columns under them, may reach outside of the image
  int64_t step;             // elements per pixel
};

template <typename W, bool ADD>
void narrow_planes_up2(const W* in, const W* taps, const Filter<W>& f, const Tile<W>& t, W* __restrict out) {
  int64_t j = t.begin;
  auto one = [&](int64_t o) {
    const int k = first_tap(o, 2, 1, f.pad_x);
    const W* at = in + source_of(o, k, 2, 1, f.pad_x) - t.first;
    const W sum = taps[k] * at[0] + taps[k + 2] * at[1];
    out[o - t.begin] = ADD ? out[o - t.begin] + sum : sum;
  };
  if (first_tap(j, 2, 1, f.pad_x) == 1 && j < t.end) one(j++);
  const int64_t pairs = (t.end - j) / 2;
  const W* __restrict at = in + source_of(j, 0, 2, 1, f.pad_x) - t.first;
  W* __restrict to = out + j - t.begin;
  const W a = taps[0], b = taps[1], c = taps[2], d = taps[3];
#pragma omp simd
  for (int64_t i = 0; i < pairs; ++i) {
    const W even = a * at[i] + c * at[i + 1], odd = b * at[i + 1] + d * at[i + 2];
    to[2 * i] = ADD ? to[2 * i] + even : even;
    to[2 * i + 1] = ADD ? to[2 * i + 1] + odd : odd;
  }
  for (j += 2 * pairs; j < t.end; ++j) one(j);
}

template <typename W, bool ADD>
void narrow_planes_down2(const W* __restrict in, const W* taps, int64_t count, W* __restrict out) {
  const W a = taps[0], b = taps[1], c = taps[2], d = taps[3];
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const W sum = a * in[2 * i] + b * in[2 * i + 1] + c * in[2 * i + 2] + d * in[2 * i + 3];
    out[i] = ADD ? out[i] + sum : sum;
  }
}

// Filter the buffer `in`, which begins at source column t.first, into the columns of the tile.
template <typename W, bool ADD>
void horizontal(const W* in, const W* taps, const Filter<W>& f, const Tile<W>& t, W* out) {
  const int64_t step = t.step;
  if (f.up == 1 && f.down == 1) {
    slide<W, ADD>(in, taps, f.kw, step, out, (t.end - t.begin) * step);
  } else if (step == 1 && f.up == 2 && f.down == 1 && f.kw == 4) {
    narrow_planes_up2<W, ADD>(in, taps, f, t, out);
  } else if (step == 1 && f.up == 1 && f.down == 2 && f.kw == 4) {
    narrow_planes_down2<W, ADD>(in, taps, t.end - t.begin, out);
  } else {
    for (int64_t j = t.begin; j < t.end; ++j) {
      W own[MAX_TAPS];
      int n = 0;
      const int k = first_tap(j, f.up, f.down, f.pad_x);
      for (int tap = k; tap < f.kw; tap += f.up) own[n++] = taps[tap];
      const W* at = in + (source_of(j, k, f.up, f.down, f.pad_x) - t.first) * step;
      slide<W, ADD>(n ? at : in, own, n, step, out + (j - t.begin) * step, step);
    }
  }
}

// Write a line of results, through the epilogue where there is one.
template <typename T, typename W>
void store(const W* __restrict line, T* __restrict y, const Epilogue<W>* e, const Filter<W>& f, int64_t n, int64_t c,
           int64_t pixel, int64_t pixels) {
  if (!e) {
    const int64_t count = pixels * (f.channels_last ? f.c : 1);
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) y[i] = narrow<T>(line[i]);
    return;
  }
  Epilogue<W> own = *e;
  own.noise = e->noise ? e->noise + n * e->noise_step + pixel : nullptr;
  own.noise_step = 0;
  own.scale = e->scale ? e->scale + n * f.c + (f.channels_last ? 0 : c) : nullptr;
  own.bias = e->bias && !f.channels_last ? e->bias + c : e->bias;
  epilogue_line<T, W>(line, y, own, pixels, f.channels_last ? f.c : 1);
}

// Filter one row of a tile into `line`, or into `direct` where that is given and nothing is left to do.
template <typename T>
bool filter_row_tile(const T* plane, T* direct, const Filter<Work<T>>& f, const Tile<Work<T>>& t, int64_t oy,
                     Work<T>* buffer, Work<T>* line) {
  using W = Work<T>;
  const int64_t inside = std::max<int64_t>(t.first, 0);
  const int64_t count = std::max<int64_t>(std::min(t.first + t.columns, f.w) - inside, 0) * t.step;
  W* const start = buffer + (inside - t.first) * t.step;
  const T* rows[MAX_TAPS];
  W taps[MAX_TAPS];
  int numbers[MAX_TAPS], n = 0;
  for (int k = first_tap(oy, f.up, f.down, f.pad_y); k < f.kh; k += f.up) {
    const int64_t row = source_of(oy, k, f.up, f.down, f.pad_y);
    if (row < 0 || row >= f.h) continue;
    rows[n] = plane + (row * f.w + inside) * t.step;
    taps[n] = f.y[k];
    numbers[n++] = k;
  }
  if (f.separable || n == 0) {
    vertical<T, W>(rows, taps, n, start, count);
    if (direct && f.up == 1 && f.down == 1 && f.kw == 4) {
      slide_out<T, W>(buffer, f.x, t.step, direct, (t.end - t.begin) * t.step);
      return true;
    }
    horizontal<W, false>(buffer, f.x, f, t, line);
    return false;
  }
  for (int r = 0; r < n; ++r) {
    const W one = 1;
    vertical<T, W>(rows + r, &one, 1, start, count);
    const W* taps_of_row = f.full + numbers[r] * f.kw;
    if (r == 0) horizontal<W, false>(buffer, taps_of_row, f, t, line);
    else horizontal<W, true>(buffer, taps_of_row, f, t, line);
  }
  return false;
}

// The filter of every blur, separable with four taps and no factors, on channels-last memory: a walk along the output
// row that keeps the vertical sums of the last four columns, so that every input row is read once per output row and
// nothing is written but the result.
constexpr int64_t RING_GROUP = 8;  // pixels that wait for the epilogue

template <typename T, typename W, typename Out, int ROWS>
void ring_step(const T* const* rows, int64_t offset, const W* down, const W* across, W* const* ring, Out* __restrict out,
               int64_t step) {
  const T* __restrict a = ROWS > 0 ? rows[0] + offset : nullptr;
  const T* __restrict b = ROWS > 1 ? rows[1] + offset : nullptr;
  const T* __restrict c = ROWS > 2 ? rows[2] + offset : nullptr;
  const T* __restrict d = ROWS > 3 ? rows[3] + offset : nullptr;
  const W *__restrict first = ring[0], *__restrict second = ring[1], *__restrict third = ring[2];
  W* __restrict newest = ring[3];
  const W da = ROWS > 0 ? down[0] : W(0), db = ROWS > 1 ? down[1] : W(0), dc = ROWS > 2 ? down[2] : W(0),
          dd = ROWS > 3 ? down[3] : W(0), xa = across[0], xb = across[1], xc = across[2], xd = across[3];
#pragma omp simd
  for (int64_t i = 0; i < step; ++i) {
    W sum = 0;
    if (ROWS > 0) sum = da * widen(a[i]);
    if (ROWS > 1) sum += db * widen(b[i]);
    if (ROWS > 2) sum += dc * widen(c[i]);
    if (ROWS > 3) sum += dd * widen(d[i]);
    newest[i] = sum;
    out[i] = narrow<Out>(W(xa * first[i] + xb * second[i] + xc * third[i] + xd * sum));
  }
}

template <typename T, typename W, typename Out>
void ring_step_by_rows(int n, const T* const* rows, int64_t offset, const W* down, const W* across, W* const* ring,
                       Out* out, int64_t step) {
  switch (n) {
    case 0: return ring_step<T, W, Out, 0>(rows, offset, down, across, ring, out, step);
    case 1: return ring_step<T, W, Out, 1>(rows, offset, down, across, ring, out, step);
    case 2: return ring_step<T, W, Out, 2>(rows, offset, down, across, ring, out, step);
    case 3: return ring_step<T, W, Out, 3>(rows, offset, down, across, ring, out, step);
    default: return ring_step<T, W, Out, 4>(rows, offset, down, across, ring, out, step);
  }
}

template <typename T>
void filter_ring(const T* x, T* y, const Filter<Work<T>>& f, const Epilogue<Work<T>>* e) {
  using W = Work<T>;
  const int64_t step = f.c;
  at::parallel_for(0, f.n * f.out_h, std::max<int64_t>(1, 16384 / (f.out_w * step)), [&](int64_t begin, int64_t end) {
    std::vector<W> sums(4 * step), line(RING_GROUP * step);
    for (int64_t index = begin; index < end; ++index) {
      const int64_t n = index / f.out_h, oy = index % f.out_h;
      const T* rows[4];
      W down[4];
      int count = 0;
      for (int k = 0; k < 4; ++k) {
        const int64_t row = oy - f.pad_y + k;
        if (row < 0 || row >= f.h) continue;
        rows[count] = x + (n * f.h + row) * f.w * step;
        down[count++] = f.y[k];
      }
      W* ring[4] = {&sums[0], &sums[step], &sums[2 * step], &sums[3 * step]};
      T* const out = y + index * f.out_w * step;
      for (int64_t ox = -3; ox < f.out_w; ++ox) {
        const int64_t column = ox - f.pad_x + 3;
        const int inside = column >= 0 && column < f.w ? count : 0;
        W* const waiting = &line[(ox < 0 ? 0 : ox % RING_GROUP) * step];
        if (ox < 0 || e) ring_step_by_rows<T, W, W>(inside, rows, column * step, down, f.x, ring, waiting, step);
        else ring_step_by_rows<T, W, T>(inside, rows, column * step, down, f.x, ring, out + ox * step, step);
        std::rotate(ring, ring + 1, ring + 4);
        if (ox < 0 || !e || ((ox + 1) % RING_GROUP != 0 && ox + 1 < f.out_w)) continue;
        const int64_t start = ox / RING_GROUP * RING_GROUP;
        store<T, W>(line.data(), out + start * step, e, f, n, 0, oy * f.out_w + start, ox + 1 - start);
      }
    }
  });
}

}  // namespace

template <typename T>
void filter_cpu(const T* x, T* y, const Filter<Work<T>>& f, const Epilogue<Work<T>>* e) {
  using W = Work<T>;
  if (f.channels_last && f.separable && f.up == 1 && f.down == 1 && f.kh == 4 && f.kw == 4 && f.c >= 8) {
    return filter_ring<T>(x, y, f, e);
  }
  const int64_t step = f.channels_last ? f.c : 1, planes = f.channels_last ? f.n : f.n * f.c;
  const int64_t width = std::min(f.out_w, std::max<int64_t>(TILE / step, 8));
  const int64_t most = ((width - 1) * f.down + f.kw - 1) / f.up + 2;
  const int64_t rows = planes * f.out_h, row_cost = std::max<int64_t>(f.out_w * step, 1);
  at::parallel_for(0, rows, std::max<int64_t>(1, 16384 / row_cost), [&](int64_t begin, int64_t end) {
    std::vector<W> buffer((most + MAX_TAPS) * step), line(width * step);
    for (int64_t from = begin; from < end;) {
      const int64_t plane = from / f.out_h, until = std::min(end, (plane + 1) * f.out_h);
      const int64_t n = f.channels_last ? plane : plane / f.c, c = f.channels_last ? 0 : plane % f.c;
      for (int64_t column = 0; column < f.out_w; column += width) {
        Tile<W> t{column, std::min(f.out_w, column + width), 0, 0, step};
        t.first = floor_div(t.begin * f.down - f.pad_x, f.up);
        t.columns = floor_div((t.end - 1) * f.down - f.pad_x + f.kw - 1, f.up) - t.first + 1;
        std::fill(buffer.begin(), buffer.end(), W(0));
        for (int64_t row = from; row < until; ++row) {
          const int64_t oy = row % f.out_h, pixel = oy * f.out_w + t.begin;
          T* const out = y + (plane * f.out_h * f.out_w + pixel) * step;
          const T* const in = x + plane * f.h * f.w * step;
          if (filter_row_tile<T>(in, e ? nullptr : out, f, t, oy, buffer.data(), line.data())) continue;
          store<T, W>(line.data(), out, e, f, n, c, pixel, t.end - t.begin);
        }
      }
      from = until;
    }
  });
}

template <typename T>
void filter_threads(const T* x, T* y, const Filter<float>& f, const Epilogue<float>* e, bool strips) {
  if (!strips) {
    for (int64_t i = 0; i < f.n * f.c * f.out_h * f.out_w; ++i) filter_point<T>(x, y, f, e, i);
    return;
  }
  const bool packed = f.channels_last && fits_packs<T>(x, y, f.c);
  for_strips<T>(f, e != nullptr, packed, [&](auto body, int64_t count) {
    for (int64_t i = 0; i < count; ++i) body(x, y, f, e ? *e : Epilogue<float>{}, i);
  });
}

#define FACE_FILTER(T) template void filter_cpu<T>(const T*, T*, const Filter<Work<T>>&, const Epilogue<Work<T>>*);
FACE_FILTER(float)
FACE_FILTER(double)
FACE_FILTER(fp16)
FACE_FILTER(bf16)
#define FACE_THREADS(T) \
  template void filter_threads<T>(const T*, T*, const Filter<float>&, const Epilogue<float>*, bool);
FACE_THREADS(float)
FACE_THREADS(fp16)
FACE_THREADS(bf16)

}  // namespace face
