//! Other people's kernels: the CUDA sources of the crate candle-kernels, which know nothing of this
//! emulator, compiled by NVRTC and run through cudarc.
//!
//! Ignored, because it needs what the repository does not hold: the sources (cargo's own copy of the
//! crate, or the folder that `CANDLE_KERNELS` names) and a CUDA toolkit with NVRTC and headers (the
//! folder that `CUDA_EMULATOR_TOOLKIT` names, with `lib` and `include` in it). README.md of this
//! crate says how to get both.

mod emulated;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cudarc::driver::{
    CudaContext, CudaModule, CudaSlice, CudaStream, DeviceRepr, LaunchConfig, PushKernelArg,
    ValidAsZeroBits,
};
use cudarc::nvrtc::{CompileOptions, Ptx, compile_ptx_with_opts};
use half::{bf16, f16};

/// Headers of the host's C library that the sources ask for and NVRTC does not have.
const HEADERS: [(&str, &str); 4] = [
    (
        "stdint.h",
        "#pragma once\ntypedef signed char int8_t; typedef short int16_t; typedef int int32_t; typedef long long int64_t;\ntypedef unsigned char uint8_t; typedef unsigned short uint16_t; typedef unsigned int uint32_t; typedef unsigned long long uint64_t, uintptr_t;\n",
    ),
    (
        "math.h",
        "#pragma once\n#define INFINITY __int_as_float(0x7f800000)\n#define M_2_SQRTPI 1.12837916709551257390\n#define M_SQRT1_2 0.70710678118654752440\n",
    ),
    ("cmath", "#include <math.h>\n"),
    ("cuda.h", "\n"),
];

fn sources() -> PathBuf {
    if let Some(folder) = std::env::var_os("CANDLE_KERNELS") {
        return folder.into();
    }
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .unwrap_or_else(|| Path::new(&std::env::var_os("HOME").expect("a home")).join(".cargo"));
    let registries = std::fs::read_dir(home.join("registry/src")).expect("cargo's registry");
    registries
        .filter_map(|r| Some(r.ok()?.path().join("candle-kernels-0.11.1/src")))
        .find(|p| p.exists())
        .expect(
            "candle-kernels 0.11.1: set CANDLE_KERNELS to its src folder, or let cargo fetch it",
        )
}

fn toolkit() -> PathBuf {
    std::env::var_os("CUDA_EMULATOR_TOOLKIT").expect("CUDA_EMULATOR_TOOLKIT names no folder").into()
}

/// One of the sources as PTX for compute_80, compiled once for all the processes of a test run.
fn compile(name: &str) -> Ptx {
    let run = std::os::unix::process::parent_id();
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("candle-{run}-{name}.ptx"));
    if let Ok(text) = std::fs::read_to_string(&kept) {
        return Ptx::from_src(text);
    }
    let ptx = compile_anew(name);
    std::fs::write(&kept, ptx.to_src()).unwrap();
    ptx
}

/// Compiles one of the sources.
fn compile_anew(name: &str) -> Ptx {
    let stand_ins =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("headers-{}", std::process::id()));
    std::fs::create_dir_all(&stand_ins).unwrap();
    for (header, text) in HEADERS {
        std::fs::write(stand_ins.join(header), text).unwrap();
    }
    let include = toolkit().join("include");
    let folders = [stand_ins.clone(), sources(), include.clone(), include.join("cccl")];
    let options = CompileOptions {
        arch: Some("compute_80"),
        include_paths: folders.iter().map(|p| p.to_str().unwrap().to_owned()).collect(),
        options: vec!["-std=c++17".into(), "-default-device".into()],
        ..Default::default()
    };
    let source = std::fs::read_to_string(sources().join(format!("{name}.cu"))).unwrap();
    let ptx = compile_ptx_with_opts(source, options).unwrap_or_else(|e| panic!("{name}: {e:?}"));
    std::fs::remove_dir_all(&stand_ins).unwrap();
    ptx
}

/// A module on a stream, with what its kernels need.
struct Bench {
    stream: Arc<CudaStream>,
    module: Arc<CudaModule>,
}

impl Bench {
    /// Loads a source, and looks up every kernel that it has.
    fn new(name: &str) -> Bench {
        let context = CudaContext::new(0).unwrap();
        let ptx = compile(name);
        let text = ptx.to_src();
        let module = context.load_module(ptx).unwrap_or_else(|e| panic!("{name}: {e:?}"));
        let mut kernels = 0;
        for line in text.lines().filter_map(|l| l.trim().strip_prefix(".visible .entry ")) {
            module.load_function(line.trim_end_matches('(')).unwrap();
            kernels += 1;
        }
        println!("{name}: {kernels} kernels load");
        Bench { stream: context.default_stream(), module }
    }

