//! Trains small towers with the losses of this crate and measures what they learned:
//!
//! ```text
//! cargo run --release --example train
//! ```
//!
//! 1. Two towers learn to match the left half of a handwritten digit with its right half, with
//!    in-batch softmax and with cross-example softmax. Softmax only orders the candidates of one
//!    query; cross-example softmax also makes similarities comparable between queries, which is
//!    what average precision over all pairs ranked together measures.
//! 2. One tower learns with instance cross entropy to group the digits 0 to 4, and is tested on
//!    5 to 9, which it has never seen, and on new images of 0 to 4. What five classes teach helps
//!    with those same classes most; the cosine of the pixels stands beside it to compare with.
//!
//! The modules: [`data`] reads images, [`tower`] is the model, [`engine`] brings a batch to the
//! CPU or the GPU, [`experiment`] trains and tests, [`report`] prints and draws.

mod data;
#[path = "../common/engine.rs"]
mod engine;
mod experiment;
mod report;
mod tower;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use fastrand::Rng;
use indicatif::{ProgressBar, ProgressStyle};
use metric_kernels::{CrossExampleSoftmax, InBatchSoftmax, InstanceCrossEntropy, Loss, Weighting};

use data::{Classes, Data, Images};
use engine::{AnyEngine, Choice};
use experiment::{Mine, Outcome, Settings};
use report::Runs;

/// Trains small towers with the losses of metric-kernels and measures what they learned.
#[derive(Parser)]
struct Options {
    /// Which losses to train with.
    #[arg(long, value_enum, default_value = "all")]
    loss: LossChoice,
    /// Inverse temperature, for every loss [default: chosen for each loss by --tune].
    #[arg(long)]
    scale: Option<f32>,
    /// Images in a batch.
    #[arg(long, default_value = "256", value_parser = at_least::<4>)]
    batch_size: usize,
    /// Passes over the training images [default: 60 for the digits, 3 for a folder].
    #[arg(long, value_parser = at_least::<1>)]
    epochs: Option<usize>,
    /// How many seeds to average over.
    #[arg(long, default_value = "3", value_parser = at_least::<1>)]
    seeds: usize,
    /// The first seed; the others follow it.
    #[arg(long, default_value = "0")]
    seed: u64,
    /// Adam's learning rate at the start.
    #[arg(long, default_value = "0.005")]
    rate: f32,
    /// A folder of Fashion-MNIST's IDX files, gzip'd or not, instead of the digits.
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// Where the losses are computed; auto takes CUDA if it can be had.
    #[arg(long, value_enum, default_value = "auto")]
    engine: EngineChoice,
    /// Where to put the picture (SVG).
    #[arg(long, value_name = "PATH", default_value = "target/train.svg")]
    picture: PathBuf,
    /// Count the K hardest negatives of a batch alone, after a warm-up: cross-example negative
    /// mining.
    #[arg(long, value_name = "K", value_parser = at_least::<1>, group = "mining")]
    mine: Option<usize>,
    /// The same, K being this part of all pairs of the batch.
    #[arg(long, value_name = "PART", value_parser = part, group = "mining")]
    mine_fraction: Option<f64>,
    /// Count the k hardest negatives of each row alone, after a warm-up: stochastic negative
    /// mining.
    #[arg(long, value_name = "K", value_parser = at_least::<1>, group = "mining")]
    mine_per_row: Option<usize>,
    /// Epochs before mining begins, with all negatives. Mining from the first step can collapse
    /// training: towers that know nothing yet can only flee the hardest negatives by mapping all
    /// images to one place [default: a third of the epochs].
    #[arg(long, value_name = "EPOCHS", requires = "mining")]
    warm_up: Option<usize>,
    /// Instead of testing: compare scales, on images held back from training (a fifth of them;
    /// the upper half of the classes for ice).
    #[arg(long)]
    tune: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LossChoice {
    All,
    Softmax,
    CrossExample,
    Ice,
}

#[derive(Clone, Copy, ValueEnum)]
enum EngineChoice {
    Auto,
    Cpu,
    Cuda,
}

fn at_least<const LEAST: usize>(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(value) if value >= LEAST => Ok(value),
        _ => Err(format!("expected a whole number of at least {LEAST}")),
    }
}

