//! Initialisation, and what the device is: its name, its size, its attributes.

use std::ffi::c_char;

use super::error::{CUresult, Result};
use super::ffi::{Out, Text, api};
use super::leaks;
use super::state::{driver, initialise};

/// The version reported: CUDA 13.0.
const VERSION: i32 = 13_000;

/// The only device.
pub fn check_device(device: i32) -> Result {
    driver()?;
    if device == 0 { Ok(()) } else { Err(CUresult::INVALID_DEVICE) }
}

/// What an SM of a compute capability holds: the table "Technical Specifications per Compute
/// Capability" of the CUDA programming guide.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most resident threads.
    pub threads: u32,
    /// Most resident blocks.
    pub blocks: u32,
    /// 32-bit registers.
    pub registers: u32,
    /// Bytes of shared memory, the system's share included.
    pub shared: usize,
    /// Bytes of shared memory that the system keeps of every block.
    pub reserved_shared: usize,
}

/// The limits of a compute capability.
pub fn limits(capability: (u32, u32)) -> Limits {
    let (threads, blocks, shared) = match capability {
        (7, 0) => (2048, 32, 96),
        (7, 5) => (1024, 16, 64),
        (8, 0) => (2048, 32, 164),
        (8, 6) => (1536, 16, 100),
        (8, 7) => (1536, 16, 164),
        (8, 9) => (1536, 24, 100),
        (9, _) | (10, _) => (2048, 32, 228),
        (12, _) => (1536, 24, 100),
        _ => (2048, 32, 100),
    };
    let reserved_shared = if capability.0 >= 8 { 1024 } else { 0 };
    Limits { threads, blocks, registers: 65_536, shared: shared << 10, reserved_shared }
}

/// An attribute of the device. A number this emulator does not know is INVALID_VALUE; one that
/// names a feature it lacks is 0.
pub fn attribute(number: u32) -> Result<i32> {
    let driver = driver()?;
    let config = &driver.config;
    let limits = limits(config.compute_capability);
    let hopper = config.compute_capability.0 >= 9;
    Ok(match number {
        1 => 1024,                     // MAX_THREADS_PER_BLOCK
        2 | 3 => 1024,                 // MAX_BLOCK_DIM_X, _Y
        4 => 64,                       // MAX_BLOCK_DIM_Z
        5 => i32::MAX,                 // MAX_GRID_DIM_X
        6 | 7 => 65_535,               // MAX_GRID_DIM_Y, _Z
        8 => 48 << 10,                 // MAX_SHARED_MEMORY_PER_BLOCK
        9 => 64 << 10,                 // TOTAL_CONSTANT_MEMORY
        10 => 32,                      // WARP_SIZE
        11 => i32::MAX,                // MAX_PITCH
        12 => limits.registers as i32, // MAX_REGISTERS_PER_BLOCK
        13 => 1_410_000,               // CLOCK_RATE, kHz
        14 => 512,                     // TEXTURE_ALIGNMENT
        15 => 1,                       // GPU_OVERLAP
        16 => config.sm_count as i32,  // MULTIPROCESSOR_COUNT
        20 => 0,                       // COMPUTE_MODE: default
        21 | 22 | 55 | 56 => 131_072,  // texture and surface widths
        23 | 57 => 65_536,             // and heights
        24..=26 | 58..=60 => 16_384,
        30 => 512,         // SURFACE_ALIGNMENT
        31 => 1,           // CONCURRENT_KERNELS
        33 | 34 | 50 => 0, // PCI_BUS_ID, _DEVICE_ID, _DOMAIN_ID
        36 => 1_215_000,   // MEMORY_CLOCK_RATE, kHz
        37 => 5_120,       // GLOBAL_MEMORY_BUS_WIDTH
        38 => {
            if hopper {
                50 << 20
            } else {
                40 << 20
            }
        } // L2_CACHE_SIZE
        39 => limits.threads as i32, // MAX_THREADS_PER_MULTIPROCESSOR
        40 => 3,           // ASYNC_ENGINE_COUNT
        41 => 1,           // UNIFIED_ADDRESSING
        51 => 32,          // TEXTURE_PITCH_ALIGNMENT
        75 => config.compute_capability.0 as i32, // COMPUTE_CAPABILITY_MAJOR
        76 => config.compute_capability.1 as i32, // COMPUTE_CAPABILITY_MINOR
        78..=80 => 1,      // stream priorities, L1 caches
        81 => limits.shared as i32, // MAX_SHARED_MEMORY_PER_MULTIPROCESSOR
        82 => limits.registers as i32, // MAX_REGISTERS_PER_MULTIPROCESSOR
        87 => 2,           // SINGLE_TO_DOUBLE_PRECISION_PERF_RATIO
        90 => 1,           // COMPUTE_PREEMPTION_SUPPORTED
        95 => 1,           // COOPERATIVE_LAUNCH
        97 => config.shared_per_block_optin as i32, // MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
        99 => 1,           // HOST_REGISTER_SUPPORTED
        106 => limits.blocks as i32, // MAX_BLOCKS_PER_MULTIPROCESSOR
        111 => limits.reserved_shared as i32, // RESERVED_SHARED_MEMORY_PER_BLOCK
        115 => 1,          // MEMORY_POOLS_SUPPORTED
        120 => i32::from(hopper), // CLUSTER_LAUNCH
        126 => {
            if hopper {
                4
            } else {
                1
            }
        } // MEM_SYNC_DOMAIN_COUNT
        // Numbers that exist and mean a feature the emulator lacks: host memory mapped into the
        // device, managed memory, textures, virtual memory management, tensor maps, and so on.
        other if (1..=161).contains(&other) => 0,
        _ => return Err(CUresult::INVALID_VALUE),
    })
}