    fn put<T: DeviceRepr>(&self, data: &[T]) -> CudaSlice<T> {
        self.stream.clone_htod(data).unwrap()
    }

    fn zeros<T: DeviceRepr + ValidAsZeroBits>(&self, n: usize) -> CudaSlice<T> {
        self.stream.alloc_zeros(n).unwrap()
    }

    fn get<T: DeviceRepr>(&self, data: &CudaSlice<T>) -> Vec<T> {
        let data = self.stream.clone_dtoh(data).unwrap();
        self.stream.synchronize().unwrap();
        data
    }
}

/// Launches a kernel of a bench.
macro_rules! launch {
    ($bench:expr, $name:expr, $grid:expr, $block:expr, $shared:expr; $($argument:expr),* $(,)?) => {{
        let f = $bench.module.load_function($name).unwrap();
        let configuration = LaunchConfig { grid_dim: $grid, block_dim: $block, shared_mem_bytes: $shared };
        // SAFETY: the arguments are those that candle passes to this kernel.
        unsafe { $bench.stream.launch_builder(&f)$(.arg($argument))*.launch(configuration) }.unwrap();
        println!("  {}", $name);
    }};
}

/// Numbers without pattern, in -1 .. 1.
fn numbers(n: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    (0..n)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

/// Compares with a tolerance, relative to 1 or to the value if that is larger.
fn close(
    what: &str,
    got: impl IntoIterator<Item = f64>,
    expected: impl IntoIterator<Item = f64>,
    tolerance: f64,
) {
    let (got, expected): (Vec<f64>, Vec<f64>) =
        (got.into_iter().collect(), expected.into_iter().collect());
    assert_eq!(got.len(), expected.len(), "{what}");
    for (i, (g, e)) in got.iter().zip(&expected).enumerate() {
        let error = (g - e).abs() / e.abs().max(1.0);
        assert!(
            error <= tolerance || (g == e) || (g.is_nan() && e.is_nan()),
            "{what} [{i}]: {g} for {e}"
        );
    }
}

fn wide(data: &[f32]) -> impl Iterator<Item = f64> + '_ {
    data.iter().map(|&x| f64::from(x))
}

/// Runs `body` on the emulator with the toolkit's NVRTC in reach.
fn with_candle(sources: &[&str], body: impl FnOnce()) {
    if std::env::var_os("CUDA_EMULATOR_TEST_INSIDE").is_none() {
        let library = toolkit().join("lib");
        let before = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
        let paths = std::iter::once(library).chain(std::env::split_paths(&before));
        // SAFETY: every test of this file sets the same value, and nothing here reads the
        // environment through C meanwhile.
        unsafe { std::env::set_var("LD_LIBRARY_PATH", std::env::join_paths(paths).unwrap()) };
    }
    emulated::everywhere(body);
    sources.iter().for_each(|name| forget(name));
}

/// Removes what the processes of this run kept.
fn forget(name: &str) {
    if std::env::var_os("CUDA_EMULATOR_TEST_INSIDE").is_none() {
        let run = std::process::id();
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("candle-{run}-{name}.ptx"));
        let _ = std::fs::remove_file(kept);
    }
}

/// An absent dimensions-and-strides array: the data is contiguous.
const NONE: u64 = 0;
const GRID: (u32, u32, u32) = (4, 1, 1);
const BLOCK: (u32, u32, u32) = (128, 1, 1);

