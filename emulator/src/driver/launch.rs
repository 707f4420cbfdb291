//! Launches: the shape is checked, the parameters are copied, the kernel goes into a stream.

use std::ffi::c_void;
use std::sync::Arc;

use crate::exec::Launch;

use super::device::limits;
use super::error::{CUresult, Result};
use super::ffi::{In, api, current_call, say};
use super::function::blocks_per_sm;
use super::queue::{Action, KernelCall};
use super::state::{Driver, Function, Handle, driver};

/// `CUlaunchConfig`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct LaunchConfiguration {
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    stream: Handle,
    attributes: In<LaunchAttribute>,
    count: u32,
}

/// `CUlaunchAttribute`: the value is a union of up to 64 bytes.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub struct LaunchAttribute {
    number: u32,
    padding: [u8; 4],
    value: [u32; 16],
}

/// The launch and the stream that a configuration describes.
pub fn shape_of(configuration: In<LaunchConfiguration>) -> Result<(Launch, Handle)> {
    let configuration = configuration.get()?;
    let mut launch = Launch {
        grid: configuration.grid,
        block: configuration.block,
        dynamic_shared: configuration.shared,
        cluster: None,
        cooperative: false,
    };
    for i in 0..configuration.count as usize {
        let attribute = configuration.attributes.at(i)?;
        let value = attribute.value;
        match attribute.number {
            2 => launch.cooperative = value[0] != 0,
            4 => launch.cluster = Some([value[0], value[1], value[2]]),
            // Cache policy, priorities, domains, carve-outs, preferred clusters, and the permission
            // to start before the kernel ahead has ended: hints, which an emulator may ignore.
            0 | 1 | 3 | 5 | 6 | 8 | 9 | 10 | 11 | 14 | 16 | 17 => {}
            other => {
                say(&format!("{}: launch attribute {other} is not supported", current_call()));
                return Err(CUresult::NOT_SUPPORTED);
            }
        }
    }
    Ok((launch, configuration.stream))
}

/// Refuses a launch with a word on stderr: the code alone says little.
fn refuse(code: CUresult, function: &Function, text: String) -> Result {
    say(&format!("{} of {}: {text}", current_call(), function.kernel.name()));
    Err(code)
}

impl Driver {
    /// Checks a launch against the limits of the device and of the function.
    fn check_launch(&self, function: &Function, launch: &mut Launch) -> Result {
        let kernel = &function.kernel;
        let [gx, gy, gz] = launch.grid;
        let [bx, by, bz] = launch.block;
        if gx == 0 || gy == 0 || gz == 0 || gx > i32::MAX as u32 || gy > 65_535 || gz > 65_535 {
            return refuse(
                CUresult::INVALID_VALUE,
                function,
                format!("a grid of {gx} × {gy} × {gz} is not possible"),
            );
        }
        if bx == 0
            || by == 0
            || bz == 0
            || bx > 1024
            || by > 1024
            || bz > 64
            || u64::from(bx) * u64::from(by) * u64::from(bz) > 1024
        {
            return refuse(
                CUresult::INVALID_VALUE,
                function,
                format!("a block of {bx} × {by} × {bz} is not possible"),
            );
        }
        let threads = bx * by * bz;
        let most = kernel.max_threads_per_block();
        if threads > most {
            return refuse(
                CUresult::INVALID_VALUE,
                function,
                format!("{threads} threads a block, the kernel is for {most} at most"),
            );
        }
        let limit = function.dynamic_shared_limit();
        let (dynamic, fixed) = (launch.dynamic_shared as usize, kernel.static_shared());
        if dynamic > limit || dynamic + fixed > self.config.shared_per_block_optin {
            return refuse(
                CUresult::INVALID_VALUE,
                function,
                format!(
                    "{dynamic} bytes of dynamic shared memory, the limit set for the function is {limit}"
                ),
            );
        }
        let cluster = match (launch.cluster, kernel.required_cluster()) {
            (Some(asked), Some(required)) if asked != required => {
                return refuse(
                    CUresult::INVALID_VALUE,
                    function,
                    format!("a cluster of {asked:?}, the kernel requires {required:?}"),
                );
            }
            (asked, required) => asked.or(required),
        };
        if let Some(cluster) = cluster {
            let size = cluster.iter().map(|&c| u64::from(c)).product::<u64>();
            let most = if function.attributes.get(&14).is_some_and(|&v| v != 0) { 16 } else { 8 };
            let supported = self.config.compute_capability.0 >= 9 || size == 1;
            if size == 0 || size > most || !supported {
                return refuse(
                    CUresult::INVALID_CLUSTER_SIZE,
                    function,
                    format!("a cluster of {cluster:?} is not possible"),
                );
            }
            if launch.grid.iter().zip(cluster).any(|(&g, c)| g % c != 0) {
                return refuse(
                    CUresult::INVALID_VALUE,
                    function,
                    format!("the grid is no multiple of the cluster {cluster:?}"),
                );
            }
        }
        launch.cluster = cluster;
        if launch.cooperative {
            let limits = limits(self.config.compute_capability);
            let blocks = blocks_per_sm(
                &limits,
                self.config.shared_per_block_optin,
                kernel,
                threads,
                dynamic,
            );
            let resident = u64::from(blocks) * u64::from(self.config.sm_count);
            if u64::from(gx) * u64::from(gy) * u64::from(gz) > resident {
                return refuse(
                    CUresult::COOPERATIVE_LAUNCH_TOO_LARGE,
                    function,
                    format!("the device holds {resident} blocks at once"),
                );
            }
        }
        Ok(())
    }
}