/// The device's name: never mistaken for a real one.
fn name() -> Result<String> {
    let (major, minor) = driver()?.config.compute_capability;
    Ok(format!("CUDA emulator (sm_{major}{minor}, CPU)"))
}

/// Writes a text and its NUL into a buffer of `size` bytes, cut to fit.
pub fn write_text(text: &str, buffer: Out<c_char>, size: usize) -> Result {
    if buffer.is_null() || size == 0 {
        return Err(CUresult::INVALID_VALUE);
    }
    let taken = &text.as_bytes()[..text.len().min(size - 1)];
    for (i, &byte) in taken.iter().chain(&[0]).enumerate() {
        Out(buffer.0.wrapping_add(i)).set(byte as c_char)?;
    }
    Ok(())
}

/// The device's UUID, made from its compute capability.
fn uuid() -> Result<[u8; 16]> {
    let (major, minor) = driver()?.config.compute_capability;
    let mut id = *b"cuda-emulator\0\0\0";
    id[14] = major as u8;
    id[15] = minor as u8;
    Ok(id)
}

const BUS_ID: &str = "0000:00:00.0";

api! {
    /// Initialises the driver: everything else needs it.
    fn cuInit(flags: u32) {
        if flags != 0 {
            return Err(CUresult::INVALID_VALUE);
        }
        if driver().is_err() {
            initialise();
            static WATCH: std::sync::Once = std::sync::Once::new();
            WATCH.call_once(leaks::watch_exit);
        }
        Ok(())
    }

    /// The version of CUDA that the driver supports.
    fn cuDriverGetVersion(version: Out<i32>) { version.set(VERSION) }

    /// The device of a number.
    fn cuDeviceGet(device: Out<i32>, ordinal: i32) {
        check_device(ordinal)?;
        device.set(ordinal)
    }

    /// The number of devices: one.
    fn cuDeviceGetCount(count: Out<i32>) {
        driver()?;
        count.set(1)
    }

    /// The device's name.
    fn cuDeviceGetName(buffer: Out<c_char>, size: i32, device: i32) {
        check_device(device)?;
        write_text(&name()?, buffer, size.max(0) as usize)
    }

    /// The device's UUID.
    fn cuDeviceGetUuid(id: Out<[u8; 16]>, device: i32) {
        check_device(device)?;
        id.set(uuid()?)
    }

    /// The device's UUID.
    fn cuDeviceGetUuid_v2(id: Out<[u8; 16]>, device: i32) {
        check_device(device)?;
        id.set(uuid()?)
    }

    /// The device's memory in bytes.
    fn cuDeviceTotalMem_v2(bytes: Out<usize>, device: i32) {
        check_device(device)?;
        bytes.set(driver()?.memory.total())
    }

    /// An attribute of the device.
    fn cuDeviceGetAttribute(value: Out<i32>, number: u32, device: i32) {
        check_device(device)?;
        value.set(attribute(number)?)
    }

    /// The device's compute capability.
    fn cuDeviceComputeCapability(major: Out<i32>, minor: Out<i32>, device: i32) {
        check_device(device)?;
        let (a, b) = driver()?.config.compute_capability;
        major.set(a as i32)?;
        minor.set(b as i32)
    }

    /// The device's place on the PCI bus, made up.
    fn cuDeviceGetPCIBusId(buffer: Out<c_char>, size: i32, device: i32) {
        check_device(device)?;
        write_text(BUS_ID, buffer, size.max(0) as usize)
    }

    /// The device at a place on the PCI bus.
    fn cuDeviceGetByPCIBusId(device: Out<i32>, id: Text) {
        driver()?;
        if id.get()? == BUS_ID { device.set(0) } else { Err(CUresult::INVALID_DEVICE) }
    }

    /// Whether one device reaches another's memory: there is no other.
    fn cuDeviceCanAccessPeer(can: Out<i32>, device: i32, peer: i32) {
        check_device(device)?;
        check_device(peer)?;
        can.set(0)
    }

    /// Starts a profiler: there is none, and that is no error.
    fn cuProfilerStart() { driver().map(drop) }

    /// Stops a profiler.
    fn cuProfilerStop() { driver().map(drop) }
}
