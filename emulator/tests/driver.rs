//! The driver API through its C interface: every call's answer, in both settings of when queued
//! work runs. The last test runs all others again with the other setting.

use std::ffi::{CStr, CString, c_char, c_void};
use std::process::Command;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, ThreadId};

// Linked for the functions it exports.
use cuda_emulator as _;

type Handle = usize;

unsafe extern "C" {
    fn cuInit(flags: u32) -> u32;
    fn cuDriverGetVersion(version: *mut i32) -> u32;
    fn cuDeviceGet(device: *mut i32, ordinal: i32) -> u32;
    fn cuDeviceGetCount(count: *mut i32) -> u32;
    fn cuDeviceGetName(buffer: *mut c_char, size: i32, device: i32) -> u32;
    fn cuDeviceGetAttribute(value: *mut i32, attribute: u32, device: i32) -> u32;
    fn cuDeviceTotalMem_v2(bytes: *mut usize, device: i32) -> u32;
    fn cuDeviceGetDefaultMemPool(pool: *mut Handle, device: i32) -> u32;
    fn cuGetErrorName(code: u32, name: *mut *const c_char) -> u32;
    fn cuGetErrorString(code: u32, text: *mut *const c_char) -> u32;
    fn cuGetProcAddress_v2(
        name: *const c_char,
        f: *mut *const c_void,
        version: i32,
        flags: u64,
        found: *mut u32,
    ) -> u32;
    fn cuDevicePrimaryCtxRetain(context: *mut Handle, device: i32) -> u32;
    fn cuDevicePrimaryCtxRelease_v2(device: i32) -> u32;
    fn cuDevicePrimaryCtxGetState(device: i32, flags: *mut u32, active: *mut i32) -> u32;
    fn cuCtxCreate_v4(context: *mut Handle, parameters: usize, flags: u32, device: i32) -> u32;
    fn cuCtxDestroy_v2(context: Handle) -> u32;
    fn cuCtxSetCurrent(context: Handle) -> u32;
    fn cuCtxGetCurrent(context: *mut Handle) -> u32;
    fn cuCtxPushCurrent_v2(context: Handle) -> u32;
    fn cuCtxPopCurrent_v2(context: *mut Handle) -> u32;
    fn cuCtxSynchronize() -> u32;
    fn cuCtxGetLimit(value: *mut usize, limit: u32) -> u32;
    fn cuCtxSetLimit(limit: u32, value: usize) -> u32;
    fn cuStreamCreate(stream: *mut Handle, flags: u32) -> u32;
    fn cuStreamDestroy_v2(stream: Handle) -> u32;
    fn cuStreamSynchronize(stream: Handle) -> u32;
    fn cuStreamQuery(stream: Handle) -> u32;
    fn cuStreamWaitEvent(stream: Handle, event: Handle, flags: u32) -> u32;
    fn cuLaunchHostFunc(
        stream: Handle,
        f: Option<unsafe extern "C" fn(*mut c_void)>,
        argument: *mut c_void,
    ) -> u32;
    fn cuEventCreate(event: *mut Handle, flags: u32) -> u32;
    fn cuEventDestroy_v2(event: Handle) -> u32;
    fn cuEventRecord(event: Handle, stream: Handle) -> u32;
    fn cuEventSynchronize(event: Handle) -> u32;
    fn cuEventQuery(event: Handle) -> u32;
    fn cuEventElapsedTime_v2(milliseconds: *mut f32, start: Handle, end: Handle) -> u32;
    fn cuMemAlloc_v2(address: *mut u64, bytes: usize) -> u32;
    fn cuMemFree_v2(address: u64) -> u32;
    fn cuMemAllocAsync(address: *mut u64, bytes: usize, stream: Handle) -> u32;
    fn cuMemFreeAsync(address: u64, stream: Handle) -> u32;
    fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> u32;
    fn cuMemGetAddressRange_v2(base: *mut u64, bytes: *mut usize, address: u64) -> u32;
    fn cuPointerGetAttribute(data: *mut c_void, attribute: u32, address: u64) -> u32;
    fn cuMemHostAlloc(pointer: *mut *mut c_void, bytes: usize, flags: u32) -> u32;
    fn cuMemFreeHost(pointer: *mut c_void) -> u32;
    fn cuMemPoolGetAttribute(pool: Handle, attribute: u32, value: *mut c_void) -> u32;
    fn cuMemcpyHtoD_v2(destination: u64, source: *const c_void, bytes: usize) -> u32;
    fn cuMemcpyDtoH_v2(destination: *mut c_void, source: u64, bytes: usize) -> u32;
    fn cuMemcpyHtoDAsync_v2(
        destination: u64,
        source: *const c_void,
        bytes: usize,
        stream: Handle,
    ) -> u32;
    fn cuMemcpyDtoHAsync_v2(
        destination: *mut c_void,
        source: u64,
        bytes: usize,
        stream: Handle,
    ) -> u32;
    fn cuMemcpyDtoDAsync_v2(destination: u64, source: u64, bytes: usize, stream: Handle) -> u32;
    fn cuMemcpy2D_v2(description: *const Memcpy2D) -> u32;
    fn cuMemsetD8_v2(address: u64, value: u8, count: usize) -> u32;
    fn cuMemsetD16_v2(address: u64, value: u16, count: usize) -> u32;
    fn cuMemsetD32_v2(address: u64, value: u32, count: usize) -> u32;
    fn cuMemsetD32Async(address: u64, value: u32, count: usize, stream: Handle) -> u32;
    fn cuMemsetD2D8_v2(address: u64, pitch: usize, value: u8, width: usize, rows: usize) -> u32;
    fn cuModuleLoadData(module: *mut Handle, image: *const c_void) -> u32;
    fn cuModuleLoadDataEx(
        module: *mut Handle,
        image: *const c_void,
        count: u32,
        options: *const u32,
        values: *mut usize,
    ) -> u32;
    fn cuModuleLoad(module: *mut Handle, path: *const c_char) -> u32;
    fn cuModuleUnload(module: Handle) -> u32;
    fn cuModuleGetFunction(function: *mut Handle, module: Handle, name: *const c_char) -> u32;
    fn cuModuleGetGlobal_v2(
        address: *mut u64,
        bytes: *mut usize,
        module: Handle,
        name: *const c_char,
    ) -> u32;
    fn cuFuncGetAttribute(value: *mut i32, attribute: u32, function: Handle) -> u32;
    fn cuFuncSetAttribute(function: Handle, attribute: u32, value: i32) -> u32;
    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
        blocks: *mut i32,
        function: Handle,
        threads: i32,
        shared: usize,
    ) -> u32;
    fn cuLaunchKernel(
        function: Handle,
        gx: u32,
        gy: u32,
        gz: u32,
        bx: u32,
        by: u32,
        bz: u32,
        shared: u32,
        stream: Handle,
        parameters: *const *const c_void,
        extra: *const usize,
    ) -> u32;
    fn cuLaunchCooperativeKernel(
        function: Handle,
        gx: u32,
        gy: u32,
        gz: u32,
        bx: u32,
        by: u32,
        bz: u32,
        shared: u32,
        stream: Handle,
        parameters: *const *const c_void,
    ) -> u32;
    fn cuLaunchKernelEx(
        configuration: *const Configuration,
        function: Handle,
        parameters: *const *const c_void,
        extra: *const usize,
    ) -> u32;
    fn cuStreamBeginCapture_v2(stream: Handle, mode: u32) -> u32;
    fn cuStreamEndCapture(stream: Handle, graph: *mut Handle) -> u32;
    fn cuStreamIsCapturing(stream: Handle, status: *mut u32) -> u32;
    fn cuThreadExchangeStreamCaptureMode(mode: *mut u32) -> u32;
    fn cuGraphGetNodes(graph: Handle, nodes: *mut Handle, count: *mut usize) -> u32;
    fn cuGraphInstantiateWithFlags(executable: *mut Handle, graph: Handle, flags: u64) -> u32;
    fn cuGraphLaunch(executable: Handle, stream: Handle) -> u32;
    fn cuGraphExecDestroy(executable: Handle) -> u32;
    fn cuGraphDestroy(graph: Handle) -> u32;
    fn cuTexObjectCreate() -> u32;
}

