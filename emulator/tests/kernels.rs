//! Whole kernels of plain CUDA C++, compiled by NVRTC 13.0 for compute_80 (the sources lie in `kernels/` beside the
//! PTX), against the same computation in Rust.

use cuda_emulator::{Config, Counters, Launch, Memory, Module, launch};

struct Machine {
    memory: Memory,
    module: Module,
    config: Config,
}

/// An argument of a kernel.
enum Arg {
    Pointer(u64),
    Int(i32),
}

impl Machine {
    fn new(ptx: &str, seed: u64, late: bool) -> Machine {
        let config = Config { seed, late_copies: late, ..Config::default() };
        let memory = Memory::new();
        let module = Module::load(ptx, &memory, &config).unwrap_or_else(|e| panic!("{e}"));
        Machine { memory, module, config }
    }

    fn upload<T: Copy, const N: usize>(&self, data: &[T], bytes: impl Fn(T) -> [u8; N]) -> u64 {
        let bytes: Vec<u8> = data.iter().flat_map(|&v| bytes(v)).collect();
        let ptr = self.memory.alloc(bytes.len()).unwrap();
        self.memory.write(ptr, &bytes).unwrap();
        ptr
    }

    fn download<T, const N: usize>(
        &self,
        ptr: u64,
        n: usize,
        from: impl Fn([u8; N]) -> T,
    ) -> Vec<T> {
        let mut bytes = vec![0; n * N];
        self.memory.read(ptr, &mut bytes).unwrap();
        bytes.chunks_exact(N).map(|c| from(c.try_into().unwrap())).collect()
    }

    fn run(&self, name: &str, shape: &Launch, args: &[Arg]) -> Counters {
        let kernel = self.module.kernel(name).unwrap();
        let mut params = Vec::new();
        for (arg, layout) in args.iter().zip(kernel.params()) {
            params.resize(layout.offset, 0);
            match arg {
                Arg::Pointer(p) => params.extend(p.to_le_bytes()),
                Arg::Int(i) => params.extend(i.to_le_bytes()),
            }
        }
        launch(&self.memory, &kernel, shape, &params, &self.config)
            .unwrap_or_else(|f| panic!("{f}"))
    }
}

fn line(grid: u32, block: u32) -> Launch {
    Launch::new([grid, 1, 1], [block, 1, 1])
}

fn everywhere(ptx: &str, test: impl Fn(&Machine)) {
    for seed in 0..8 {
        test(&Machine::new(ptx, seed, seed % 2 == 0));
    }
}

const LANGUAGE: &str = include_str!("kernels/language.ptx");
const COOPERATION: &str = include_str!("kernels/cooperation.ptx");
const MATMUL: &str = include_str!("kernels/matmul.ptx");
const SGEMM: &str = include_str!("kernels/sgemm.ptx");

use Arg::{Int, Pointer};

#[test]
fn recursion_pointers_and_jumps() {
    everywhere(LANGUAGE, |m| {
        let out = m.memory.alloc(4 * 96).unwrap();
        m.run("recursion", &line(1, 96), &[Pointer(out)]);
        let fib = [0, 1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89];
        let got = m.download(out, 96, u32::from_le_bytes);
        assert!((0..96).all(|i| got[i] == fib[i % 12]), "{got:?}");
        m.run("pointers", &line(1, 96), &[Pointer(out)]);
        let got = m.download(out, 96, i32::from_le_bytes);
        assert!((0..96).all(|i| got[i as usize] == [2 * i, i * i, -i][i as usize % 3]), "{got:?}");
        let values: Vec<i32> = (0..96).map(|i| (i * 7) % 11 - 1).collect();
        let input = m.upload(&values, i32::to_le_bytes);
        m.run("jumps", &line(1, 96), &[Pointer(out), Pointer(input)]);
        let got = m.download(out, 96, i32::from_le_bytes);
        for i in 0..96i32 {
            let v = values[i as usize];
            let want = match v {
                0 => 11,
                1 => v * 31 + i,
                2 => i ^ 0x55,
                3 => i / 3,
                4 => i % 7,
                5 => i << 3,
                6 => !i,
                7 => i * i,
                _ => -1,
            };
            assert_eq!(got[i as usize], want, "thread {i}");
        }
    });
}

