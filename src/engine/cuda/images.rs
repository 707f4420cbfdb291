//! Room: engines, CUDA. The kernels as build.rs left them: compiled images, and sources for the
//! case that there was no compiler.

/// What kind of image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code)] // a build without NVRTC has no image of either kind
pub(super) enum ImageKind {
    /// Machine code of one architecture; runs on devices of its major and at least its minor
    /// version, with a trailing `a` on that very one.
    Cubin,
    /// Portable code, compiled by the driver; runs on every later architecture.
    Ptx,
}

/// One compiled program of kernels/.
pub(super) struct Image {
    /// The program: `kernels/<program>.cu`.
    pub program: &'static str,
    pub kind: ImageKind,
    /// `80`, `90a`, …
    pub arch: &'static str,
    /// The image; PTX ends with a NUL.
    pub bytes: &'static [u8],
}

/// One program of kernels/ as text, with every file it includes.
pub(super) struct Source {
    pub program: &'static str,
    pub source: &'static str,
    /// Name relative to kernels/, and text.
    pub headers: &'static [(&'static str, &'static str)],
    /// The architectures it is meant for.
    #[allow(dead_code)] // every program of today runs everywhere
    pub archs: &'static [&'static str],
}

include!(concat!(env!("OUT_DIR"), "/images.rs"));

impl Image {
    /// Whether a device of this compute capability can run it.
    pub fn runs_on(&self, capability: (u32, u32)) -> bool {
        let (number, exact) = match self.arch.strip_suffix('a') {
            Some(number) => (number, true),
            None => (self.arch, false),
        };
        let Ok(number) = number.parse::<u32>() else { return false };
        let arch = (number / 10, number % 10);
        match (exact, self.kind) {
            (true, _) => arch == capability,
            (false, ImageKind::Cubin) => arch.0 == capability.0 && arch.1 <= capability.1,
            (false, ImageKind::Ptx) => arch <= capability,
        }
    }
}

/// The images of a program that a device can run, best first: machine code of the nearest
/// architecture, then PTX.
pub(super) fn images(program: &str, capability: (u32, u32)) -> Vec<&'static Image> {
    let mut images: Vec<_> = IMAGES
        .iter()
        .filter(|image| image.program == program && image.runs_on(capability))
        .collect();
    let number = |image: &Image| image.arch.trim_end_matches('a').parse().unwrap_or(0u32);
    images.sort_by_key(|image| (image.kind == ImageKind::Ptx, std::cmp::Reverse(number(image))));
    images
}

impl Source {
    /// The program as one text: every include replaced by its file, once.
    pub fn flat(&self) -> String {
        let mut text = String::new();
        let mut included = Vec::new();
        self.append(self.source, &mut text, &mut included);
        text
    }

    fn append(&self, source: &str, text: &mut String, included: &mut Vec<String>) {
        for line in source.lines() {
            let name = line.strip_prefix("#include \"").and_then(|rest| rest.split('"').next());
            match name {
                Some(name) if included.iter().any(|done| done == name) => {}
                Some(name) => {
                    included.push(name.to_owned());
                    if let Some((_, header)) = self.headers.iter().find(|(known, _)| *known == name)
                    {
                        self.append(header, text, included);
                    }
                }
                None if line.trim() == "#pragma once" => {}
                None => {
                    text.push_str(line);
                    text.push('\n');
                }
            }
        }
    }
}

/// The source of a program.
pub(super) fn source(program: &str) -> Option<&'static Source> {
    SOURCES.iter().find(|source| source.program == program)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(kind: ImageKind, arch: &'static str) -> Image {
        Image { program: "test", kind, arch, bytes: &[] }
    }

    #[test]
    fn machine_code_runs_on_its_own_major_version() {
        let cubin = image(ImageKind::Cubin, "86");
        assert!(cubin.runs_on((8, 6)) && cubin.runs_on((8, 9)));
        assert!(!cubin.runs_on((8, 0)) && !cubin.runs_on((9, 0)));
        let exact = image(ImageKind::Cubin, "90a");
        assert!(exact.runs_on((9, 0)) && !exact.runs_on((10, 0)) && !exact.runs_on((9, 1)));
        assert!(image(ImageKind::Cubin, "120").runs_on((12, 1)));
    }

    #[test]
    fn ptx_runs_on_every_later_architecture() {
        let ptx = image(ImageKind::Ptx, "80");
        assert!(ptx.runs_on((8, 0)) && ptx.runs_on((12, 0)) && !ptx.runs_on((7, 5)));
    }

    #[test]
    fn flat_sources_include_every_file_once() {
        for source in SOURCES {
            let flat = source.flat();
            assert!(!flat.contains("#include") && !flat.contains("#pragma once"));
            for (name, header) in source.headers {
                // Every header opens with a line of its own.
                let opening = header.lines().next().unwrap_or_default();
                assert_eq!(flat.matches(opening).count(), 1, "{}: {name}", source.program);
            }
        }
    }
}
