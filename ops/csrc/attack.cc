// Noise that belongs to a sample, the step of sign attacks in one pass, and rows of a Jacobian.
#include "attack.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>

#include "guard.h"
#include "random.h"

namespace {

// Uniform in (0, 1).
double unit(uint64_t key, uint64_t position) {
  uint64_t z = mp_mix(key + (position + 1) * 0x9e3779b97f4a7c15ULL);
  return (static_cast<double>(z >> 11) + 0.5) * 0x1.0p-53;
}

double ratio(double r, const double (&a)[8], const double (&b)[8]) {
  double p = a[7], q = b[7];
  for (int i = 6; i >= 0; i--) p = p * r + a[i], q = q * r + b[i];
  return p / q;
}

// The quantile of the standard normal distribution (Wichura, "Algorithm AS 241", Applied Statistics 37, 1988), to about
// 1e-16: outside the tails products only, so that it is the same on every processor.
double quantile(double p) {
  static const double a[8] = {3.3871328727963666080e0, 1.3314166789178437745e2, 1.9715909503065514427e3, 1.3731693765509461125e4,
                              4.5921953931549871457e4, 6.7265770927008700853e4, 3.3430575583588128105e4, 2.5090809287301226727e3};
  static const double b[8] = {1.0, 4.2313330701600911252e1, 6.8718700749205790830e2, 5.3941960214247511077e3,
                              2.1213794301586595867e4, 3.9307895800092710610e4, 2.8729085735721942674e4, 5.2264952788528545610e3};
  static const double c[8] = {1.42343711074968357734e0, 4.63033784615654529590e0, 5.76949722146069140550e0, 3.64784832476320460504e0,
                              1.27045825245236838258e0, 2.41780725177450611770e-1, 2.27238449892691845833e-2, 7.74545014278341407640e-4};
  static const double d[8] = {1.0, 2.05319162663775882187e0, 1.67638483018380384940e0, 6.89767334985100004550e-1,
                              1.48103976427480074590e-1, 1.51986665636164571966e-2, 5.47593808499534494600e-4, 1.05075007164441684324e-9};
  static const double e[8] = {6.65790464350110377720e0, 5.46378491116411436990e0, 1.78482653991729133580e0, 2.96560571828504891230e-1,
                              2.65321895265761230930e-2, 1.24266094738807843860e-3, 2.71155556874348757815e-5, 2.01033439929228813265e-7};
  static const double f[8] = {1.0, 5.99832206555887937690e-1, 1.36929880922735805310e-1, 1.48753612908506148525e-2,
                              7.86869131145613259100e-4, 1.84631831751005468180e-5, 1.42151175831644588870e-7, 2.04426310338993978564e-15};
  double q = p - 0.5;
  if (std::fabs(q) <= 0.425) return q * ratio(0.180625 - q * q, a, b);
  double r = std::sqrt(-std::log(q < 0 ? p : 1 - p));
  double z = r <= 5 ? ratio(r - 1.6, c, d) : ratio(r - 5, e, f);
  return q < 0 ? -z : z;
}

template <class T>
void fill(T *out, int64_t inner, uint64_t key, int kind) {
  for (int64_t i = 0; i < inner; i++) {
    double u = unit(key, i);
    out[i] = static_cast<T>(kind == MP_UNIFORM ? 2 * u - 1 : quantile(u));
  }
}

template <class T>
void sign_step(T *out, const T *x, const T *g, const T *x0, int64_t from, int64_t to, T alpha, T eps, T lo, T hi) {
  for (int64_t i = from; i < to; i++) {
    T v = x[i] + (g[i] > 0 ? alpha : g[i] < 0 ? -alpha : T(0));
    T least = x0[i] - eps, most = x0[i] + eps;
    v = v < least ? least : v;
    v = v > most ? most : v;
    v = v < lo ? lo : v;
    out[i] = v > hi ? hi : v;
  }
}

}  // namespace