/// Marks in the `extra` array of a launch.
mod extra {
    pub const END: usize = 0;
    pub const BUFFER: usize = 1;
    pub const SIZE: usize = 2;
}

/// The parameters of a launch, packed: from one pointer each, or from one buffer.
fn parameters(function: &Function, pointers: In<*const u8>, extra: In<usize>) -> Result<Vec<u8>> {
    let layout = function.kernel.params();
    let total = layout.iter().map(|p| p.offset + p.size).max().unwrap_or(0);
    let mut bytes = vec![0; total];
    if !pointers.is_null() && !extra.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    if !extra.is_null() {
        let (mut buffer, mut size) = (0, 0);
        let mut i = 0;
        loop {
            match extra.at(i)? {
                extra::END => break,
                extra::BUFFER => buffer = extra.at(i + 1)?,
                extra::SIZE => size = In(extra.at(i + 1)? as *const usize).get()?,
                _ => return Err(CUresult::INVALID_VALUE),
            }
            i += 2;
        }
        if size < total || (buffer == 0 && total > 0) {
            return Err(CUresult::INVALID_VALUE);
        }
        // SAFETY: the program promised `size` readable bytes, which are enough.
        unsafe { std::ptr::copy_nonoverlapping(buffer as *const u8, bytes.as_mut_ptr(), total) };
        return Ok(bytes);
    }
    for (i, parameter) in layout.iter().enumerate() {
        let pointer = pointers.at(i)?;
        if pointer.is_null() {
            return Err(CUresult::INVALID_VALUE);
        }
        // SAFETY: the program promised a pointer to each parameter, readable for its size.
        unsafe {
            std::ptr::copy_nonoverlapping(
                pointer,
                bytes.as_mut_ptr().add(parameter.offset),
                parameter.size,
            )
        };
    }
    Ok(bytes)
}

/// Launches a function.
fn launch(
    function: Handle,
    mut launch: Launch,
    stream: Handle,
    pointers: In<*const u8>,
    extra: In<usize>,
) -> Result {
    let driver = driver()?;
    let (mut state, context) = driver.healthy()?;
    let stream = state.stream_for_work(stream)?;
    if state.streams[&stream].context != context {
        return Err(CUresult::INVALID_HANDLE);
    }
    let entry = driver.function(&state, function)?;
    driver.check_launch(entry, &mut launch)?;
    let parameters = parameters(entry, pointers, extra)?;
    let call = KernelCall { kernel: entry.kernel.clone(), launch, parameters };
    driver.submit(state, stream, Action::Kernel(Arc::new(call)))
}

api! {
    /// Launches a function.
    fn cuLaunchKernel(
        function: Handle,
        grid_x: u32,
        grid_y: u32,
        grid_z: u32,
        block_x: u32,
        block_y: u32,
        block_z: u32,
        shared: u32,
        stream: Handle,
        parameters: In<*const u8>,
        extra: In<usize>,
    ) {
        let mut shape = Launch::new([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        shape.dynamic_shared = shared;
        launch(function, shape, stream, parameters, extra)
    }

    /// Launches a function whose blocks are all resident together.
    fn cuLaunchCooperativeKernel(
        function: Handle,
        grid_x: u32,
        grid_y: u32,
        grid_z: u32,
        block_x: u32,
        block_y: u32,
        block_z: u32,
        shared: u32,
        stream: Handle,
        parameters: In<*const u8>,
    ) {
        let mut shape = Launch::new([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        shape.dynamic_shared = shared;
        shape.cooperative = true;
        launch(function, shape, stream, parameters, In(std::ptr::null()))
    }

    /// Launches a function with attributes: clusters, cooperation.
    fn cuLaunchKernelEx(
        configuration: In<LaunchConfiguration>,
        function: Handle,
        parameters: In<*const u8>,
        extra: In<*const c_void>,
    ) {
        let (shape, stream) = shape_of(configuration)?;
        launch(function, shape, stream, parameters, In(extra.0.cast()))
    }
}