#[test]
fn local_arrays_and_wide_integers() {
    everywhere(LANGUAGE, |m| {
        let values: Vec<i32> = (0..20).map(|i| i * i).collect();
        let input = m.upload(&values, i32::to_le_bytes);
        let out = m.memory.alloc(8 * 64).unwrap();
        m.run("arrays", &line(1, 64), &[Pointer(out), Pointer(input), Int(20)]);
        let got = m.download(out, 64, f64::from_le_bytes);
        for t in 0..64 {
            let mut local: Vec<(f64, f64)> =
                (0..8).map(|i| ((i - 4) as f64, i as f64 * 0.5)).collect();
            let mut sum = 0.0;
            for v in &values {
                let k = ((v + t) & 7) as usize;
                local[k].1 += local[7 - k].0;
                sum += local[k].1;
            }
            assert_eq!(got[t as usize], sum);
        }
        let a: Vec<u64> = (0..64).map(|i| 0x9e37_79b9_7f4a_7c15u64.wrapping_mul(i + 1)).collect();
        let b: Vec<u64> =
            (0..64).map(|i| (0xbf58_476d_1ce4_e5b9u64.wrapping_mul(i + 3) >> i) | 1).collect();
        let (pa, pb) = (m.upload(&a, u64::to_le_bytes), m.upload(&b, u64::to_le_bytes));
        let out = m.memory.alloc(8 * 6 * 64).unwrap();
        m.run("wide", &line(1, 64), &[Pointer(out), Pointer(pa), Pointer(pb)]);
        let got = m.download(out, 6 * 64, u64::from_le_bytes);
        for i in 0..64 {
            let (x, y) = (a[i], b[i]);
            let want = [
                x / y,
                x % y,
                (x as i64).wrapping_div(y as i64) as u64,
                ((x as u128 * y as u128) >> 64) as u64,
                ((x as i64 as i128 * y as i64 as i128) >> 64) as u64,
                (x.count_ones() + y.leading_zeros()) as u64 + (x >> (y & 63)),
            ];
            assert_eq!(got[6 * i..6 * i + 6], want, "{x:#x} {y:#x}");
        }
    });
}

#[test]
fn mathematical_functions() {
    let m = Machine::new(LANGUAGE, 0, true);
    let x: Vec<f32> = (0..128).map(|i| (i as f32 - 60.0) * 0.37).collect();
    let input = m.upload(&x, f32::to_le_bytes);
    let (out, out2) = (m.memory.alloc(4 * 8 * 128).unwrap(), m.memory.alloc(8 * 4 * 128).unwrap());
    m.run("functions", &line(1, 128), &[Pointer(out), Pointer(out2), Pointer(input)]);
    let singles = m.download(out, 8 * 128, f32::from_le_bytes);
    let doubles = m.download(out2, 4 * 128, f64::from_le_bytes);
    for (i, &v) in x.iter().enumerate() {
        let d = v as f64;
        let want = [
            d.sin(),
            ((v * 100_000.0) as f64).cos(),
            d.exp(),
            ((v.abs() + 1e-20) as f64).ln(),
            d.tanh(),
            d.abs().powf(1.5),
            f64::NAN,
            d / 3.0 + d.abs().sqrt() + 1.0 / (d.abs() + 1.0).sqrt(),
        ];
        for (k, w) in want.into_iter().enumerate().filter(|(_, w)| !w.is_nan()) {
            let got = singles[8 * i + k] as f64;
            // The sums cancel, hence the absolute part.
            assert!(
                (got - w).abs() <= 1e-6 * w.abs().max(1.0),
                "function {k} of {v}: {got} not {w}"
            );
        }
        let want = [d.sin(), d.exp(), (d.abs() + 1.0).ln(), (d.abs() + 0.5).powf(0.3) / 7.0];
        for (k, w) in want.into_iter().enumerate() {
            let got = doubles[4 * i + k];
            assert!(
                (got - w).abs() <= 1e-14 * w.abs().max(1e-2),
                "double {k} of {v}: {got} not {w}"
            );
        }
    }
}