int mp_noise(mp_tensor like, const uint64_t *keys, int n, int kind, mp_tensor *noise, char *err) {
  return mp::guard(err, [&] {
    at::Tensor &x = mp::tensor(like);
    TORCH_CHECK(x.dim() > 0 && x.size(0) == n, n, " keys for shape ", x.sizes());
    at::NoGradGuard no_grad;
    int64_t inner = n ? x.numel() / n : 0;
    bool wide = x.scalar_type() == at::kDouble;
    at::Tensor plain = at::empty(x.sizes(), at::TensorOptions().dtype(wide ? at::kDouble : at::kFloat));
    at::parallel_for(0, n, 1, [&](int64_t begin, int64_t end) {
      for (int64_t s = begin; s < end; s++) {
        if (wide) {
          fill(plain.data_ptr<double>() + s * inner, inner, keys[s], kind);
        } else {
          fill(plain.data_ptr<float>() + s * inner, inner, keys[s], kind);
        }
      }
    });
    at::Tensor out = at::empty_like(x);
    out.copy_(plain);
    *noise = mp::handle(out);
  });
}

int mp_sign_step(mp_tensor x, mp_tensor grad, mp_tensor x0, double alpha, double eps, double lo, double hi, mp_tensor *next,
                 char *err) {
  return mp::guard(err, [&] {
    at::NoGradGuard no_grad;
    at::Tensor from = mp::tensor(x).detach(), start = mp::tensor(x0).detach(), g = mp::tensor(grad).detach();
    TORCH_CHECK(g.sizes() == from.sizes() && start.sizes() == from.sizes(), "shapes ", from.sizes(), ", ", g.sizes(), " and ",
                start.sizes(), " differ");
    auto type = from.scalar_type();
    if (!from.is_cpu() || (type != at::kFloat && type != at::kDouble) || !from.is_non_overlapping_and_dense()) {
      at::Tensor moved = from + g.to(type).sign().nan_to_num(0) * alpha;
      *next = mp::handle(at::clamp(at::minimum(at::maximum(moved, start - eps), start + eps), lo, hi));
      return;
    }
    at::Tensor out = at::empty_like(from);
    auto like = [&](const at::Tensor &t) {
      return t.scalar_type() == type && t.strides() == from.strides() ? t : at::empty_like(from).copy_(t);
    };
    g = like(g), start = like(start);
    TORCH_CHECK(out.strides() == from.strides(), "the step's result lies otherwise in memory than its start");
    at::parallel_for(0, from.numel(), 1 << 15, [&](int64_t begin, int64_t end) {
      if (type == at::kDouble) {
        sign_step(out.data_ptr<double>(), from.const_data_ptr<double>(), g.const_data_ptr<double>(), start.const_data_ptr<double>(), begin, end,
                  alpha, eps, lo, hi);
      } else {
        sign_step(out.data_ptr<float>(), from.const_data_ptr<float>(), g.const_data_ptr<float>(), start.const_data_ptr<float>(), begin, end,
                  static_cast<float>(alpha), static_cast<float>(eps), static_cast<float>(lo), static_cast<float>(hi));
      }
    });
    *next = mp::handle(out);
  });
}

int mp_pullback_keep(mp_tensor y, mp_tensor dy, mp_tensor input, int keep, mp_tensor *result, char *err) {
  return mp::guard(err, [&] {
    TORCH_CHECK(mp::tensor(dy).sizes() == mp::tensor(y).sizes(), "the result has shape ", mp::tensor(y).sizes(),
                ", its gradient ", mp::tensor(dy).sizes());
    TORCH_CHECK(mp::tensor(input).requires_grad(), "the input asks for no gradient (it is no leaf)");
    auto grads = torch::autograd::grad({mp::tensor(y)}, {mp::tensor(input)}, {mp::tensor(dy)}, keep != 0, /*create_graph=*/false,
                                       /*allow_unused=*/true);
    TORCH_CHECK(grads[0].defined(), "the result does not depend on the input");
    *result = mp::handle(std::move(grads[0]));
  });
}
