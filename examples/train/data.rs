//! The images: handwritten digits that ship with the example, or a folder of Fashion-MNIST.

use std::error::Error;
use std::fs;
use std::io::Read;
use std::path::Path;

use fastrand::Rng;
use flate2::read::GzDecoder;

/// Images and the class each one shows.
pub struct Images {
    /// Side by side, each height × width, 0 to 1.
    pixels: Vec<f32>,
    width: usize,
    /// Pixels of one image.
    size: usize,
    pub labels: Vec<u32>,
}

/// A half of an image.
#[derive(Clone, Copy)]
pub enum Half {
    Left,
    Right,
}

impl Images {
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Pixels of one image.
    pub fn size(&self) -> usize {
        self.size
    }

    /// How many pixels a half has.
    pub fn half_size(&self, half: Half) -> usize {
        self.size / self.width * self.columns(half).len()
    }

    /// All images, one a row.
    pub fn rows(&self) -> Vec<f32> {
        self.pixels.clone()
    }

    /// One half of all images, one a row.
    pub fn halves(&self, half: Half) -> Vec<f32> {
        let lines = self.pixels.chunks(self.width);
        lines.flat_map(|line| line[self.columns(half)].iter().copied()).collect()
    }

    /// The chosen images.
    pub fn subset(&self, chosen: &[usize]) -> Self {
        Self {
            pixels: chosen.iter().flat_map(|&i| self.image(i).iter().copied()).collect(),
            labels: chosen.iter().map(|&i| self.labels[i]).collect(),
            ..*self
        }
    }

    /// The chosen images, each moved by a random pixel up or down and left or right: small sets
    /// of images are learned by heart otherwise.
    pub fn shifted(&self, chosen: &[usize], random: &mut Rng) -> Self {
        let mut shifted = self.subset(chosen);
        let (height, width) = ((self.size / self.width) as isize, self.width as isize);
        for (to, &i) in shifted.pixels.chunks_mut(self.size).zip(chosen) {
            let from = self.image(i);
            let (down, right) = (random.isize(-1..=1), random.isize(-1..=1));
            for (place, pixel) in to.iter_mut().enumerate() {
                let row = place as isize / width - down;
                let column = place as isize % width - right;
                let inside = (0..height).contains(&row) && (0..width).contains(&column);
                *pixel = if inside { from[(row * width + column) as usize] } else { 0.0 };
            }
        }
        shifted
    }

    /// Those images whose class is `wanted`.
    pub fn of_classes(&self, wanted: impl Fn(u32) -> bool) -> Self {
        let chosen: Vec<usize> = (0..self.len()).filter(|&i| wanted(self.labels[i])).collect();
        self.subset(&chosen)
    }

    /// A random share of the images, and the others.
    pub fn split(&self, share: f64, random: &mut Rng) -> (Self, Self) {
        let mut order: Vec<usize> = (0..self.len()).collect();
        random.shuffle(&mut order);
        let (first, second) = order.split_at((share * self.len() as f64).round() as usize);
        (self.subset(first), self.subset(second))
    }

    /// How many of the classes are for training in an experiment on unseen ones: half.
    fn known_classes(&self) -> u32 {
        self.labels.iter().max().map_or(0, |&last| last + 1).div_ceil(2)
    }

    fn image(&self, i: usize) -> &[f32] {
        &self.pixels[i * self.size..][..self.size]
    }

    fn columns(&self, half: Half) -> std::ops::Range<usize> {
        match half {
            Half::Left => 0..self.width / 2,
            Half::Right => self.width / 2..self.width,
        }
    }
}

/// Where images come from.
pub enum Data {
    /// 1,797 digits of 8×8 pixels; split anew for every seed.
    Digits(Images),
    /// Fashion-MNIST's own split: 60,000 and 10,000 images of 28×28.
    Idx { train: Images, test: Images },
}

impl Data {
    /// The embedded digits. examples/data/README.md tells where they come from.
    pub fn digits() -> Result<Self, Box<dyn Error>> {
        let mut text = String::new();
        let packed: &[u8] = include_bytes!("../data/digits.csv.gz");
        GzDecoder::new(packed).read_to_string(&mut text)?;
        let mut images = Images { pixels: Vec::new(), width: 8, size: 64, labels: Vec::new() };
        for line in text.lines() {
            let (pixels, label) = line.rsplit_once(',').ok_or("digits: a line without commas")?;
            for pixel in pixels.split(',') {
                images.pixels.push(pixel.parse::<f32>()? / 16.0);
            }
            images.labels.push(label.parse()?);
        }
        Ok(Self::Digits(images))
    }

