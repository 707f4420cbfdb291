//! The example `from_npy`, end to end: files in, one line of JSON and gradients out. Values are
//! compared with the formulas written out in f64 below; every refusal is exit code 2 and one line.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use half::{bf16, f16};
use npyz::WriterBuilder;

/// The example's executable. Cargo tells tests of binaries, not of examples: it is built here, next
/// to this test, and only looked up where cargo did not start the test.
fn executable() -> &'static Path {
    static EXECUTABLE: OnceLock<PathBuf> = OnceLock::new();
    EXECUTABLE.get_or_init(|| {
        let test = std::env::current_exe().unwrap();
        let name = format!("from_npy{}", std::env::consts::EXE_SUFFIX);
        let folder = test.parent().unwrap();
        let profile = folder.parent().unwrap();
        if let (Some(cargo), Some(target)) = (std::env::var_os("CARGO"), profile.parent()) {
            let profile_name = match profile.file_name().and_then(|name| name.to_str()) {
                Some("debug") | None => "dev",
                Some(name) => name,
            };
            let built = Command::new(cargo)
                .current_dir(env!("CARGO_MANIFEST_DIR"))
                .args(["build", "--quiet", "--example", "from_npy", "--profile", profile_name])
                .arg("--target-dir")
                .arg(target)
                .status();
            assert!(built.unwrap().success(), "the example does not build");
        }
        let places = [profile.join("examples").join(&name), folder.join(&name)];
        places.into_iter().find(|path| path.exists()).unwrap_or_else(|| {
            panic!("no {name} near {}: cargo build --example from_npy", test.display())
        })
    })
}

/// A folder of files that is removed afterwards.
struct Files(PathBuf);

impl Files {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("metric-kernels-from-npy-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn write<T: npyz::AutoSerialize + Clone>(&self, name: &str, shape: &[u64], values: &[T]) {
        self.write_as(name, shape, values, npyz::Order::C, T::default_dtype());
    }

    fn write_as<T: npyz::Serialize + Clone>(
        &self,
        name: &str,
        shape: &[u64],
        values: &[T],
        order: npyz::Order,
        dtype: npyz::DType,
    ) {
        let file = std::fs::File::create(self.path(name)).unwrap();
        let mut writer = npyz::WriteOptions::new()
            .dtype(dtype)
            .shape(shape)
            .order(order)
            .writer(file)
            .begin_nd()
            .unwrap();
        writer.extend(values.iter().cloned()).unwrap();
        writer.finish().unwrap();
    }

    fn read(&self, name: &str) -> (Vec<u64>, Vec<f32>) {
        let bytes = std::fs::read(self.path(name)).unwrap();
        let npy = npyz::NpyFile::new(&bytes[..]).unwrap();
        assert_eq!(npy.order(), npyz::Order::C);
        (npy.shape().to_vec(), npy.into_vec::<f32>().unwrap())
    }

    /// Runs the example in this folder; `arguments` are separated by blanks.
    fn run(&self, arguments: &str) -> Output {
        Command::new(executable())
            .current_dir(&self.0)
            .args(arguments.split_whitespace())
            .output()
            .unwrap()
    }