#[test]
#[ignore = "needs candle-kernels and a CUDA toolkit"]
fn affine() {
    with_candle(&["affine"], || {
        let b = Bench::new("affine");
        let x = numbers(1000, 1);
        let (n, dims) = (1000usize, 1usize);
        let mut y = b.zeros::<f32>(1000);
        launch!(b, "affine_f32", GRID, BLOCK, 0; &n, &dims, &NONE, &b.put(&x), &mut y, &2.0f32, &0.5f32);
        close(
            "affine_f32",
            wide(&b.get(&y)),
            x.iter().map(|&v| f64::from(v.mul_add(2.0, 0.5))),
            0.0,
        );

        // A transposed view of 20 × 50.
        let info = b.put(&[50usize, 20, 1, 50]);
        launch!(b, "affine_f32", GRID, BLOCK, 0; &n, &2usize, &info, &b.put(&x), &mut y, &1.0f32, &0.0f32);
        let transposed = (0..1000).map(|i| f64::from(x[(i % 20) * 50 + i / 20]));
        close("affine_f32, strided", wide(&b.get(&y)), transposed, 0.0);

        let h: Vec<f16> = x.iter().map(|&v| f16::from_f32(v)).collect();
        let mut z = b.put(&vec![f16::ZERO; 1000]);
        launch!(b, "affine_f16", GRID, BLOCK, 0; &n, &dims, &NONE, &b.put(&h), &mut z, &f16::from_f32(3.0), &f16::from_f32(-1.0));
        let expected = h.iter().map(|v| f64::from(v.to_f32() * 3.0 - 1.0));
        close("affine_f16", b.get(&z).iter().map(|v| v.to_f64()), expected, 2e-3);

        let h: Vec<bf16> = x.iter().map(|&v| bf16::from_f32(v)).collect();
        let mut z = b.put(&vec![bf16::ZERO; 1000]);
        launch!(b, "affine_bf16", GRID, BLOCK, 0; &n, &dims, &NONE, &b.put(&h), &mut z, &bf16::from_f32(3.0), &bf16::from_f32(-1.0));
        let expected = h.iter().map(|v| f64::from(v.to_f32() * 3.0 - 1.0));
        close("affine_bf16", b.get(&z).iter().map(|v| v.to_f64()), expected, 2e-2);

        let i: Vec<i64> = (0..1000).map(|v| v * 1_000_000_007 - 3).collect();
        let mut z = b.zeros::<i64>(1000);
        launch!(b, "affine_i64", GRID, BLOCK, 0; &n, &dims, &NONE, &b.put(&i), &mut z, &-7i64, &11i64);
        assert_eq!(b.get(&z), i.iter().map(|v| v * -7 + 11).collect::<Vec<_>>());
        let i: Vec<u8> = (0..1000).map(|v| v as u8).collect();
        let mut z = b.zeros::<u8>(1000);
        launch!(b, "affine_u8", GRID, BLOCK, 0; &n, &dims, &NONE, &b.put(&i), &mut z, &3u8, &200u8);
        assert_eq!(
            b.get(&z),
            i.iter().map(|v| v.wrapping_mul(3).wrapping_add(200)).collect::<Vec<_>>()
        );
    });
}

