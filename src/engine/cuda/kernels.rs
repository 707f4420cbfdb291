//! Room: engines, CUDA. The kernels of one context: a typed table, loaded once.

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaFunction, CudaModule, sys::CUdevice_attribute};
use cudarc::nvrtc::{CompileOptions, Ptx, compile_ptx_with_opts};

use super::images::{self, ImageKind};
use super::probe;
use crate::{Error, Result};

/// The kernels, loaded into one CUDA context. Load once, clone freely.
#[derive(Clone)]
pub struct Kernels(Arc<Table>);

/// What is loaded, and what of the device decides about launches.
pub(super) struct Table {
    pub context: Arc<CudaContext>,
    pub device: String,
    pub multiprocessors: usize,
    pub simt: ArithmeticKernels,
    pub sm80_f16: ArithmeticKernels,
    pub sm80_bf16: ArithmeticKernels,
    pub rows: RowKernels,
    pub order: OrderKernels,
    pub add_splits: CudaFunction,
    pub mining: MiningKernels,
}

/// The kernels of one tile engine on one element type (kernels/tile/).
pub(super) struct ArithmeticKernels {
    pub large: TileKernels,
    pub small: TileKernels,
    pub terms: CudaFunction,
    pub collect_again: CudaFunction,
    /// sm80's alone.
    pub join: Option<CudaFunction>,
}

/// The kernels of one tile size (kernels/{stats,gradient,product}.cu).
pub(super) struct TileKernels {
    pub stats: CudaFunction,
    pub weights: CudaFunction,
    /// sm80's alone.
    pub exponentials: Option<CudaFunction>,
    pub mining: MiningTileKernels,
    pub rows_rows: CudaFunction,
    pub rows_columns: CudaFunction,
    pub columns_columns: CudaFunction,
}

/// The small kernels (kernels/rows.cu).
pub(super) struct RowKernels {
    pub scalar: CudaFunction,
    pub normalize: CudaFunction,
    pub normalize_backward: CudaFunction,
    pub key_ranges: CudaFunction,
    pub merge_groups: CudaFunction,
    pub reduce_groups: CudaFunction,
    pub log_sum_exp: CudaFunction,
    pub index_terms: CudaFunction,
    pub merge_terms: CudaFunction,
    pub totals: CudaFunction,
    pub finish: CudaFunction,
    pub coefficients: CudaFunction,
    pub sum_moments: CudaFunction,
    pub scale_gradient: CudaFunction,
    pub prepare: CudaFunction,
    pub matrix_top: CudaFunction,
    pub row_levels: CudaFunction,
    pub column_levels: CudaFunction,
    pub level_unit: CudaFunction,
    pub tile_groups: CudaFunction,
    pub one_pass_moment: CudaFunction,
    pub positive_weights: CudaFunction,
    pub share_factors: CudaFunction,
    pub one_pass_gradient: CudaFunction,
}

/// What puts rows in order (kernels/order.cu).
pub(super) struct OrderKernels {
    pub sort_keys: CudaFunction,
    pub gather_keys: CudaFunction,
    pub key_starts: CudaFunction,
    pub key_matches: CudaFunction,
    pub key_bands: CudaFunction,
    pub gather_rows: CudaFunction,
    pub scatter_rows: CudaFunction,
}

/// What mining does with counts and lists (kernels/lists.cu).
pub(super) struct MiningKernels {
    pub begin_search: CudaFunction,
    pub clear_words: CudaFunction,
    pub choose_rows: CudaFunction,
    pub sort_count: CudaFunction,
    pub sort_places: CudaFunction,
    pub sort_move: CudaFunction,
    pub count_list: CudaFunction,
    pub guess_rows: CudaFunction,
    pub guess_again: CudaFunction,
    pub guess_matrix: CudaFunction,
    pub search_list: CudaFunction,
    pub search_few: CudaFunction,
    pub count_mined: CudaFunction,
    pub order_rows: CudaFunction,
    pub place_mined: CudaFunction,
    pub select_rows: CudaFunction,
    pub judge_window: CudaFunction,
    pub list_starts: CudaFunction,
    pub with_positives: CudaFunction,
    pub sum_list: CudaFunction,
    pub list_moments: CudaFunction,
}

/// The passes of mining over tiles of one size (kernels/mining.cu).
pub(super) struct MiningTileKernels {
    pub count_matrix: CudaFunction,
    pub count_rows: CudaFunction,
    pub sample: CudaFunction,
    pub collect: CudaFunction,
    pub collect_rows: CudaFunction,
    pub repeat_rows: CudaFunction,
}