#[test]
fn bytes_and_shorts() {
    everywhere(LANGUAGE, |m| {
        let n = 1001;
        let input: Vec<u8> = (0..n).map(|i| (i * 37 % 256) as u8).collect();
        let shorts: Vec<i16> = (0..n).map(|i| (i * 911 % 65536 - 32768) as i16).collect();
        let (a, b) = (m.upload(&input, |v| [v]), m.upload(&shorts, i16::to_le_bytes));
        let out = m.memory.alloc(n as usize).unwrap();
        m.run("bytes", &line(8, 128), &[Pointer(out), Pointer(a), Pointer(b), Int(n)]);
        let got = m.download(out, n as usize, |[b]: [u8; 1]| b);
        for i in 0..n as usize {
            let want = input[i] as i32 * 3
                + (shorts[i] >> 2) as i32
                + input[n as usize - 1 - i] as i8 as i32;
            assert_eq!(got[i], want as u8);
        }
    });
}

#[test]
fn sums_histograms_and_compaction() {
    everywhere(COOPERATION, |m| {
        let n = 5000;
        let values: Vec<f32> = (0..n).map(|i| (i % 17) as f32).collect();
        let sum: f32 = values.iter().sum();
        let input = m.upload(&values, f32::to_le_bytes);
        let out = m.memory.alloc(4 * 6).unwrap();
        m.run("block_sum", &line(6, 128), &[Pointer(out), Pointer(input), Int(n)]);
        assert_eq!(m.download(out, 6, f32::from_le_bytes).iter().sum::<f32>(), sum);
        let partial = m.memory.alloc(4 * 6).unwrap();
        m.run(
            "last_block",
            &line(6, 256),
            &[Pointer(out), Pointer(partial), Pointer(input), Int(n)],
        );
        assert_eq!(m.download(out, 1, f32::from_le_bytes)[0], sum);

        let letters: Vec<u8> = (0..n).map(|i| (i * i % 251) as u8).collect();
        let input = m.upload(&letters, |v| [v]);
        let bins = m.upload(&[0u32; 256], u32::to_le_bytes);
        m.run("histogram", &line(4, 96), &[Pointer(bins), Pointer(input), Int(n)]);
        let got = m.download(bins, 256, u32::from_le_bytes);
        for (b, &count) in got.iter().enumerate() {
            assert_eq!(count as usize, letters.iter().filter(|&&l| l as usize == b).count());
        }

        let numbers: Vec<i32> = (0..n).map(|i| i * 7 % 1000).collect();
        let input = m.upload(&numbers, i32::to_le_bytes);
        let count = m.upload(&[0i32], i32::to_le_bytes);
        let out = m.memory.alloc(4 * n as usize).unwrap();
        m.run("compact", &line(40, 128), &[Pointer(out), Pointer(count), Pointer(input), Int(n)]);
        let mut want: Vec<i32> = numbers.iter().copied().filter(|v| v % 3 == 0).collect();
        let kept = m.download(count, 1, i32::from_le_bytes)[0] as usize;
        assert_eq!(kept, want.len());
        let mut got = m.download(out, kept, i32::from_le_bytes);
        got.sort();
        want.sort();
        assert_eq!(got, want);
    });
}