#[repr(C)]
#[derive(Default)]
struct Memcpy2D {
    source_x: usize,
    source_y: usize,
    source_type: u32,
    source_host: usize,
    source_device: u64,
    source_array: usize,
    source_pitch: usize,
    destination_x: usize,
    destination_y: usize,
    destination_type: u32,
    destination_host: usize,
    destination_device: u64,
    destination_array: usize,
    destination_pitch: usize,
    width: usize,
    rows: usize,
}

#[repr(C)]
struct Attribute {
    number: u64,
    value: [u32; 16],
}

#[repr(C)]
struct Configuration {
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    stream: Handle,
    attributes: *const Attribute,
    count: u32,
}

/// Calls a driver function and expects success.
macro_rules! ok {
    ($call:expr) => {
        // SAFETY: every pointer passed in these tests is null or points to a live local.
        assert_eq!(unsafe { $call }, 0, "{}", stringify!($call))
    };
}

/// Calls a driver function and expects an error code.
macro_rules! fails {
    ($code:expr, $call:expr) => {
        // SAFETY: as above.
        assert_eq!(unsafe { $call }, $code, "{}", stringify!($call))
    };
}

const INVALID_VALUE: u32 = 1;
const INVALID_CONTEXT: u32 = 201;
const NO_BINARY: u32 = 209;
const INVALID_PTX: u32 = 218;
const UNSUPPORTED_PTX: u32 = 222;
const INVALID_HANDLE: u32 = 400;
const NOT_FOUND: u32 = 500;
const NOT_READY: u32 = 600;
const ILLEGAL_ADDRESS: u32 = 700;
const CONTEXT_DESTROYED: u32 = 709;
const COOPERATIVE_TOO_LARGE: u32 = 720;
const NOT_SUPPORTED: u32 = 801;
const CAPTURE_UNSUPPORTED: u32 = 900;
const CAPTURE_INVALIDATED: u32 = 901;
const CAPTURE_UNJOINED: u32 = 904;
const CAPTURE_ISOLATION: u32 = 905;
const CAPTURE_IMPLICIT: u32 = 906;
const CAPTURED_EVENT: u32 = 907;

/// Whether work runs as late as it may.
fn late() -> bool {
    std::env::var("CUDA_EMULATOR_ASYNC").as_deref() != Ok("early")
}

/// A context of the test's own, so that one test's fault is not another's.
struct Context(Handle);

impl Context {
    fn new() -> Context {
        ok!(cuInit(0));
        let mut context = 0;
        ok!(cuCtxCreate_v4(&mut context, 0, 0, 0));
        Context(context)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: no pointers.
        unsafe { cuCtxDestroy_v2(self.0) };
    }
}

fn alloc(bytes: usize) -> u64 {
    let mut address = 0;
    ok!(cuMemAlloc_v2(&mut address, bytes));
    address
}

fn stream(flags: u32) -> Handle {
    let mut stream = 0;
    ok!(cuStreamCreate(&mut stream, flags));
    stream
}

fn event(flags: u32) -> Handle {
    let mut event = 0;
    ok!(cuEventCreate(&mut event, flags));
    event
}

fn read(address: u64, count: usize) -> Vec<u32> {
    let mut data = vec![0u32; count];
    ok!(cuMemcpyDtoH_v2(data.as_mut_ptr().cast(), address, count * 4));
    data
}

fn c(text: &str) -> CString {
    CString::new(text).unwrap()
}

/// `out[i] = a * in[i] + b` for 32-bit integers, and a kernel that only stores; with a variable.
const PTX: &str = "
.version 8.0
.target sm_80
.address_size 64

.visible .global .align 4 .u32 table[4] = {10, 20, 30, 40};

.visible .entry affine(
    .param .u64 p_out, .param .u64 p_in, .param .u32 p_n, .param .u32 p_a, .param .u32 p_b)
{
    .reg .pred %p<2>;
    .reg .b32 %r<12>;
    .reg .b64 %rd<8>;
    ld.param.u64 %rd1, [p_out];
    ld.param.u64 %rd2, [p_in];
    ld.param.u32 %r1, [p_n];
    ld.param.u32 %r2, [p_a];
    ld.param.u32 %r3, [p_b];
    mov.u32 %r4, %ctaid.x;
    mov.u32 %r5, %ntid.x;
    mov.u32 %r6, %tid.x;
    mad.lo.s32 %r7, %r4, %r5, %r6;
    setp.ge.u32 %p1, %r7, %r1;
    @%p1 bra DONE;
    cvta.to.global.u64 %rd3, %rd1;
    cvta.to.global.u64 %rd4, %rd2;
    mul.wide.u32 %rd5, %r7, 4;
    add.s64 %rd6, %rd4, %rd5;
    ld.global.u32 %r8, [%rd6];
    mad.lo.s32 %r9, %r8, %r2, %r3;
    add.s64 %rd7, %rd3, %rd5;
    st.global.u32 [%rd7], %r9;
DONE:
    ret;
}

.visible .entry store(.param .u64 p_out, .param .u32 p_value)
{
    .reg .b32 %r<2>;
    .reg .b64 %rd<3>;
    ld.param.u64 %rd1, [p_out];
    ld.param.u32 %r1, [p_value];
    cvta.to.global.u64 %rd2, %rd1;
    st.global.u32 [%rd2], %r1;
    ret;
}

.extern .shared .align 4 .b8 dynamic[];

.visible .entry through_shared(.param .u64 p_out, .param .u32 p_words)
{
    .reg .b32 %r<6>;
    .reg .b64 %rd<3>;
    ld.param.u64 %rd1, [p_out];
    ld.param.u32 %r1, [p_words];
    mov.u32 %r2, dynamic;
    sub.s32 %r3, %r1, 1;
    shl.b32 %r4, %r3, 2;
    add.s32 %r4, %r2, %r4;
    st.shared.u32 [%r4], %r1;
    ld.shared.u32 %r5, [%r4];
    cvta.to.global.u64 %rd2, %rd1;
    st.global.u32 [%rd2], %r5;
    ret;
}
";

/// Loads [`PTX`].
fn module() -> Handle {
    let text = c(PTX);
    let mut module = 0;
    ok!(cuModuleLoadData(&mut module, text.as_ptr().cast()));
    module
}

fn function(module: Handle, name: &str) -> Handle {
    let name = c(name);
    let mut function = 0;
    ok!(cuModuleGetFunction(&mut function, module, name.as_ptr()));
    function
}

/// Parameters of a kernel: pointers to values.
macro_rules! parameters {
    ($($value:expr),*) => {
        [$((&raw const $value).cast::<c_void>()),*]
    };
}

/// Launches `store`.
fn store(function: Handle, out: u64, value: u32, stream: Handle) -> u32 {
    let parameters = parameters![out, value];
    // SAFETY: both parameters are live.
    unsafe { cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, stream, parameters.as_ptr(), null()) }
}