fn part(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(value) if value > 0.0 && value <= 1.0 => Ok(value),
        _ => Err("expected a part above 0, 1 at most".into()),
    }
}

impl Options {
    fn mine(&self) -> Mine {
        match (self.mine, self.mine_fraction, self.mine_per_row) {
            (Some(k), ..) => Mine::Hardest(k),
            (_, Some(part), _) => Mine::Fraction(part),
            (.., Some(k)) => Mine::PerRow(k),
            _ => Mine::All,
        }
    }

    /// How a run is called that mines.
    fn mined(&self) -> String {
        match self.mine() {
            Mine::All => String::new(),
            Mine::Hardest(k) => format!(", {k} hardest"),
            Mine::Fraction(part) => format!(", hardest {}%", 100.0 * part),
            Mine::PerRow(k) => format!(", {k} hardest a row"),
        }
    }
}

/// The scales that --tune tries for every loss.
const SCALES: [f32; 7] = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0];

/// What to train on and what to test on.
enum Task {
    Halves { train: Images, test: Images },
    Classes(Classes),
}

impl Task {
    /// The same task within the training images.
    fn held_back(self, random: &mut Rng) -> Self {
        match self {
            Self::Halves { train, .. } => {
                let (train, test) = train.split(0.8, random);
                Self::Halves { train, test }
            }
            Self::Classes(classes) => Self::Classes(classes.held_back(random)),
        }
    }
}

/// One way to train.
#[derive(Clone, Copy)]
enum Method {
    Softmax,
    CrossExample,
    Ice(Weighting),
}

impl Method {
    fn name(self) -> &'static str {
        match self {
            Self::Softmax => "softmax",
            Self::CrossExample => "cross-example softmax",
            Self::Ice(Weighting::Analytic) => "instance cross entropy, analytic",
            Self::Ice(Weighting::AnchorNormalized) => "instance cross entropy, anchor-normalised",
        }
    }

    /// What `--tune` found best for the digits: the highest average precision on held-back images,
    /// for each loss on its own, over the same grid, epochs and seeds. The test images had no say.
    fn tuned_scale(self) -> f32 {
        match self {
            Self::Softmax => 10.0,
            Self::CrossExample => 10.0,
            Self::Ice(Weighting::Analytic) => 100.0,
            Self::Ice(Weighting::AnchorNormalized) => 20.0,
        }
    }

    fn task(self, data: &Data, random: &mut Rng) -> Task {
        match self {
            Self::Softmax | Self::CrossExample => {
                let (train, test) = data.split(random);
                Task::Halves { train, test }
            }
            Self::Ice(_) => Task::Classes(data.split_classes(random)),
        }
    }

    /// Trains and tests once.
    fn run(
        self,
        engine: &mut AnyEngine,
        scale: f32,
        task: &Task,
        settings: Settings,
        bar: &ProgressBar,
    ) -> metric_kernels::Result<Outcome> {
        match self {
            Self::Softmax => {
                train_on(task, engine, &InBatchSoftmax::new(scale).normalize(), settings, bar)
            }
            Self::CrossExample => {
                train_on(task, engine, &CrossExampleSoftmax::new(scale).normalize(), settings, bar)
            }
            Self::Ice(weighting) => {
                let loss = InstanceCrossEntropy::new(scale).normalize().weighting(weighting);
                train_on(task, engine, &loss, settings, bar)
            }
        }
    }
}

fn train_on(
    task: &Task,
    engine: &mut AnyEngine,
    loss: &impl Loss,
    settings: Settings,
    bar: &ProgressBar,
) -> metric_kernels::Result<Outcome> {
    match task {
        Task::Halves { train, test } => {
            experiment::match_halves(engine, loss, (train, test), settings, bar)
        }
        Task::Classes(classes) => experiment::group_classes(engine, loss, classes, settings, bar),
    }
}