#[test]
fn transposition_and_votes() {
    everywhere(COOPERATION, |m| {
        let n = 96usize;
        let values: Vec<f32> = (0..n * n).map(|i| i as f32).collect();
        let input = m.upload(&values, f32::to_le_bytes);
        let out = m.memory.alloc(4 * n * n).unwrap();
        let shape = Launch { dynamic_shared: 4 * 32 * 33, ..Launch::new([3, 3, 1], [32, 8, 1]) };
        let counters = m.run("transpose", &shape, &[Pointer(out), Pointer(input), Int(n as i32)]);
        let got = m.download(out, n * n, f32::from_le_bytes);
        assert!((0..n * n).all(|i| got[i] == values[i % n * n + i / n]));
        if m.config.seed == 0 {
            assert_eq!(counters.bank_conflicts, 0);
            assert_eq!(counters.bytes_read, (4 * n * n) as u64);
            assert_eq!(counters.global_sectors_read * 32, counters.bytes_read);
        }
        m.run("votes", &line(1, 32), &[Pointer(out)]);
        assert!(m.download(out, 32, u32::from_le_bytes).iter().any(|&v| v != 0));
    });
}

#[test]
fn matrix_product_on_tensor_cores() {
    everywhere(MATMUL, |m| {
        let (rows, cols, k) = (70usize, 130usize, 96usize);
        let value = |i: usize| ((i * 7919) % 31) as f32 - 15.0;
        let half = |v: f32| ((v.to_bits() >> 16) as u16).to_le_bytes();
        let a: Vec<f32> = (0..rows * k).map(value).collect();
        let b: Vec<f32> = (0..cols * k).map(|i| value(i * 3 + 1)).collect();
        let (pa, pb) = (m.upload(&a, half), m.upload(&b, half));
        let out = m.memory.alloc(4 * rows * cols).unwrap();
        let args = [
            Pointer(pa),
            Pointer(pb),
            Pointer(out),
            Int(rows as i32),
            Int(cols as i32),
            Int(k as i32),
        ];
        let counters = m.run("matmul", &Launch::new([3, 2, 1], [128, 1, 1]), &args);
        let got = m.download(out, rows * cols, f32::from_le_bytes);
        for r in 0..rows {
            for c in 0..cols {
                let want: f32 = (0..k).map(|x| a[r * k + x] * b[c * k + x]).sum();
                assert_eq!(got[r * cols + c], want, "({r}, {c})");
            }
        }
        assert_eq!(counters.mma_flops, 2 * 128 * 192 * 96);
    });
}

fn sgemm(m: &Machine, n: usize) -> (Counters, f64) {
    let a: Vec<f32> = (0..n * n).map(|i| ((i * 31) % 13) as f32 - 6.0).collect();
    let b: Vec<f32> = (0..n * n).map(|i| ((i * 17) % 11) as f32 - 5.0).collect();
    let (pa, pb) = (m.upload(&a, f32::to_le_bytes), m.upload(&b, f32::to_le_bytes));
    let out = m.memory.alloc(4 * n * n).unwrap();
    let tiles = n as u32 / 64;
    let shape = Launch::new([tiles, tiles, 1], [16, 16, 1]);
    let start = std::time::Instant::now();
    let counters = m.run("sgemm", &shape, &[Pointer(pa), Pointer(pb), Pointer(out), Int(n as i32)]);
    let seconds = start.elapsed().as_secs_f64();
    let got = m.download(out, n * n, f32::from_le_bytes);
    for i in (0..n * n).step_by(97) {
        let want: f32 = (0..n).map(|x| a[i / n * n + x] * b[x * n + i % n]).sum();
        assert_eq!(got[i], want);
    }
    (counters, seconds)
}

#[test]
fn matrix_product_in_single_precision() {
    everywhere(SGEMM, |m| {
        sgemm(m, 64);
    });
}

/// Prints the interpreter's speed on one core: `cargo test -p cuda-emulator --test kernels -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn speed() {
    let mut m = Machine::new(SGEMM, 0, true);
    m.config.threads = 1;
    for _ in 0..3 {
        let (counters, seconds) = sgemm(&m, 256);
        let rate = counters.thread_instructions() as f64 / seconds / 1e6;
        println!(
            "{} thread instructions in {seconds:.3} s: {rate:.1} million a second",
            counters.thread_instructions()
        );
    }
}