/// The error function, by its series: enough for arguments of a few units.
fn erf(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..100 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

#[test]
#[ignore = "needs candle-kernels and a CUDA toolkit"]
fn unary() {
    with_candle(&["unary"], || {
        let b = Bench::new("unary");
        let x: Vec<f32> = numbers(500, 2).iter().map(|v| v * 3.0).collect();
        let positive: Vec<f32> = x.iter().map(|v| v.abs() + 0.01).collect();
        let n = 500usize;
        type Case = (&'static str, fn(f64) -> f64, bool);
        let cases: [Case; 18] = [
            ("uexp", f64::exp, false),
            ("ulog", f64::ln, true),
            ("usin", f64::sin, false),
            ("ucos", f64::cos, false),
            ("utanh", f64::tanh, false),
            ("uerf", erf, false),
            ("uceil", f64::ceil, false),
            ("ufloor", f64::floor, false),
            ("uround", f64::round, false),
            ("uabs", f64::abs, false),
            ("usqr", |v| v * v, false),
            ("usqrt", f64::sqrt, true),
            ("uneg", |v| -v, false),
            ("urecip", |v| 1.0 / v, true),
            ("urelu", |v| v.max(0.0), false),
            ("usilu", |v| v / (1.0 + (-v).exp()), false),
            ("usigmoid", |v| 1.0 / (1.0 + (-v).exp()), false),
            ("ugelu_erf", |v| 0.5 * v * (1.0 + erf(v / std::f64::consts::SQRT_2)), false),
        ];
        for (name, function, needs_positive) in cases {
            let x = if needs_positive { &positive } else { &x };
            let mut y = b.zeros::<f32>(500);
            launch!(b, &format!("{name}_f32"), GRID, BLOCK, 0; &n, &1usize, &NONE, &b.put(x), &mut y);
            close(name, wide(&b.get(&y)), wide(x).map(function), 1e-6);

            let d: Vec<f64> = wide(x).collect();
            let mut y = b.zeros::<f64>(500);
            launch!(b, &format!("{name}_f64"), GRID, BLOCK, 0; &n, &1usize, &NONE, &b.put(&d), &mut y);
            close(name, b.get(&y), d.iter().map(|&v| function(v)), 1e-9);

            let h: Vec<f16> = x.iter().map(|&v| f16::from_f32(v)).collect();
            let mut y = b.put(&vec![f16::ZERO; 500]);
            launch!(b, &format!("{name}_f16"), GRID, BLOCK, 0; &n, &1usize, &NONE, &b.put(&h), &mut y);
            close(
                name,
                b.get(&y).iter().map(|v| v.to_f64()),
                h.iter().map(|v| function(v.to_f64())),
                4e-3,
            );

            let h: Vec<bf16> = x.iter().map(|&v| bf16::from_f32(v)).collect();
            let mut y = b.put(&vec![bf16::ZERO; 500]);
            launch!(b, &format!("{name}_bf16"), GRID, BLOCK, 0; &n, &1usize, &NONE, &b.put(&h), &mut y);
            close(
                name,
                b.get(&y).iter().map(|v| v.to_f64()),
                h.iter().map(|v| function(v.to_f64())),
                4e-2,
            );
        }
        let gelu = |v: f64| {
            0.5 * v
                * (1.0 + (std::f64::consts::FRAC_2_PI.sqrt() * (v + 0.044715 * v.powi(3))).tanh())
        };
        let mut y = b.zeros::<f32>(500);
        launch!(b, "ugelu_f32", GRID, BLOCK, 0; &n, &1usize, &NONE, &b.put(&x), &mut y);
        close("ugelu_f32", wide(&b.get(&y)), wide(&x).map(gelu), 1e-6);
        launch!(b, "upowf_f32", GRID, BLOCK, 0; &n, &1usize, &NONE, &2.5f32, &b.put(&positive), &mut y);
        close("upowf_f32", wide(&b.get(&y)), wide(&positive).map(|v| v.powf(2.5)), 1e-5);
    });
}

#[test]
#[ignore = "needs candle-kernels and a CUDA toolkit"]
fn binary() {
    with_candle(&["binary"], || {
        let b = Bench::new("binary");
        let (x, y) = (numbers(600, 3), numbers(600, 4));
        let n = 600usize;
        let (dx, dy) = (b.put(&x), b.put(&y));
        let mut z = b.zeros::<f32>(600);
        type Case = (&'static str, fn(f32, f32) -> f32);
        let cases: [Case; 6] = [
            ("badd_f32", |a, b| a + b),
            ("bsub_f32", |a, b| a - b),
            ("bmul_f32", |a, b| a * b),
            ("bdiv_f32", |a, b| a / b),
            ("bmaximum_f32", f32::max),
            ("bminimum_f32", f32::min),
        ];
        for (name, function) in cases {
            launch!(b, name, GRID, BLOCK, 0; &n, &1usize, &NONE, &dx, &dy, &mut z);
            let expected = x.iter().zip(&y).map(|(&a, &b)| f64::from(function(a, b)));
            close(name, wide(&b.get(&z)), expected, 0.0);
        }
        // 20 × 30, the right side one row for all.
        let info = b.put(&[20usize, 30, 30, 1, 0, 1]);
        launch!(b, "badd_f32", GRID, BLOCK, 0; &n, &2usize, &info, &dx, &dy, &mut z);
        let expected = (0..600).map(|i| f64::from(x[i] + y[i % 30]));
        close("badd_f32, broadcast", wide(&b.get(&z)), expected, 0.0);
        let mut c = b.zeros::<u8>(600);
        launch!(b, "lt_f32", GRID, BLOCK, 0; &n, &1usize, &NONE, &dx, &dy, &mut c);
        assert_eq!(b.get(&c), x.iter().zip(&y).map(|(a, b)| u8::from(a < b)).collect::<Vec<_>>());
        let (i, j): (Vec<i64>, Vec<i64>) = (0..600).map(|k| (k * 7 - 2000, k % 37 + 1)).unzip();
        let mut q = b.zeros::<i64>(600);
        launch!(b, "bdiv_i64", GRID, BLOCK, 0; &n, &1usize, &NONE, &b.put(&i), &b.put(&j), &mut q);
        assert_eq!(b.get(&q), i.iter().zip(&j).map(|(a, b)| a / b).collect::<Vec<_>>());
        let halves = |v: &[f32]| v.iter().map(|&a| bf16::from_f32(a)).collect::<Vec<_>>();
        let (hx, hy) = (halves(&x), halves(&y));
        let mut h = b.put(&vec![bf16::ZERO; 600]);
        launch!(b, "bmul_bf16", GRID, BLOCK, 0; &n, &1usize, &NONE, &b.put(&hx), &b.put(&hy), &mut h);
        let expected =
            hx.iter().zip(&hy).map(|(a, b)| bf16::from_f32(a.to_f32() * b.to_f32()).to_f64());
        close("bmul_bf16", b.get(&h).iter().map(|v| v.to_f64()), expected, 0.0);
    });
}

#[test]
#[ignore = "needs candle-kernels and a CUDA toolkit"]
fn cast() {
    with_candle(&["cast"], || {
        let b = Bench::new("cast");
        let x: Vec<f32> = numbers(512, 5).iter().map(|v| v * 100.0).collect();
        let n = 512usize;
        let dx = b.put(&x);
        let mut h = b.put(&vec![f16::ZERO; 512]);
        launch!(b, "cast_f32_f16", GRID, BLOCK, 0; &n, &1usize, &NONE, &dx, &mut h);
        let halves = b.get(&h);
        assert_eq!(halves, x.iter().map(|&v| f16::from_f32(v)).collect::<Vec<_>>());
        let mut y = b.zeros::<f32>(512);
        launch!(b, "cast_f16_f32", GRID, BLOCK, 0; &n, &1usize, &NONE, &h, &mut y);
        assert_eq!(b.get(&y), halves.iter().map(|v| v.to_f32()).collect::<Vec<_>>());
        let mut h = b.put(&vec![bf16::ZERO; 512]);
        launch!(b, "cast_f32_bf16", GRID, BLOCK, 0; &n, &1usize, &NONE, &dx, &mut h);
        let halves = b.get(&h);
        assert_eq!(halves, x.iter().map(|&v| bf16::from_f32(v)).collect::<Vec<_>>());
        launch!(b, "cast_bf16_f32", GRID, BLOCK, 0; &n, &1usize, &NONE, &h, &mut y);
        assert_eq!(b.get(&y), halves.iter().map(|v| v.to_f32()).collect::<Vec<_>>());
        let mut i = b.zeros::<i64>(512);
        launch!(b, "cast_f32_i64", GRID, BLOCK, 0; &n, &1usize, &NONE, &dx, &mut i);
        let integers = b.get(&i);
        assert_eq!(integers, x.iter().map(|&v| v as i64).collect::<Vec<_>>());
        let mut d = b.zeros::<f64>(512);
        launch!(b, "cast_i64_f64", GRID, BLOCK, 0; &n, &1usize, &NONE, &i, &mut d);
        assert_eq!(b.get(&d), integers.iter().map(|&v| v as f64).collect::<Vec<_>>());
        launch!(b, "cast_f64_f32", GRID, BLOCK, 0; &n, &1usize, &NONE, &d, &mut y);
        assert_eq!(b.get(&y), integers.iter().map(|&v| v as f32).collect::<Vec<_>>());
        let bytes: Vec<u8> = (0..512).map(|v| v as u8).collect();
        let mut u = b.zeros::<u32>(512);
        launch!(b, "cast_u8_u32", GRID, BLOCK, 0; &n, &1usize, &NONE, &b.put(&bytes), &mut u);
        assert_eq!(b.get(&u), bytes.iter().map(|&v| u32::from(v)).collect::<Vec<_>>());
    });
}

#[test]
#[ignore = "needs candle-kernels and a CUDA toolkit"]
fn reduce() {
    with_candle(&["reduce"], || {
        let b = Bench::new("reduce");
        let (rows, columns) = (12usize, 300usize);
        let n = rows * columns;
        let x = numbers(n, 6);
        let dx = b.put(&x);
        let info = b.put(&[rows, columns, columns, 1]);
        let row = |r: usize| &x[r * columns..(r + 1) * columns];
        let blocks = (rows as u32, 1, 1);
        let threads = (512, 1, 1);
        let mut y = b.zeros::<f32>(rows);
        launch!(b, "fast_sum_f32", blocks, threads, 0; &n, &columns, &2usize, &info, &dx, &mut y);
        close("fast_sum_f32", wide(&b.get(&y)), (0..rows).map(|r| wide(row(r)).sum()), 1e-5);
        launch!(b, "fast_max_f32", blocks, threads, 0; &n, &columns, &2usize, &info, &dx, &mut y);
        close(
            "fast_max_f32",
            wide(&b.get(&y)),
            (0..rows).map(|r| wide(row(r)).fold(f64::MIN, f64::max)),
            0.0,
        );
        launch!(b, "fast_min_f32", blocks, threads, 0; &n, &columns, &2usize, &info, &dx, &mut y);
        close(
            "fast_min_f32",
            wide(&b.get(&y)),
            (0..rows).map(|r| wide(row(r)).fold(f64::MAX, f64::min)),
            0.0,
        );
        let mut at = b.zeros::<u32>(rows);
        launch!(b, "fast_argmax_f32", blocks, threads, 0; &n, &columns, &2usize, &info, &dx, &mut at);
        let largest = |r: usize| {
            (0..columns).max_by(|&i, &j| row(r)[i].total_cmp(&row(r)[j])).unwrap() as u32
        };
        assert_eq!(b.get(&at), (0..rows).map(largest).collect::<Vec<_>>());

        let halves: Vec<bf16> = x.iter().map(|&v| bf16::from_f32(v)).collect();
        let mut h = b.put(&vec![bf16::ZERO; rows]);
        launch!(b, "fast_sum_bf16", blocks, threads, 0; &n, &columns, &2usize, &info, &b.put(&halves), &mut h);
        let sums = (0..rows)
            .map(|r| halves[r * columns..(r + 1) * columns].iter().map(|v| v.to_f64()).sum());
        close("fast_sum_bf16", b.get(&h).iter().map(|v| v.to_f64()), sums, 1e-2);

        // A sum with atomics: every element is added to its column's place.
        let info = b.put(&[rows, columns, columns, 1, rows, columns]);
        let mut y = b.zeros::<f32>(columns);
        launch!(b, "sum_f32", (30, 1, 1), BLOCK, 0; &n, &2usize, &1usize, &info, &dx, &mut y);
        let sums = (0..columns).map(|c| (0..rows).map(|r| f64::from(x[r * columns + c])).sum());
        close("sum_f32", wide(&b.get(&y)), sums, 1e-5);

        let mut y = b.zeros::<f32>(n);
        launch!(b, "softmax_f32", blocks, (1, 32, 1), 0; &dx, &mut y, &(columns as i32));
        let softmax = (0..n)
            .map(|i| f64::from(x[i]).exp() / wide(row(i / columns)).map(f64::exp).sum::<f64>());
        close("softmax_f32", wide(&b.get(&y)), softmax.clone(), 1e-6);
        let hx: Vec<f16> = x.iter().map(|&v| f16::from_f32(v)).collect();
        let mut h = b.put(&vec![f16::ZERO; n]);
        launch!(b, "softmax_f16", blocks, (1, 32, 1), 0; &b.put(&hx), &mut h, &(columns as i32));
        close("softmax_f16", b.get(&h).iter().map(|v| v.to_f64()), softmax, 1e-3);

        let (alpha, beta) = (numbers(columns, 7), numbers(columns, 8));
        let eps = 1e-5f32;
        for block in [32i32, 1024] {
            launch!(b, "rmsnorm_f32", blocks, (block as u32, 1, 1), 0; &dx, &mut y, &b.put(&alpha), &(columns as i32), &block, &eps);
            let expected = (0..n).map(|i| {
                let mean = wide(row(i / columns)).map(|v| v * v).sum::<f64>() / columns as f64;
                f64::from(x[i]) / (mean + f64::from(eps)).sqrt() * f64::from(alpha[i % columns])
            });
            close("rmsnorm_f32", wide(&b.get(&y)), expected, 1e-5);
            launch!(b, "layernorm_f32", blocks, (block as u32, 1, 1), 0; &dx, &mut y, &b.put(&alpha), &b.put(&beta), &(columns as i32), &block, &eps);
            let expected = (0..n).map(|i| {
                let mean = wide(row(i / columns)).sum::<f64>() / columns as f64;
                let variance = wide(row(i / columns)).map(|v| v * v).sum::<f64>() / columns as f64
                    - mean * mean;
                (f64::from(x[i]) - mean) / (variance + f64::from(eps)).sqrt()
                    * f64::from(alpha[i % columns])
                    + f64::from(beta[i % columns])
            });
            close("layernorm_f32", wide(&b.get(&y)), expected, 1e-5);
        }
        // Rotary embedding, interleaved: pairs are turned by their angle.
        let (cosines, sines) = (numbers(150, 9), numbers(150, 10));
        launch!(b, "rope_i_f32", (16, 1, 1), BLOCK, 0; &dx, &b.put(&cosines), &b.put(&sines), &mut y, &(rows as u32), &(columns as u32), &0u32);
        let expected = (0..n).map(|i| {
            let (pair, angle) = (i / 2 * 2, i % columns / 2);
            let (a, c) = (f64::from(x[pair]), f64::from(x[pair + 1]));
            let (cos, sin) = (f64::from(cosines[angle]), f64::from(sines[angle]));
            if i % 2 == 0 { a * cos - c * sin } else { a * sin + c * cos }
        });
        close("rope_i_f32", wide(&b.get(&y)), expected, 1e-6);
    });
}

#[test]
#[ignore = "needs candle-kernels and a CUDA toolkit"]
fn fill_and_ternary() {
    with_candle(&["fill", "ternary"], || {
        let b = Bench::new("fill");
        let n = 300usize;
        let mut y = b.zeros::<f32>(300);
        launch!(b, "fill_f32", GRID, BLOCK, 0; &mut y, &1.5f32, &n);
        assert_eq!(b.get(&y), [1.5; 300]);
        let mut h = b.put(&[f16::ZERO; 300]);
        launch!(b, "fill_f16", GRID, BLOCK, 0; &mut h, &f16::from_f32(-2.0), &n);
        assert_eq!(b.get(&h), [f16::from_f32(-2.0); 300]);
        let mut u = b.zeros::<u8>(300);
        launch!(b, "const_set_u8", GRID, BLOCK, 0; &n, &1usize, &NONE, &77u8, &mut u);
        assert_eq!(b.get(&u), [77; 300]);
        let x = numbers(300, 11);
        launch!(b, "copy2d_f32", GRID, BLOCK, 0; &b.put(&x), &mut y, &10u32, &20u32, &30u32, &25u32);
        let result = b.get(&y);
        for (r, c) in (0..10).flat_map(|r| (0..20).map(move |c| (r, c))) {
            assert_eq!(result[r * 25 + c], x[r * 30 + c]);
        }
        assert_eq!(result[20..25], [1.5; 5]);

        let b = Bench::new("ternary");
        let choice: Vec<u8> = (0..300).map(|i| u8::from(i % 3 == 0)).collect();
        let other = numbers(300, 12);
        // One dimension, four times: dimensions, and the strides of the three inputs.
        let info = b.put(&[300usize, 1, 1, 1]);
        let mut y = b.zeros::<f32>(300);
        launch!(b, "where_u8_f32", GRID, BLOCK, 0; &n, &1usize, &info, &b.put(&choice), &b.put(&x), &b.put(&other), &mut y);
        let expected: Vec<f32> =
            (0..300).map(|i| if choice[i] != 0 { x[i] } else { other[i] }).collect();
        assert_eq!(b.get(&y), expected);
    });
}

#[test]
#[ignore = "needs candle-kernels and a CUDA toolkit"]
fn indexing_and_sort() {
    with_candle(&["indexing", "sort"], || {
        let b = Bench::new("indexing");
        // 3 × 10 × 4, five picked along the middle.
        let x = numbers(120, 13);
        let ids = [7i64, 0, 9, 0, i64::MAX];
        let (left, source, picked, right) = (3usize, 10usize, 5usize, 4usize);
        let n = left * picked * right;
        let info = b.put(&[left, source, right, 40, 4, 1]);
        let mut y = b.zeros::<f32>(n);
        launch!(b, "is_i64_f32", GRID, BLOCK, 0; &n, &3usize, &info, &b.put(&ids), &b.put(&x), &mut y, &left, &source, &picked, &right);
        let at = |i: usize| {
            let (l, k, r) = (i / 20, i / 4 % 5, i % 4);
            if ids[k] == i64::MAX { 0.0 } else { x[(l * 10 + ids[k] as usize) * 4 + r] }
        };
        assert_eq!(b.get(&y), (0..n).map(at).collect::<Vec<_>>());

        let ids: Vec<u32> = (0..n as u32).map(|i| i * 7 % 10).collect();
        launch!(b, "gather_u32_f32", GRID, BLOCK, 0; &n, &b.put(&ids), &b.put(&x), &mut y, &left, &source, &picked, &right);
        let at = |i: usize| x[(i / 20 * 10 + ids[i] as usize) * 4 + i % 4];
        assert_eq!(b.get(&y), (0..n).map(at).collect::<Vec<_>>());

        let mut sums = b.zeros::<f32>(120);
        let values = numbers(n, 14);
        launch!(b, "sa_u32_f32", GRID, BLOCK, 0; &b.put(&ids), &b.put(&values), &mut sums, &left, &picked, &source, &right);
        let mut expected = vec![0.0f32; 120];
        for i in 0..n {
            expected[(i / 20 * 10 + ids[i] as usize) * 4 + i % 4] += values[i];
        }
        close("sa_u32_f32", wide(&b.get(&sums)), wide(&expected), 1e-6);

        let rows = [2u32, 5, 2];
        let values = numbers(left * 3 * right, 15);
        let mut sums = b.zeros::<f32>(120);
        launch!(b, "ia_u32_f32", GRID, BLOCK, 0; &b.put(&rows), &3usize, &b.put(&values), &mut sums, &left, &3usize, &source, &right);
        let mut expected = vec![0.0f32; 120];
        for (i, value) in values.iter().enumerate() {
            let (l, k, r) = (i / 12, i / 4 % 3, i % 4);
            expected[(l * 10 + rows[k] as usize) * 4 + r] += value;
        }
        close("ia_u32_f32", wide(&b.get(&sums)), wide(&expected), 1e-6);

        let b = Bench::new("sort");
        let (rows, columns) = (5usize, 100usize);
        let x = numbers(rows * columns, 16);
        let mut order = b.zeros::<u32>(rows * columns);
        for (name, descending) in [("asort_asc_f32", false), ("asort_desc_f32", true)] {
            launch!(b, name, (rows as u32, 1, 1), (128, 1, 1), 512; &b.put(&x), &mut order, &(columns as i32), &128i32);
            let order = b.get(&order);
            for r in 0..rows {
                let mut expected: Vec<u32> = (0..columns as u32).collect();
                let key = |i: u32| x[r * columns + i as usize];
                expected.sort_by(|&i, &j| key(i).total_cmp(&key(j)));
                if descending {
                    expected.reverse();
                }
                assert_eq!(order[r * columns..(r + 1) * columns], expected, "{name}");
            }
        }
    });
}

#[test]
#[ignore = "needs candle-kernels and a CUDA toolkit"]
fn conv() {
    with_candle(&["conv"], || {
        let b = Bench::new("conv");
        // 2 images of 3 × 9 × 8, four filters of 3 × 3 × 2, padding 1, stride 2.
        let (batch, channels, height, width) = (2usize, 3usize, 9usize, 8usize);
        let (filters, kh, kw) = (4usize, 3usize, 2usize);
        let (padding, stride) = (1usize, 2usize);
        let h_out = (height + 2 * padding - kh) / stride + 1;
        let w_out = (width + 2 * padding - kw) / stride + 1;
        let x = numbers(batch * channels * height * width, 17);
        let k = numbers(filters * channels * kh * kw, 18);
        let info = b.put(&[
            batch,
            channels,
            height,
            width,
            channels * height * width,
            height * width,
            width,
            1,
            filters,
            channels,
            kh,
            kw,
            channels * kh * kw,
            kh * kw,
            kw,
            1,
        ]);
        let n = batch * filters * h_out * w_out;
        let total = x.len();
        let mut y = b.zeros::<f32>(n);
        launch!(b, "conv2d_f32", (8, 1, 1), BLOCK, 0; &total, &w_out, &h_out, &stride, &padding, &1usize, &info, &b.put(&x), &b.put(&k), &mut y);
        let pixel = |image: usize, c: usize, r: isize, q: isize| {
            let inside = (0..height as isize).contains(&r) && (0..width as isize).contains(&q);
            if inside {
                f64::from(x[((image * channels + c) * height + r as usize) * width + q as usize])
            } else {
                0.0
            }
        };
        let expected: Vec<f64> = (0..n)
            .map(|i| {
                let (image, f, r, q) = (
                    i / (filters * h_out * w_out),
                    i / (h_out * w_out) % filters,
                    i / w_out % h_out,
                    i % w_out,
                );
                let mut sum = 0.0;
                for (c, dr, dq) in (0..channels)
                    .flat_map(|c| (0..kh).flat_map(move |a| (0..kw).map(move |e| (c, a, e))))
                {
                    let weight = f64::from(k[((f * channels + c) * kh + dr) * kw + dq]);
                    sum += weight
                        * pixel(
                            image,
                            c,
                            (stride * r + dr) as isize - 1,
                            (stride * q + dq) as isize - 1,
                        );
                }
                sum
            })
            .collect();
        close("conv2d_f32", wide(&b.get(&y)), expected.iter().copied(), 1e-5);
        let half = |v: &[f32]| v.iter().map(|&a| bf16::from_f32(a)).collect::<Vec<_>>();
        let mut h = b.put(&vec![bf16::ZERO; n]);
        launch!(b, "conv2d_bf16", (8, 1, 1), BLOCK, 0; &total, &w_out, &h_out, &stride, &padding, &1usize, &info, &b.put(&half(&x)), &b.put(&half(&k)), &mut h);
        close("conv2d_bf16", b.get(&h).iter().map(|v| v.to_f64()), expected, 5e-2);

        // A column matrix of 3 × 2 patches.
        let columns = batch * h_out * w_out * channels * kh * kw;
        let mut m = b.zeros::<f32>(columns);
        launch!(b, "im2col_f32", (32, 1, 1), BLOCK, 0; &columns, &h_out, &w_out, &kh, &kw, &stride, &padding, &1usize, &info, &b.put(&x), &mut m);
        let expected = (0..columns).map(|i| {
            let (dq, dr, c) = (i % kw, i / kw % kh, i / (kw * kh) % channels);
            let place = i / (kw * kh * channels);
            let (q, r, image) = (place % w_out, place / w_out % h_out, place / (w_out * h_out));
            pixel(image, c, (stride * r + dr) as isize - 1, (stride * q + dq) as isize - 1)
        });
        close("im2col_f32", wide(&b.get(&m)), expected, 0.0);
    });
}

#[test]
#[ignore = "needs candle-kernels and a CUDA toolkit"]
fn quantized_blocks() {
    with_candle(&["quantized"], || {
        let b = Bench::new("quantized");
        // Q8_0: an f16 scale and 32 signed bytes; 256 values a block of threads.
        let blocks = 16usize;
        let mut bytes = Vec::new();
        let mut expected = Vec::new();
        for block in 0..blocks {
            let scale = f16::from_f32(0.01 * (block + 1) as f32);
            bytes.extend(scale.to_bits().to_le_bytes());
            for i in 0..32 {
                let q = ((block * 37 + i * 11) % 255) as i32 - 127;
                bytes.push(q as i8 as u8);
                expected.push(f64::from(scale.to_f32() * q as f32));
            }
        }
        let n = blocks * 32;
        let mut y = b.zeros::<f32>(n);
        launch!(b, "dequantize_block_q8_0_f32", (n.div_ceil(256) as u32, 1, 1), (32, 1, 1), 0; &b.put(&bytes), &mut y, &((n / 32) as i32));
        close("dequantize_block_q8_0_f32", wide(&b.get(&y)), expected, 1e-6);
    });
}
