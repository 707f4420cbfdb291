//! What only the emulated driver can tell: that results hold in every order of warps and of
//! asynchronous work, and what the kernels cost, counted. On a GPU these tests are skipped.

mod common;

use common::cases::{Part, part};
use common::cuda::{Cuda, kernels};
use common::problem::{Named, Problem, Random};
use common::run::{AnyLoss, Uploaded, loss_and_gradients, run_cases};
use metric_kernels::engine::cuda::{Tile, TileEngine};
use metric_kernels::{DType, Loss, Mining};
use serde_json::Value;
use std::process::{Command, Output};

/// Set in the processes that a test of this file starts.
const CHILD: &str = "METRIC_KERNELS_EMULATED_CHILD";

/// Whether this process was started by a test here, with settings of its own.
fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// The emulator, or `None`, having said so, where there is a real driver or none.
fn emulator(test: &str) -> Option<Cuda> {
    let cuda = Cuda::open(test)?;
    let name = kernels().unwrap().context().name().unwrap();
    if name.starts_with("CUDA emulator") {
        return Some(cuda);
    }
    println!("SKIPPED: {test}: it is about the emulator; this is {name}");
    None
}

/// Runs one test of this file in a process of its own: settings are read once a process.
fn rerun(test: &str, settings: &[(&str, &str)]) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture", "--include-ignored"]).env(CHILD, "1");
    command.envs(settings.iter().copied());
    command.output().unwrap()
}

/// Small shapes: every size up to 33, every 17th combination of options, every stride.
fn small() -> Vec<common::cases::Case> {
    let mut cases = part(Part::Sizes);
    cases.retain(|case| case.cost() <= 33 * 33 * 16);
    cases.extend(part(Part::Options).into_iter().step_by(17));
    cases.extend(part(Part::Strides));
    cases.retain(|case| case.cost() <= 33 * 33 * 16);
    // Which outputs are asked for changes no order.
    cases.iter_mut().for_each(|case| case.parts = false);
    cases
}