#[test]
fn device() {
    ok!(cuInit(0));
    fails!(INVALID_VALUE, cuInit(1));
    let (mut version, mut count, mut device, mut value, mut bytes) = (0, 0, -1, 0, 0);
    ok!(cuDriverGetVersion(&mut version));
    assert_eq!(version, 13_000);
    ok!(cuDeviceGetCount(&mut count));
    assert_eq!(count, 1);
    ok!(cuDeviceGet(&mut device, 0));
    assert_eq!(device, 0);
    fails!(101, cuDeviceGet(&mut device, 1));
    let mut name = [0; 64];
    ok!(cuDeviceGetName(name.as_mut_ptr(), 64, 0));
    // SAFETY: the driver wrote a NUL.
    assert_eq!(unsafe { CStr::from_ptr(name.as_ptr()) }.to_str(), Ok("CUDA emulator (sm_80, CPU)"));
    for (attribute, expected) in [
        (1, 1024),
        (10, 32),
        (75, 8),
        (76, 0),
        (16, 108),
        (97, 163 << 10),
        (115, 1),
        (120, 0),
        (81, 164 << 10),
    ] {
        ok!(cuDeviceGetAttribute(&mut value, attribute, 0));
        assert_eq!(value, expected, "attribute {attribute}");
    }
    fails!(INVALID_VALUE, cuDeviceGetAttribute(&mut value, 5000, 0));
    fails!(INVALID_VALUE, cuDeviceGetAttribute(null_mut(), 1, 0));
    ok!(cuDeviceTotalMem_v2(&mut bytes, 0));
    assert_eq!(bytes, 16 << 30);

    let mut text = null();
    ok!(cuGetErrorName(700, &mut text));
    // SAFETY: a text of the driver's.
    assert_eq!(unsafe { CStr::from_ptr(text) }.to_str(), Ok("CUDA_ERROR_ILLEGAL_ADDRESS"));
    ok!(cuGetErrorName(0, &mut text));
    // SAFETY: as above.
    assert_eq!(unsafe { CStr::from_ptr(text) }.to_str(), Ok("CUDA_SUCCESS"));
    ok!(cuGetErrorString(201, &mut text));
    // SAFETY: as above.
    assert_eq!(unsafe { CStr::from_ptr(text) }.to_str(), Ok("invalid device context"));
    fails!(INVALID_VALUE, cuGetErrorName(12345, &mut text));
    assert!(text.is_null());
}

#[test]
fn functions_by_name() {
    ok!(cuInit(0));
    let (mut f, mut found) = (null(), 9);
    for (name, version) in
        [("cuMemAlloc", 13_000), ("cuCtxCreate", 13_000), ("cuTexObjectCreate", 13_000)]
    {
        let name = c(name);
        ok!(cuGetProcAddress_v2(name.as_ptr(), &mut f, version, 0, &mut found));
        assert!(!f.is_null());
        assert_eq!(found, 0);
    }
    let name = c("cuMemAlloc");
    ok!(cuGetProcAddress_v2(name.as_ptr(), &mut f, 13_000, 0, &mut found));
    assert_eq!(f, cuMemAlloc_v2 as *const c_void);
    let name = c("cuNoSuchThing");
    fails!(NOT_FOUND, cuGetProcAddress_v2(name.as_ptr(), &mut f, 13_000, 0, &mut found));
    assert!(f.is_null());
    assert_eq!(found, 1);
    // What is missing exists and says so.
    fails!(NOT_SUPPORTED, cuTexObjectCreate());
}

#[test]
fn contexts() {
    let a = Context::new();
    let b = Context::new();
    let mut current = 0;
    ok!(cuCtxGetCurrent(&mut current));
    assert_eq!(current, b.0);
    ok!(cuCtxPopCurrent_v2(&mut current));
    assert_eq!(current, b.0);
    ok!(cuCtxGetCurrent(&mut current));
    assert_eq!(current, a.0);
    ok!(cuCtxPushCurrent_v2(b.0));
    ok!(cuCtxSetCurrent(a.0));
    ok!(cuCtxGetCurrent(&mut current));
    assert_eq!(current, a.0);
    fails!(INVALID_CONTEXT, cuCtxSetCurrent(0x1234));

    let mut limit = 0;
    ok!(cuCtxSetLimit(1, 4096));
    ok!(cuCtxGetLimit(&mut limit, 1));
    assert_eq!(limit, 4096);
    fails!(215, cuCtxGetLimit(&mut limit, 99));

    let gone = b.0;
    drop(b);
    fails!(CONTEXT_DESTROYED, cuCtxPushCurrent_v2(gone));
    // Memory belongs to a context: without one there is none.
    std::thread::spawn(|| {
        let mut address = 0;
        fails!(INVALID_CONTEXT, cuMemAlloc_v2(&mut address, 4));
        ok!(cuCtxGetCurrent(&mut 1));
    })
    .join()
    .unwrap();
}

#[test]
fn primary_context() {
    ok!(cuInit(0));
    let (mut first, mut second, mut flags, mut active) = (0, 0, 0, 0);
    ok!(cuDevicePrimaryCtxRetain(&mut first, 0));
    ok!(cuDevicePrimaryCtxRetain(&mut second, 0));
    assert_eq!(first, second);
    ok!(cuDevicePrimaryCtxRelease_v2(0));
    ok!(cuDevicePrimaryCtxGetState(0, &mut flags, &mut active));
    assert_eq!(active, 1);
    fails!(INVALID_CONTEXT, cuCtxDestroy_v2(first));
    ok!(cuDevicePrimaryCtxRelease_v2(0));
    ok!(cuDevicePrimaryCtxGetState(0, &mut flags, &mut active));
    assert_eq!(active, 0);
    fails!(CONTEXT_DESTROYED, cuCtxSetCurrent(first));
    fails!(INVALID_CONTEXT, cuDevicePrimaryCtxRelease_v2(0));
}

#[test]
fn memory() {
    let _context = Context::new();
    let (mut free, mut total, mut after) = (0, 0, 0);
    ok!(cuMemGetInfo_v2(&mut free, &mut total));
    assert!(free <= total);
    let a = alloc(64);
    assert_eq!(a % 256, 0);
    ok!(cuMemGetInfo_v2(&mut after, &mut total));
    assert!(after < total);
    fails!(INVALID_VALUE, cuMemAlloc_v2(&mut 0, 0));
    fails!(2, cuMemAlloc_v2(&mut 0, 1 << 50));

    ok!(cuMemsetD32_v2(a, 0x0102_0304, 16));
    ok!(cuMemsetD8_v2(a + 4, 0xab, 3));
    ok!(cuMemsetD16_v2(a + 8, 0xbeef, 2));
    assert_eq!(read(a, 4), [0x0102_0304, 0x01ab_abab, 0xbeef_beef, 0x0102_0304]);
    fails!(INVALID_VALUE, cuMemsetD32_v2(a + 2, 0, 1));
    // One byte too many, and a pointer from nowhere.
    fails!(INVALID_VALUE, cuMemsetD8_v2(a, 0, 65));
    fails!(INVALID_VALUE, cuMemsetD8_v2(0x10, 0, 1));
    ok!(cuMemsetD8_v2(0, 0, 0));

    let (mut base, mut size) = (0, 0);
    ok!(cuMemGetAddressRange_v2(&mut base, &mut size, a + 63));
    assert_eq!((base, size), (a, 64));
    fails!(NOT_FOUND, cuMemGetAddressRange_v2(&mut base, &mut size, a + 64));
    let mut kind = 0u32;
    ok!(cuPointerGetAttribute((&raw mut kind).cast(), 2, a + 5));
    assert_eq!(kind, 2);
    fails!(INVALID_VALUE, cuPointerGetAttribute((&raw mut kind).cast(), 2, 0x10));

    fails!(INVALID_VALUE, cuMemFree_v2(a + 4));
    ok!(cuMemFree_v2(a));
    fails!(INVALID_VALUE, cuMemFree_v2(a));
    fails!(INVALID_VALUE, cuMemsetD8_v2(a, 0, 1));
    ok!(cuMemFree_v2(0));
}