impl OrderKernels {
    fn load(order: &Arc<CudaModule>) -> Result<Self> {
        Ok(Self {
            sort_keys: order.load_function("sort_keys")?,
            gather_keys: order.load_function("gather_keys")?,
            key_starts: order.load_function("key_starts")?,
            key_matches: order.load_function("key_matches")?,
            key_bands: order.load_function("key_bands")?,
            gather_rows: order.load_function("gather_rows")?,
            scatter_rows: order.load_function("scatter_rows")?,
        })
    }
}

impl MiningKernels {
    fn load(lists: &Arc<CudaModule>) -> Result<Self> {
        Ok(Self {
            begin_search: lists.load_function("begin_search")?,
            clear_words: lists.load_function("clear_words")?,
            choose_rows: lists.load_function("choose_rows")?,
            sort_count: lists.load_function("sort_count")?,
            sort_places: lists.load_function("sort_places")?,
            sort_move: lists.load_function("sort_move")?,
            count_list: lists.load_function("count_list")?,
            guess_rows: lists.load_function("guess_rows")?,
            guess_again: lists.load_function("guess_again")?,
            guess_matrix: lists.load_function("guess_matrix")?,
            search_list: lists.load_function("search_list")?,
            search_few: lists.load_function("search_few")?,
            count_mined: lists.load_function("count_mined")?,
            order_rows: lists.load_function("order_rows")?,
            place_mined: lists.load_function("place_mined")?,
            select_rows: lists.load_function("select_rows")?,
            judge_window: lists.load_function("judge_window")?,
            list_starts: lists.load_function("list_starts")?,
            with_positives: lists.load_function("with_positives")?,
            sum_list: lists.load_function("sum_list")?,
            list_moments: lists.load_function("list_moments")?,
        })
    }
}

impl Kernels {
    /// Loads the kernels into a context: machine code for its device where the build made any,
    /// else PTX, else compiled now if NVRTC is found (`METRIC_KERNELS_NVRTC` names its folder).
    /// Waits for the driver; not for streams.
    ///
    /// # Errors
    /// [`Error::CudaUnavailable`] if nothing runs on this device, naming the command that mends
    /// it; [`Error::Driver`] if the driver refuses anything else.
    pub fn load(context: &Arc<CudaContext>) -> Result<Self> {
        let (major, minor) = context.compute_capability()?;
        let capability = (major.unsigned_abs(), minor.unsigned_abs());
        let module = |program| load(context, program, capability);
        let (rows, stats, gradient, product) =
            (module("rows")?, module("stats")?, module("gradient")?, module("product")?);
        let mining = module("mining")?;
        let of_sm80 = |name: &str, kernel: String| {
            name.starts_with("sm80").then(|| gradient.load_function(&kernel)).transpose()
        };
        let tile = |name: &str| -> Result<TileKernels> {
            Ok(TileKernels {
                stats: stats.load_function(&format!("stats_{name}"))?,
                weights: gradient.load_function(&format!("weights_{name}"))?,
                exponentials: of_sm80(name, format!("exponentials_{name}"))?,
                mining: MiningTileKernels {
                    count_matrix: mining.load_function(&format!("count_matrix_{name}"))?,
                    count_rows: mining.load_function(&format!("count_rows_{name}"))?,
                    sample: mining.load_function(&format!("sample_{name}"))?,
                    collect: mining.load_function(&format!("collect_{name}"))?,
                    collect_rows: mining.load_function(&format!("collect_rows_{name}"))?,
                    repeat_rows: mining.load_function(&format!("repeat_rows_{name}"))?,
                },
                rows_rows: product.load_function(&format!("rows_rows_{name}"))?,
                rows_columns: product.load_function(&format!("rows_columns_{name}"))?,
                columns_columns: product.load_function(&format!("columns_columns_{name}"))?,
            })
        };
        let arithmetic = |name: &str, element: &str| -> Result<ArithmeticKernels> {
            Ok(ArithmeticKernels {
                large: tile(&format!("{name}128"))?,
                small: tile(&format!("{name}32"))?,
                terms: stats.load_function(&format!("terms_{name}32"))?,
                collect_again: mining.load_function(&format!("collect_again_{name}32"))?,
                join: of_sm80(name, format!("join_{element}"))?,
            })
        };
        let count = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        Ok(Self(Arc::new(Table {
            context: context.clone(),
            device: context.name()?,
            multiprocessors: usize::try_from(context.attribute(count)?).unwrap_or(1).max(1),
            simt: arithmetic("simt", "f32")?,
            sm80_f16: arithmetic("sm80_f16_", "f16")?,
            sm80_bf16: arithmetic("sm80_bf16_", "bf16")?,
            rows: RowKernels {
                scalar: rows.load_function("scalar")?,
                normalize: rows.load_function("normalize")?,
                normalize_backward: rows.load_function("normalize_backward")?,
                key_ranges: rows.load_function("key_ranges")?,
                merge_groups: rows.load_function("merge_groups")?,
                reduce_groups: rows.load_function("reduce_groups")?,
                log_sum_exp: rows.load_function("log_sum_exp")?,
                index_terms: rows.load_function("index_terms")?,
                merge_terms: rows.load_function("merge_terms")?,
                totals: rows.load_function("totals")?,
                finish: rows.load_function("finish")?,
                coefficients: rows.load_function("coefficients")?,
                sum_moments: rows.load_function("sum_moments")?,
                scale_gradient: rows.load_function("scale_gradient")?,
                prepare: rows.load_function("prepare")?,
                matrix_top: rows.load_function("matrix_top")?,
                row_levels: rows.load_function("row_levels")?,
                column_levels: rows.load_function("column_levels")?,
                level_unit: rows.load_function("level_unit")?,
                tile_groups: rows.load_function("tile_groups")?,
                one_pass_moment: rows.load_function("one_pass_moment")?,
                share_factors: rows.load_function("share_factors")?,
                positive_weights: rows.load_function("positive_weights")?,
                one_pass_gradient: rows.load_function("one_pass_gradient")?,
            },
            order: OrderKernels::load(&module("order")?)?,
            add_splits: product.load_function("add_splits")?,
            mining: MiningKernels::load(&module("lists")?)?,
        })))
    }

