// Entry points of the kernels: plain pointers, so that no file but the binding needs torch's headers.
#pragma once

#include "maths.h"

namespace face {

enum class Kind { f32, f64, f16, b16 };

// On the CPU; Epilogue may be null. T is float, double, fp16 or bf16.
template <typename T>
void filter_cpu(const T* x, T* y, const Filter<Work<T>>& f, const Epilogue<Work<T>>* e);
template <typename T>
void activate_cpu(const T* x, T* y, const Epilogue<Work<T>>& e, int64_t n, int64_t channels, int64_t pixels,
                  bool channels_last);

// Results of `activate_backward_cpu`; null where not wanted. Sums are [N, C], sum_noise is one number.
template <typename W>
struct Sums {
  W *bias, *scale, *noise;
};
template <typename T>
void activate_backward_cpu(const T* g, const T* result, const T* x, T* dx, const Epilogue<Work<T>>& e,
                           const Sums<Work<T>>& sums, int64_t n, int64_t channels, int64_t pixels, bool channels_last);

// The bodies of the CUDA threads, run one after the other on the host.
template <typename T>
void filter_threads(const T* x, T* y, const Filter<float>& f, const Epilogue<float>* e, bool strips);
template <typename T>
void activate_threads(const T* x, T* y, const Epilogue<float>& e, int64_t n, int64_t channels, int64_t pixels,
                      bool channels_last);
template <typename T>
void mask_threads(const T* g, const T* result, T* out, float slope, float gain, int64_t count);

#ifdef FACE_CUDA
// On the device of the stream (a cudaStream_t); pointers inside Epilogue are device pointers. Return a cudaError_t.
template <typename T>
int filter_cuda(const T* x, T* y, const Filter<float>& f, const Epilogue<float>* e, void* stream);
template <typename T>
int activate_cuda(const T* x, T* y, const Epilogue<float>& e, int64_t n, int64_t channels, int64_t pixels,
                  bool channels_last, void* stream);
template <typename T>
int mask_cuda(const T* g, const T* result, T* out, float slope, float gain, int64_t count, void* stream);
const char* cuda_message(int error);
#endif

}  // namespace face