#[test]
fn rectangles() {
    let _context = Context::new();
    // Four rows of 8 bytes at a pitch of 16, filled with 7; rows 1 and 2, columns 2 to 5 replaced.
    let a = alloc(64);
    ok!(cuMemsetD8_v2(a, 0, 64));
    ok!(cuMemsetD2D8_v2(a, 16, 7, 8, 4));
    let source: Vec<u8> = (100..120).collect();
    let copy = Memcpy2D {
        source_type: 1,
        source_host: source.as_ptr() as usize,
        source_pitch: 10,
        destination_x: 2,
        destination_y: 1,
        destination_type: 2,
        destination_device: a,
        destination_pitch: 16,
        width: 4,
        rows: 2,
        ..Default::default()
    };
    ok!(cuMemcpy2D_v2(&copy));
    let mut data = [0u8; 64];
    ok!(cuMemcpyDtoH_v2(data.as_mut_ptr().cast(), a, 64));
    assert_eq!(data[..16], [7, 7, 7, 7, 7, 7, 7, 7, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(data[16..26], [7, 7, 100, 101, 102, 103, 7, 7, 0, 0]);
    assert_eq!(data[32..42], [7, 7, 110, 111, 112, 113, 7, 7, 0, 0]);
    fails!(INVALID_VALUE, cuMemcpy2D_v2(&Memcpy2D { rows: 4, ..copy }));
    ok!(cuMemFree_v2(a));
}

#[test]
fn pageable_memory_is_staged_and_pinned_memory_is_not() {
    let _context = Context::new();
    let s = stream(1);
    let a = alloc(4);
    let mut source = 1u32;
    ok!(cuMemcpyHtoDAsync_v2(a, (&raw const source).cast(), 4, s));
    source = 2;
    ok!(cuStreamSynchronize(s));
    assert_eq!(read(a, 1), [1]);
    assert_eq!(source, 2);
    // A copy to pageable memory has landed when the call returns.
    let mut landed = 0u32;
    ok!(cuMemcpyDtoHAsync_v2((&raw mut landed).cast(), a, 4, s));
    assert_eq!(landed, 1);

    let mut pinned = null_mut();
    ok!(cuMemHostAlloc(&mut pinned, 8, 0));
    let words = pinned.cast::<u32>();
    // SAFETY: eight bytes of the driver's; nothing else uses them while the stream is idle.
    unsafe { words.write_volatile(3) };
    ok!(cuMemcpyHtoDAsync_v2(a, pinned, 4, s));
    // SAFETY: as above; the program breaks the rules here on purpose.
    unsafe { words.write_volatile(4) };
    ok!(cuStreamSynchronize(s));
    assert_eq!(read(a, 1), [if late() { 4 } else { 3 }]);

    // SAFETY: as above.
    unsafe { words.add(1).write_volatile(9) };
    ok!(cuMemcpyDtoHAsync_v2(words.wrapping_add(1).cast(), a, 4, s));
    // SAFETY: as above.
    let before = unsafe { words.add(1).read_volatile() };
    assert_eq!(before, if late() { 9 } else { 3 });
    ok!(cuStreamSynchronize(s));
    // SAFETY: as above.
    let after = unsafe { words.add(1).read_volatile() };
    assert_eq!(after, if late() { 4 } else { 3 });
    ok!(cuMemFreeHost(pinned));
    fails!(INVALID_VALUE, cuMemFreeHost(pinned));
    ok!(cuMemFree_v2(a));
    ok!(cuStreamDestroy_v2(s));
}

#[test]
fn events_order_streams() {
    let _context = Context::new();
    let (a, b) = (alloc(4), alloc(4));
    let (one, two) = (stream(1), stream(1));
    let done = event(2);
    let mut unordered = [0, 0];
    for round in 1..60u32 {
        ok!(cuMemsetD32_v2(a, 0, 1));
        ok!(cuCtxSynchronize());
        ok!(cuMemsetD32Async(a, round, 1, one));
        ok!(cuEventRecord(done, one));
        ok!(cuStreamWaitEvent(two, done, 0));
        ok!(cuMemcpyDtoDAsync_v2(b, a, 4, two));
        ok!(cuStreamSynchronize(two));
        assert_eq!(read(b, 1), [round]);
        // Without the event both orders happen when work is late.
        ok!(cuMemsetD32Async(a, 0, 1, one));
        ok!(cuMemcpyDtoDAsync_v2(b, a, 4, two));
        ok!(cuStreamSynchronize(two));
        let seen = usize::from(read(b, 1)[0] == 0);
        unordered[seen] += 1;
        ok!(cuCtxSynchronize());
    }
    if late() {
        assert!(unordered[0] > 0 && unordered[1] > 0, "{unordered:?}");
    } else {
        assert_eq!(unordered, [0, 59]);
    }
    for address in [a, b] {
        ok!(cuMemFree_v2(address));
    }
    ok!(cuEventDestroy_v2(done));
    ok!(cuStreamDestroy_v2(one));
    ok!(cuStreamDestroy_v2(two));
    fails!(INVALID_HANDLE, cuStreamSynchronize(one));
    fails!(INVALID_HANDLE, cuEventRecord(done, 0));
}

#[test]
fn the_legacy_stream_waits_for_blocking_streams() {
    let _context = Context::new();
    let (a, b) = (alloc(4), alloc(4));
    let blocking = stream(0);
    for round in 1..20u32 {
        ok!(cuMemsetD32Async(a, round, 1, blocking));
        ok!(cuMemcpyDtoDAsync_v2(b, a, 4, 0));
        ok!(cuMemsetD32Async(a, 0, 1, blocking));
        ok!(cuStreamSynchronize(0));
        assert_eq!(read(b, 1), [round]);
        assert_eq!(read(a, 1), [0]);
    }
    // The per-thread stream is a blocking stream too.
    ok!(cuMemsetD32Async(a, 77, 1, 2));
    ok!(cuMemcpyDtoDAsync_v2(b, a, 4, 1));
    ok!(cuStreamSynchronize(0));
    assert_eq!(read(b, 1), [77]);
    ok!(cuMemFree_v2(a));
    ok!(cuMemFree_v2(b));
    ok!(cuStreamDestroy_v2(blocking));
    fails!(INVALID_HANDLE, cuStreamDestroy_v2(0));
}

#[test]
fn event_times_and_queries() {
    let _context = Context::new();
    let s = stream(1);
    let a = alloc(1 << 20);
    let (start, end, untimed) = (event(0), event(0), event(2));
    let mut time = -1.0f32;
    ok!(cuEventQuery(start));
    fails!(INVALID_HANDLE, cuEventElapsedTime_v2(&mut time, start, end));
    ok!(cuEventRecord(start, s));
    ok!(cuMemsetD32Async(a, 5, 1 << 18, s));
    ok!(cuEventRecord(end, s));
    ok!(cuEventRecord(untimed, s));
    if late() {
        fails!(NOT_READY, cuEventElapsedTime_v2(&mut time, start, end));
        fails!(NOT_READY, cuStreamQuery(s));
        fails!(NOT_READY, cuEventQuery(end));
    }
    // Polling makes progress.
    let mut polls = 0;
    // SAFETY: no pointers.
    while unsafe { cuEventQuery(end) } != 0 {
        polls += 1;
        assert!(polls < 100);
    }
    ok!(cuEventElapsedTime_v2(&mut time, start, end));
    assert!(time > 0.0 && time < 10_000.0, "{time}");
    fails!(INVALID_HANDLE, cuEventElapsedTime_v2(&mut time, start, untimed));
    ok!(cuEventSynchronize(untimed));
    ok!(cuStreamQuery(s));
    ok!(cuMemFree_v2(a));
    for e in [start, end, untimed] {
        ok!(cuEventDestroy_v2(e));
    }
    ok!(cuStreamDestroy_v2(s));
}

#[test]
fn host_functions_run_in_order() {
    struct Seen {
        value: AtomicUsize,
        by: ThreadId,
        waits: AtomicBool,
        early: AtomicBool,
    }
    /// SAFETY: for the tests' `Seen`, which outlives the synchronisation.
    unsafe fn step(seen: *mut c_void, change: fn(usize) -> usize) {
        // SAFETY: as above.
        let seen = unsafe { &*seen.cast::<Seen>() };
        // Whatever waits may run it, also another test's thread.
        let early = thread::current().id() == seen.by && !seen.waits.load(Ordering::SeqCst);
        seen.early.fetch_or(early, Ordering::SeqCst);
        seen.value.store(change(seen.value.load(Ordering::SeqCst)), Ordering::SeqCst);
    }
    unsafe extern "C" fn add(seen: *mut c_void) {
        // SAFETY: as above.
        unsafe { step(seen, |value| value + 1) };
    }
    unsafe extern "C" fn double(seen: *mut c_void) {
        // SAFETY: as above.
        unsafe { step(seen, |value| value * 2) };
    }
    let _context = Context::new();
    let s = stream(1);
    let (waits, early) = (AtomicBool::new(false), AtomicBool::new(false));
    let seen = Seen { value: AtomicUsize::new(3), by: thread::current().id(), waits, early };
    let argument = (&raw const seen).cast_mut().cast::<c_void>();
    ok!(cuLaunchHostFunc(s, Some(add), argument));
    ok!(cuLaunchHostFunc(s, Some(double), argument));
    ok!(cuLaunchHostFunc(s, Some(add), argument));
    seen.waits.store(true, Ordering::SeqCst);
    ok!(cuStreamSynchronize(s));
    assert_eq!(seen.value.load(Ordering::SeqCst), 9);
    // Host functions may wait for the thread that enqueued them: never before it waits.
    assert!(!seen.early.load(Ordering::SeqCst));
    fails!(INVALID_VALUE, cuLaunchHostFunc(s, None, argument));
    ok!(cuStreamDestroy_v2(s));
}

#[test]
fn stream_ordered_allocation() {
    let _context = Context::new();
    let s = stream(1);
    let (mut a, mut pool, mut used) = (0, 0, 0u64);
    ok!(cuDeviceGetDefaultMemPool(&mut pool, 0));
    ok!(cuMemAllocAsync(&mut a, 256, s));
    ok!(cuMemPoolGetAttribute(pool, 7, (&raw mut used).cast()));
    assert!(used >= 256);
    ok!(cuMemsetD32Async(a, 42, 64, s));
    let mut out = [0u32; 64];
    ok!(cuMemcpyDtoHAsync_v2(out.as_mut_ptr().cast(), a, 256, s));
    assert_eq!(out, [42; 64]);
    ok!(cuMemFreeAsync(a, s));
    fails!(INVALID_VALUE, cuMemFreeAsync(a, s));
    ok!(cuStreamSynchronize(s));
    fails!(INVALID_VALUE, cuMemsetD32Async(a, 0, 1, s));
    // Nothing at all is a null pointer.
    ok!(cuMemAllocAsync(&mut a, 0, s));
    assert_eq!(a, 0);
    ok!(cuMemFreeAsync(a, s));
    ok!(cuStreamDestroy_v2(s));
}

#[test]
fn a_capture_is_replayed() {
    let _context = Context::new();
    let s = stream(1);
    let (a, b) = (alloc(16), alloc(16));
    ok!(cuMemsetD32_v2(a, 1, 4));
    ok!(cuMemsetD32_v2(b, 2, 4));
    let (mut status, mut graph, mut count, mut executable) = (9, 0, 0, 0);
    ok!(cuStreamBeginCapture_v2(s, 1));
    ok!(cuStreamIsCapturing(s, &mut status));
    assert_eq!(status, 1);
    ok!(cuMemcpyDtoDAsync_v2(b, a, 16, s));
    ok!(cuMemsetD32Async(a, 3, 4, s));
    ok!(cuStreamEndCapture(s, &mut graph));
    ok!(cuStreamIsCapturing(s, &mut status));
    assert_eq!(status, 0);
    // Captured, not done.
    assert_eq!(read(b, 1), [2]);
    ok!(cuGraphGetNodes(graph, null_mut(), &mut count));
    assert_eq!(count, 2);
    ok!(cuGraphInstantiateWithFlags(&mut executable, graph, 0));
    fails!(INVALID_VALUE, cuGraphInstantiateWithFlags(&mut executable, graph, 5));
    fails!(INVALID_VALUE, cuGraphInstantiateWithFlags(&mut executable, graph, 1 << 20));
    ok!(cuGraphLaunch(executable, s));
    ok!(cuStreamSynchronize(s));
    assert_eq!((read(b, 1), read(a, 1)), (vec![1], vec![3]));
    ok!(cuGraphLaunch(executable, s));
    ok!(cuGraphDestroy(graph));
    ok!(cuGraphExecDestroy(executable));
    ok!(cuStreamSynchronize(s));
    assert_eq!(read(b, 4), [3; 4]);
    fails!(INVALID_VALUE, cuGraphLaunch(executable, s));
    ok!(cuMemFree_v2(a));
    ok!(cuMemFree_v2(b));
    ok!(cuStreamDestroy_v2(s));
}

#[test]
fn a_capture_forks_and_joins() {
    let _context = Context::new();
    let (main, side) = (stream(1), stream(1));
    let (forked, joined) = (event(2), event(2));
    let (a, b) = (alloc(4), alloc(4));
    let (mut graph, mut executable, mut status) = (0, 0, 0);
    ok!(cuStreamBeginCapture_v2(main, 1));
    ok!(cuMemsetD32Async(a, 5, 1, main));
    ok!(cuEventRecord(forked, main));
    ok!(cuStreamWaitEvent(side, forked, 0));
    ok!(cuStreamIsCapturing(side, &mut status));
    assert_eq!(status, 1);
    ok!(cuMemcpyDtoDAsync_v2(b, a, 4, side));
    ok!(cuEventRecord(joined, side));
    ok!(cuStreamWaitEvent(main, joined, 0));
    ok!(cuMemsetD32Async(a, 6, 1, main));
    ok!(cuStreamEndCapture(main, &mut graph));
    ok!(cuGraphInstantiateWithFlags(&mut executable, graph, 0));
    for _ in 0..10 {
        ok!(cuMemsetD32_v2(b, 0, 1));
        // The host does not wait for a fill, and a non-blocking stream not for the legacy one.
        ok!(cuCtxSynchronize());
        ok!(cuGraphLaunch(executable, main));
        ok!(cuStreamSynchronize(main));
        assert_eq!((read(a, 1), read(b, 1)), (vec![6], vec![5]));
    }
    // Without the join the capture cannot end.
    ok!(cuStreamBeginCapture_v2(main, 1));
    ok!(cuMemsetD32Async(a, 5, 1, main));
    ok!(cuEventRecord(forked, main));
    ok!(cuStreamWaitEvent(side, forked, 0));
    ok!(cuMemsetD32Async(b, 5, 1, side));
    let mut none = 7;
    fails!(CAPTURE_UNJOINED, cuStreamEndCapture(main, &mut none));
    assert_eq!(none, 0);
    ok!(cuStreamIsCapturing(side, &mut status));
    assert_eq!(status, 0);

    ok!(cuGraphExecDestroy(executable));
    ok!(cuGraphDestroy(graph));
    for address in [a, b] {
        ok!(cuMemFree_v2(address));
    }
    for e in [forked, joined] {
        ok!(cuEventDestroy_v2(e));
    }
    for s in [main, side] {
        ok!(cuStreamDestroy_v2(s));
    }
}

#[test]
fn a_capture_allocates() {
    let _context = Context::new();
    let s = stream(1);
    let (out, before) = (alloc(16), alloc(16));
    let (mut graph, mut executable, mut inside, mut count) = (0, 0, 0, 0);
    ok!(cuStreamBeginCapture_v2(s, 1));
    ok!(cuMemAllocAsync(&mut inside, 16, s));
    ok!(cuMemsetD32Async(inside, 8, 4, s));
    ok!(cuMemcpyDtoDAsync_v2(out, inside, 16, s));
    ok!(cuMemFreeAsync(inside, s));
    // What no graph allocated cannot be freed by one.
    fails!(INVALID_VALUE, cuMemFreeAsync(before, s));
    ok!(cuStreamEndCapture(s, &mut graph));
    ok!(cuGraphGetNodes(graph, null_mut(), &mut count));
    assert_eq!(count, 4);
    ok!(cuGraphInstantiateWithFlags(&mut executable, graph, 0));
    for _ in 0..3 {
        ok!(cuMemsetD32Async(out, 0, 4, s));
        ok!(cuGraphLaunch(executable, s));
        ok!(cuStreamSynchronize(s));
        assert_eq!(read(out, 4), [8; 4]);
    }
    // The memory is the graph's, and goes with the last of it.
    ok!(cuGraphDestroy(graph));
    let (mut base, mut size) = (0, 0);
    ok!(cuMemGetAddressRange_v2(&mut base, &mut size, inside));
    ok!(cuGraphExecDestroy(executable));
    fails!(NOT_FOUND, cuMemGetAddressRange_v2(&mut base, &mut size, inside));
    ok!(cuMemFree_v2(out));
    ok!(cuMemFree_v2(before));
    ok!(cuStreamDestroy_v2(s));
}

#[test]
fn what_a_capture_forbids_spoils_it() {
    let _context = Context::new();
    let (s, blocking) = (stream(1), stream(0));
    let (before, inside) = (event(2), event(2));
    let a = alloc(16);
    let mut host = 0u32;
    ok!(cuEventRecord(before, s));
    ok!(cuStreamSynchronize(s));
    let host = (&raw mut host).cast::<c_void>();
    type Call<'a> = Box<dyn Fn() -> u32 + 'a>;
    // SAFETY (of all calls below): pointers to live locals, or none.
    let calls: Vec<(&str, u32, Call)> = vec![
        ("stream sync", CAPTURE_UNSUPPORTED, Box::new(|| unsafe { cuStreamSynchronize(s) })),
        ("stream query", CAPTURE_UNSUPPORTED, Box::new(|| unsafe { cuStreamQuery(s) })),
        ("context sync", CAPTURE_UNSUPPORTED, Box::new(|| unsafe { cuCtxSynchronize() })),
        ("allocation", CAPTURE_UNSUPPORTED, Box::new(|| unsafe { cuMemAlloc_v2(&mut 0, 4) })),
        ("free", CAPTURE_UNSUPPORTED, Box::new(|| unsafe { cuMemFree_v2(a) })),
        ("copy", CAPTURE_UNSUPPORTED, Box::new(|| unsafe { cuMemcpyDtoH_v2(host, a, 4) })),
        (
            "query of another event",
            CAPTURE_UNSUPPORTED,
            Box::new(|| unsafe { cuEventQuery(before) }),
        ),
        ("query of a captured event", CAPTURED_EVENT, Box::new(|| unsafe { cuEventQuery(inside) })),
        (
            "wait for a captured event",
            CAPTURED_EVENT,
            Box::new(|| unsafe { cuEventSynchronize(inside) }),
        ),
        (
            "outside dependency",
            CAPTURE_ISOLATION,
            Box::new(|| unsafe { cuStreamWaitEvent(s, before, 0) }),
        ),
    ];
    for (what, code, call) in calls {
        ok!(cuStreamBeginCapture_v2(s, 1));
        ok!(cuEventRecord(inside, s));
        assert_eq!(call(), code, "{what}");
        fails!(CAPTURE_INVALIDATED, cuMemsetD32Async(a, 0, 1, s));
        let (mut graph, mut status) = (1, 0);
        ok!(cuStreamIsCapturing(s, &mut status));
        assert_eq!(status, 2, "{what}");
        fails!(CAPTURE_INVALIDATED, cuStreamEndCapture(s, &mut graph));
        assert_eq!(graph, 0);
        // The stream is usable again.
        ok!(cuMemsetD32Async(a, 0, 1, s));
        ok!(cuStreamSynchronize(s));
    }
    // A blocking stream in capture locks the legacy stream out.
    let mut graph = 0;
    ok!(cuStreamBeginCapture_v2(blocking, 2));
    fails!(CAPTURE_IMPLICIT, cuMemsetD32Async(a, 0, 1, 0));
    fails!(CAPTURE_INVALIDATED, cuStreamEndCapture(blocking, &mut graph));
    fails!(CAPTURE_UNSUPPORTED, cuStreamBeginCapture_v2(0, 0));
    // A thread that asks for it may do what it likes.
    let mut mode = 2;
    ok!(cuThreadExchangeStreamCaptureMode(&mut mode));
    assert_eq!(mode, 0);
    ok!(cuStreamBeginCapture_v2(s, 1));
    let b = alloc(4);
    ok!(cuStreamEndCapture(s, &mut graph));
    ok!(cuThreadExchangeStreamCaptureMode(&mut mode));
    assert_eq!(mode, 2);
    ok!(cuGraphDestroy(graph));
    ok!(cuMemFree_v2(a));
    ok!(cuMemFree_v2(b));
    for e in [before, inside] {
        ok!(cuEventDestroy_v2(e));
    }
    for s in [s, blocking] {
        ok!(cuStreamDestroy_v2(s));
    }
}

#[test]
fn kernels_run() {
    let _context = Context::new();
    let m = module();
    let affine = function(m, "affine");
    assert_eq!(affine, function(m, "affine"));
    let mut nothing = 0;
    let missing = c("missing");
    fails!(NOT_FOUND, cuModuleGetFunction(&mut nothing, m, missing.as_ptr()));

    let n = 1000u32;
    let input: Vec<u32> = (0..n).collect();
    let (x, y) = (alloc(4000), alloc(4000));
    ok!(cuMemcpyHtoD_v2(x, input.as_ptr().cast(), 4000));
    let (a, b) = (3u32, 7u32);
    let parameters = parameters![y, x, n, a, b];
    ok!(cuLaunchKernel(affine, 8, 1, 1, 128, 1, 1, 0, 0, parameters.as_ptr(), null()));
    let expected: Vec<u32> = input.iter().map(|v| v * 3 + 7).collect();
    assert_eq!(read(y, 1000), expected);

    // The same from one buffer.
    let mut buffer = [0u8; 28];
    buffer[..8].copy_from_slice(&x.to_le_bytes());
    buffer[8..16].copy_from_slice(&y.to_le_bytes());
    for (i, value) in [n, 1, 1].iter().enumerate() {
        buffer[16 + 4 * i..20 + 4 * i].copy_from_slice(&value.to_le_bytes());
    }
    let size = buffer.len();
    let extra = [1, buffer.as_ptr() as usize, 2, (&raw const size) as usize, 0];
    ok!(cuLaunchKernel(affine, 8, 1, 1, 128, 1, 1, 0, 0, null(), extra.as_ptr()));
    assert_eq!(read(x, 3), [8, 11, 14]);

    // A variable of the module.
    let (mut table, mut bytes) = (0, 0);
    let name = c("table");
    ok!(cuModuleGetGlobal_v2(&mut table, &mut bytes, m, name.as_ptr()));
    assert_eq!(bytes, 16);
    assert_eq!(read(table, 4), [10, 20, 30, 40]);
    ok!(cuMemsetD32_v2(table, 5, 2));
    assert_eq!(read(table, 4), [5, 5, 30, 40]);

    // In a graph, replayed with the values at capture.
    let s = stream(1);
    let f = function(m, "store");
    let (mut graph, mut executable) = (0, 0);
    ok!(cuStreamBeginCapture_v2(s, 1));
    assert_eq!(store(f, y, 11, s), 0);
    ok!(cuStreamEndCapture(s, &mut graph));
    ok!(cuGraphInstantiateWithFlags(&mut executable, graph, 0));
    for _ in 0..3 {
        ok!(cuMemsetD32_v2(y, 0, 1));
        ok!(cuCtxSynchronize());
        ok!(cuGraphLaunch(executable, s));
        ok!(cuStreamSynchronize(s));
        assert_eq!(read(y, 1), [11]);
    }
    ok!(cuGraphExecDestroy(executable));
    ok!(cuGraphDestroy(graph));
    ok!(cuStreamDestroy_v2(s));
    ok!(cuMemFree_v2(x));
    ok!(cuMemFree_v2(y));
    ok!(cuModuleUnload(m));
    fails!(INVALID_HANDLE, cuModuleGetFunction(&mut nothing, m, missing.as_ptr()));
    fails!(INVALID_HANDLE, cuLaunchKernel(f, 1, 1, 1, 1, 1, 1, 0, 0, null(), null()));
}

#[test]
fn launches_are_checked() {
    let _context = Context::new();
    let m = module();
    let f = function(m, "store");
    let out = alloc(4);
    let value = 1u32;
    let p = parameters![out, value];
    for (grid, block) in [
        ([0, 1, 1], [1, 1, 1]),
        ([1, 65_536, 1], [1, 1, 1]),
        ([1, 1, 1], [0, 1, 1]),
        ([1, 1, 1], [1025, 1, 1]),
        ([1, 1, 1], [32, 33, 1]),
        ([1, 1, 1], [1, 1, 65]),
    ] {
        let ([gx, gy, gz], [bx, by, bz]): ([u32; 3], [u32; 3]) = (grid, block);
        fails!(INVALID_VALUE, cuLaunchKernel(f, gx, gy, gz, bx, by, bz, 0, 0, p.as_ptr(), null()));
    }
    fails!(INVALID_VALUE, cuLaunchKernel(f, 1, 1, 1, 1, 1, 1, 0, 0, null(), null()));
    fails!(INVALID_HANDLE, cuLaunchKernel(f, 1, 1, 1, 1, 1, 1, 0, 0x99, p.as_ptr(), null()));

    // Shared memory: 48 KiB at first, more if asked for, never more than there is.
    let f = function(m, "through_shared");
    let words = 20 << 10 >> 2 << 2u32;
    let p = parameters![out, words];
    let bytes = words * 4;
    let mut limit = 0;
    ok!(cuFuncGetAttribute(&mut limit, 8, f));
    assert_eq!(limit, 48 << 10);
    fails!(INVALID_VALUE, cuLaunchKernel(f, 1, 1, 1, 1, 1, 1, bytes, 0, p.as_ptr(), null()));
    fails!(INVALID_VALUE, cuFuncSetAttribute(f, 8, (163 << 10) + 1));
    fails!(INVALID_VALUE, cuFuncSetAttribute(f, 8, -1));
    ok!(cuFuncSetAttribute(f, 8, bytes as i32));
    ok!(cuLaunchKernel(f, 1, 1, 1, 1, 1, 1, bytes, 0, p.as_ptr(), null()));
    assert_eq!(read(out, 1), [words]);
    fails!(INVALID_VALUE, cuLaunchKernel(f, 1, 1, 1, 1, 1, 1, bytes + 4, 0, p.as_ptr(), null()));

    for (attribute, expected) in [(1, 0), (5, 80), (6, 80), (10, 0)] {
        ok!(cuFuncGetAttribute(&mut limit, attribute, f));
        assert_eq!(limit, expected, "attribute {attribute}");
    }
    // Two blocks of 80 KiB and the system's share fit in 164 KiB, three do not.
    ok!(cuOccupancyMaxActiveBlocksPerMultiprocessor(&mut limit, f, 32, 80 << 10));
    assert_eq!(limit, 2);
    fails!(
        COOPERATIVE_TOO_LARGE,
        cuLaunchCooperativeKernel(f, 108 * 2 + 1, 1, 1, 32, 1, 1, 80 << 10, 0, p.as_ptr())
    );

    // The extended launch; clusters are for 9.0.
    let f = function(m, "store");
    let p = parameters![out, value];
    let mut attributes =
        [Attribute { number: 4, value: [0; 16] }, Attribute { number: 2, value: [0; 16] }];
    attributes[0].value[..3].copy_from_slice(&[1, 1, 1]);
    attributes[1].value[0] = 1;
    let configuration = |attributes: &[Attribute]| Configuration {
        grid: [2, 1, 1],
        block: [1, 1, 1],
        shared: 0,
        stream: 0,
        attributes: attributes.as_ptr(),
        count: attributes.len() as u32,
    };
    let one = Configuration { grid: [1; 3], ..configuration(&attributes) };
    ok!(cuLaunchKernelEx(&one, f, p.as_ptr(), null()));
    assert_eq!(read(out, 1), [1]);
    attributes[0].value[0] = 2;
    fails!(912, cuLaunchKernelEx(&configuration(&attributes), f, p.as_ptr(), null()));
    ok!(cuMemFree_v2(out));
    ok!(cuModuleUnload(m));
}

#[test]
fn modules_are_refused_with_reasons() {
    let _context = Context::new();
    let mut m = 0;
    let cubin = b"\x7fELF\x02\x01\x01";
    fails!(NO_BINARY, cuModuleLoadData(&mut m, cubin.as_ptr().cast()));
    let fat = 0xba55_ed50u32.to_le_bytes();
    fails!(NO_BINARY, cuModuleLoadData(&mut m, fat.as_ptr().cast()));
    let load = |text: &str| {
        let text = c(text);
        // SAFETY: a live text.
        unsafe { cuModuleLoadData(&mut 0, text.as_ptr().cast()) }
    };
    let kernel = ".visible .entry k() { ret; }";
    assert_eq!(
        load(&format!(".version 99.0\n.target sm_80\n.address_size 64\n{kernel}")),
        UNSUPPORTED_PTX
    );
    assert_eq!(
        load(&format!(".version 8.0\n.target sm_120\n.address_size 64\n{kernel}")),
        NO_BINARY
    );
    assert_eq!(load("this is no PTX"), INVALID_PTX);

    let text = c(
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k() {\n  frobnicate.u32 %r1;\n  ret;\n}",
    );
    let mut buffer = [0x55u8; 256];
    let options = [5u32, 6];
    let mut values = [buffer.as_mut_ptr() as usize, buffer.len()];
    fails!(
        INVALID_PTX,
        cuModuleLoadDataEx(&mut m, text.as_ptr().cast(), 2, options.as_ptr(), values.as_mut_ptr())
    );
    let log = CStr::from_bytes_until_nul(&buffer).unwrap().to_str().unwrap();
    assert!(log.contains("line 5") && log.contains("frobnicate"), "{log}");
    assert_eq!(values[1], log.len());

    let path = std::env::temp_dir().join(format!("cuda-emulator-{}.ptx", std::process::id()));
    std::fs::write(&path, PTX).unwrap();
    let name = c(path.to_str().unwrap());
    ok!(cuModuleLoad(&mut m, name.as_ptr()));
    std::fs::remove_file(&path).unwrap();
    fails!(301, cuModuleLoad(&mut m, name.as_ptr()));
    ok!(cuModuleUnload(m));
}

#[test]
fn a_fault_stays() {
    let context = Context::new();
    let m = module();
    let f = function(m, "store");
    let a = alloc(4);
    let done = event(0);
    assert_eq!(store(f, a + 4, 1, 0), 0);
    fails!(ILLEGAL_ADDRESS, cuCtxSynchronize());
    // From now on everything fails, except to look at contexts and to leave.
    fails!(ILLEGAL_ADDRESS, cuCtxSynchronize());
    fails!(ILLEGAL_ADDRESS, cuMemAlloc_v2(&mut 0, 4));
    fails!(ILLEGAL_ADDRESS, cuMemsetD8_v2(a, 0, 1));
    fails!(ILLEGAL_ADDRESS, cuEventRecord(done, 0));
    fails!(ILLEGAL_ADDRESS, cuStreamQuery(0));
    assert_eq!(store(f, a, 1, 0), ILLEGAL_ADDRESS);
    let mut current = 0;
    ok!(cuCtxGetCurrent(&mut current));
    assert_eq!(current, context.0);
    drop(context);
    // Another context is not touched.
    let _context = Context::new();
    let b = alloc(4);
    let m = module();
    let f = function(m, "store");
    assert_eq!(store(f, b, 17, 0), 0);
    assert_eq!(read(b, 1), [17]);
    ok!(cuMemFree_v2(b));
    ok!(cuModuleUnload(m));
}

#[test]
fn use_after_free_is_caught_in_stream_order() {
    let _context = Context::new();
    let m = module();
    let f = function(m, "store");
    let s = stream(1);
    let mut a = 0;
    ok!(cuMemAllocAsync(&mut a, 4, s));
    assert_eq!(store(f, a, 1, s), 0);
    ok!(cuMemFreeAsync(a, s));
    ok!(cuStreamSynchronize(s));
    assert_eq!(store(f, a, 1, s), 0);
    fails!(ILLEGAL_ADDRESS, cuStreamSynchronize(s));
}

/// Runs one ignored test of this file in a process of its own, with settings.
fn child(test: &str, settings: &[(&str, &str)]) -> std::process::Output {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture", "--test-threads=1"])
        .envs(settings.iter().copied())
        .output()
        .unwrap()
}

#[test]
fn leaks_are_reported() {
    for (policy, status, said) in
        [("fatal", Some(70), true), ("report", Some(0), true), ("ignore", Some(0), false)]
    {
        let output = child("leaking_program", &[("CUDA_EMULATOR_LEAKS", policy)]);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), status, "{policy}: {text}");
        assert_eq!(
            text.contains("leak: 40 bytes at 0x") && text.contains("allocated by cuMemAlloc_v2"),
            said,
            "{text}"
        );
        assert_eq!(text.contains("leak: 1 streams"), said, "{text}");
        assert!(!text.contains("events"), "{text}");
    }
}