    /// (loss, dscale) as text.
    fn answer(&self, arguments: &str) -> [String; 2] {
        let output = self.run(arguments);
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{arguments}: {errors}");
        assert_eq!(errors, "");
        let line = String::from_utf8(output.stdout).unwrap();
        let rest = line.strip_prefix(r#"{"loss": "#).unwrap();
        let (loss, rest) = rest.split_once(r#", "dscale": "#).unwrap();
        let (scale, rest) = rest.split_once(r#", "engine": "#).unwrap();
        assert_eq!(rest, "\"cpu\"}\n");
        [loss.into(), scale.into()]
    }

    fn numbers(&self, arguments: &str) -> [f32; 2] {
        self.answer(arguments).map(|text| text.parse().unwrap())
    }

    fn refused(&self, arguments: &str, words: &[&str]) {
        let output = self.run(arguments);
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments}: {errors}");
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "", "{arguments}");
        assert!(errors.starts_with("error: ") && errors.ends_with('\n'), "{errors}");
        assert_eq!(errors.lines().count(), 1, "{arguments}: {errors}");
        for word in words {
            assert!(errors.contains(word), "{arguments}: no {word:?} in {errors}");
        }
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A pair: positive, negative, or neither.
type Kind = Option<bool>;

/// The family in f64, written out: loss, gradient with respect to S, gradient with respect to s.
fn family(
    similarities: &[Vec<f64>],
    kind: impl Fn(usize, usize) -> Kind,
    scale: f64,
    whole_matrix: bool,
) -> (f64, Vec<Vec<f64>>, f64) {
    let (n, m) = (similarities.len(), similarities[0].len());
    let all = || (0..n).flat_map(|i| (0..m).map(move |j| (i, j)));
    let same_group = |i: usize, a: usize| whole_matrix || i == a;
    let positives: Vec<_> = all().filter(|&(i, j)| kind(i, j) == Some(true)).collect();
    let mut loss = 0.0;
    let mut gradient = vec![vec![0.0; m]; n];
    for &(i, j) in &positives {
        let negatives = || all().filter(|&(a, b)| same_group(i, a) && kind(a, b) == Some(false));
        let sum: f64 = negatives().map(|(a, b)| (scale * similarities[a][b]).exp()).sum();
        let own = (scale * similarities[i][j]).exp();
        let count = positives.len() as f64;
        loss -= (own / (own + sum)).ln() / count;
        gradient[i][j] -= scale / count * sum / (own + sum);
        for (a, b) in negatives() {
            gradient[a][b] += scale / count * (scale * similarities[a][b]).exp() / (own + sum);
        }
    }
    let dscale = all().map(|(i, j)| similarities[i][j] * gradient[i][j]).sum::<f64>() / scale;
    (loss, gradient, dscale)
}

fn dots(x: &[f32], y: &[f32], d: usize) -> Vec<Vec<f64>> {
    let dot =
        |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
    x.chunks(d).map(|a| y.chunks(d).map(|b| dot(a, b)).collect()).collect()
}

/// G·Y.
fn times(gradient: &[Vec<f64>], y: &[f32], d: usize) -> Vec<f64> {
    let entry = |row: &Vec<f64>, c: usize| {
        row.iter().zip(y.chunks(d)).map(|(g, y)| g * f64::from(y[c])).sum()
    };
    gradient.iter().flat_map(|row| (0..d).map(|c| entry(row, c)).collect::<Vec<f64>>()).collect()
}

fn transposed(matrix: &[Vec<f64>]) -> Vec<Vec<f64>> {
    (0..matrix[0].len()).map(|j| matrix.iter().map(|row| row[j]).collect()).collect()
}

#[track_caller]
fn close(given: f32, expected: f64) {
    assert!(
        (f64::from(given) - expected).abs() <= 2e-5 * expected.abs().max(0.05),
        "got {given}, expected {expected}"
    );
}

#[track_caller]
fn all_close(given: &[f32], expected: &[f64]) {
    assert_eq!(given.len(), expected.len());
    given.iter().zip(expected).for_each(|(&given, &expected)| close(given, expected));
}

const X: [f32; 6] = [0.5, -0.25, 1.0, 0.75, -0.5, 0.125];
const Y: [f32; 8] = [0.25, 0.5, 1.0, -0.75, -1.0, 0.5, 0.375, 0.25];

fn three_and_four() -> Files {
    let files = Files::new();
    files.write("x.npy", &[3, 2], &X);
    files.write("y.npy", &[4, 2], &Y);
    files
}

#[test]
fn softmax_and_cross_example_with_their_gradients() {
    let files = three_and_four();
    let s = dots(&X, &Y, 2);
    for (name, whole) in [("softmax", false), ("cross-example", true)] {
        let (loss, gradient, dscale) = family(&s, |i, j| Some(i == j), 3.0, whole);
        let given = files.numbers(&format!(
            "--loss {name} --x x.npy --y y.npy --scale 3 --grad-x dx.npy --grad-y dy.npy"
        ));
        close(given[0], loss);
        close(given[1], dscale);
        let (shape, dx) = files.read("dx.npy");
        assert_eq!(shape, [3, 2]);
        all_close(&dx, &times(&gradient, &Y, 2));
        let (shape, dy) = files.read("dy.npy");
        assert_eq!(shape, [4, 2]);
        all_close(&dy, &times(&transposed(&gradient), &X, 2));

        let sum = files.numbers(&format!(
            "--loss {name} --x x.npy --y y.npy --scale 3 --reduction sum --engine cpu"
        ));
        close(sum[0], 3.0 * loss);
        close(sum[1], 3.0 * dscale);
    }
}

/// The hardest of the matrix and of each row, by sorting; pairs that are not mined are neither
/// positive nor negative.
#[test]
fn the_hardest_negatives_alone() {
    let files = three_and_four();
    let s = dots(&X, &Y, 2);
    for (name, whole) in [("softmax", false), ("cross-example", true)] {
        for (flag, k, per_row) in
            [("--hardest", 1, false), ("--hardest", 4, false), ("--hardest-per-row", 2, true)]
        {
            let mined = |i: usize, j: usize| {
                let harder = |a: usize, b: usize| a != b && s[a][b] > s[i][j];
                let rows = if per_row { i..i + 1 } else { 0..3 };
                let before = rows.flat_map(|a| (0..4).map(move |b| (a, b)));
                before.filter(|&(a, b)| harder(a, b)).count() < k
            };
            let kind = |i: usize, j: usize| match i == j {
                true => Some(true),
                false if mined(i, j) => Some(false),
                false => None,
            };
            let (loss, gradient, dscale) = family(&s, kind, 3.0, whole);
            let given = files.numbers(&format!(
                "--loss {name} --x x.npy --y y.npy --scale 3 {flag} {k} --grad-x dx.npy"
            ));
            close(given[0], loss);
            close(given[1], dscale);
            all_close(&files.read("dx.npy").1, &times(&gradient, &Y, 2));
        }
        let call = format!("--loss {name} --x x.npy --y y.npy --scale 3");
        let all = files.answer(&call);
        assert_eq!(files.answer(&format!("{call} --hardest 12")), all);
        assert_eq!(files.answer(&format!("{call} --hardest-per-row 4")), all);
        assert_ne!(files.answer(&format!("{call} --hardest 2")), all);
    }
}

/// S ≡ 0: every pair is alike, so the loss counts candidates. log 4 for a row of 4, and
/// log(1 + 3·(4 − 1)) for the whole matrix.
#[test]
fn literal_losses() {
    let files = Files::new();
    files.write("x.npy", &[3, 2], &[0.0f32; 6]);
    files.write("y.npy", &[4, 2], &Y);
    close(files.numbers("--loss softmax --x x.npy --y y.npy")[0], 4f64.ln());
    close(files.numbers("--loss cross-example --x x.npy --y y.npy")[0], 10f64.ln());

    // One row, S = (1, 0), s = 2: the loss is ln(1 + e⁻²), dS = ∓2·σ(−2), dscale = −σ(−2).
    files.write("x.npy", &[1, 2], &[1.0f32, 0.0]);
    files.write("y.npy", &[2, 2], &[1.0f32, 0.0, 0.0, 1.0]);
    let given = files.numbers("--loss softmax --x x.npy --y y.npy --scale 2 --grad-x dx.npy");
    close(given[0], 0.126_928_011_042_972_5);
    close(given[1], -0.119_202_922_022_117_6);
    all_close(&files.read("dx.npy").1, &[-0.238_405_844_044_235_2, 0.238_405_844_044_235_2]);
}

/// Of the same matrix and kinds, all positives of an anchor left out of each other's denominator.
#[test]
fn one_labelled_set() {
    let files = Files::new();
    let labels = [-5i64, i64::MAX, -5, i64::MAX];
    let ids = [1u8, 2, 3, 1];
    files.write("x.npy", &[4, 2], &Y);
    files.write("labels.npy", &[4], &labels);
    files.write("ids.npy", &[4], &ids);
    let kind = |i: usize, j: usize| match () {
        () if i == j => None,
        () if labels[i] == labels[j] => Some(true),
        () => Some(false),
    };
    let arguments = "--loss ice --x x.npy --labels labels.npy --scale 2 --grad-x dx.npy";
    let check = |arguments: &str, kind: &dyn Fn(usize, usize) -> Kind| {
        let (loss, gradient, dscale) = family(&dots(&Y, &Y, 2), kind, 2.0, false);
        let given = files.numbers(arguments);
        close(given[0], loss);
        close(given[1], dscale);
        let both = times(&gradient, &Y, 2).into_iter().zip(times(&transposed(&gradient), &Y, 2));
        let expected: Vec<f64> = both.map(|(a, b)| a + b).collect();
        all_close(&files.read("dx.npy").1, &expected);
    };
    check(arguments, &kind);
    check(&format!("{arguments} --ids ids.npy"), &|i, j| {
        kind(i, j).filter(|&positive| positive || ids[i] != ids[j])
    });

    // Anchor-normalised: every anchor's positives weigh 1/2A and its negatives as much.
    let plain = files.numbers(arguments);
    let normalised = files.numbers(&format!("{arguments} --weighting anchor-normalized"));
    assert_eq!(plain[0], normalised[0]);
    let (_, mut gradient, _) = family(&dots(&Y, &Y, 2), kind, 2.0, false);
    for (i, row) in gradient.iter_mut().enumerate() {
        for positive in [true, false] {
            let of_kind = |j: usize| kind(i, j) == Some(positive);
            let sum: f64 = (0..4).filter(|&j| of_kind(j)).map(|j| row[j].abs()).sum();
            (0..4).filter(|&j| of_kind(j)).for_each(|j| row[j] /= sum * 8.0);
        }
    }
    let both = times(&gradient, &Y, 2).into_iter().zip(times(&transposed(&gradient), &Y, 2));
    let expected: Vec<f64> = both.map(|(a, b)| a + b).collect();
    all_close(&files.read("dx.npy").1, &expected);
}

/// Labels of every integer type, the two sides in different ones.
#[test]
fn labels_on_both_sides() {
    let files = three_and_four();
    let (rows, cols) = ([7u64, 0, 3], [3i32, 7, 7, -1]);
    files.write("rows.npy", &[3], &rows);
    files.write("cols.npy", &[4], &cols);
    let kind = |i: usize, j: usize| Some(i128::from(rows[i]) == i128::from(cols[j]));
    let (loss, ..) = family(&dots(&X, &Y, 2), kind, 1.5, true);
    let arguments = "--loss cross-example --x x.npy --y y.npy --labels rows.npy --scale 1.5";
    close(files.numbers(&format!("{arguments} --labels-y cols.npy"))[0], loss);

    macro_rules! as_type {
        ($($type:ty),*) => {$(
            files.write("rows.npy", &[3], &[7 as $type, 0, 3]);
            files.write("cols.npy", &[4], &[3 as $type, 7, 7, 1]);
            close(files.numbers(&format!("{arguments} --labels-y cols.npy"))[0], loss);
        )*};
    }
    as_type!(i8, i16, i64, u8, u16, u32);

    // One file for both sides.
    files.write("y.npy", &[3, 2], &Y[..6]);
    files.write("rows.npy", &[3], &[1u16, 1, 2]);
    let kind = |i: usize, j: usize| Some((i < 2) == (j < 2));
    let (loss, ..) = family(&dots(&X, &Y[..6], 2), kind, 1.5, true);
    close(files.numbers(arguments)[0], loss);

    // Ids likewise: rows 0 and 1 show the same thing, so their crosswise pairs do not count.
    let kind = |i: usize, j: usize| if i < 2 && j < 2 && i != j { None } else { Some(i == j) };
    let (loss, ..) = family(&dots(&X, &Y[..6], 2), kind, 1.0, false);
    let arguments = "--loss softmax --x x.npy --y y.npy --ids rows.npy";
    close(files.numbers(arguments)[0], loss);
    files.write("cols.npy", &[3], &[1i8, 1, 9]);
    close(files.numbers(&format!("{arguments} --ids-y cols.npy"))[0], loss);
}

/// These embeddings are exact in every type, so the answer is one and the same to the bit.
#[test]
fn every_float_type_of_files_and_engine() {
    let files = three_and_four();
    let arguments = "--loss softmax --x x.npy --y y.npy --scale 4";
    let expected = files.answer(arguments);
    for dtype in ["f32", "f16", "bf16"] {
        assert_eq!(files.answer(&format!("{arguments} --dtype {dtype}")), expected);
    }
    files.write("x.npy", &[3, 2], &X.map(f64::from));
    files.write("y.npy", &[4, 2], &Y.map(f16::from_f32));
    assert_eq!(files.answer(arguments), expected);

    // Rounded once, not by way of f32: this double lies just above the middle of two f16.
    let values = [1.0 + 2f64.powi(-11) + 2f64.powi(-40), 0.5];
    files.write("x.npy", &[1, 2], &values);
    let arguments = "--loss softmax --x x.npy --y y.npy --dtype f16";
    let above = files.answer(arguments);
    files.write("x.npy", &[1, 2], &[1.0 + 2f64.powi(-10), 0.5]);
    assert_eq!(files.answer(arguments), above);
    // Other values in bf16.
    files.write("x.npy", &[1, 2], &[0.1f32, 0.7]);
    let rounded = files.answer("--loss softmax --x x.npy --y y.npy --dtype bf16");
    files.write("x.npy", &[1, 2], &[0.1f32, 0.7].map(|value| bf16::from_f32(value).to_f32()));
    assert_eq!(files.answer("--loss softmax --x x.npy --y y.npy"), rounded);
}

#[test]
fn normalised_rows() {
    let files = three_and_four();
    let unit = |rows: &[f32]| -> Vec<f32> {
        let norm = |row: &[f32]| row.iter().map(|value| value * value).sum::<f32>().sqrt();
        rows.chunks(2).flat_map(|row| [row[0] / norm(row), row[1] / norm(row)]).collect()
    };
    let (loss, ..) = family(&dots(&unit(&X), &unit(&Y), 2), |i, j| Some(i == j), 10.0, true);
    let given = files
        .numbers("--loss cross-example --x x.npy --y y.npy --scale 10 --normalize --grad-x dx.npy");
    close(given[0], loss);
    // The length of a row does not matter, so its gradient is orthogonal to it.
    for (row, gradient) in X.chunks(2).zip(files.read("dx.npy").1.chunks(2)) {
        assert!((row[0] * gradient[0] + row[1] * gradient[1]).abs() < 1e-6);
    }
}

#[test]
fn numbers_that_are_not_finite_are_null() {
    let files = three_and_four();
    files.write("x.npy", &[3, 2], &[1.0, f32::NAN, 0.0, 0.0, 0.0, 0.0]);
    let given = files.answer("--loss cross-example --x x.npy --y y.npy");
    assert_eq!(given, ["null", "null"]);
}

#[test]
fn flags_that_do_not_fit() {
    let files = three_and_four();
    files.write("labels.npy", &[3], &[0u8, 1, 0]);
    files.refused("", &["--loss", "--x"]);
    files.refused("--loss softmax", &["--x"]);
    files.refused("--loss triplet --x x.npy", &["triplet", "cross-example"]);
    files.refused("--loss softmax --x x.npy --y y.npy --margin 1", &["--margin"]);
    files.refused("--loss softmax --x x.npy --y y.npy --scale warm", &["warm"]);
    files.refused("--loss softmax --x x.npy --y y.npy --scale 0", &["scale"]);
    files.refused("--loss softmax --x x.npy --y y.npy --scale -1", &["scale", "-1"]);
    files.refused("--loss softmax --x x.npy --y y.npy --scale inf", &["scale"]);
    files.refused("--loss softmax --x x.npy --y y.npy --scale nan", &["scale"]);
    files.refused("--loss softmax --x x.npy --y y.npy --dtype f8", &["f8", "bf16"]);
    files.refused("--loss softmax --x x.npy --y y.npy --engine tpu", &["tpu"]);
    files.refused("--loss softmax --x x.npy --labels labels.npy --grad-y g.npy", &["--y"]);
    files.refused("--loss softmax --x x.npy --y y.npy --labels-y labels.npy", &["--labels"]);
    files.refused("--loss ice --x x.npy --labels labels.npy --labels-y labels.npy", &["--y"]);
    files.refused("--loss softmax --x x.npy --y y.npy --ids-y labels.npy", &["--ids"]);
    files.refused("--loss softmax --x x.npy", &["positives", "labels"]);
    files.refused("--loss softmax --x x.npy --y y.npy --hardest 0", &["k: got 0"]);
    files.refused("--loss softmax --x x.npy --y y.npy --hardest-per-row -1", &["-1"]);
    files.refused(
        "--loss softmax --x x.npy --y y.npy --hardest 2 --hardest-per-row 1",
        &["--hardest", "--hardest-per-row"],
    );
    files.refused(
        "--loss cross-example --x x.npy --y y.npy --weighting anchor-normalized",
        &["weighting"],
    );
    let output = files.run("--help");
    assert!(output.status.success() && output.stderr.is_empty());
}

#[test]
fn files_that_cannot_be_used() {
    let files = three_and_four();
    let x = |words: &[&str]| {
        files.refused(
            "--loss softmax --x bad.npy --y y.npy",
            &[&["--x", "bad.npy"], words].concat(),
        );
    };
    x(&[]);
    std::fs::write(files.path("bad.npy"), "not a matrix at all").unwrap();
    x(&[]);
    std::fs::write(files.path("bad.npy"), "").unwrap();
    x(&[]);
    std::fs::create_dir(files.path("folder.npy")).unwrap();
    files.refused("--loss softmax --x folder.npy --y y.npy", &["folder.npy"]);
    files.write("bad.npy", &[6], &X);
    x(&["[6]", "matrix"]);
    files.write("bad.npy", &[3, 2, 1], &X);
    x(&["matrix"]);
    files.write::<f32>("bad.npy", &[0, 2], &[]);
    x(&["[0, 2]"]);
    files.write::<f32>("bad.npy", &[3, 0], &[]);
    x(&["[3, 0]"]);
    files.write("bad.npy", &[3, 2], &[1i32; 6]);
    x(&["<i4", "float32"]);
    let big = npyz::DType::Plain(">f4".parse().unwrap());
    files.write_as("bad.npy", &[3, 2], &X, npyz::Order::C, big);
    x(&[">f4", "little-endian"]);
    files.write_as(
        "bad.npy",
        &[3, 2],
        &X,
        npyz::Order::Fortran,
        npyz::DType::Plain("<f4".parse().unwrap()),
    );
    x(&["Fortran", "C order"]);
    files.write("bad.npy", &[3, 2], &X);
    let whole = std::fs::read(files.path("bad.npy")).unwrap();
    std::fs::write(files.path("bad.npy"), &whole[..whole.len() - 4]).unwrap();
    x(&["cut short"]);
    // A header that promises more than any machine holds.
    let huge = String::from_utf8_lossy(&whole[..128]).replace("(3, 2)", "(9999999999, 9999999999)");
    std::fs::write(files.path("bad.npy"), huge.as_bytes()).unwrap();
    x(&[]);

    files.refused("--loss softmax --x x.npy --y nowhere.npy", &["--y", "nowhere.npy"]);
    files.write("wide.npy", &[2, 3], &X);
    files.refused("--loss softmax --x x.npy --y wide.npy", &["--y", "dimension 3", "2"]);
}

#[test]
fn labels_that_cannot_be_used() {
    let files = three_and_four();
    let labels = |words: &[&str]| {
        let arguments = "--loss ice --x x.npy --y y.npy --labels l.npy --labels-y m.npy";
        files.refused(arguments, words);
    };
    files.write("m.npy", &[4], &[0u8; 4]);
    labels(&["--labels", "l.npy"]);
    files.write("l.npy", &[3, 1], &[0u8; 3]);
    labels(&["--labels", "vector"]);
    files.write("l.npy", &[3], &[0.0f32; 3]);
    labels(&["--labels", "<f4", "integers"]);
    files.write("l.npy", &[2], &[0u8; 2]);
    labels(&["--labels", "2 integers", "expected 3"]);
    files.write("l.npy", &[3], &[0u8; 3]);
    files.write("m.npy", &[3], &[0u8; 3]);
    labels(&["--labels-y", "3 integers", "expected 4"]);
    files.write("m.npy", &[4], &[1u8; 4]);
    labels(&["labels", "positive"]);
    files.refused("--loss ice --x x.npy --y y.npy --labels l.npy", &["--labels", "expected 4"]);
    files.refused("--loss ice --x x.npy --y y.npy --ids m.npy", &["--ids", "expected 3"]);
}

#[test]
fn outputs_that_cannot_be_written() {
    let files = three_and_four();
    files.refused(
        "--loss softmax --x x.npy --y y.npy --grad-x missing/dx.npy",
        &["--grad-x", "missing"],
    );
    files.refused(
        "--loss softmax --x x.npy --y y.npy --grad-y missing/dy.npy",
        &["--grad-y", "missing"],
    );
}

#[test]
fn cuda_without_a_device() {
    let files = three_and_four();
    let output = files.run("--loss softmax --x x.npy --y y.npy --engine cuda");
    if output.status.success() {
        // A device is here: its answer is the CPU's.
        let line = String::from_utf8(output.stdout).unwrap();
        assert!(line.contains(r#""engine": "cuda"#), "{line}");
        let loss = line.strip_prefix(r#"{"loss": "#).and_then(|rest| rest.split_once(','));
        let given: f32 = loss.unwrap().0.parse().unwrap();
        close(given, f64::from(files.numbers("--loss softmax --x x.npy --y y.npy")[0]));
    } else {
        files.refused("--loss softmax --x x.npy --y y.npy --engine cuda", &["CUDA"]);
    }
}