    /// The four IDX files of a folder.
    pub fn folder(folder: &Path) -> Result<Self, Box<dyn Error>> {
        let train = idx_images(folder, "train")?;
        let test = idx_images(folder, "t10k")?;
        if (train.width, train.size) != (test.width, test.size) {
            return Err("the training images and the test images differ in size".into());
        }
        Ok(Self::Idx { train, test })
    }

    /// Images to train on and images to test on.
    pub fn split(&self, random: &mut Rng) -> (Images, Images) {
        let all = |_| true;
        match self {
            Self::Digits(images) => images.split(2.0 / 3.0, random),
            Self::Idx { train, test } => (train.of_classes(all), test.of_classes(all)),
        }
    }

    /// Images for an experiment on unseen classes.
    pub fn split_classes(&self, random: &mut Rng) -> Classes {
        let (train, test) = self.split(random);
        let half = train.known_classes();
        let unseen = match self {
            // Nothing of these classes was trained on: all of them serve.
            Self::Digits(images) => images,
            Self::Idx { .. } => &test,
        };
        Classes {
            train: train.of_classes(|class| class < half),
            known: test.of_classes(|class| class < half),
            unseen: unseen.of_classes(|class| class >= half),
        }
    }
}

/// Images for an experiment on unseen classes.
pub struct Classes {
    /// Of the lower half of the classes, to train on.
    pub train: Images,
    /// Others of the same classes.
    pub known: Images,
    /// Of the upper half of the classes.
    pub unseen: Images,
}

impl Classes {
    /// The same experiment within the training images, to choose options by.
    pub fn held_back(self, random: &mut Rng) -> Self {
        let half = self.train.known_classes();
        let (train, known) = self.train.split(0.8, random);
        Self {
            train: train.of_classes(|class| class < half),
            known: known.of_classes(|class| class < half),
            unseen: self.train.of_classes(|class| class >= half),
        }
    }
}

/// `{part}-images-idx3-ubyte` and `{part}-labels-idx1-ubyte`.
fn idx_images(folder: &Path, part: &str) -> Result<Images, Box<dyn Error>> {
    let (shape, bytes) = idx(folder, &format!("{part}-images-idx3-ubyte"))?;
    let (label_shape, labels) = idx(folder, &format!("{part}-labels-idx1-ubyte"))?;
    let (&[count, height, width], &[label_count]) = (&shape[..], &label_shape[..]) else {
        return Err(format!("{part}: expected images of rank 3 and labels of rank 1").into());
    };
    if count != label_count || count == 0 || height == 0 || width < 2 {
        return Err(format!(
            "{part}: got {count} images of {height}×{width} and {label_count} labels"
        )
        .into());
    }
    Ok(Images {
        pixels: bytes.into_iter().map(|byte| f32::from(byte) / 255.0).collect(),
        width,
        size: height * width,
        labels: labels.into_iter().map(u32::from).collect(),
    })
}

/// Shape and content of an IDX file of bytes, gzip'd (`.gz`) or not: two zero bytes, the type (8 =
/// unsigned byte), the rank, then each dimension as a big-endian 32-bit number.
fn idx(folder: &Path, name: &str) -> Result<(Vec<usize>, Vec<u8>), Box<dyn Error>> {
    let plain = folder.join(name);
    let bytes = if plain.exists() {
        fs::read(&plain).map_err(|error| format!("{}: {error}", plain.display()))?
    } else {
        let packed = folder.join(format!("{name}.gz"));
        let mut bytes = Vec::new();
        fs::File::open(&packed)
            .and_then(|file| GzDecoder::new(file).read_to_end(&mut bytes))
            .map_err(|error| format!("{}: {error}", packed.display()))?;
        bytes
    };
    let parse = || {
        let (&[0, 0, 8, rank], rest) = bytes.split_first_chunk()? else { return None };
        let (header, content) = rest.split_at_checked(4 * usize::from(rank))?;
        let dimension =
            |bytes: &[u8]| bytes.iter().fold(0, |number, &byte| number << 8 | usize::from(byte));
        let shape: Vec<usize> = header.chunks(4).map(dimension).collect();
        let length = shape.iter().try_fold(1, |product: usize, &side| product.checked_mul(side));
        (length == Some(content.len())).then(|| (shape, content.to_vec()))
    };
    parse().ok_or_else(|| format!("{name}: not an IDX file of bytes, or cut short").into())
}