#[test]
#[ignore = "a program for leaks_are_reported"]
fn leaking_program() {
    ok!(cuInit(0));
    let mut context = 0;
    ok!(cuDevicePrimaryCtxRetain(&mut context, 0));
    ok!(cuCtxSetCurrent(context));
    alloc(40);
    stream(0);
    let e = event(0);
    ok!(cuEventDestroy_v2(e));
    ok!(cuDevicePrimaryCtxRelease_v2(0));
}

#[test]
fn launches_are_counted() {
    let path =
        std::env::temp_dir().join(format!("cuda-emulator-counters-{}.json", std::process::id()));
    let output = child("counted_program", &[("CUDA_EMULATOR_COUNTERS", path.to_str().unwrap())]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let json = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let befores: Vec<&str> = json.lines().filter(|l| l.contains("\"kernel\":\"store\"")).collect();
    assert_eq!(befores.len(), 3, "{json}");
    assert!(befores[0].contains("\"host_syncs_before\":0,\"allocations_before\":1"), "{json}");
    assert!(befores[1].contains("\"host_syncs_before\":0,\"allocations_before\":0"), "{json}");
    assert!(befores[2].contains("\"host_syncs_before\":1,\"allocations_before\":1"), "{json}");
}

#[test]
#[ignore = "a program for launches_are_counted"]
fn counted_program() {
    let _context = Context::new();
    let m = module();
    let f = function(m, "store");
    let s = stream(1);
    let a = alloc(4);
    assert_eq!(store(f, a, 1, s), 0);
    assert_eq!(store(f, a, 2, s), 0);
    ok!(cuStreamSynchronize(s));
    let b = alloc(4);
    assert_eq!(store(f, b, 3, s), 0);
    ok!(cuStreamSynchronize(s));
    ok!(cuMemFree_v2(a));
    ok!(cuMemFree_v2(b));
    ok!(cuModuleUnload(m));
    ok!(cuStreamDestroy_v2(s));
}

#[test]
fn threads_share_the_driver() {
    let context = Context::new();
    let current = context.0;
    let workers: Vec<_> = (0..4u32)
        .map(|worker| {
            std::thread::spawn(move || {
                ok!(cuCtxSetCurrent(current));
                let s = stream(1);
                for round in 0..50 {
                    let a = alloc(64);
                    ok!(cuMemsetD32Async(a, worker * 1000 + round, 16, s));
                    let mut out = [0u32; 16];
                    ok!(cuMemcpyDtoHAsync_v2(out.as_mut_ptr().cast(), a, 64, s));
                    assert_eq!(out, [worker * 1000 + round; 16]);
                    ok!(cuMemFree_v2(a));
                }
                ok!(cuStreamDestroy_v2(s));
            })
        })
        .collect();
    for worker in workers {
        worker.join().unwrap();
    }
}

#[test]
fn everything_again_as_early_as_possible() {
    if !late() {
        return;
    }
    for seed in ["0", "7"] {
        let output = Command::new(std::env::current_exe().unwrap())
            .envs([("CUDA_EMULATOR_ASYNC", "early"), ("CUDA_EMULATOR_SEED", seed)])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
    for seed in 1..6 {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--skip", "everything_again"])
            .env("CUDA_EMULATOR_SEED", seed.to_string())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "seed {seed}: {}",
            String::from_utf8_lossy(&output.stdout)
        );
    }
}