fn main() -> ExitCode {
    match train(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn train(options: &Options) -> Result<(), Box<dyn Error>> {
    let data = match &options.data {
        Some(folder) => Data::folder(folder)?,
        None => Data::digits()?,
    };
    let mut trainer = Trainer {
        options,
        engine: open(options.engine)?,
        epochs: options.epochs.unwrap_or(if options.data.is_some() { 3 } else { 60 }),
    };
    println!(
        "engine {}, {} epochs, batches of {}, {} seeds",
        trainer.engine.name(),
        trainer.epochs,
        options.batch_size,
        options.seeds
    );

    let wanted = |loss| options.loss == LossChoice::All || options.loss == loss;
    let mut halves = Vec::new();
    for (loss, method) in
        [(LossChoice::Softmax, Method::Softmax), (LossChoice::CrossExample, Method::CrossExample)]
    {
        if wanted(loss) {
            halves.extend(trainer.runs(method, &data)?);
        }
    }
    let mut classes = Vec::new();
    if wanted(LossChoice::Ice) {
        for weighting in [Weighting::Analytic, Weighting::AnchorNormalized] {
            classes.extend(trainer.runs(Method::Ice(weighting), &data)?);
        }
        if !options.tune {
            classes.push(Runs {
                name: "none: cosine of the pixels".into(),
                scale: None,
                outcomes: trainer
                    .seeds()
                    .map(|seed| data.split_classes(&mut Rng::with_seed(seed)))
                    .map(|classes| experiment::untrained_classes(&classes))
                    .collect::<Result<_, _>>()?,
            });
        }
    }

    println!();
    let seeds = options.seeds;
    if !halves.is_empty() {
        let title = format!("Left half finds right half (mean ± deviation of {seeds} seeds)");
        println!("{}", report::table(&title, &halves));
    }
    if !classes.is_empty() {
        let title = format!("Unseen classes find their own (mean ± deviation of {seeds} seeds)");
        println!("{}", report::table(&title, &classes));
    }
    if !halves.is_empty() && !options.tune {
        report::picture(&options.picture, &halves)
            .map_err(|error| format!("{}: {error}", options.picture.display()))?;
        println!("picture: {}", options.picture.display());
    }
    Ok(())
}

fn open(choice: EngineChoice) -> metric_kernels::Result<AnyEngine> {
    match choice {
        EngineChoice::Cpu => AnyEngine::open(Choice::Cpu),
        EngineChoice::Cuda => AnyEngine::open(Choice::Cuda),
        EngineChoice::Auto => {
            AnyEngine::open(Choice::Cuda).or_else(|_| AnyEngine::open(Choice::Cpu))
        }
    }
}

struct Trainer<'a> {
    options: &'a Options,
    engine: AnyEngine,
    epochs: usize,
}

impl Trainer<'_> {
    fn seeds(&self) -> impl Iterator<Item = u64> + use<> {
        (0..self.options.seeds as u64).map({
            let first = self.options.seed;
            move |number| first.wrapping_add(number)
        })
    }

    /// All seeds of a method; with `--tune`, for every scale of the grid.
    fn runs(&mut self, method: Method, data: &Data) -> Result<Vec<Runs>, Box<dyn Error>> {
        let own = [self.options.scale.unwrap_or(method.tuned_scale())];
        let scales: &[f32] =
            if self.options.tune && self.options.scale.is_none() { &SCALES } else { &own };
        let mut all = Vec::new();
        for &scale in scales {
            let name = format!("{}{}", method.name(), self.options.mined());
            let mut runs = Runs { name, scale: Some(scale), outcomes: Vec::new() };
            for seed in self.seeds() {
                // The same seed gives every loss the same split, start and batches.
                let mut random = Rng::with_seed(seed);
                let mut task = method.task(data, &mut random);
                if self.options.tune {
                    task = task.held_back(&mut random);
                }
                let settings = Settings {
                    epochs: self.epochs,
                    batch_size: self.options.batch_size,
                    rate: self.options.rate,
                    seed,
                    mine: self.options.mine(),
                    warm_up: self.options.warm_up.unwrap_or(self.epochs.div_ceil(3)),
                };
                let bar = ProgressBar::no_length().with_style(ProgressStyle::with_template(
                    "{prefix} {wide_bar} {pos}/{len} steps, {msg}, {eta} left",
                )?);
                bar.set_prefix(format!("{}, scale {scale}, seed {seed}", runs.name));
                let outcome = method.run(&mut self.engine, scale, &task, settings, &bar)?;
                bar.finish_and_clear();
                println!(
                    "{}: Recall@1 {:.4}, AP {:.4}",
                    bar.prefix(),
                    outcome.recall[0],
                    outcome.average_precision
                );
                runs.outcomes.push(outcome);
            }
            all.push(runs);
        }
        Ok(all)
    }
}
