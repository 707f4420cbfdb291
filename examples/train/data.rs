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

    /// The chosen images, one a row.
    pub fn rows(&self, chosen: &[usize]) -> Vec<f32> {
        chosen.iter().flat_map(|&i| self.image(i).iter().copied()).collect()
    }

    /// One half of the chosen images, one a row.
    pub fn halves(&self, half: Half, chosen: &[usize]) -> Vec<f32> {
        let lines = chosen.iter().flat_map(|&i| self.image(i).chunks(self.width));
        lines.flat_map(|line| line[self.columns(half)].iter().copied()).collect()
    }

    /// Labels of the chosen images.
    pub fn labels(&self, chosen: &[usize]) -> Vec<u32> {
        chosen.iter().map(|&i| self.labels[i]).collect()
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

    /// The lower half of the classes here, the upper half there.
    pub fn split_classes(&self, upper: &Self) -> (Self, Self) {
        let classes = self.labels.iter().max().map_or(0, |&last| last + 1);
        let half = classes.div_ceil(2);
        (self.of_classes(|class| class < half), upper.of_classes(|class| class >= half))
    }

    fn subset(&self, chosen: &[usize]) -> Self {
        Self { pixels: self.rows(chosen), labels: self.labels(chosen), ..*self }
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

    /// Images of the lower half of the classes to train on, of the upper half to test on.
    pub fn split_classes(&self) -> (Images, Images) {
        match self {
            Self::Digits(images) => images.split_classes(images),
            Self::Idx { train, test } => train.split_classes(test),
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
