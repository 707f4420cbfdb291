//! The two experiments: train a tower or two with a loss, then test what they learned.

use std::time::{Duration, Instant};

use fastrand::Rng;
use indicatif::ProgressBar;
use metric_kernels::metrics::{Evaluation, Histogram, PrecisionRecall};
use metric_kernels::{Batch, Family, Host, Loss, Matrix, Mining, Result};

use crate::data::{Classes, Half, Images};
use crate::engine::{AnyEngine, Input};
use crate::tower::Tower;

/// Widths of the hidden layer and of the embedding.
const WIDTHS: [usize; 2] = [256, EMBEDDING];
const EMBEDDING: usize = 64;

/// What stays the same whatever the loss.
#[derive(Clone, Copy)]
pub struct Settings {
    pub epochs: usize,
    pub batch_size: usize,
    /// Adam's step at the start; it falls to nothing along a half cosine.
    pub rate: f32,
    pub seed: u64,
    /// Which negatives count after the warm-up, and how many epochs that takes.
    pub mine: Mine,
    pub warm_up: usize,
}

/// Which negatives count.
#[derive(Clone, Copy, PartialEq)]
pub enum Mine {
    All,
    /// The hardest of the batch.
    Hardest(usize),
    /// The hardest of the batch, as a part of all pairs.
    Fraction(f64),
    /// The hardest of each row.
    PerRow(usize),
}

impl Settings {
    /// The loss in this epoch, on batches of so many pairs.
    fn loss(&self, loss: &impl Loss, epoch: usize, pairs: usize) -> Family {
        let mining = match self.mine {
            _ if epoch < self.warm_up => Mining::All,
            Mine::All => Mining::All,
            Mine::Hardest(k) => Mining::Hardest(k),
            Mine::Fraction(part) => Mining::Hardest(((part * pairs as f64) as usize).max(1)),
            Mine::PerRow(k) => Mining::HardestPerRow(k),
        };
        Family { mining, ..*loss.family() }
    }
}

/// What a test found.
pub struct Outcome {
    /// At k = 1 and k = 5.
    pub recall: [f64; 2],
    pub average_precision: f64,
    pub curve: PrecisionRecall,
    pub histogram: Histogram,
    /// Recall@1 and average precision for new images of the classes trained on, in the experiment
    /// on unseen classes.
    pub known: Option<[f64; 2]>,
    /// Per training step, towers included.
    pub seconds_per_step: f64,
}

/// Trains one tower for left halves and one for right halves to meet where the halves are of one
/// image. Tested by left halves looking for their right halves among all.
pub fn match_halves(
    engine: &mut AnyEngine,
    loss: &impl Loss,
    (train, test): (&Images, &Images),
    settings: Settings,
    bar: &ProgressBar,
) -> Result<Outcome> {
    let mut random = Rng::with_seed(settings.seed);
    let mut tower =
        |half| Tower::new(&train.halves(half), train.half_size(half), &WIDTHS, &mut random);
    let (mut left, mut right) = (tower(Half::Left), tower(Half::Right));

    let mut order: Vec<usize> = (0..train.len()).collect();
    let batch_size = settings.batch_size.min(order.len());
    let mut clock = Clock::new(settings, order.len() / batch_size, bar);
    for epoch in 0..settings.epochs {
        let loss = settings.loss(loss, epoch, batch_size * batch_size);
        random.shuffle(&mut order);
        for chosen in order.chunks_exact(batch_size) {
            let images = train.subset(chosen);
            let x = left.forward(images.halves(Half::Left))?;
            let y = right.forward(images.halves(Half::Right))?;
            let input = Input {
                x: &x[..],
                y: Some(&y[..]),
                shape: [chosen.len(), chosen.len(), EMBEDDING],
                labels: None,
                ids: None,
            };
            let step = engine.step(&loss, &input)?;
            left.backward(step.x_gradient, clock.rate())?;
            right.backward(step.y_gradient.unwrap_or_default(), clock.rate())?;
            clock.tick(step.loss);
        }
    }

    let x = left.forward(test.halves(Half::Left))?;
    let y = right.forward(test.halves(Half::Right))?;
    let x = Matrix::new(&x, test.len(), EMBEDDING)?;
    let y = Matrix::new(&y, test.len(), EMBEDDING)?;
    evaluate(Batch::new(x, y), clock.seconds_per_step())
}