#[test]
fn small_shapes_in_every_order() {
    let name = "small_shapes_in_every_order";
    let Some(mut cuda) = emulator(name) else { return };
    if is_child() {
        return run_cases(&mut cuda, &small());
    }
    // Both settings at once: cases this small leave a core idle.
    let failed = std::thread::scope(|scope| {
        let every_seed = |landing| {
            (1..=4).filter_map(move |seed: usize| {
                // For one multiprocessor the engine chooses large tiles: once.
                let count = 2 + usize::from(seed == 1);
                let seed = seed.to_string();
                let settings = [
                    ("CUDA_EMULATOR_SEED", &*seed),
                    ("CUDA_EMULATOR_ASYNC", landing),
                    ("CUDA_EMULATOR_SMS", "1"),
                ];
                let output = rerun(name, &settings[..count]);
                let said = String::from_utf8_lossy(&output.stdout);
                let why = String::from_utf8_lossy(&output.stderr);
                let passed = output.status.success() && said.contains("1 passed");
                (!passed).then(|| format!("seed {seed}, {landing}:\n{said}\n{why}"))
            })
        };
        let runs = ["late", "early"]
            .map(|landing| scope.spawn(move || every_seed(landing).collect::<Vec<_>>()));
        runs.into_iter().flat_map(|run| run.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn mined_lists_have_the_same_bits_in_every_order() {
    let name = "mined_lists_have_the_same_bits_in_every_order";
    let Some(mut cuda) = emulator(name) else { return };
    if is_child() {
        for mining in [Mining::Hardest(90), Mining::HardestPerRow(2)] {
            let size = (140, 139, 4);
            let mut problem = Problem::new(Named::CrossExampleSoftmax, 5.0, size);
            Random::new(6).embeddings(&mut problem);
            let problem = problem.with_mining(mining);
            println!("{:?}", loss_and_gradients(&mut cuda, &problem).unwrap().bits());
        }
        return;
    }
    let runs = [("1", "late"), ("2", "early"), ("3", "late")].map(|(seed, landing)| {
        let settings = [("CUDA_EMULATOR_SEED", seed), ("CUDA_EMULATOR_ASYNC", landing)];
        let output = rerun(name, &settings);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let said = String::from_utf8(output.stdout).unwrap();
        let bits: Vec<String> =
            said.lines().filter(|line| line.starts_with('[')).map(String::from).collect();
        assert_eq!(bits.len(), 2, "{said}");
        bits
    });
    assert!(runs.iter().all(|run| *run == runs[0]));
}

/// A shape whose tiles of 128 are all whole.
const N: usize = 256;
const D: usize = 128;
const SIDE: usize = 128;

/// Two steps and their counters.
fn count(
    test: &str,
    engine: TileEngine,
    loss: Named,
    dtype: DType,
    mining: Mining,
    (n, d): (usize, usize),
) -> Option<Value> {
    count_calls(test, engine, Some(Tile::Large), |cuda| {
        let mut problem = Problem::new(loss, 10.0, (n, n, d)).with_mining(mining);
        Random::new(1).embeddings(&mut problem);
        let problem = problem.rounded_to(dtype);
        with_dtype!(dtype, T => {
            let uploaded = Uploaded::<Cuda, T>::new(cuda, &problem, (0, 0), false);
            let loss = AnyLoss::of(&problem);
            // Nothing but the second step lies between its first launch and its last.
            for _ in 0..2 {
                loss.loss_and_gradients(&mut cuda.0, uploaded.batch()).unwrap();
            }
        });
    })
}

/// The counters of these calls.
fn count_calls(
    test: &str,
    engine: TileEngine,
    tile: Option<Tile>,
    calls: impl Fn(&mut Cuda),
) -> Option<Value> {
    let mut cuda = emulator(test)?.with_tile_engine(engine);
    if let Some(tile) = tile {
        cuda = cuda.with_tile(tile);
    }
    if is_child() {
        calls(&mut cuda);
        cuda.0.stream().synchronize().unwrap();
        return None;
    }
    if std::env::var("METRIC_KERNELS_TILE_ENGINE").is_ok_and(|asked| asked == "simt") {
        println!("SKIPPED: {test}: it chooses its engines; the run of the other one has counted");
        return None;
    }
    let file = std::env::temp_dir().join(format!("{test}-{}.json", std::process::id()));
    // Another order splits warps, and counts other instructions.
    let settings =
        [("CUDA_EMULATOR_COUNTERS", file.to_str().unwrap()), ("CUDA_EMULATOR_SEED", "0")];
    let output = rerun(test, &settings);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let counters = std::fs::read_to_string(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    Some(serde_json::from_str(&counters).unwrap())
}

fn number(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or_else(|| panic!("no {key} in {value}"))
}

/// The launches of the second step.
fn second_step(counters: &Value) -> &[Value] {
    second_half(counters["launches"].as_array().unwrap())
}

fn second_half(launches: &[Value]) -> &[Value] {
    assert!(
        launches.len() >= 10 && launches.len().is_multiple_of(2),
        "{} launches",
        launches.len()
    );
    let (first, second) = launches.split_at(launches.len() / 2);
    for (a, b) in first.iter().zip(second) {
        assert_eq!(a["kernel"], b["kernel"], "the steps differ");
    }
    second
}

#[test]
fn a_second_step_neither_waits_nor_allocates() {
    let test = "a_second_step_neither_waits_nor_allocates";
    let loss = Named::CrossExampleSoftmax;
    let counters = count(test, TileEngine::Sm80, loss, DType::F32, Mining::All, (N, D));
    let Some(counters) = counters else { return };
    neither_waits_nor_allocates(second_step(&counters));
}

fn neither_waits_nor_allocates(step: &[Value]) {
    for launch in step {
        let kernel = &launch["kernel"];
        assert_eq!(number(launch, "host_syncs_before"), 0.0, "{kernel}");
        assert_eq!(number(launch, "allocations_before"), 0.0, "{kernel}");
    }
}

#[test]
fn a_second_step_with_mining_neither_waits_nor_allocates() {
    let test = "a_second_step_with_mining_neither_waits_nor_allocates";
    let loss = Named::CrossExampleSoftmax;
    // A list of nine tiles' pairs.
    let counters =
        count(test, TileEngine::Sm80, loss, DType::F32, Mining::Hardest(50), (3 * SIDE, 4));
    let Some(counters) = counters else { return };
    neither_waits_nor_allocates(second_step(&counters));
}

/// What mining costs, executed instructions of threads: those that a predicate or a branch leaves out
/// do not count.
struct MiningCost {
    /// The forward pass against the one without mining, and the backward pass against the same.
    forward: f64,
    backward: f64,
    /// The forward pass, instructions of warps: whatever one of 32 threads executes.
    warps: f64,
    /// The forward pass, instructions of warps on the multiprocessor that has most to do, kernel after
    /// kernel: what one block does while the others have nothing to do counts as if all did it.
    busiest: f64,
    /// Products of the pairs in the mined forward pass and in the backward pass, on tensor cores.
    products: [f64; 2],
    /// Launches of both forward passes.
    launches: [usize; 2],
}

/// Multiprocessors that the emulator has by default.
const MULTIPROCESSORS: f64 = 108.0;

/// Instructions of warps on the multiprocessor that has most blocks of a launch, if these are alike.
fn on_the_busiest(launch: &Value) -> f64 {
    let blocks = number(launch, "blocks");
    number(launch, "warp_instructions") / blocks * (blocks / MULTIPROCESSORS).ceil()
}

/// Of n × m pairs of this type; `None` in a child process.
fn mining_cost(
    test: &str,
    engine: TileEngine,
    dtype: DType,
    size: (usize, usize, usize),
    mining: Mining,
) -> Option<MiningCost> {
    let counters = count_calls(test, engine, Some(Tile::Large), |cuda| {
        let mut problem = Problem::new(Named::CrossExampleSoftmax, 10.0, size);
        Random::new(1).embeddings(&mut problem);
        let problem = problem.rounded_to(dtype);
        with_dtype!(dtype, T => {
            let uploaded = Uploaded::<Cuda, T>::new(cuda, &problem, (0, 0), false);
            AnyLoss::of(&problem).forward(&mut cuda.0, uploaded.batch()).unwrap();
            let mined = AnyLoss::of(&problem.with_mining(mining));
            let forward = mined.forward(&mut cuda.0, uploaded.batch()).unwrap();
            mined.backward(&mut cuda.0, &forward, 1.0).unwrap();
        });
    })?;
    // Every call begins with the scalar that it is given.
    let launches = counters["launches"].as_array().unwrap();
    let calls: Vec<&[Value]> = launches.chunk_by(|_, next| next["kernel"] != "scalar").collect();
    assert_eq!(calls.len(), 3);
    let instructions =
        |call: usize, whose: &str| sum(calls[call], &format!("{whose}_instructions"));
    let busiest = |call: usize| calls[call].iter().map(on_the_busiest).sum::<f64>();
    let [threads, warps] = ["thread", "warp"].map(|whose| instructions(0, whose));
    let cost = MiningCost {
        forward: instructions(1, "thread") / threads,
        warps: instructions(1, "warp") / warps,
        busiest: busiest(1) / busiest(0),
        backward: instructions(2, "thread") / threads,
        products: [1, 2]
            .map(|call| sum(calls[call], "mma_flops") / (2 * size.0 * size.1 * size.2) as f64),
        launches: [0, 1].map(|call| calls[call].len()),
    };
    let MiningCost { forward, warps: of_warps, busiest: most, backward, launches, products } =
        &cost;
    println!("{engine:?} {dtype:?} (n, m, d) = {size:?}, {mining:?}:");
    println!(
        "forward {forward:.3} ({of_warps:.3} in warps, {most:.3} on the busiest), \
         backward {backward:.3}, {launches:?} launches, {products:?} products"
    );
    if std::env::var_os("METRIC_KERNELS_PROFILE").is_some() {
        for (call, name) in calls.iter().zip(["forward", "forward, mined", "backward, mined"]) {
            println!("  {name:34} threads    warps  busiest   blocks");
            for launch in call.iter() {
                let share = |whose: &str, of: f64| number(launch, whose) / of;
                let threads = share("thread_instructions", threads);
                let warps = share("warp_instructions", warps);
                let kernel = launch["kernel"].as_str().unwrap();
                let most = on_the_busiest(launch) / busiest(0);
                let blocks = number(launch, "blocks");
                println!("    {kernel:32} {threads:8.4} {warps:8.4} {most:8.4} {blocks:8}");
            }
        }
    }
    Some(cost)
}

#[test]
fn mining_costs_a_small_part_of_a_pass_over_the_pairs() {
    let test = "mining_costs_a_small_part_of_a_pass_over_the_pairs";
    let (n, mining) = (5 * SIDE, Mining::Hardest(5 * SIDE / 2));
    let cost = mining_cost(test, TileEngine::Simt, DType::F32, (n, n, D), mining);
    let Some(cost) = cost else { return };
    assert!(cost.forward <= 1.15 && cost.backward <= 0.4);
}

#[test]
fn mining_of_the_matrix_costs_little_on_tensor_cores() {
    let test = "mining_of_the_matrix_costs_little_on_tensor_cores";
    let (n, mining) = (16 * SIDE, Mining::Hardest(16 * SIDE));
    let cost = mining_cost(test, TileEngine::Sm80, DType::Bf16, (n, n, D), mining);
    let Some(cost) = cost else { return };
    assert!(cost.forward <= 1.05 && cost.warps <= 1.12 && cost.launches[1] <= 25);
    // No block keeps the others waiting: one that had the sample or the list for itself would be
    // several passes.
    assert!(cost.busiest <= 1.3);
}

#[test]
fn mining_of_rows_costs_little_on_tensor_cores() {
    let test = "mining_of_rows_costs_little_on_tensor_cores";
    let (n, mining) = (16 * SIDE, Mining::HardestPerRow(16));
    let cost = mining_cost(test, TileEngine::Sm80, DType::Bf16, (n, n, D), mining);
    let Some(cost) = cost else { return };
    assert!(cost.forward <= 1.08 && cost.warps <= 1.16 && cost.launches[1] <= 15);
    assert!(cost.busiest <= 1.12);
    // By a list.
    assert!(cost.products == [1.0, 0.0] && cost.backward <= 1.55);
}

/// In fewer rows than columns: the pass without mining takes a little more of them.
#[test]
fn mining_of_many_of_each_row_costs_little_on_tensor_cores() {
    let test = "mining_of_many_of_each_row_costs_little_on_tensor_cores";
    let (size, mining) = ((4 * SIDE, 32 * SIDE, D), Mining::HardestPerRow(64));
    let cost = mining_cost(test, TileEngine::Sm80, DType::Bf16, size, mining);
    let Some(cost) = cost else { return };
    assert!(cost.forward <= 0.91 && cost.warps <= 0.98 && cost.launches[1] <= 15);
    assert!(cost.products == [1.0, 0.0] && cost.backward <= 2.55);
}

/// Without a list to keep: a 32nd and a 16th of each row.
#[test]
fn mining_of_a_share_of_each_row_costs_little_on_tensor_cores() {
    let test = "mining_of_a_share_of_each_row_costs_little_on_tensor_cores";
    let (size, mining) = ((4 * SIDE, 32 * SIDE, D), Mining::HardestPerRow(256));
    let cost = mining_cost(test, TileEngine::Sm80, DType::Bf16, size, mining);
    let Some(cost) = cost else { return };
    assert!(cost.forward <= 0.98 && cost.warps <= 1.10 && cost.launches[1] <= 15);
    assert!(cost.products == [1.0, 3.0] && cost.backward <= 2.95);
}

/// Rows whose guess is too high are gone through again by themselves, not with all of their tile.
#[test]
fn a_wrong_guess_costs_its_rows_alone() {
    let test = "a_wrong_guess_costs_its_rows_alone";
    let (n, mining) = (16 * SIDE, Mining::HardestPerRow(64));
    let cost = mining_cost(test, TileEngine::Sm80, DType::Bf16, (n, n, D), mining);
    let Some(cost) = cost else { return };
    // Of these data there is such a row: 32 rows' products more.
    assert_eq!(cost.products[0], 1.0 + 32.0 / n as f64);
}

/// Many pairs are mined by a list too, but their gradient takes the products of any other: S again,
/// dX and dY.
fn gradient_is_dense(test: &str, mining: Mining) {
    let size = (MANY, MANY, D);
    let cost = mining_cost(test, TileEngine::Sm80, DType::Bf16, size, mining);
    let Some(cost) = cost else { return };
    // The matrix's sample is computed twice.
    assert!(cost.products[0] < 1.05 && cost.products[1] == 3.0, "{:?}", cost.products);
}

/// Rows of which 16 pairs are more than a 64th.
const MANY: usize = 5 * SIDE;

#[test]
fn the_gradient_of_many_of_each_row_is_dense() {
    let mining = Mining::HardestPerRow(16);
    gradient_is_dense("the_gradient_of_many_of_each_row_is_dense", mining);
}

#[test]
fn the_gradient_of_many_of_the_matrix_is_dense() {
    let mining = Mining::Hardest(16 * MANY);
    gradient_is_dense("the_gradient_of_many_of_the_matrix_is_dense", mining);
}

/// Any size, by hand: `METRIC_KERNELS_MINED="sm80 bf16 2048 128 rows 16"`, or `512x32768` for another
/// number of columns; with METRIC_KERNELS_PROFILE=1 kernel by kernel.
#[test]
#[ignore = "a figure for the notes; takes minutes"]
fn what_mining_costs() {
    let test = "what_mining_costs";
    let asked = std::env::var("METRIC_KERNELS_MINED").unwrap();
    let words: Vec<&str> = asked.split(' ').collect();
    let engine = if words[0] == "simt" { TileEngine::Simt } else { TileEngine::Sm80 };
    let dtype = if words[1] == "f32" { DType::F32 } else { DType::Bf16 };
    let number = |word: &str| word.parse::<usize>().unwrap();
    let (n, m) = words[2].split_once('x').unwrap_or((words[2], words[2]));
    let (size, k) = ((number(n), number(m), number(words[3])), number(words[5]));
    let mining = if words[4] == "rows" { Mining::HardestPerRow(k) } else { Mining::Hardest(k) };
    mining_cost(test, engine, dtype, size, mining);
}

/// Bytes that a product of whole tiles reads: both operands of every tile, once along the sum.
fn tiles(rows: usize, columns: usize, depth: usize) -> f64 {
    ((rows / SIDE) * (columns / SIDE) * 2 * SIDE * depth * 4) as f64
}

#[test]
fn passes_move_the_bytes_of_their_own_arithmetic() {
    let test = "passes_move_the_bytes_of_their_own_arithmetic";
    let loss = Named::CrossExampleSoftmax;
    let counters = count(test, TileEngine::Simt, loss, DType::F32, Mining::All, (N, D));
    let Some(counters) = counters else { return };
    let similarities = (N * N * 4) as f64;
    let gradient = (N * D * 4) as f64;
    let expected = [
        ("stats_simt128", tiles(N, N, D), None),
        ("weights_simt128", tiles(N, N, D), Some(similarities)),
        ("rows_columns_simt128", tiles(N, D, N), None),
        ("columns_columns_simt128", tiles(N, D, N), None),
    ];
    for (kernel, read, written) in expected {
        let launches: Vec<_> =
            second_step(&counters).iter().filter(|launch| launch["kernel"] == kernel).collect();
        assert!(!launches.is_empty(), "{kernel} was not launched");
        let sum = |key| launches.iter().map(|launch| number(launch, key)).sum::<f64>();
        let within = |what: &str, given: f64, expected: f64| {
            let ratio = given / expected;
            println!("{kernel}: {what} {given} bytes, {ratio:.4} of the plan");
            assert!((ratio - 1.0).abs() < 0.05, "{kernel} {what} {given}, planned {expected}");
        };
        within("reads", sum("bytes_read"), read);
        match written {
            Some(written) => within("writes", sum("bytes_written"), written),
            // Row statistics, or a gradient once for every split of the sum.
            None => assert!(sum("bytes_written") <= 8.0 * gradient, "{kernel} writes too much"),
        }
        let used = sum("global_bytes_used") / (32.0 * sum("global_sectors_requested"));
        // A thread takes 32 bytes of an f32 operand in two loads: each sector is asked for twice.
        // And every thread of a row asks for what its row's coefficients are.
        assert!(used > 0.45, "{kernel} uses {used:.3} of the sectors it asks for");
        assert_eq!(sum("mma_flops"), 0.0, "{kernel} is a simt kernel");
    }
    // Two passes over the pairs, one exponential each. Besides, in `stats`, each of the 16 threads of
    // a row: one a tile, and eight to come together, in each of the two splits; and the positives'.
    let exponentials: f64 = second_step(&counters).iter().map(|l| number(l, "exponentials")).sum();
    let pairs = 2 * N * N;
    let most = pairs + 2 * N * 16 * (1 + 8) + 2 * N;
    assert!((pairs as f64..=most as f64).contains(&exponentials), "{exponentials} exponentials");
}

/// Loss and gradients on tensor cores: exactly the products that the pass is said to take, no bank
/// conflict where they are computed, and the bytes that tiles of 128 need.
fn tensor_core_floors(test: &str, loss: Named, dtype: DType, products: usize) {
    let counters = count(test, TileEngine::Sm80, loss, dtype, Mining::All, (N, D));
    let Some(counters) = counters else { return };
    // f32 is two f16: three products of theirs for one, each with both operands.
    let (rounds, panel) = if dtype == DType::F32 { (3, 4) } else { (1, 2) };
    let step = second_step(&counters);
    let flops: f64 = step.iter().map(|launch| number(launch, "mma_flops")).sum();
    assert_eq!(flops, (products * rounds * 2 * N * N * D) as f64);
    let operands = (rounds * 2 * 2 * SIDE) as f64;
    let passes = |kernel: &str| match kernel.split("_sm80").next().unwrap() {
        "rows_columns" | "columns_columns" => Some(((N / SIDE) * (D / SIDE) * N, 0)),
        "stats" => Some(((N / SIDE) * (N / SIDE) * D, 0)),
        "weights" | "exponentials" => Some(((N / SIDE) * (N / SIDE) * D, N * N * panel)),
        _ => None,
    };
    let mut seen = 0;
    for launch in step.iter().filter(|launch| number(launch, "mma_flops") > 0.0) {
        let kernel = launch["kernel"].as_str().unwrap();
        let (depth, written) = passes(kernel).unwrap_or_else(|| panic!("{kernel}"));
        assert_eq!(number(launch, "bank_conflicts"), 0.0, "{kernel}");
        let read = number(launch, "bytes_read") / (depth as f64 * operands);
        let instructions = number(launch, "warp_instructions") / number(launch, "mma_instructions");
        println!("{kernel}: reads {read:.4} of the plan, {instructions:.2} instructions an mma");
        assert!((0.99..1.1).contains(&read), "{kernel} reads {read} of the plan");
        if written > 0 {
            let written = number(launch, "bytes_written") / written as f64;
            assert!((0.99..1.1).contains(&written), "{kernel} writes {written} of the plan");
        }
        seen += 1;
    }
    assert_eq!(seen, products, "one launch a product");
}

#[test]
fn cross_example_in_bf16_takes_three_products() {
    let test = "cross_example_in_bf16_takes_three_products";
    tensor_core_floors(test, Named::CrossExampleSoftmax, DType::Bf16, 3);
}

#[test]
fn cross_example_in_f32_takes_three_products_of_three() {
    let test = "cross_example_in_f32_takes_three_products_of_three";
    tensor_core_floors(test, Named::CrossExampleSoftmax, DType::F32, 3);
}

#[test]
fn row_softmax_in_f16_takes_four_products() {
    let test = "row_softmax_in_f16_takes_four_products";
    tensor_core_floors(test, Named::InBatchSoftmax, DType::F16, 4);
}

/// A problem of each of `problems`, in bf16, so often.
fn count_problems(
    test: &str,
    tile: Option<Tile>,
    times: usize,
    problems: impl Fn() -> Vec<Problem>,
) -> Option<Vec<Vec<Value>>> {
    let counters = count_calls(test, TileEngine::Sm80, tile, |cuda| {
        for mut problem in problems() {
            Random::new(1).embeddings(&mut problem);
            let problem = problem.rounded_to(DType::Bf16);
            let uploaded = Uploaded::<Cuda, half::bf16>::new(cuda, &problem, (0, 0), false);
            // What follows is told apart by this.
            cuda.0.stream().synchronize().unwrap();
            let loss = AnyLoss::of(&problem);
            for _ in 0..times {
                loss.loss_and_gradients(&mut cuda.0, uploaded.batch()).unwrap();
            }
        }
    })?;
    let launches = counters["launches"].as_array().unwrap();
    let calls = launches.chunk_by(|_, next| number(next, "host_syncs_before") == 0.0);
    let calls: Vec<Vec<Value>> = calls.map(<[Value]>::to_vec).collect();
    assert_eq!(calls.len(), problems().len());
    Some(calls)
}

fn sum(launches: &[Value], key: &str) -> f64 {
    launches.iter().map(|launch| number(launch, key)).sum()
}

/// Classes of one size, in an order of no meaning.
fn shuffled_classes(count: usize, size: usize, seed: u64) -> Vec<u32> {
    let mut labels: Vec<u32> = (0..count).map(|i| (i / size) as u32).collect();
    let mut random = Random::new(seed);
    for i in (1..count).rev() {
        labels.swap(i, random.below(i + 1));
    }
    labels
}

#[test]
fn cross_example_takes_three_products_whatever_the_positives() {
    let test = "cross_example_takes_three_products_whatever_the_positives";
    let problems = || {
        let new = || Problem::new(Named::CrossExampleSoftmax, 10.0, (N, N, D));
        let labels =
            |size| new().with_labels(&shuffled_classes(N, size, 2), &shuffled_classes(N, size, 3));
        let shared = |problem| Problem { y: None, ..problem };
        let index: Vec<u32> = (0..N as u32).map(|i| (i * 5 % N as u32) ^ 1).collect();
        let classes = shuffled_classes(N, 4, 4);
        vec![
            new().with_index(&index),
            shared(new().with_index(&index)),
            labels(4),
            shared(new().with_labels(&classes, &classes)),
            labels(N / 2),
        ]
    };
    let Some(calls) = count_problems(test, Some(Tile::Small), 2, problems) else { return };
    let product = (2 * N * N * D) as f64;
    // The band of small classes is a tile in each row of tiles. Of two classes it is half of all
    // tiles, which hold no negatives: no tile's similarities are computed twice.
    let small = 3.0 + 32.0 / N as f64;
    for (call, products) in calls.iter().zip([3.0, 3.0, small, small, 3.0]) {
        let step = second_half(call);
        assert_eq!(sum(step, "mma_flops") / product, products);
        neither_waits_nor_allocates(step);
        for launch in step.iter().filter(|launch| number(launch, "mma_flops") > 0.0) {
            assert_eq!(number(launch, "bank_conflicts"), 0.0, "{}", launch["kernel"]);
        }
    }
}

/// Against the same loss with the diagonal as positives, in thread instructions.
#[test]
fn labels_in_any_order_cost_little_more_than_the_diagonal() {
    let test = "labels_in_any_order_cost_little_more_than_the_diagonal";
    let losses = [Named::InBatchSoftmax, Named::CrossExampleSoftmax];
    // Examples, how many a class, and what that may cost. Most classes lie across tiles.
    let sizes = [
        (256, 4, 1.05),
        (256, 33, 1.12),
        (256, 48, 1.12),
        (256, 50, 1.12),
        (256, 60, 1.13),
        (256, 64, 1.10),
        (512, 50, 1.08),
        (512, 64, 1.07),
        (1024, 64, 1.05),
    ];
    let problems = || {
        let both = |(n, size, _): (usize, usize, f64), loss| {
            let diagonal = Problem::new(loss, 10.0, (n, n, D));
            let (rows, columns) = (shuffled_classes(n, size, 2), shuffled_classes(n, size, 3));
            [diagonal.clone(), diagonal.with_labels(&rows, &columns)]
        };
        sizes.iter().flat_map(|&of| losses.iter().flat_map(move |&loss| both(of, loss))).collect()
    };
    let Some(calls) = count_problems(test, None, 1, problems) else { return };
    let cases = sizes.iter().flat_map(|of| losses.iter().map(move |loss| (of, loss)));
    for (case, calls) in cases.zip(calls.chunks(2)) {
        let [diagonal, labels] = [0, 1].map(|call| sum(&calls[call], "thread_instructions"));
        println!("{case:?}: {:.3} of {diagonal}", labels / diagonal);
        assert!(labels < case.0.2 * diagonal, "{case:?}: {labels} and {diagonal}");
    }
}

/// Labels drawn at random: classes of all sizes about this one.
fn drawn_classes(count: usize, mean: usize, seed: u64) -> Vec<u32> {
    let mut random = Random::new(seed);
    (0..count).map(|_| random.below(count.div_ceil(mean)) as u32).collect()
}

/// Any sizes, by hand: `METRIC_KERNELS_LABELS="512 1024"`, and `METRIC_KERNELS_CLASSES="33 50drawn"` for
/// other classes; kernel by kernel, of the diagonal's total. With METRIC_KERNELS_BUSIEST=1 on the
/// busiest multiprocessor.
#[test]
#[ignore = "figures for the notes; takes minutes"]
fn what_labels_cost() {
    let test = "what_labels_cost";
    let sizes = std::env::var("METRIC_KERNELS_LABELS").unwrap();
    let sizes: Vec<usize> = sizes.split(' ').map(|size| size.parse().unwrap()).collect();
    let losses = [Named::InBatchSoftmax, Named::CrossExampleSoftmax];
    let asked = std::env::var("METRIC_KERNELS_CLASSES");
    let asked = asked.unwrap_or_else(|_| "4 50 64 64drawn".into());
    let classes: Vec<&str> = asked.split(' ').collect();
    let cases = [&["diagonal"], &*classes].concat();
    let problems = || {
        let of = |n: usize, loss| {
            let new = || Problem::new(loss, 10.0, (n, n, D));
            let labels = |asked: &&str| {
                let of = match asked.strip_suffix("drawn") {
                    Some(mean) => [2, 3].map(|seed| drawn_classes(n, mean.parse().unwrap(), seed)),
                    None => [2, 3].map(|seed| shuffled_classes(n, asked.parse().unwrap(), seed)),
                };
                new().with_labels(&of[0], &of[1])
            };
            std::iter::once(new()).chain(classes.iter().map(labels)).collect::<Vec<_>>()
        };
        sizes.iter().flat_map(|&n| losses.iter().flat_map(move |&loss| of(n, loss))).collect()
    };
    let Some(calls) = count_problems(test, None, 1, problems) else { return };
    let mut calls = calls.chunks(cases.len());
    for n in &sizes {
        for loss in losses {
            let calls = calls.next().unwrap();
            let cost = |launch: &Value| match std::env::var_os("METRIC_KERNELS_BUSIEST") {
                Some(_) => on_the_busiest(launch),
                None => number(launch, "thread_instructions"),
            };
            let all: f64 = calls[0].iter().map(cost).sum();
            let mut kernels: Vec<&str> = Vec::new();
            let name = |launch: &'_ Value| launch["kernel"].as_str().unwrap().to_owned();
            let names: Vec<String> = calls.iter().flatten().map(name).collect();
            names.iter().for_each(|name| {
                if !kernels.contains(&name.as_str()) {
                    kernels.push(name);
                }
            });
            println!("n = {n}, {loss:?}, {cases:?}, of {all}");
            for kernel in kernels.iter().map(Some).chain([None]) {
                print!("    {:28}", kernel.unwrap_or(&"all"));
                for call in calls {
                    let own = call.iter().filter(|l| kernel.is_none_or(|k| l["kernel"] == **k));
                    let own: f64 = own.map(cost).sum();
                    print!(" {:8.4}", own / all);
                }
                println!();
            }
        }
    }
}