    /// The context that the kernels are loaded into.
    pub fn context(&self) -> &Arc<CudaContext> {
        &self.0.context
    }

    pub(super) fn table(&self) -> &Table {
        &self.0
    }
}

impl std::fmt::Debug for Kernels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kernels").field("device", &self.0.device).finish_non_exhaustive()
    }
}

/// Loads one program: the first of its images that the driver accepts, else its source.
fn load(
    context: &Arc<CudaContext>,
    program: &str,
    capability: (u32, u32),
) -> Result<Arc<CudaModule>> {
    let mut refused = Vec::new();
    for image in images::images(program, capability) {
        let loadable = match image.kind {
            ImageKind::Cubin => Ptx::from_binary(image.bytes.to_vec()),
            ImageKind::Ptx => {
                let text = image.bytes.strip_suffix(b"\0").unwrap_or(image.bytes);
                Ptx::from_src(String::from_utf8_lossy(text))
            }
        };
        match context.load_module(loadable) {
            Ok(module) => return Ok(module),
            Err(error) => {
                refused.push(format!("{:?} for {} was refused: {error}", image.kind, image.arch));
            }
        }
    }
    let capability = format!("{}.{}", capability.0, capability.1);
    let unavailable = |reason: String, remedy: &str| Error::CudaUnavailable {
        reason: format!("kernels/{program}.cu on compute capability {capability}: {reason}"),
        remedy: remedy.to_owned(),
    };
    if refused.is_empty() {
        refused.push("the build embedded no image for it".into());
    }
    let Some(source) = images::source(program) else {
        return Err(unavailable(refused.join("; "), "build the crate from its whole source"));
    };
    if !probe::nvrtc_available() {
        refused.push("and NVRTC, to compile it now, is not found".into());
        return Err(unavailable(
            refused.join("; "),
            "`python3 -m pip install --target nvrtc 'nvidia-cuda-nvrtc==13.0.*'` and \
             `export METRIC_KERNELS_NVRTC=$PWD/nvrtc`, then build again; a device older than \
             compute capability 8.0 cannot be used",
        ));
    }
    let options = CompileOptions {
        options: images::OPTIONS
            .iter()
            .map(|option| (*option).to_owned())
            .chain(["--gpu-architecture=compute_80".to_owned()])
            .collect(),
        ..CompileOptions::default()
    };
    let ptx = compile_ptx_with_opts(source.flat(), options).map_err(|error| {
        unavailable(
            format!("{}; NVRTC failed: {error}", refused.join("; ")),
            "use NVRTC 12.0 or later",
        )
    })?;
    context.load_module(ptx).map_err(|error| {
        unavailable(
            format!("{}; compiled now, it was refused too: {error}", refused.join("; ")),
            "update NVIDIA's driver; devices need compute capability 8.0 or later",
        )
    })
}