/// Trains one tower on whole images to bring those of one class together. Tested on classes it
/// has never seen: every image looks for others of its class.
pub fn group_classes(
    engine: &mut AnyEngine,
    loss: &impl Loss,
    images: &Classes,
    settings: Settings,
    bar: &ProgressBar,
) -> Result<Outcome> {
    let mut random = Rng::with_seed(settings.seed);
    let train = &images.train;
    let mut tower = Tower::new(&train.rows(), train.size(), &WIDTHS, &mut random);

    let mut classes = by_class(train);
    let each = (settings.batch_size / classes.len()).max(2);
    let each = classes.iter().map(Vec::len).min().unwrap_or(0).min(each);
    let steps = classes.iter().map(Vec::len).min().unwrap_or(0) / each.max(1);
    let mut clock = Clock::new(settings, steps, bar);
    for epoch in 0..settings.epochs {
        let count = each * classes.len();
        let loss = settings.loss(loss, epoch, count * count);
        classes.iter_mut().for_each(|members| random.shuffle(members));
        for step in 0..steps {
            // As many images of every class: C classes × K images.
            let members = classes.iter().flat_map(|members| &members[step * each..][..each]);
            let chosen: Vec<usize> = members.copied().collect();
            let images = train.shifted(&chosen, &mut random);
            let x = tower.forward(images.rows())?;
            let input = Input {
                x: &x[..],
                y: None,
                shape: [chosen.len(), chosen.len(), EMBEDDING],
                labels: Some([&images.labels[..]; 2]),
                ids: None,
            };
            let step = engine.step(&loss, &input)?;
            tower.backward(step.x_gradient, clock.rate())?;
            clock.tick(step.loss);
        }
    }

    test_classes(images, |images| tower.forward(images.rows()), clock.seconds_per_step())
}

/// What the pixels themselves would find, for comparison.
pub fn untrained_classes(images: &Classes) -> Result<Outcome> {
    test_classes(images, |images| Ok(images.rows()), 0.0)
}

fn test_classes(
    images: &Classes,
    mut embed: impl FnMut(&Images) -> Result<Vec<f32>>,
    seconds_per_step: f64,
) -> Result<Outcome> {
    let mut test = |images: &Images| {
        let embeddings = embed(images)?;
        let rows = Matrix::new(&embeddings, images.len(), embeddings.len() / images.len())?;
        evaluate(Batch::shared(rows).labels(&images.labels, &images.labels), seconds_per_step)
    };
    let known = test(&images.known)?;
    let unseen = test(&images.unseen)?;
    Ok(Outcome { known: Some([known.recall[0], known.average_precision]), ..unseen })
}

fn evaluate(batch: Batch<'_, Host, f32>, seconds_per_step: f64) -> Result<Outcome> {
    let test = Evaluation::cosine(batch)?;
    let recall = test.recall_at_k(&[1, 5])?;
    let curve = test.precision_recall()?;
    Ok(Outcome {
        recall: [recall[0], recall[1]],
        average_precision: curve.average_precision(),
        curve,
        histogram: test.histogram(-1.0..=1.0, 80)?,
        known: None,
        seconds_per_step,
    })
}

/// The images of each class.
fn by_class(images: &Images) -> Vec<Vec<usize>> {
    let count = images.labels.iter().max().map_or(0, |&last| last as usize + 1);
    let mut classes = vec![Vec::new(); count];
    for (i, &label) in images.labels.iter().enumerate() {
        classes[label as usize].push(i);
    }
    classes.retain(|members| !members.is_empty());
    classes
}

/// Counts steps: for the learning rate, the progress bar and the time taken.
struct Clock<'a> {
    settings: Settings,
    steps: usize,
    done: usize,
    started: Instant,
    taken: Duration,
    bar: &'a ProgressBar,
}

impl<'a> Clock<'a> {
    fn new(settings: Settings, steps_per_epoch: usize, bar: &'a ProgressBar) -> Self {
        let steps = settings.epochs * steps_per_epoch;
        bar.set_length(steps as u64);
        Self { settings, steps, done: 0, started: Instant::now(), taken: Duration::ZERO, bar }
    }

    fn rate(&self) -> f32 {
        let progress = self.done as f32 / self.steps as f32;
        self.settings.rate * 0.5 * (1.0 + (std::f32::consts::PI * progress).cos())
    }

    fn tick(&mut self, loss: f32) {
        self.done += 1;
        self.taken = self.started.elapsed();
        self.bar.inc(1);
        self.bar.set_message(format!("loss {loss:.3}"));
    }

    fn seconds_per_step(&self) -> f64 {
        self.taken.as_secs_f64() / self.done.max(1) as f64
    }
}
